/* tenant.h - who asks: the API keys in force, and of each what it uses and may use. Thread: the
 * loop thread.
 *
 * A tenant lives as long as the table, also when its key was removed: requests that run keep it,
 * its counters stay in /metrics, and a key of the same name is the same tenant again. All functions
 * take a NULL tenant: nobody is told apart (there are no keys), and nothing is limited. */
#ifndef TT_TENANT_H
#define TT_TENANT_H

#include "server/error_map.h"
#include "server/key_file.h"
#include "server/rate.h"
#include "server/settings.h"

typedef struct tt_tenant {
    tt_key key;    /* as the file says now; limits may change under a request */
    bool removed;  /* its secret is refused */
    int32_t place; /* in tt_tenants.v */
    tt_rate requests, tokens;
    int32_t n_open; /* requests in progress */
    uint64_t n_requests, n_limited;
    uint64_t prompt_tokens, generated_tokens, trained_tokens;
} tt_tenant;

typedef struct tt_tenants {
    tt_tenant **v;      /* owned [n]: in the order in which they appeared */
    tt_tenant **sorted; /* owned [n]: the same by scope */
    int32_t n;
} tt_tenants;

/* Reads server.api_keys_file and server.api_keys; *ret: to be finished. Errors of
 * tt_key_list_load().
 */
tt_code tt_tenants_read(const tt_settings *set, tt_key_list *ret, tt_err *reterr);
/* These keys from now on. ret_what (may be NULL): "alice added, bob removed", "" = as before. now:
 * monotonic. TT_E_NOMEM: nothing has changed. */
tt_code tt_tenants_update(tt_tenants *t, const tt_key_list *keys, double now, tt_buf *ret_what,
                          tt_err *reterr);
void tt_tenants_finish(tt_tenants *t);

/* Whose secret this is; NULL = nobody's. */
tt_tenant *tt_tenants_find(const tt_tenants *t, const char *secret);
/* The tenant of what was made under a scope; NULL: there has been none. */
tt_tenant *tt_tenants_of_scope(const tt_tenants *t, const char *scope);
/* For logs: the key's name, "" = there are no keys. */
const char *tt_tenant_name(const tt_tenant *t);

/* A request begins: takes its place, or fills *e (429). */
bool tt_tenant_enter(tt_tenant *t, double now, tt_http_error *e);
/* One that took its place has ended. */
void tt_tenant_leave(tt_tenant *t);

/* Whether so many tokens of prompts may be read now; *e: 429. Takes nothing. */
bool tt_tenant_may_read(tt_tenant *t, int64_t n_tokens, double now, tt_http_error *e);
/* They are read, or written: answers are not known before and are paid for afterwards. */
void tt_tenant_take_prompt(tt_tenant *t, int64_t n_tokens, double now);
void tt_tenant_take_answer(tt_tenant *t, int64_t n_tokens, double now);

/* "x-ratelimit-limit-requests" and so on with the names of OpenAI: calls put(arg, name, value) for
 * each limit that the tenant has. */
void tt_tenant_headers(const tt_tenant *t, double now,
                       void (*put)(void *arg, const char *name, const char *value), void *arg);

/* Counters by key, Prometheus text: of the first TT_METRICS_KEYS that appeared by name, of the
 * others together. */
enum { TT_METRICS_KEYS = 100 };
void tt_tenants_metrics(const tt_tenants *t, tt_buf *b);

#endif
