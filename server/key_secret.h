/* key_secret.h - the secrets of API keys: making one, its salted hash, telling whether one is
 * right. Source: HMAC (RFC 2104) with SHA-256 and the constant-time comparison, both of Nettle.
 *
 * A secret is "sk-ID-RANDOM": ID (public, 12 hexadecimal digits) finds the entry, RANDOM is 256
 * bits of the kernel's generator. What is kept is HMAC-SHA256(salt, secret). A slow hash (scrypt,
 * Argon2) makes guessing dear where people choose the secret; here 2^256 guesses are as hopeless at
 * a nanosecond as at a second each, and a slow hash would let anybody burn the server's time with
 * wrong keys. Thread: any. */
#ifndef TT_KEY_SECRET_H
#define TT_KEY_SECRET_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/err.h"

enum {
    TT_KEY_ID_BYTES = 13, /* with the NUL, as the next one */
    TT_KEY_SECRET_BYTES = 3 + 12 + 1 + 64 + 1,
    TT_KEY_SALT_BYTES = 16,
    TT_KEY_HASH_BYTES = 32
};

typedef struct tt_key_hash {
    unsigned char salt[TT_KEY_SALT_BYTES], hash[TT_KEY_HASH_BYTES];
} tt_key_hash;

/* A new secret and its ID. TT_E_IO: the kernel gives no random bytes. */
tt_code tt_key_secret_make(char ret_secret[TT_KEY_SECRET_BYTES], char ret_id[TT_KEY_ID_BYTES],
                           tt_err *reterr);
/* The ID of a secret of this shape; false: it has another shape. */
bool tt_key_secret_id(const char *secret, char ret_id[TT_KEY_ID_BYTES]);

/* Hash of any text under a new salt. TT_E_IO as above. */
tt_code tt_key_hash_make(const char *secret, tt_key_hash *ret, tt_err *reterr);
/* Takes a time that depends on the length of `secret` alone. */
bool tt_key_hash_matches(const tt_key_hash *h, const char *secret);

#endif
