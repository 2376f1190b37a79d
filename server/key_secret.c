/* key_secret.c - see key_secret.h. */
#include "server/key_secret.h"

#include <errno.h>
#include <nettle/hmac.h>
#include <nettle/memops.h>
#include <string.h>
#include <sys/random.h>

#include "server/hex.h"

enum { RANDOM_BYTES = 32, ID_CHARS = TT_KEY_ID_BYTES - 1 };

static tt_code fill_random(unsigned char *p, size_t n, tt_err *reterr)
{
    ssize_t got = getrandom(p, n, 0); /* up to 256 bytes come whole */
    return got == (ssize_t)n ? TT_OK
                             : tt_fail(reterr, TT_E_IO, "no random bytes: %s", strerror(errno));
}

tt_code tt_key_secret_make(char ret_secret[TT_KEY_SECRET_BYTES], char ret_id[TT_KEY_ID_BYTES],
                           tt_err *reterr)
{
    unsigned char id[ID_CHARS / 2], random[RANDOM_BYTES];
    tt_code rc = fill_random(id, sizeof id, reterr);
    rc = rc == TT_OK ? fill_random(random, sizeof random, reterr) : rc;
    if (rc < 0) {
        return rc;
    }
    tt_hex_write(id, sizeof id, ret_id);
    memcpy(ret_secret, "sk-", 3);
    memcpy(ret_secret + 3, ret_id, ID_CHARS);
    ret_secret[3 + ID_CHARS] = '-';
    tt_hex_write(random, sizeof random, ret_secret + 3 + ID_CHARS + 1);
    return TT_OK;
}

bool tt_key_secret_id(const char *secret, char ret_id[TT_KEY_ID_BYTES])
{
    unsigned char random[RANDOM_BYTES], id[ID_CHARS / 2];
    if (strncmp(secret, "sk-", 3) != 0 || strlen(secret) != TT_KEY_SECRET_BYTES - 1 ||
        secret[3 + ID_CHARS] != '-' ||
        !tt_hex_read(secret + 3 + ID_CHARS + 1, random, RANDOM_BYTES)) {
        return false;
    }
    memcpy(ret_id, secret + 3, ID_CHARS);
    ret_id[ID_CHARS] = '\0';
    return tt_hex_read(ret_id, id, sizeof id);
}

static void digest(const unsigned char salt[TT_KEY_SALT_BYTES], const char *secret,
                   unsigned char ret[TT_KEY_HASH_BYTES])
{
    struct hmac_sha256_ctx ctx;
    hmac_sha256_set_key(&ctx, TT_KEY_SALT_BYTES, salt);
    hmac_sha256_update(&ctx, strlen(secret), (const uint8_t *)secret);
    hmac_sha256_digest(&ctx, TT_KEY_HASH_BYTES, ret);
}

tt_code tt_key_hash_make(const char *secret, tt_key_hash *ret, tt_err *reterr)
{
    tt_key_hash h;
    tt_code rc = fill_random(h.salt, sizeof h.salt, reterr);
    if (rc == TT_OK) {
        digest(h.salt, secret, h.hash);
        *ret = h;
    }
    return rc;
}

bool tt_key_hash_matches(const tt_key_hash *h, const char *secret)
{
    unsigned char hash[TT_KEY_HASH_BYTES];
    digest(h->salt, secret, hash);
    return memeql_sec(hash, h->hash, sizeof hash) != 0;
}
