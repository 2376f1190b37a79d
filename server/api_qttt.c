/* api_qttt.c - see api_qttt.h. Ranges are the caps of the settings; what a field means is in
 * docs/qttt.md. */
#include "server/api_qttt.h"

#include <math.h>
#include <string.h>

#include "server/api_json.h"

enum { MAX_IGNORED_BYTES = 1024, MIN_SPAN_TOKENS = 16 };

void tt_ignored_add(tt_buf *ignored, const char *prefix, const char *name)
{
    if (ignored->n + strlen(prefix) + strlen(name) + 2 > MAX_IGNORED_BYTES) {
        return;
    }
    if (ignored->n > 0) {
        tt_buf_puts(ignored, ", ");
    }
    tt_buf_puts(ignored, prefix);
    for (; *name != '\0'; name++) {
        tt_buf_putc(ignored, *name > 0x20 && *name < 0x7F && *name != ',' ? *name : '?');
    }
}

static bool unsupported(tt_http_error *e, const char *prefix, const char *key, const char *what)
{
    return tt_json_refuse(e, prefix, key, "unsupported_parameter", "%s is not supported", what);
}

static bool parse_layers(const json_t *v, int32_t n_layers, tt_qttt_params *p, tt_http_error *e)
{
    size_t i;
    const json_t *item;
    if (v == NULL || (json_is_string(v) && strcmp(json_string_value(v), "all") == 0)) {
        return true;
    }
    if (!json_is_array(v) || json_array_size(v) == 0) {
        return tt_json_refuse(e, "qttt.", "layers", NULL,
                              "must be \"all\" or a list of layer numbers");
    }
    json_array_foreach((json_t *)v, i, item)
    {
        int64_t layer = json_is_integer(item) ? json_integer_value(item) : -1;
        if (layer < 0 || layer >= n_layers || layer >= (int64_t)sizeof p->layers * 8) {
            return tt_json_refuse(e, "qttt.", "layers", NULL, "holds layer numbers from 0 to %d",
                                  (int)n_layers - 1);
        }
        p->layers[layer / 8] |= (uint8_t)(1u << (layer % 8));
    }
    return true;
}

/* "auto" or a number in (0, max]. */
static bool parse_rate(const json_t *v, const tt_qttt_caps *caps, tt_qttt_params *p,
                       tt_http_error *e)
{
    if (v == NULL || (json_is_string(v) && strcmp(json_string_value(v), "auto") == 0)) {
        if (p->mode != TT_QTTT_OFF && p->sgd) {
            return tt_json_refuse(e, "qttt.", "learning_rate", NULL,
                                  "is required with optimizer \"sgd\": it has no automatic value");
        }
        return true;
    }
    double d = json_is_number(v) ? json_number_value(v) : -1;
    if (!(d > 0 && d <= caps->max_learning_rate)) {
        return tt_json_refuse(e, "qttt.", "learning_rate", NULL,
                              "must be \"auto\" or a number above 0 and at most %g",
                              caps->max_learning_rate);
    }
    p->learning_rate = d;
    return true;
}

static bool parse_budget(const json_t *v, tt_qttt_params *p, tt_http_error *e)
{
    double seconds = 0;
    int64_t tokens = 0;
    if (v == NULL) {
        return true;
    }
    if (!json_is_object(v)) {
        return tt_json_refuse(e, "qttt.", "budget", NULL, "must be an object, not %s",
                              tt_json_type_name(v));
    }
    if (!tt_json_get_number(v, "qttt.budget.", "max_seconds", 1e-3, 1e6, &seconds, e) ||
        !tt_json_get_int(v, "qttt.budget.", "max_span_tokens", 1, INT32_MAX, &tokens, e)) {
        return false;
    }
    p->max_seconds = seconds;
    p->max_span_tokens = tokens;
    return true;
}

