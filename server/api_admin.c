/* api_admin.c - GET /v1/admin/state: what runs, what waits and why, who holds what. Thread: the
 * loop thread; nothing here waits for the engine. */
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/generation_priv.h"
#include "server/job_table.h"
#include "server/quota.h"
#include "server/server.h"
#include "server/session_json.h"
#include "server/session_store.h"
#include "server/session_turn.h"
#include "server/state_db.h"

/* Looking up a session's pages takes time by its tokens; what is beyond is not looked up, and
 * kv_complete says so. */
enum { MAX_KV_TOKENS = 2 << 20, VALUE_BYTES = 400, MAX_ROWS = 1000 };

static const char *const phases[] = {"loading", "ready", "leaving", "draining", "stopping"};

static void member_int(tt_buf *b, const char *key, int64_t v)
{
    tt_buf_printf(b, ",\"%s\":%lld", key, (long long)v);
}

static const char *name_of(const tt_server *s, const char *scope)
{
    return tt_tenant_name(tt_tenants_of_scope(&s->tenants, scope));
}

/* ---- requests ---- */

/* A request runs as soon as one of its jobs does; else *ret: the one that is first in the queue. */
static bool waits(const tt_generation *g, const tt_job **ret)
{
    *ret = NULL;
    for (int32_t i = 0; i < g->n_choices; i++) {
        const tt_choice *c = &g->choices[i];
        if (c->started || c->job == NULL) {
            return false;
        }
        *ret = *ret != NULL ? *ret : c->job;
    }
    return *ret != NULL;
}

/* position < 0: the engine has not told it yet. */
static void put_queue(tt_buf *b, bool queued, int32_t position, const char *reason)
{
    tt_buf_puts(b, ",\"queue\":");
    if (!queued) {
        tt_buf_puts(b, "null");
        return;
    }
    if (position >= 0) {
        tt_buf_printf(b, "{\"position\":%d", (int)position);
    } else {
        tt_buf_puts(b, "{\"position\":null");
    }
    tt_buf_member_text(b, "reason", reason);
    tt_buf_putc(b, '}');
}

static void put_request(tt_buf *b, const tt_generation *g)
{
    const tt_http_request *req = g->http;
    const tt_job *job;
    const char *reason = "";
    bool queued = waits(g, &job);
    int32_t position = queued ? tt_job_position(job, &reason) : -1;
    tt_buf_puts(b, "{\"id\":");
    tt_buf_puts_json(b, req->id);
    tt_buf_member_text(b, "key", tt_tenant_name(req->tenant));
    tt_buf_member_text(b, "path", req->url);
    tt_buf_member_text(b, "status", queued ? "queued" : "running");
    put_queue(b, queued, position, reason);
    tt_buf_member_text(b, "model", req->note.model);
    tt_buf_member_text(b, "session_id", req->note.session);
    tt_buf_member_text(b, "job_id", tt_generation_record_id(g));
    member_int(b, "answers", g->n_choices);
    member_int(b, "prompt_tokens", req->note.prompt_tokens);
    member_int(b, "generated_tokens", req->note.generated_tokens);
    tt_buf_member_double(b, "seconds", tt_now() - req->started);
    tt_buf_putc(b, '}');
}

static void put_requests(tt_buf *b, const tt_server *s)
{
    int n = 0;
    tt_buf_puts(b, ",\"requests\":[");
    for (const tt_generation *g = s->generations; g != NULL && n < MAX_ROWS; g = g->next, n++) {
        tt_buf_puts(b, n > 0 ? "," : "");
        put_request(b, g);
    }
    tt_buf_putc(b, ']');
}

/* ---- jobs ---- */

typedef struct state_page {
    tt_buf *b;
    tt_server *s;
    int n;
} state_page;

static void put_job(void *arg, const tt_job_record *r)
{
    state_page *p = arg;
    const char *reason;
    int32_t position = tt_job_record_position(r, &reason);
    if (p->n >= MAX_ROWS) {
        return;
    }
    tt_buf_puts(p->b, p->n++ > 0 ? ",{\"id\":" : "{\"id\":");
    tt_buf_puts_json(p->b, r->id);
    tt_buf_member_text(p->b, "key", name_of(p->s, r->scope));
    tt_buf_member_text(p->b, "status", tt_job_status_text(r->status));
    put_queue(p->b, r->status == TT_JOB_QUEUED, position, reason);
    tt_buf_member_text(p->b, "session_id", r->session_id);
    tt_buf_printf(p->b, ",\"in_request\":%s", r->in_request ? "true" : "false");
    member_int(p->b, "context_tokens", r->n_context);
    member_int(p->b, "steps_done", r->steps_done);
    member_int(p->b, "steps", r->params.steps);
    member_int(p->b, "created_at", (int64_t)r->created_at);
    tt_buf_putc(p->b, '}');
}

/* ---- owners ---- */

typedef struct owner {
    char scope[40];
    tt_holdings usage;
    int64_t kv_bytes;
} owner;

