/* session_answer.c - the jobs of a request in a session (session_turn.h): their parameters, what
 * they generate, and the commit at the end. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/session_state.h"
#include "server/session_turn_priv.h"

enum { PAGE_TOKENS = 64 };

static void session_deleted(tt_session_user *u)
{
    tt_session_turn *t = (tt_session_turn *)(void *)u;
    tt_session_remove_user(t->record, u);
    t->running = false;
    t->on_deleted(t->arg);
}

tt_code tt_session_turn_start(tt_session_turn *t, int32_t n_choices, void (*on_deleted)(void *arg),
                              void *arg, tt_err *reterr)
{
    t->answers = calloc((size_t)n_choices, sizeof *t->answers);
    if (t->answers == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    t->n_answers = n_choices;
    t->cached = -1;
    t->miss = t->plans[0].miss;
    t->position = t->plans[0].position;
    t->on_deleted = on_deleted;
    t->arg = arg;
    t->user.on_deleted = session_deleted;
    tt_session_add_user(t->record, &t->user);
    t->running = true;
    return TT_OK;
}

void tt_session_turn_params(const tt_session_turn *t, int32_t prompt, tt_job_params *params)
{
    const tt_session_plan *plan = &t->plans[prompt];
    tt_session_generation latest;
    params->qttt.context_tokens = plan->n_base;
    params->keep_context = plan->context_equal ? plan->n_base : 0;
    if (!plan->context_equal) {
        params->qttt.mode = TT_QTTT_OFF;
        return;
    }
    params->decoded = plan->decoded;
    params->keep = true;
    params->adapter_id = plan->adapter_id;
    params->session_tag = t->record->tag;
    params->pin_adapter = params->qttt.mode != TT_QTTT_OFF;
    if (!params->pin_adapter && plan->adapter_id != 0 && plan->n_base == params->n_prompt) {
        params->qttt.context_tokens--; /* a prompt that is the context alone: its last token is run
                                          under the adapter, as after a training */
    }
    if (t->prepared->request.qttt.from_latest &&
        tt_session_choose(t->record->data, -1, &latest) == TT_OK) {
        params->qttt.start_adapter = latest.adapter_id;
    }
}

bool tt_session_turn_skipped(const tt_session_turn *t, tt_qttt_result *ret)
{
    const tt_qttt_request *q = &t->prepared->request.qttt;
    if (t->plans[0].context_equal || q->params.mode == TT_QTTT_OFF) {
        return false;
    }
    *ret = (tt_qttt_result){.status = "skipped",
                            .reason = "context_diverged",
                            .params = q->params,
                            .span_loss_before = NAN,
                            .span_loss_after = NAN,
                            .loss_first = NAN,
                            .loss_last = NAN};
    tt_qttt_resolve(&ret->params);
    return true;
}

/* ---- what comes ---- */

void tt_session_turn_token(tt_session_turn *t, int32_t i, const tt_event *ev)
{
    tt_turn_answer *a = &t->answers[i];
    if (a->n == a->cap) {
        int32_t cap = a->cap == 0 ? 64 : a->cap + a->cap / 2;
        int32_t *ids = realloc(a->ids, (size_t)cap * sizeof *ids);
        if (ids == NULL) {
            a->failed = true;
            return;
        }
        a->ids = ids;
        a->cap = cap;
    }
    a->ids[a->n++] = ev->u.token.id;
    tt_buf_put(&a->text, ev->u.token.text, ev->u.token.n_text);
}

void tt_session_turn_adapted(tt_session_turn *t, tt_qttt_result *result, const char *job_id)
{
    tt_session_plan *plan = &t->plans[0];
    if (result->kept) {
        tt_session_adopt(t->record, result, job_id != NULL ? job_id : "", &result->generation);
        if (plan->adapter_id != result->adapter_id && plan->matched > plan->n_base) {
            t->miss = TT_MISS_ADAPTER;
            t->position = plan->n_base;
        }
        plan->adapter_id = result->adapter_id;
    } else { /* the generation that was chosen answers */
        result->adapter_id = plan->adapter_id;
        result->generation = plan->generation;
    }
    plan->generation = t->generation = result->generation;
}

/* ---- the end ---- */

