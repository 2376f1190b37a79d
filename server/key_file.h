/* key_file.h - the file of API keys: one key a line, as words "field=value"; # begins a comment.
 *
 *   name=alice role=user id=0123456789ab salt=(32 digits) hash=(64 digits) requests_per_minute=60
 *
 * (in one line). The rest are limits; one that is not there does not limit. Thread: any; a list
 * belongs to one thread at a time. */
#ifndef TT_KEY_FILE_H
#define TT_KEY_FILE_H

#include <stdint.h>

#include "server/buf.h"
#include "server/key_secret.h"

enum { TT_KEY_NAME_BYTES = 33, TT_KEY_MAX = 10000 };

typedef enum tt_key_role { TT_ROLE_USER, TT_ROLE_ADMIN } tt_key_role;

/* 0 = no limit. */
typedef struct tt_key_limits {
    int64_t requests_per_minute;
    int64_t tokens_per_minute; /* of prompts and of answers */
    int64_t concurrent;        /* requests in progress */
    int64_t sessions;
    int64_t jobs;  /* that have not ended */
    int64_t bytes; /* of its sessions (ids, messages) and of their adapters */
} tt_key_limits;

typedef struct tt_key {
    char name[TT_KEY_NAME_BYTES]; /* 1-32 of [A-Za-z0-9._-], a letter or digit first: the tenant */
    char id[TT_KEY_ID_BYTES];     /* "": of server.api_keys, whose secrets have any shape */
    char scope[40]; /* tenant of what it makes: the name, so that it outlives a secret;
                       of server.api_keys a hash of the secret */
    tt_key_role role;
    tt_key_hash hash;
    tt_key_limits limits;
} tt_key;

typedef struct tt_key_list {
    tt_key *v; /* owned [n] */
    int32_t n;
} tt_key_list;

/* Legal on a zeroed list and twice. */
void tt_key_list_finish(tt_key_list *list);
/* Adds the keys of a text to the list; `name` stands for the file in messages. TT_E_INVALID:
 * "NAME:LINE: what is wrong". On failure the list is as before. */
tt_code tt_key_list_parse(tt_key_list *list, const char *name, const char *text, size_t n,
                          tt_err *reterr);
/* The same for a file. TT_E_IO; TT_E_INVALID also when others than its owner and group may write
 * it. */
tt_code tt_key_list_load(tt_key_list *list, const char *path, tt_err *reterr);
/* Adds the key number `index` of server.api_keys. */
tt_code tt_key_list_add_plain(tt_key_list *list, int32_t index, const char *secret, tt_err *reterr);

/* One line of the file, without its end. */
void tt_key_write(tt_buf *b, const tt_key *k);
bool tt_key_name_legal(const char *name);
const char *tt_key_role_text(tt_key_role role);
bool tt_key_role_parse(const char *text, tt_key_role *ret);

typedef struct tt_key_limit {
    const char *name; /* "requests_per_minute"; the flag has dashes */
    size_t offset;    /* in tt_key_limits, of an int64_t */
    bool is_size;     /* bytes, with a suffix */
    const char *help;
} tt_key_limit;

extern const tt_key_limit tt_key_limit_table[];
extern const int tt_n_key_limits;

int64_t tt_key_limit_get(const tt_key_limits *l, const tt_key_limit *row);
/* False: not a number above 0. */
bool tt_key_limit_set(tt_key_limits *l, const tt_key_limit *row, const char *value);

#endif