typedef struct owners {
    tt_server *s;
    owner *v; /* owned: of each tenant, at its place; then of scopes without one */
    int32_t n, cap;
    int64_t n_tokens; /* looked up */
    bool kv_complete, failed;
} owners;

static owner *add_owner(owners *o, const char *scope)
{
    if (o->n == o->cap) {
        int32_t cap = o->cap > 0 ? 2 * o->cap : 16;
        owner *v = realloc(o->v, (size_t)cap * sizeof *v);
        if (v == NULL) {
            o->failed = true;
            return NULL;
        }
        o->v = v;
        o->cap = cap;
    }
    o->v[o->n] = (owner){0};
    snprintf(o->v[o->n].scope, sizeof o->v->scope, "%s", scope);
    return &o->v[o->n++];
}

static owner *owner_of(owners *o, const char *scope)
{
    const tt_tenant *t = tt_tenants_of_scope(&o->s->tenants, scope);
    if (t != NULL) {
        return t->place < o->n ? &o->v[t->place] : NULL; /* NULL: memory ran out before it */
    }
    for (int32_t i = o->s->tenants.n; i < o->n; i++) {
        if (strcmp(o->v[i].scope, scope) == 0) {
            return &o->v[i];
        }
    }
    return add_owner(o, scope);
}

static void count_session(void *arg, const tt_session_record *r)
{
    owners *o = arg;
    owner *w = owner_of(o, r->scope);
    tt_session_generation g;
    if (w == NULL) {
        return;
    }
    w->usage.sessions++;
    w->usage.bytes += (int64_t)r->bytes;
    for (int32_t i = 0; tt_session_generation_at(r->data, i, &g); i++) {
        w->usage.adapter_bytes += g.adapter_bytes;
    }
    o->n_tokens += tt_session_tokens(r->data);
    if (o->n_tokens <= MAX_KV_TOKENS) {
        w->kv_bytes += tt_session_kv_bytes(r, o->s->engine);
    } else {
        o->kv_complete = false;
    }
}

static void count_job(void *arg, const tt_job_record *r)
{
    owner *w = owner_of(arg, r->scope);
    if (w != NULL) {
        w->usage.jobs++;
    }
}

static void put_limits(tt_buf *b, const tt_key_limits *l)
{
    tt_buf_puts(b, ",\"limits\":{");
    for (int i = 0, n = 0; i < tt_n_key_limits; i++) {
        int64_t v = tt_key_limit_get(l, &tt_key_limit_table[i]);
        if (v > 0) {
            tt_buf_printf(b, "%s\"%s\":%lld", n++ > 0 ? "," : "", tt_key_limit_table[i].name,
                          (long long)v);
        }
    }
    tt_buf_putc(b, '}');
}

/* w: of this scope. */
static void put_owner(tt_buf *b, const tt_tenant *t, const owner *w)
{
    tt_buf_puts(b, "{\"key\":");
    if (t != NULL) {
        tt_buf_puts_json(b, t->key.name);
        tt_buf_member_text(b, "role", t->removed ? "removed" : tt_key_role_text(t->key.role));
        put_limits(b, &t->key.limits);
    } else {
        tt_buf_puts(b, "null,\"role\":null,\"limits\":{}");
    }
    member_int(b, "requests_in_progress", t != NULL ? t->n_open : 0);
    member_int(b, "sessions", w->usage.sessions);
    member_int(b, "jobs", w->usage.jobs);
    member_int(b, "session_bytes", w->usage.bytes);
    member_int(b, "adapter_bytes", w->usage.adapter_bytes);
    member_int(b, "kv_bytes", w->kv_bytes);
    tt_buf_putc(b, '}');
}

static void put_owners(tt_buf *b, tt_server *s)
{
    owners o = {.s = s, .kv_complete = true};
    const tt_tenants *t = &s->tenants;
    for (int32_t i = 0; i < t->n && !o.failed; i++) {
        add_owner(&o, t->v[i]->key.scope);
    }
    tt_session_store_each(s->sessions, count_session, &o);
    tt_job_table_each_live(s->jobs, count_job, &o);
    tt_buf_puts(b, ",\"owners\":[");
    for (int32_t i = 0; i < o.n; i++) {
        tt_buf_puts(b, i > 0 ? "," : "");
        put_owner(b, i < t->n ? t->v[i] : NULL, &o.v[i]);
    }
    tt_buf_printf(b, "],\"kv_complete\":%s", o.kv_complete ? "true" : "false");
    b->failed = b->failed || o.failed;
    free(o.v);
}

/* ---- settings ---- */

static void put_settings(tt_buf *b, const tt_settings *now)
{
    tt_settings def;
    tt_err err;
    int n = 0;
    tt_buf_puts(b, ",\"settings\":{");
    bool ok = tt_settings_init(&def, &err) == TT_OK;
    for (int i = 0; ok && i < tt_n_settings; i++) {
        const tt_setting *row = &tt_setting_table[i];
        char value[VALUE_BYTES] = "(not shown)";
        if (tt_settings_same(now, &def, row)) {
            continue;
        }
        if (!tt_setting_secret(row)) {
            tt_settings_text(now, row, value, sizeof value);
        }
        tt_buf_printf(b, "%s\"%s\":", n++ > 0 ? "," : "", row->key);
        tt_buf_puts_json(b, value);
    }
    tt_settings_finish(&def);
    tt_buf_putc(b, '}');
    b->failed = b->failed || !ok;
}