static bool parse_context(const json_t *v, tt_qttt_request *q, tt_http_error *e)
{
    if (v == NULL) {
        return true;
    }
    bool messages = tt_json_get(v, "messages") != NULL;
    bool tokens = tt_json_get(v, "tokens") != NULL;
    if (!json_is_object(v) || messages == tokens) {
        return tt_json_refuse(e, "qttt.", "context", NULL,
                              "must be {\"messages\": n} or {\"tokens\": n}");
    }
    q->context = messages ? TT_CONTEXT_MESSAGES : TT_CONTEXT_TOKENS;
    return tt_json_get_int(v, "qttt.context.", messages ? "messages" : "tokens", 1, INT32_MAX,
                           &q->context_n, e);
}

/* "latest", "base" or a number. */
static bool parse_generation(const json_t *v, tt_qttt_request *q, tt_http_error *e)
{
    const json_t *g = tt_json_get(v, "generation");
    const char *text = json_string_value(g);
    if (g == NULL || (text != NULL && strcmp(text, "latest") == 0)) {
        return true;
    }
    q->generation = json_is_integer(g) ? json_integer_value(g) : -1;
    if (text != NULL && strcmp(text, "base") == 0) {
        q->generation = 0;
    }
    if (q->generation < 0) {
        return tt_json_refuse(e, "qttt.", "generation", NULL,
                              "must be \"latest\", \"base\" or a number from 0");
    }
    return true;
}

static bool parse_mode(const json_t *v, tt_qttt_request *q, tt_http_error *e)
{
    static const char *const modes[] = {"off", "on", "auto", NULL}; /* as tt_qttt_mode */
    static const char *const starts[] = {"base", "latest", NULL};
    int mode = (int)q->params.mode, start = 0;
    if (!tt_json_get_choice(v, "qttt.", "mode", modes, &mode, e) || !parse_generation(v, q, e) ||
        !tt_json_get_choice(v, "qttt.", "start_from", starts, &start, e)) {
        return false;
    }
    if (mode != TT_QTTT_OFF && q->generation >= 0) { /* what is trained answers */
        return unsupported(e, "qttt.", "generation",
                           "a generation together with mode \"on\" or \"auto\"");
    }
    q->params.mode = (tt_qttt_mode)mode;
    q->from_latest = start == 1;
    return true;
}

static bool parse_numbers(const json_t *v, const tt_qttt_caps *caps, tt_qttt_params *p,
                          tt_http_error *e)
{
    int64_t steps = p->steps, span = p->span_tokens, rank = p->rank, seed = 0;
    double decay = p->weight_decay, clip = p->grad_clip;
    if (!tt_json_get_int(v, "qttt.", "steps", 1, caps->max_steps, &steps, e) ||
        !tt_json_get_int(v, "qttt.", "span_tokens", MIN_SPAN_TOKENS, caps->max_span_tokens, &span,
                         e) ||
        !tt_json_get_int(v, "qttt.", "rank", 1, caps->max_rank, &rank, e) ||
        !tt_json_get_int(v, "qttt.", "seed", 0, INT64_MAX, &seed, e) ||
        !tt_json_get_number(v, "qttt.", "weight_decay", 0, 1, &decay, e) ||
        !tt_json_get_number(v, "qttt.", "grad_clip", 1e-6, 1e6, &clip, e)) {
        return false;
    }
    p->steps = (int32_t)steps;
    p->span_tokens = (int32_t)span;
    p->rank = (int32_t)rank;
    p->seed = (uint64_t)seed;
    p->weight_decay = (float)decay;
    p->grad_clip = (float)clip;
    return true;
}

static bool parse_kinds(const json_t *v, tt_qttt_params *p, tt_http_error *e)
{
    static const char *const adapters[] = {"full", "lora", NULL};
    static const char *const objectives[] = {"next_token", "recall", NULL};
    static const char *const optimizers[] = {"adamw", "sgd", NULL};
    int adapter = p->lora, objective = p->objective == TT_RECALL, optimizer = p->sgd;
    if (!tt_json_get_choice(v, "qttt.", "adapter", adapters, &adapter, e) ||
        !tt_json_get_choice(v, "qttt.", "objective", objectives, &objective, e) ||
        !tt_json_get_choice(v, "qttt.", "optimizer", optimizers, &optimizer, e) ||
        !tt_json_get_bool(v, "qttt.", "guard", &p->guard, e)) {
        return false;
    }
    p->lora = adapter == 1;
    p->objective = objective == 1 ? TT_RECALL : TT_NEXT_TOKEN;
    p->sgd = optimizer == 1;
    return true;
}

