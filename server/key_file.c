/* key_file.c - see key_file.h. */
#include "server/key_file.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <xxhash.h>

#include "server/hex.h"
#include "server/settings.h"

enum { MAX_FILE_BYTES = 8 << 20, MAX_LINE = 1000 };

static const char *const role_names[] = {"user", "admin"};

#define AT(member) offsetof(tt_key_limits, member)

const tt_key_limit tt_key_limit_table[] = {
    {"requests_per_minute", AT(requests_per_minute), false, "requests a minute"},
    {"tokens_per_minute", AT(tokens_per_minute), false, "tokens of prompts and answers a minute"},
    {"concurrent", AT(concurrent), false, "requests in progress"},
    {"sessions", AT(sessions), false, "sessions"},
    {"jobs", AT(jobs), false, "qTTT jobs that wait or run"},
    {"bytes", AT(bytes), true, "memory of sessions and their adapters"},
};

const int tt_n_key_limits = (int)(sizeof tt_key_limit_table / sizeof *tt_key_limit_table);

int64_t tt_key_limit_get(const tt_key_limits *l, const tt_key_limit *row)
{
    return *(const int64_t *)(const void *)((const char *)l + row->offset);
}

bool tt_key_limit_set(tt_key_limits *l, const tt_key_limit *row, const char *value)
{
    int64_t v = 0;
    size_t digits = strspn(value, "0123456789");
    bool ok = row->is_size ? tt_size_parse(value, &v)
                           : digits > 0 && digits < 16 && value[digits] == '\0';
    if (ok && !row->is_size) {
        v = strtoll(value, NULL, 10);
    }
    if (!ok || v < 1) {
        return false;
    }
    *(int64_t *)(void *)((char *)l + row->offset) = v;
    return true;
}