/* The messages of the request and its answer become what the next append goes on from. */
static tt_code make_text(const tt_session_turn *t, const tt_turn_answer *a, tt_session_text **ret,
                         tt_err *reterr)
{
    const tt_prepared *p = t->prepared;
    const tt_prepared_prompt *pr = &p->prompts[0];
    json_t *content = json_stringn(a->text.n > 0 ? a->text.p : "", a->text.n);
    json_t *answer = json_pack("{s:s, s:o}", "role", "assistant", "content", content);
    json_t *all = json_copy(p->request.messages);
    tt_code rc = TT_E_NOMEM;
    if (answer != NULL && all != NULL && json_array_append(all, answer) == 0) {
        const json_t *kwargs = p->request.template_kwargs;
        if (kwargs == NULL && t->old != NULL) {
            kwargs = tt_session_text_kwargs(t->old);
        }
        rc = tt_session_text_create(&(tt_session_text_options){.messages = all,
                                                               .kwargs = kwargs,
                                                               .text = p->rendered.text,
                                                               .n = p->rendered.n,
                                                               .ids = pr->ids,
                                                               .n_ids = (int32_t)pr->n_ids,
                                                               .from = t->old,
                                                               .n_kept = p->n_kept,
                                                               .generated = a->ids,
                                                               .n_generated = a->n,
                                                               .tokenizer = p->served->tokenizer},
                                    ret, reterr);
    } else {
        (void)tt_fail(reterr, rc, "out of memory for a session's text");
    }
    json_decref(answer);
    json_decref(all);
    return rc;
}

static void note_misses(tt_session_turn *t, int32_t n_prompt, int32_t cached)
{
    int32_t known = t->plans[0].matched < n_prompt ? t->plans[0].matched : n_prompt - 1;
    t->cached = cached;
    if (t->miss == TT_MISS_NONE && t->warm && cached < known / PAGE_TOKENS * PAGE_TOKENS) {
        t->evicted = true;
        t->position = cached;
    }
    if (t->miss != TT_MISS_NONE || t->evicted) {
        tt_server *s = t->prepared->http->server;
        tt_metrics_session_miss(&s->metrics,
                                t->evicted ? "evicted" : tt_session_miss_text(t->miss));
    }
}

void tt_session_turn_done(tt_session_turn *t, int32_t i, const tt_event *ev)
{
    tt_turn_answer *a = &t->answers[i];
    if (i == 0) {
        note_misses(t, ev->u.done.prompt_tokens, ev->u.done.cached_tokens);
    }
    tt_buf_put(&a->text, ev->u.done.text, ev->u.done.n_text);
    a->done = true;
}

/* Answer i becomes the head. */
static tt_code commit_answer(tt_session_turn *t, int32_t i, tt_err *reterr)
{
    const tt_prepared *p = t->prepared;
    tt_session_record *r = t->record;
    int32_t prompt = i / p->request.n_samples;
    const tt_session_plan *plan = &t->plans[prompt];
    const tt_turn_answer *a = &t->answers[i];
    tt_session_text *text = NULL;
    if (!a->done || !plan->context_equal) {
        return TT_OK;
    }
    if (a->failed || a->text.failed) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory for a session's transcript");
    }
    if (p->request.api == TT_API_CHAT) {
        tt_code rc = make_text(t, a, &text, reterr);
        if (rc < 0) {
            return rc;
        }
    }
    tt_code rc = tt_session_commit(r->data, plan, p->prompts[prompt].ids,
                                   (int32_t)p->prompts[prompt].n_ids, a->ids, a->n, reterr);
    if (rc != TT_OK) { /* stale: the session was extended meanwhile */
        tt_session_text_unref(&text);
        return rc < 0 ? rc : TT_OK;
    }
    if (text != NULL) {
        tt_session_text_unref(&r->text);
        r->text = text;
        r->text_key[0] = '\0';
    }
    r->answered = true;
    if (r->status == TT_SESSION_FAILED) { /* its context has been read after all */
        r->status = TT_SESSION_READY;
    }
    return TT_OK;
}

tt_code tt_session_turn_commit(tt_session_turn *t, tt_err *reterr)
{
    tt_session_record *r = t->record;
    tt_code rc = TT_OK;
    if (r->deleted) {
        return TT_OK;
    }
    tt_session_change *change = tt_session_change_begin(r, TT_CHANGE_UPDATE);
    if (change == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    for (int32_t i = 0; rc == TT_OK && i < t->n_answers; i++) {
        rc = commit_answer(t, i, reterr);
    }
    if (rc < 0) {
        tt_session_change_undo(change);
        return rc;
    }
    tt_session_touch(r);
    tt_session_change_write(change, t->prepared->http);
    tt_session_store_trim(r->store);
    return TT_OK;
}

void tt_session_turn_write(tt_buf *b, const tt_session_turn *t)
{
    const char *reason = t->evicted ? "evicted" : tt_session_miss_text(t->miss);
    tt_buf_puts(b, "{\"id\":");
    tt_buf_puts_json(b, t->record->id);
    tt_buf_printf(b, ",\"generation\":%d,\"tokens\":%d,\"matched_tokens\":%d,\"cached_tokens\":%d",
                  (int)t->generation, (int)tt_session_tokens(t->record->data),
                  (int)t->plans[0].matched, (int)(t->cached > 0 ? t->cached : 0));
    if (reason != NULL) {
        tt_buf_printf(b, ",\"miss\":{\"position\":%d,\"reason\":\"%s\"}}", (int)t->position,
                      reason);
    } else {
        tt_buf_puts(b, ",\"miss\":null}");
    }
}