static void report_unknown(const json_t *v, tt_buf *ignored)
{
    static const char *const known[] = {
        "mode", "generation", "steps",      "span_tokens", "learning_rate", "adapter",
        "rank", "layers",     "objective",  "optimizer",   "weight_decay",  "grad_clip",
        "seed", "guard",      "start_from", "budget",      "context"};
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)v, key, item)
    {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(known[i], key) != 0) {
            i++;
        }
        if (i == sizeof known / sizeof *known) {
            tt_ignored_add(ignored, "qttt.", key);
        }
    }
}

bool tt_qttt_parse(const json_t *v, bool on, const tt_qttt_caps *caps, int32_t n_layers,
                   tt_qttt_request *ret, tt_buf *ignored, tt_http_error *e)
{
    *ret = (tt_qttt_request){.generation = -1};
    tt_qttt_params *p = &ret->params;
    tt_qttt_defaults(p);
    p->mode = on ? TT_QTTT_ON : TT_QTTT_OFF;
    if (v == NULL || json_is_null(v)) {
        return true;
    }
    if (json_is_false(v)) {
        p->mode = TT_QTTT_OFF;
        ret->generation = 0;
        return true;
    }
    if (!json_is_object(v)) {
        return tt_json_refuse(e, "", "qttt", NULL, "must be an object or false, not %s",
                              tt_json_type_name(v));
    }
    report_unknown(v, ignored);
    return parse_mode(v, ret, e) && parse_kinds(v, p, e) && parse_numbers(v, caps, p, e) &&
           parse_rate(tt_json_get(v, "learning_rate"), caps, p, e) &&
           parse_layers(tt_json_get(v, "layers"), n_layers, p, e) &&
           parse_budget(tt_json_get(v, "budget"), p, e) &&
           parse_context(tt_json_get(v, "context"), ret, e);
}

static void put_layers(tt_buf *b, const tt_qttt_params *p)
{
    bool all = true, first = true;
    for (size_t i = 0; i < sizeof p->layers; i++) {
        all = all && p->layers[i] == 0;
    }
    if (all) {
        tt_buf_puts(b, ",\"layers\":\"all\"");
        return;
    }
    tt_buf_puts(b, ",\"layers\":[");
    for (int i = 0; i < (int)sizeof p->layers * 8; i++) {
        if ((p->layers[i / 8] >> (i % 8) & 1) != 0) {
            tt_buf_printf(b, "%s%d", first ? "" : ",", i);
            first = false;
        }
    }
    tt_buf_putc(b, ']');
}

void tt_qttt_write_params(tt_buf *b, const tt_qttt_params *p)
{
    tt_buf_printf(b, "{\"steps\":%d,\"span_tokens\":%d", (int)p->steps, (int)p->span_tokens);
    tt_buf_member_double(b, "learning_rate", p->learning_rate);
    tt_buf_member_text(b, "adapter", p->lora ? "lora" : "full");
    if (p->lora) {
        tt_buf_printf(b, ",\"rank\":%d", (int)p->rank);
        tt_buf_puts(b, ",\"alpha\":");
        tt_buf_put_float(b, p->lora_alpha);
    }
    put_layers(b, p);
    tt_buf_member_text(b, "objective", p->objective == TT_RECALL ? "recall" : "next_token");
    tt_buf_member_text(b, "optimizer", p->sgd ? "sgd" : "adamw");
    tt_buf_puts(b, ",\"weight_decay\":");
    tt_buf_put_float(b, p->weight_decay);
    tt_buf_puts(b, ",\"grad_clip\":");
    tt_buf_put_float(b, p->grad_clip);
    tt_buf_printf(b, ",\"seed\":%llu,\"guard\":%s,\"start_from\":\"%s\",\"budget\":",
                  (unsigned long long)p->seed, p->guard ? "true" : "false",
                  p->start_adapter != 0 ? "latest" : "base");
    tt_qttt_write_budget(b, p);
    tt_buf_printf(b, ",\"context_tokens\":%d}", (int)p->context_tokens);
}