static void put_engine(tt_buf *b, const tt_engine_stats *st)
{
    tt_buf_printf(b, ",\"engine\":{\"running\":%d,\"queued\":%d,\"running_jobs\":%d",
                  (int)st->running, (int)st->queued, (int)st->running_jobs);
    member_int(b, "queued_jobs", st->queued_jobs);
    member_int(b, "kv_bytes", st->kv_bytes_total);
    member_int(b, "kv_pages", st->kv_pages_total);
    member_int(b, "kv_pages_used", st->kv_pages_used);
    member_int(b, "kv_pages_evictable", st->kv_pages_cached);
    member_int(b, "adapters", st->adapters);
    member_int(b, "adapter_bytes", st->adapter_bytes);
    member_int(b, "adapter_pinned_bytes", st->adapter_pinned_bytes);
    tt_buf_putc(b, '}');
}

/* What outlives the process; null: nothing does. */
static void put_disk(tt_buf *b, const tt_server *s, const tt_engine_stats *st)
{
    tt_err why = {0};
    tt_buf_puts(b, ",\"disk\":");
    if (s->state == NULL) {
        tt_buf_puts(b, "null");
        return;
    }
    bool degraded = tt_state_degraded(s->state, &why);
    tt_state_counts n = tt_state_get_counts(s->state);
    tt_buf_puts(b, "{\"folder\":");
    tt_buf_puts_json(b, s->state_dir);
    tt_buf_member_text(b, "degraded", degraded ? why.msg : NULL);
    member_int(b, "waiting", n.waiting);
    member_int(b, "failures", n.failures);
    member_int(b, "database_bytes", n.file_bytes);
    member_int(b, "context_bytes", st->page_run_bytes);
    tt_buf_putc(b, '}');
}

/* The device that serves; of a GPU what it said at the start, and its free memory now. */
static void put_device(tt_buf *b, const tt_server *s, const tt_engine_stats *st)
{
    const tt_cuda_info *g = &s->device.info;
    tt_buf_puts(b, ",\"device\":{\"name\":");
    tt_buf_puts_json(b, s->served != NULL ? tt_engine_device(s->engine) : s->device.name);
    tt_buf_member_text(b, "kernels", s->served != NULL ? tt_engine_isa(s->engine) : NULL);
    tt_buf_member_text(b, "why", s->device.why);
    if (g->name[0] == '\0') {
        tt_buf_puts(b, ",\"gpu\":null}");
        return;
    }
    tt_buf_puts(b, ",\"gpu\":{\"name\":");
    tt_buf_puts_json(b, g->name);
    tt_buf_printf(b, ",\"compute\":\"%d.%d\",\"driver\":\"%d.%d\",\"runtime\":\"%d.%d\"",
                  (int)(g->sm / 10), (int)(g->sm % 10), (int)(g->driver / 1000),
                  (int)(g->driver % 1000 / 10), (int)(g->runtime / 1000),
                  (int)(g->runtime % 1000 / 10));
    member_int(b, "memory_bytes", (int64_t)g->total_bytes);
    member_int(b, "free_bytes", st->device_free_bytes);
    tt_buf_puts(b, "}}");
}

void tt_api_admin_state(tt_http_request *req)
{
    tt_server *s = req->server;
    tt_buf b = {0};
    tt_engine_stats st = {0};
    if (s->engine != NULL && s->served != NULL) {
        tt_engine_get_stats(s->engine, &st);
    }
    tt_session_counts sessions = tt_session_store_counts(s->sessions);
    tt_buf_puts(&b, "{\"object\":\"state\"");
    tt_buf_member_text(&b, "version", TT_VERSION);
    tt_buf_member_text(&b, "phase", phases[s->phase]);
    tt_buf_member_text(&b, "model", s->served != NULL ? s->served->name : NULL);
    member_int(&b, "started_at", s->started_unix);
    tt_buf_member_double(&b, "uptime_seconds", tt_now() - s->started);
    member_int(&b, "open_requests", tt_http_active(s->http));
    put_device(&b, s, &st);
    put_engine(&b, &st);
    put_disk(&b, s, &st);
    tt_buf_printf(&b, ",\"sessions\":{\"count\":%d,\"bytes\":%lld}", (int)sessions.sessions,
                  (long long)sessions.bytes);
    put_requests(&b, s);
    tt_buf_puts(&b, ",\"jobs\":[");
    tt_job_table_each_live(s->jobs, put_job, &(state_page){.b = &b, .s = s});
    tt_buf_putc(&b, ']');
    put_owners(&b, s);
    put_settings(&b, s->settings);
    tt_buf_putc(&b, '}');
    tt_http_reply_json(req, &b);
}
