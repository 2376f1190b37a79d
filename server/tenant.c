/* tenant.c - see tenant.h. */
#include "server/tenant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the keys in force ---- */

tt_code tt_tenants_read(const tt_settings *set, tt_key_list *ret, tt_err *reterr)
{
    tt_key_list list = {0};
    tt_code rc = TT_OK;
    if (set->api_keys_file[0] != '\0') {
        rc = tt_key_list_load(&list, set->api_keys_file, reterr);
    }
    for (int32_t i = 0; rc == TT_OK && i < set->api_keys.n; i++) {
        rc = tt_key_list_add_plain(&list, i, set->api_keys.v[i], reterr);
    }
    if (rc < 0) {
        tt_key_list_finish(&list);
        return rc;
    }
    *ret = list;
    return TT_OK;
}

static int by_scope(const void *a, const void *b)
{
    const tt_tenant *const *x = a, *const *y = b;
    return strcmp((*x)->key.scope, (*y)->key.scope);
}

/* Its place in `sorted`, -1 = none. */
static int32_t place_of(const tt_tenants *t, const char *scope)
{
    int32_t lo = 0, hi = t->n;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        if (strcmp(t->sorted[mid]->key.scope, scope) < 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < t->n && strcmp(t->sorted[lo]->key.scope, scope) == 0 ? lo : -1;
}

static bool same_limits(const tt_key_limits *a, const tt_key_limits *b)
{
    bool same = true;
    for (int i = 0; i < tt_n_key_limits; i++) {
        same = same && tt_key_limit_get(a, &tt_key_limit_table[i]) ==
                           tt_key_limit_get(b, &tt_key_limit_table[i]);
    }
    return same;
}

static void tell(tt_buf *what, const tt_key *k, const char *verb)
{
    if (what != NULL) {
        tt_buf_printf(what, "%s%s %s", what->n > 0 ? ", " : "", k->name, verb);
    }
}

static void change(tt_tenant *t, const tt_key *k, double now, tt_buf *what)
{
    bool plain = k->id[0] == '\0'; /* its salt is new each time */
    if (t->removed) {
        tell(what, k, "added");
    } else if (!plain && memcmp(&t->key.hash, &k->hash, sizeof k->hash) != 0) {
        tell(what, k, "has another secret");
    } else if (t->key.role != k->role || !same_limits(&t->key.limits, &k->limits)) {
        tell(what, k, "changed");
    }
    tt_rate_change(&t->requests, (double)k->limits.requests_per_minute, now);
    tt_rate_change(&t->tokens, (double)k->limits.tokens_per_minute, now);
    t->key = *k;
    t->removed = false;
}

static tt_tenant *create(const tt_key *k, double now)
{
    tt_tenant *t = calloc(1, sizeof *t);
    if (t != NULL) {
        t->key = *k;
        tt_rate_init(&t->requests, (double)k->limits.requests_per_minute, now);
        tt_rate_init(&t->tokens, (double)k->limits.tokens_per_minute, now);
    }
    return t;
}

static void free_tenants(tt_tenant **v, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        free(v[i]);
    }
}

/* Makes the tenants of keys that there were not before, at v[0, *ret_n), and finds the others'
 * keys: of[place in t->sorted], NULL = it has none. */
static tt_code match(const tt_tenants *t, const tt_key_list *keys, double now, tt_tenant **v,
                     int32_t *ret_n, const tt_key **of, tt_err *reterr)
{
    int32_t n = 0;
    for (int32_t i = 0; i < keys->n; i++) {
        const tt_key *k = &keys->v[i];
        int32_t place = place_of(t, k->scope);
        if (place >= 0) {
            of[place] = of[place] != NULL ? of[place] : k;
            continue;
        }
        v[n] = create(k, now);
        if (v[n] == NULL) {
            free_tenants(v, n);
            return tt_fail(reterr, TT_E_NOMEM, "out of memory");
        }
        n++;
    }
    *ret_n = n;
    return TT_OK;
}