void tt_qttt_write_budget(tt_buf *b, const tt_qttt_params *p)
{
    tt_buf_puts(b, "{\"max_seconds\":");
    tt_buf_put_double(b, p->max_seconds > 0 ? p->max_seconds : NAN);
    tt_buf_puts(b, ",\"max_span_tokens\":");
    if (p->max_span_tokens > 0) {
        tt_buf_printf(b, "%lld", (long long)p->max_span_tokens);
    } else {
        tt_buf_puts(b, "null");
    }
    tt_buf_putc(b, '}');
}

void tt_qttt_write_recall(tt_buf *b, const tt_qttt_result *r)
{
    if (!r->have_recall) {
        tt_buf_puts(b, "null");
        return;
    }
    tt_buf_puts(b, "{\"before\":");
    tt_buf_put_double(b, r->recall_before);
    tt_buf_member_double(b, "after", r->recall_after);
    tt_buf_member_double(b, "standard_error", r->recall_se);
    tt_buf_printf(b, ",\"segments\":%d}", (int)r->recall_segments);
}

void tt_qttt_write_durable(tt_buf *b, const tt_qttt_result *r)
{
    tt_buf_printf(b, ",\"durable\":%s", r->durable ? "true" : "false");
    tt_buf_member_text(b, "durable_error", r->not_durable[0] != '\0' ? r->not_durable : NULL);
}

void tt_qttt_write(tt_buf *b, const tt_qttt_result *r, const char *job_id, double prefill_seconds)
{
    tt_buf_puts(b, "{\"job_id\":");
    if (job_id != NULL) {
        tt_buf_puts_json(b, job_id);
    } else {
        tt_buf_puts(b, "null");
    }
    tt_buf_member_text(b, "status", r->status);
    /* Of a success `kept` says what the guard did; a reason explains what did not happen. */
    tt_buf_member_text(b, "reason", strcmp(r->status, "succeeded") != 0 ? r->reason : NULL);
    tt_buf_printf(b, ",\"steps_done\":%d,\"steps_dropped\":%d", (int)r->steps_done,
                  (int)r->n_dropped);
    tt_buf_member_text(b, "stop_reason", r->stop_reason);
    tt_buf_printf(b, ",\"kept\":%s,\"cached\":%s,\"generation\":%d", r->kept ? "true" : "false",
                  r->cached ? "true" : "false", (int)r->generation);
    if (r->adapter_id != 0) {
        tt_buf_printf(b, ",\"adapter_id\":\"adp_%016llx\"", (unsigned long long)r->adapter_id);
    } else {
        tt_buf_puts(b, ",\"adapter_id\":null");
    }
    tt_qttt_write_durable(b, r);
    tt_buf_puts(b, ",\"hyperparameters\":");
    tt_qttt_write_params(b, &r->params);
    tt_buf_puts(b, ",\"recall\":");
    tt_qttt_write_recall(b, r);
    tt_buf_member_double(b, "span_loss_before", r->span_loss_before);
    tt_buf_member_double(b, "span_loss_after", r->span_loss_after);
    tt_buf_member_double(b, "loss_first", r->loss_first);
    tt_buf_member_double(b, "loss_last", r->loss_last);
    tt_buf_member_double(b, "delta_norm_relative", r->delta_norm_relative);
    tt_buf_printf(b, ",\"trained_tokens\":%lld,\"adapter_bytes\":%lld",
                  (long long)r->trained_tokens, (long long)r->adapter_bytes);
    tt_buf_member_double(b, "flops", r->flops);
    tt_buf_member_double(b, "equal_cost_tokens", r->equal_cost_tokens);
    tt_buf_member_double(b, "prefill_seconds", prefill_seconds);
    tt_buf_member_double(b, "adapt_seconds", r->adapt_seconds);
    tt_buf_putc(b, '}');
}
