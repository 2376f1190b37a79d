/* answer.c - see answer.h. */
#include "server/answer.h"

#include "server/api_qttt.h"
#include "server/session_turn.h"
#include "server/sse.h"

const char *tt_finish_text(tt_finish reason)
{
    return reason == TT_FINISH_LENGTH ? "length" : "stop";
}

static void put_head(tt_buf *b, const tt_answer *a, bool chunk)
{
    const char *object = a->api == TT_API_COMPLETIONS ? "text_completion"
                         : chunk                      ? "chat.completion.chunk"
                                                      : "chat.completion";
    tt_buf_puts(b, "{\"id\":");
    tt_buf_puts_json(b, a->id);
    tt_buf_printf(b, ",\"object\":\"%s\",\"created\":%lld,\"model\":", object,
                  (long long)a->created);
    tt_buf_puts_json(b, a->model);
}

static void put_usage(tt_buf *b, const tt_usage *u)
{
    tt_buf_printf(b,
                  ",\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,"
                  "\"total_tokens\":%lld,\"prompt_tokens_details\":{\"cached_tokens\":%lld}",
                  (long long)u->prompt_tokens, (long long)u->completion_tokens,
                  (long long)(u->prompt_tokens + u->completion_tokens),
                  (long long)u->cached_tokens);
    if (u->accepted_tokens > 0) {
        tt_buf_printf(b, ",\"completion_tokens_details\":{\"accepted_prediction_tokens\":%lld}",
                      (long long)u->accepted_tokens);
    }
    tt_buf_putc(b, '}');
}

static void put_progress(tt_buf *b, const tt_chunk *c)
{
    if (c->queued) {
        tt_buf_printf(b, ",\"progress\":{\"phase\":\"queued\",\"done\":0,\"total\":%d}",
                      (int)c->queue_total);
    } else if (c->progress->type == TT_EV_PREFILL) {
        const tt_event *e = c->progress;
        tt_buf_printf(b,
                      ",\"progress\":{\"phase\":\"prefill\",\"done\":%d,\"total\":%d,\"cached\":%d",
                      (int)e->u.prefill.done, (int)e->u.prefill.total, (int)e->u.prefill.cached);
        tt_buf_member_double(b, "seconds", e->u.prefill.seconds);
        tt_buf_putc(b, '}');
    } else {
        const tt_event *e = c->progress;
        tt_buf_printf(b, ",\"progress\":{\"phase\":\"adapt\",\"done\":%d,\"total\":%d",
                      (int)e->u.adapt.step, (int)e->u.adapt.total);
        tt_buf_member_double(b, "loss", e->u.adapt.loss);
        tt_buf_member_double(b, "grad_norm", e->u.adapt.grad_norm);
        tt_buf_member_double(b, "learning_rate", e->u.adapt.learning_rate);
        tt_buf_member_double(b, "seconds", e->u.adapt.seconds);
        tt_buf_printf(b, ",\"span_start\":%d,\"span_tokens\":%d", (int)e->u.adapt.span_start,
                      (int)e->u.adapt.span_tokens);
        if (c->job_id != NULL) {
            tt_buf_puts(b, ",\"job_id\":");
            tt_buf_puts_json(b, c->job_id);
        }
        tt_buf_putc(b, '}');
    }
}

static void put_logprobs(tt_buf *b, const tt_chunk *c)
{
    tt_buf_puts(b, ",\"logprobs\":");
    if (c->logprobs != NULL) {
        tt_logprob_list_write(b, c->logprobs);
    } else {
        tt_buf_puts(b, "null");
    }
}

static void put_finish(tt_buf *b, const tt_chunk *c)
{
    if (c->finish_reason != NULL) {
        tt_buf_printf(b, ",\"finish_reason\":\"%s\"}", c->finish_reason);
    } else {
        tt_buf_puts(b, ",\"finish_reason\":null}");
    }
}

static void put_delta(tt_buf *b, const tt_answer *a, const tt_chunk *c)
{
    tt_buf_printf(b, "{\"index\":%d,", (int)c->index);
    if (a->api == TT_API_COMPLETIONS) {
        tt_buf_puts(b, "\"text\":");
        tt_buf_put_json(b, c->text != NULL ? c->text : "", c->n_text);
    } else if (c->role) {
        tt_buf_puts(b, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
    } else if (c->text != NULL) {
        tt_buf_puts(b, "\"delta\":{\"content\":");
        tt_buf_put_json(b, c->text, c->n_text);
        tt_buf_putc(b, '}');
    } else {
        tt_buf_puts(b, "\"delta\":{}");
    }
    put_logprobs(b, c);
    put_finish(b, c);
}

static void put_qttt(tt_buf *b, const tt_chunk *c)
{
    if (c->qttt != NULL) {
        tt_buf_puts(b, ",\"qttt\":");
        tt_qttt_write(b, c->qttt, c->job_id, c->prefill_seconds);
    }
}

static void put_session(tt_buf *b, const tt_chunk *c)
{
    if (c->session != NULL) {
        tt_buf_puts(b, ",\"session\":");
        tt_session_turn_write(b, c->session);
    }
}

void tt_answer_chunk(tt_buf *b, const tt_answer *a, const tt_chunk *c)
{
    tt_sse_begin(b);
    put_head(b, a, true);
    tt_buf_puts(b, ",\"choices\":[");
    if (c->usage == NULL && c->progress == NULL && !c->queued) {
        put_delta(b, a, c);
    }
    tt_buf_putc(b, ']');
    if (c->usage != NULL) {
        put_usage(b, c->usage);
    } else if (a->include_usage) {
        tt_buf_puts(b, ",\"usage\":null");
    }
    if (c->progress != NULL || c->queued) {
        put_progress(b, c);
    }
    put_qttt(b, c);
    put_session(b, c);
    tt_buf_putc(b, '}');
    tt_sse_end(b);
}

void tt_answer_choice(tt_buf *b, const tt_answer *a, const tt_chunk *c)
{
    if (b->n > 0) {
        tt_buf_putc(b, ',');
    }
    tt_buf_printf(b, "{\"index\":%d,", (int)c->index);
    if (a->api == TT_API_COMPLETIONS) {
        tt_buf_puts(b, "\"text\":");
        tt_buf_put_json(b, c->text != NULL ? c->text : "", c->n_text);
    } else {
        tt_buf_puts(b, "\"message\":{\"role\":\"assistant\",\"content\":");
        tt_buf_put_json(b, c->text != NULL ? c->text : "", c->n_text);
        tt_buf_puts(b, ",\"refusal\":null}");
    }
    put_logprobs(b, c);
    put_finish(b, c);
}

void tt_answer_whole(tt_buf *b, const tt_answer *a, const tt_buf *choices, const tt_chunk *c)
{
    put_head(b, a, false);
    tt_buf_puts(b, ",\"choices\":[");
    tt_buf_put(b, choices->p, choices->n);
    tt_buf_putc(b, ']');
    put_usage(b, c->usage);
    put_qttt(b, c);
    put_session(b, c);
    tt_buf_putc(b, '}');
    b->failed = b->failed || choices->failed;
}
