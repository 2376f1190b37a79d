/* quota.c - see quota.h. What is used is counted when it matters: a tenant has hundreds of sessions
 * at most, and only tenants with a limit are counted. */
#include "server/quota.h"

#include <string.h>

#include "server/job_table.h"
#include "server/session_store.h"

typedef struct tally {
    const char *scope;
    tt_holdings usage;
} tally;

static void add_session(void *arg, const tt_session_record *r)
{
    tally *t = arg;
    tt_session_generation g;
    if (strcmp(r->scope, t->scope) != 0) {
        return;
    }
    t->usage.sessions++;
    t->usage.bytes += (int64_t)r->bytes;
    for (int32_t i = 0; tt_session_generation_at(r->data, i, &g); i++) {
        t->usage.adapter_bytes += g.adapter_bytes;
    }
}

static void add_job(void *arg, const tt_job_record *r)
{
    tally *t = arg;
    t->usage.jobs += strcmp(r->scope, t->scope) == 0;
}

tt_holdings tt_holdings_of(tt_server *s, const char *scope)
{
    tally t = {.scope = scope};
    tt_session_store_each(s->sessions, add_session, &t);
    tt_job_table_each_live(s->jobs, add_job, &t);
    return t.usage;
}

/* NULL: nothing is limited. */
static const tt_key_limits *limits_of(const tt_server *s, const char *scope)
{
    const tt_tenant *t = tt_tenants_of_scope(&s->tenants, scope);
    return t != NULL ? &t->key.limits : NULL;
}

static bool fits(const tt_holdings *u, const tt_key_limits *l, int32_t sessions, size_t n_bytes)
{
    return (l->sessions == 0 || sessions == 0 || u->sessions + sessions <= l->sessions) &&
           (l->bytes == 0 || u->bytes + u->adapter_bytes + (int64_t)n_bytes <= l->bytes);
}

static tt_code full(const tt_holdings *u, const tt_key_limits *l, int32_t sessions, tt_err *reterr)
{
    if (sessions > 0 && l->sessions > 0 && u->sessions >= l->sessions) {
        return tt_fail(reterr, TT_E_CAPACITY, "this API key may have %lld sessions, and has %d",
                       (long long)l->sessions, (int)u->sessions);
    }
    return tt_fail(reterr, TT_E_CAPACITY,
                   "the sessions of this API key may take %lld bytes with their adapters, and take "
                   "%lld",
                   (long long)l->bytes, (long long)(u->bytes + u->adapter_bytes));
}

static tt_code make_room(tt_server *s, const char *scope, int32_t sessions, size_t n_bytes,
                         tt_err *reterr)
{
    const tt_key_limits *l = limits_of(s, scope);
    if (l == NULL || (l->sessions == 0 && l->bytes == 0)) {
        return TT_OK;
    }
    tt_holdings u = tt_holdings_of(s, scope);
    while (!fits(&u, l, sessions, n_bytes)) {
        if (!tt_session_store_shed(s->sessions, scope)) {
            return full(&u, l, sessions, reterr);
        }
        u = tt_holdings_of(s, scope);
    }
    return TT_OK;
}

tt_code tt_quota_session(tt_server *s, const char *scope, size_t n_bytes, tt_err *reterr)
{
    return make_room(s, scope, 1, n_bytes, reterr);
}

tt_code tt_quota_bytes(tt_server *s, const char *scope, size_t n_bytes, tt_err *reterr)
{
    return make_room(s, scope, 0, n_bytes, reterr);
}

tt_code tt_quota_job(tt_server *s, const char *scope, tt_err *reterr)
{
    const tt_key_limits *l = limits_of(s, scope);
    int64_t n = l != NULL && l->jobs > 0 ? tt_holdings_of(s, scope).jobs : 0;
    return n > 0 && n >= l->jobs
               ? tt_fail(reterr, TT_E_CAPACITY, "this API key may have %lld jobs, and has %lld",
                         (long long)l->jobs, (long long)n)
               : TT_OK;
}