/* All that can fail; the tenants that there are stay as they are. */
static tt_code prepare(tt_tenants *t, const tt_key_list *keys, double now, int32_t *ret_n_new,
                       const tt_key ***ret_of, tt_err *reterr)
{
    size_t n = (size_t)t->n + (size_t)keys->n + 1;
    tt_tenant **v = realloc(t->v, n * sizeof *v);
    t->v = v != NULL ? v : t->v;
    tt_tenant **sorted = v != NULL ? realloc(t->sorted, n * sizeof *sorted) : NULL;
    t->sorted = sorted != NULL ? sorted : t->sorted;
    const tt_key **of = sorted != NULL ? calloc((size_t)t->n + 1, sizeof *of) : NULL;
    if (of == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    tt_code rc = match(t, keys, now, v + t->n, ret_n_new, of, reterr);
    if (rc < 0) {
        free(of);
        return rc;
    }
    *ret_of = of;
    return TT_OK;
}

tt_code tt_tenants_update(tt_tenants *t, const tt_key_list *keys, double now, tt_buf *ret_what,
                          tt_err *reterr)
{
    int32_t n_new = 0;
    const tt_key **of = NULL;
    tt_code rc = prepare(t, keys, now, &n_new, &of, reterr);
    if (rc < 0) {
        return rc;
    }
    for (int32_t i = 0; i < t->n; i++) {
        const tt_key *k = of[place_of(t, t->v[i]->key.scope)];
        if (k != NULL) {
            change(t->v[i], k, now, ret_what);
        } else if (!t->v[i]->removed) {
            tell(ret_what, &t->v[i]->key, "removed");
            t->v[i]->removed = true;
        }
    }
    free(of);
    for (int32_t i = t->n; i < t->n + n_new; i++) {
        tell(ret_what, &t->v[i]->key, "added");
        t->v[i]->place = i;
        t->sorted[i] = t->v[i];
    }
    t->n += n_new;
    qsort(t->sorted, (size_t)t->n, sizeof *t->sorted, by_scope);
    return TT_OK;
}

void tt_tenants_finish(tt_tenants *t)
{
    free_tenants(t->v, t->n);
    free(t->v);
    free(t->sorted);
    *t = (tt_tenants){0};
}

/* A key of the file is found by its id, which is no secret, and then compared in constant time;
 * those of server.api_keys, a few, are all compared. */
tt_tenant *tt_tenants_find(const tt_tenants *t, const char *secret)
{
    char id[TT_KEY_ID_BYTES] = "";
    tt_tenant *found = NULL;
    bool have_id = tt_key_secret_id(secret, id);
    for (int32_t i = 0; i < t->n; i++) {
        const tt_key *k = &t->v[i]->key;
        bool candidate = k->id[0] == '\0' || (have_id && strcmp(k->id, id) == 0);
        if (!t->v[i]->removed && candidate && tt_key_hash_matches(&k->hash, secret)) {
            found = t->v[i];
        }
    }
    return found;
}

tt_tenant *tt_tenants_of_scope(const tt_tenants *t, const char *scope)
{
    int32_t place = place_of(t, scope);
    return place >= 0 ? t->sorted[place] : NULL;
}

const char *tt_tenant_name(const tt_tenant *t)
{
    return t != NULL ? t->key.name : "";
}

/* ---- limits ---- */

static bool limited(tt_tenant *t, double wait, tt_http_error *e)
{
    t->n_limited++;
    e->retry_after = wait > 1 ? (int)ceil(fmin(wait, 86400)) : 1;
    return false;
}

bool tt_tenant_enter(tt_tenant *t, double now, tt_http_error *e)
{
    if (t == NULL) {
        return true;
    }
    t->n_requests++;
    if (t->key.limits.concurrent > 0 && t->n_open >= t->key.limits.concurrent) {
        tt_error_set(e, 429, NULL, "rate_limit_exceeded",
                     "this API key may have %lld requests in progress",
                     (long long)t->key.limits.concurrent);
        return limited(t, 1, e);
    }
    double wait = tt_rate_wait(&t->requests, 1, now);
    if (wait > 0) {
        tt_error_set(e, 429, NULL, "rate_limit_exceeded",
                     "this API key may make %lld requests a minute; try again in %.0f s",
                     (long long)t->key.limits.requests_per_minute, ceil(wait));
        return limited(t, wait, e);
    }
    tt_rate_take(&t->requests, 1, now);
    t->n_open++;
    return true;
}

void tt_tenant_leave(tt_tenant *t)
{
    if (t != NULL) {
        t->n_open--;
    }
}

bool tt_tenant_may_read(tt_tenant *t, int64_t n_tokens, double now, tt_http_error *e)
{
    double wait = t != NULL ? tt_rate_wait(&t->tokens, (double)n_tokens, now) : 0;
    if (wait <= 0) {
        return true;
    }
    tt_error_set(e, 429, NULL, "rate_limit_exceeded",
                 "this API key may use %lld tokens a minute, and the prompt has %lld; try again in "
                 "%.0f s",
                 (long long)t->key.limits.tokens_per_minute, (long long)n_tokens, ceil(wait));
    return limited(t, wait, e);
}

void tt_tenant_take_prompt(tt_tenant *t, int64_t n_tokens, double now)
{
    if (t != NULL) {
        t->prompt_tokens += (uint64_t)n_tokens;
        tt_rate_take(&t->tokens, (double)n_tokens, now);
    }
}

void tt_tenant_take_answer(tt_tenant *t, int64_t n_tokens, double now)
{
    if (t != NULL) {
        t->generated_tokens += (uint64_t)n_tokens;
        tt_rate_take(&t->tokens, (double)n_tokens, now);
    }
}

/* "6m0s", "1.5s", "120ms": as OpenAI writes it. */
static void write_duration(double seconds, char *out, size_t cap)
{
    double ms = ceil(seconds * 1000);
    if (ms < 1000) {
        snprintf(out, cap, "%.0fms", ms);
    } else if (ms < 60000) {
        snprintf(out, cap, "%gs", ms / 1000);
    } else {
        snprintf(out, cap, "%.0fm%.0fs", floor(ms / 60000), floor(fmod(ms, 60000) / 1000));
    }
}

static void put_rate(const tt_rate *r, const char *const names[3], double now,
                     void (*put)(void *arg, const char *name, const char *value), void *arg)
{
    char text[48];
    if (r->per_minute <= 0) {
        return;
    }
    snprintf(text, sizeof text, "%.0f", r->per_minute);
    put(arg, names[0], text);
    snprintf(text, sizeof text, "%.0f", floor(tt_rate_left(r, now) + 1e-6));
    put(arg, names[1], text);
    write_duration(tt_rate_reset(r, now), text, sizeof text);
    put(arg, names[2], text);
}

void tt_tenant_headers(const tt_tenant *t, double now,
                       void (*put)(void *arg, const char *name, const char *value), void *arg)
{
    static const char *const requests[] = {"X-RateLimit-Limit-Requests",
                                           "X-RateLimit-Remaining-Requests",
                                           "X-RateLimit-Reset-Requests"};
    static const char *const tokens[] = {"X-RateLimit-Limit-Tokens", "X-RateLimit-Remaining-Tokens",
                                         "X-RateLimit-Reset-Tokens"};
    if (t != NULL) {
        put_rate(&t->requests, requests, now, put, arg);
        put_rate(&t->tokens, tokens, now, put, arg);
    }
}
