/* session_json.c - see session_json.h. */
#include "server/session_json.h"

#include <stdlib.h>
#include <string.h>

#include "server/error_map.h"
#include "server/session_load.h"
#include "server/session_state.h"

enum { PAGE_TOKENS = 64 };

static const char *const status_text[] = {[TT_SESSION_QUEUED] = "queued",
                                          [TT_SESSION_PREFILLING] = "prefilling",
                                          [TT_SESSION_READY] = "ready",
                                          [TT_SESSION_FAILED] = "failed"};

static void put_error(tt_buf *b, const tt_session_record *r)
{
    tt_http_error e;
    if (r->status != TT_SESSION_FAILED) {
        tt_buf_puts(b, ",\"error\":null");
        return;
    }
    tt_error_from_code(&e, &r->error);
    if (r->foreign) {
        e.code = "session_of_another_model";
    }
    tt_buf_puts(b, ",\"error\":{\"code\":");
    tt_buf_puts_json(b, e.code != NULL ? e.code : "failed");
    tt_buf_puts(b, ",\"message\":");
    tt_buf_puts_json(b, e.message);
    tt_buf_putc(b, '}');
}

/* The latest first; the sum of their memory. */
static int64_t put_generations(tt_buf *b, const tt_session *s)
{
    tt_session_generation g;
    int32_t n = 0;
    int64_t bytes = 0;
    while (tt_session_generation_at(s, n, &g)) {
        n++;
    }
    tt_buf_printf(b, ",\"generation\":%d,\"generations\":[", (int)tt_session_latest(s));
    for (int32_t i = n - 1; i >= 0 && tt_session_generation_at(s, i, &g); i--) {
        tt_buf_printf(b, "%s{\"generation\":%d,\"adapter_id\":\"adp_%016llx\",\"adapter_bytes\":",
                      i < n - 1 ? "," : "", (int)g.number, (unsigned long long)g.adapter_id);
        tt_buf_printf(b, "%lld,\"job_id\":", (long long)g.adapter_bytes);
        if (g.job_id[0] != '\0') {
            tt_buf_puts_json(b, g.job_id);
        } else {
            tt_buf_puts(b, "null");
        }
        tt_buf_putc(b, '}');
        bytes += g.adapter_bytes;
    }
    tt_buf_putc(b, ']');
    return bytes;
}

int64_t tt_session_kv_bytes(const tt_session_record *r, const tt_engine *engine)
{
    int32_t n_context, n;
    const uint8_t *flags;
    tt_job_params p = {0};
    if (!tt_session_loaded(r->data)) {
        return 0; /* none that anybody could name */
    }
    const int32_t *context = tt_session_context(r->data, &n_context);
    const int32_t *rest = tt_session_transcript(r->data, &flags, &n, &p.adapter_id);
    int32_t *ids = malloc(((size_t)n_context + (size_t)n + 1) * sizeof *ids);
    uint8_t *decoded = calloc((size_t)n_context + (size_t)n + 1, 1);
    int64_t bytes = 0;
    if (ids != NULL && decoded != NULL && engine != NULL) {
        memcpy(ids, context, (size_t)n_context * sizeof *ids);
        if (n > 0) {
            memcpy(ids + n_context, rest, (size_t)n * sizeof *ids);
            memcpy(decoded + n_context, flags, (size_t)n);
        }
        p.prompt = ids;
        p.decoded = decoded;
        p.n_prompt = n_context + n;
        p.qttt.context_tokens = n_context;
        strncpy(p.adapter_scope, r->scope, sizeof p.adapter_scope - 1);
        bytes = (int64_t)tt_engine_cached_tokens(engine, &p) / PAGE_TOKENS *
                (int64_t)tt_engine_page_bytes(engine);
    }
    free(ids);
    free(decoded);
    return bytes;
}

/* "disk": something has to be read back before it can go on, its tokens or its context's K/V. */
static const char *resident(const tt_session_record *r, const tt_engine *engine)
{
    tt_job_params p = {0};
    if (!tt_session_in_memory(r)) {
        return "disk";
    }
    p.prompt = tt_session_context(r->data, &p.n_prompt);
    p.qttt.context_tokens = p.n_prompt;
    strncpy(p.adapter_scope, r->scope, sizeof p.adapter_scope - 1);
    bool away =
        engine != NULL && tt_engine_stored_tokens(engine, &p) > tt_engine_cached_tokens(engine, &p);
    return away ? "disk" : "device";
}

static void put_qttt(tt_buf *b, const tt_session_record *r)
{
    char *text = r->qttt != NULL ? json_dumps(r->qttt, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    tt_buf_puts(b, ",\"qttt\":");
    tt_buf_puts(b, text != NULL ? text : "null");
    free(text);
}

void tt_session_write(tt_buf *b, const tt_session_record *r, const tt_engine *engine,
                      const char *model)
{
    int32_t n_context;
    (void)tt_session_context(r->data, &n_context);
    tt_buf_puts(b, "{\"id\":");
    tt_buf_puts_json(b, r->id);
    tt_buf_printf(
        b, ",\"object\":\"session\",\"created_at\":%lld,\"model\":", (long long)r->created_at);
    tt_buf_puts_json(b, model);
    bool restoring = engine != NULL && tt_engine_restoring(engine, r->tag);
    tt_buf_printf(b, ",\"status\":\"%s\"", restoring ? "restoring" : status_text[r->status]);
    put_error(b, r);
    tt_buf_printf(b, ",\"implicit\":%s,\"context_tokens\":%d,\"transcript_tokens\":%d",
                  r->implicit ? "true" : "false", (int)n_context,
                  (int)(tt_session_tokens(r->data) - n_context));
    tt_buf_printf(b, ",\"prefilled_tokens\":%d",
                  (int)(r->status == TT_SESSION_READY ? n_context : r->done));
    int64_t adapter_bytes = put_generations(b, r->data);
    tt_buf_printf(b, ",\"kv_bytes\":%lld,\"adapter_bytes\":%lld,\"resident\":\"%s\"",
                  (long long)tt_session_kv_bytes(r, engine), (long long)adapter_bytes,
                  resident(r, engine));
    tt_buf_printf(b, ",\"durable\":%s", tt_session_durable(r) ? "true" : "false");
    put_qttt(b, r);
    tt_buf_puts(b, ",\"metadata\":");
    tt_buf_puts(b, r->metadata);
    tt_buf_puts(b, ",\"ttl_seconds\":");
    tt_buf_put_double(b, r->ttl_seconds);
    tt_buf_printf(b,
                  ",\"last_used_at\":%lld,\"expires_at\":", (long long)tt_session_last_used_at(r));
    if (r->ttl_seconds > 0) {
        tt_buf_printf(b, "%lld}", (long long)tt_session_expires_at(r));
    } else {
        tt_buf_puts(b, "null}");
    }
}