bool tt_key_name_legal(const char *name)
{
    static const char chars[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t n = strlen(name);
    return n > 0 && n < TT_KEY_NAME_BYTES && strspn(name, chars) == n &&
           strchr("._-", name[0]) == NULL;
}

const char *tt_key_role_text(tt_key_role role)
{
    return role_names[role];
}

bool tt_key_role_parse(const char *text, tt_key_role *ret)
{
    for (int i = 0; i < 2; i++) {
        if (strcmp(text, role_names[i]) == 0) {
            *ret = (tt_key_role)i;
            return true;
        }
    }
    return false;
}

void tt_key_list_finish(tt_key_list *list)
{
    free(list->v);
    *list = (tt_key_list){0};
}

static tt_code append(tt_key_list *list, const tt_key *k, tt_err *reterr)
{
    tt_key *v = realloc(list->v, ((size_t)list->n + 1) * sizeof *v);
    if (v == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    v[list->n++] = *k;
    list->v = v;
    return TT_OK;
}

/* ---- one line ---- */

static tt_code wrong(tt_err *reterr, const char *file, int line, const char *what,
                     const char *value, const char *expected)
{
    return tt_fail(reterr, TT_E_INVALID, "%.80s:%d: %.24s is '%.30s'; expected %s", file, line,
                   what, value, expected);
}

enum { SEEN_NAME = 1, SEEN_ROLE = 2, SEEN_ID = 4, SEEN_SALT = 8, SEEN_HASH = 16, SEEN_LIMITS = 32 };

/* "field" and its value, into the key. *seen: bits of the fields so far. */
static tt_code take_field(tt_key *k, unsigned *seen, const char *field, const char *value,
                          const char *file, int line, tt_err *reterr)
{
    unsigned bit = 0;
    const char *expected = NULL;
    unsigned char id[TT_KEY_ID_BYTES / 2];
    if (strcmp(field, "name") == 0) {
        bit = SEEN_NAME;
        expected = tt_key_name_legal(value) ? NULL : "1-32 of A-Z a-z 0-9 . _ -";
        snprintf(k->name, sizeof k->name, "%s", value);
    } else if (strcmp(field, "role") == 0) {
        bit = SEEN_ROLE;
        expected = tt_key_role_parse(value, &k->role) ? NULL : "user or admin";
    } else if (strcmp(field, "id") == 0) {
        bit = SEEN_ID;
        expected = tt_hex_read(value, id, sizeof id) ? NULL : "12 hexadecimal digits";
        snprintf(k->id, sizeof k->id, "%s", value);
    } else if (strcmp(field, "salt") == 0) {
        bit = SEEN_SALT;
        expected =
            tt_hex_read(value, k->hash.salt, TT_KEY_SALT_BYTES) ? NULL : "32 hexadecimal digits";
    } else if (strcmp(field, "hash") == 0) {
        bit = SEEN_HASH;
        expected =
            tt_hex_read(value, k->hash.hash, TT_KEY_HASH_BYTES) ? NULL : "64 hexadecimal digits";
    }
    for (int i = 0; i < tt_n_key_limits && bit == 0; i++) {
        if (strcmp(field, tt_key_limit_table[i].name) == 0) {
            bit = (unsigned)SEEN_LIMITS << i;
            expected = tt_key_limit_set(&k->limits, &tt_key_limit_table[i], value)
                           ? NULL
                           : "a number above 0";
        }
    }
    if (bit == 0) {
        return tt_fail(reterr, TT_E_INVALID, "%.80s:%d: unknown field '%.30s'", file, line, field);
    }
    if ((*seen & bit) != 0) {
        return tt_fail(reterr, TT_E_INVALID, "%.80s:%d: %s stands there twice", file, line, field);
    }
    *seen |= bit;
    return expected != NULL ? wrong(reterr, file, line, field, value, expected) : TT_OK;
}

/* line: changed. *ret_empty: there is no key in it. */
static tt_code parse_line(char *line, const char *file, int number, tt_key *k, bool *ret_empty,
                          tt_err *reterr)
{
    static const char *const needed[] = {"name", "role", "id", "salt", "hash"};
    unsigned seen = 0;
    char *rest = line, *word;
    *k = (tt_key){0};
    *ret_empty = true;
    while ((word = strtok_r(rest, " \t\r", &rest)) != NULL && word[0] != '#') {
        char *eq = strchr(word, '=');
        *ret_empty = false;
        if (eq == NULL) {
            return wrong(reterr, file, number, "a word", word, "field=value");
        }
        *eq = '\0';
        tt_code rc = take_field(k, &seen, word, eq + 1, file, number, reterr);
        if (rc < 0) {
            return rc;
        }
    }
    for (int i = 0; !*ret_empty && i < 5; i++) {
        if ((seen & (1u << i)) == 0) {
            return tt_fail(reterr, TT_E_INVALID, "%.80s:%d: there is no %s", file, number,
                           needed[i]);
        }
    }
    memcpy(k->scope, k->name, sizeof k->name);
    return TT_OK;
}

static tt_code check_unique(const tt_key_list *list, const tt_key *k, const char *file, int line,
                            tt_err *reterr)
{
    for (int32_t i = 0; i < list->n; i++) {
        bool name = strcmp(list->v[i].name, k->name) == 0;
        if (name || strcmp(list->v[i].id, k->id) == 0) {
            return tt_fail(reterr, TT_E_INVALID, "%.80s:%d: the %s '%s' is used twice", file, line,
                           name ? "name" : "id", name ? k->name : k->id);
        }
    }
    return list->n < TT_KEY_MAX ? TT_OK
                                : tt_fail(reterr, TT_E_INVALID, "%.80s:%d: more than %d keys", file,
                                          line, (int)TT_KEY_MAX);
}

tt_code tt_key_list_parse(tt_key_list *list, const char *name, const char *text, size_t n,
                          tt_err *reterr)
{
    int32_t before = list->n;
    tt_code rc = TT_OK;
    int number = 0;
    for (const char *p = text, *end = text + n; rc == TT_OK && p < end;) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t len = (size_t)((stop != NULL ? stop : end) - p);
        char line[MAX_LINE + 1];
        tt_key k;
        bool empty;
        number++;
        if (len > MAX_LINE || memchr(p, '\0', len) != NULL) {
            rc = tt_fail(reterr, TT_E_INVALID, "%.80s:%d: %s", name, number,
                         len > MAX_LINE ? "the line is too long" : "a NUL byte");
            break;
        }
        memcpy(line, p, len);
        line[len] = '\0';
        rc = parse_line(line, name, number, &k, &empty, reterr);
        if (rc == TT_OK && !empty) {
            rc = check_unique(list, &k, name, number, reterr);
            rc = rc == TT_OK ? append(list, &k, reterr) : rc;
        }
        p += len + 1;
    }
    list->n = rc < 0 ? before : list->n;
    return rc;
}

/* ---- the file ---- */

static tt_code read_all(FILE *f, const char *path, tt_buf *ret, tt_err *reterr)
{
    struct stat st;
    char part[4096];
    size_t n;
    if (fstat(fileno(f), &st) != 0) {
        return tt_fail(reterr, TT_E_IO, "%.100s: %s", path, strerror(errno));
    }
    if ((st.st_mode & S_IWOTH) != 0) {
        return tt_fail(reterr, TT_E_INVALID, "%.100s: anybody may write it; chmod o-w", path);
    }
    while ((n = fread(part, 1, sizeof part, f)) > 0) {
        tt_buf_put(ret, part, n);
    }
    if (ferror(f)) {
        return tt_fail(reterr, TT_E_IO, "%.100s: %s", path, strerror(errno));
    }
    return ret->failed ? tt_fail(reterr, TT_E_INVALID, "%.100s: larger than 8 MiB", path) : TT_OK;
}

tt_code tt_key_list_load(tt_key_list *list, const char *path, tt_err *reterr)
{
    tt_buf text;
    FILE *f = fopen(path, "rbe");
    if (f == NULL) {
        return tt_fail(reterr, TT_E_IO, "%.100s: %s", path, strerror(errno));
    }
    tt_buf_init(&text, MAX_FILE_BYTES);
    tt_code rc = read_all(f, path, &text, reterr);
    if (rc == TT_OK && text.n > 0) {
        rc = tt_key_list_parse(list, path, text.p, text.n, reterr);
    }
    tt_buf_finish(&text);
    fclose(f);
    return rc;
}

tt_code tt_key_list_add_plain(tt_key_list *list, int32_t index, const char *secret, tt_err *reterr)
{
    tt_key k = {.role = TT_ROLE_USER};
    tt_code rc = tt_key_hash_make(secret, &k.hash, reterr);
    XXH128_hash_t h = XXH3_128bits(secret, strlen(secret));
    /* The name tells the place in the list, which may change: what it made hangs on the secret. A
     * name of the file never begins with a dot. */
    snprintf(k.name, sizeof k.name, ".api_keys.%d", (int)index);
    snprintf(k.scope, sizeof k.scope, ".%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
    return rc < 0 ? rc : append(list, &k, reterr);
}

void tt_key_write(tt_buf *b, const tt_key *k)
{
    char salt[2 * TT_KEY_SALT_BYTES + 1], hash[2 * TT_KEY_HASH_BYTES + 1];
    tt_hex_write(k->hash.salt, TT_KEY_SALT_BYTES, salt);
    tt_hex_write(k->hash.hash, TT_KEY_HASH_BYTES, hash);
    tt_buf_printf(b, "name=%s role=%s id=%s salt=%s hash=%s", k->name, role_names[k->role], k->id,
                  salt, hash);
    for (int i = 0; i < tt_n_key_limits; i++) {
        int64_t v = tt_key_limit_get(&k->limits, &tt_key_limit_table[i]);
        if (v > 0) {
            tt_buf_printf(b, " %s=%lld", tt_key_limit_table[i].name, (long long)v);
        }
    }
}
