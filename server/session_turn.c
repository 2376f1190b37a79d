/* session_turn.c - see session_turn.h: how a request comes into a session. What its jobs then do is
 * session_answer.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/http_once.h"
#include "server/session_load.h"
#include "server/session_setup.h"
#include "server/session_turn_priv.h"

static bool refuse(tt_prepared *p, int status, const char *param, const char *code, const char *fmt,
                   const char *what)
{
    tt_error_set(&p->error, status, param, code, fmt, what);
    return false;
}

static bool refuse_code(tt_prepared *p, const tt_err *err)
{
    tt_error_from_code(&p->error, err);
    return false;
}

/* ---- which session ---- */

/* A chat request with a key that nobody knows: its context is chosen by the rule for requests
 * without a session. Without room for it the request is served without one. */
static bool make_implicit(tt_prepared *p)
{
    tt_server *s = p->http->server;
    const tt_prepared_prompt *pr = &p->prompts[0];
    tt_session *data = NULL;
    tt_err err = {0};
    tt_code rc = tt_session_create(pr->ids, pr->context_tokens,
                                   (int32_t)s->settings->max_generations, &data, &err);
    if (rc == TT_OK) {
        rc = tt_session_store_add(s->sessions, p->http->scope, p->session_key, true, data, NULL,
                                  &p->turn->record, &err);
    }
    if (rc == TT_OK) {
        p->turn->created = true;
        tt_session_ref(p->turn->record);
        tt_sessions_arm(s);
        return true;
    }
    tt_session_destroy(&data);
    return rc == TT_E_CAPACITY ? true : refuse_code(p, &err);
}

/* Sets the turn's record, a reference; NULL: the request is in no session. */
static bool find_record(tt_prepared *p)
{
    tt_server *s = p->http->server;
    const tt_request *r = &p->request;
    char id[TT_SESSION_ID_BYTES] = "ses_";
    const char *asked = r->session;
    bool by_header = asked == NULL && p->session_key[0] != '\0';
    if (by_header) {
        strcat(id, p->session_key);
        asked = id;
    }
    if (asked == NULL) {
        return r->append ? refuse(p, 400, "append", NULL, "append needs a session%s", "") : true;
    }
    tt_session_record *found = tt_session_store_find(s->sessions, p->http->scope, asked);
    if (found != NULL) {
        p->turn->record = found;
        tt_session_ref(found);
        return true;
    }
    if (!by_header || r->append) {
        return refuse(p, 404, "session", "session_not_found", "the session '%.100s' does not exist",
                      asked);
    }
    return s->settings->sessions_implicit && r->api == TT_API_CHAT ? make_implicit(p) : true;
}

/* ---- appends ---- */

static void tokenise(tt_session_turn *t)
{
    t->old = tt_session_text_ref(t->record->text);
    tt_prepare_append(t->prepared);
}

/* TT_OK: the turn has the session's transcript for itself. */
static tt_code take(tt_session_turn *t)
{
    tt_prepared *p = t->prepared;
    int64_t expected = p->request.expected_tokens;
    tt_code rc = tt_session_begin_append(t->record->data, expected);
    t->appending = rc == TT_OK;
    if (rc == (tt_code)TT_SESSION_MISMATCH) {
        tt_error_set(&p->error, 409, "expected_tokens", "expected_tokens_mismatch",
                     "the session has %d tokens, expected_tokens is %lld",
                     (int)tt_session_tokens(t->record->data), (long long)expected);
    }
    return rc;
}

/* The append before has ended. */
static void on_turn(tt_session_waiter *w)
{
    tt_session_turn *t = (tt_session_turn *)(void *)((char *)w - offsetof(tt_session_turn, waiter));
    tt_prepared *p = t->prepared;
    t->waiting = false;
    p->http->on_gone = NULL;
    if (t->record->deleted) {
        refuse(p, 404, "session", "session_not_found", "the session '%s' was deleted",
               t->record->id);
    } else if (take(t) == TT_OK) {
        tokenise(t);
        return;
    }
    tt_http_reply_error(p->http, &p->error);
    tt_prepared_destroy(&p);
}

static void on_gone(void *arg)
{
    tt_prepared *p = arg;
    tt_prepared_destroy(&p);
}

static tt_turn_next begin_append(tt_session_turn *t)
{
    tt_prepared *p = t->prepared;
    if (t->record->text == NULL) { /* the tokens are in memory */
        refuse(p, 400, "append", "no_messages", "the session '%s' has no messages to append to",
               t->record->id);
        return TT_TURN_REFUSED;
    }
    tt_code rc = take(t);
    if (rc == TT_OK) {
        tokenise(t);
        return TT_TURN_LATER;
    }
    if (rc == (tt_code)TT_SESSION_BUSY && p->http->server->settings->append_conflict == 0) {
        t->waiting = true;
        t->waiter.go = on_turn;
        tt_session_wait(t->record, &t->waiter);
        p->http->arg = p;
        p->http->on_gone = on_gone;
        return TT_TURN_LATER;
    }
    if (rc == (tt_code)TT_SESSION_BUSY) {
        refuse(p, 409, NULL, "session_busy", "an append to the session '%s' is running",
               t->record->id);
    }
    return TT_TURN_REFUSED;
}

/* ---- begin ---- */

/* Without a session there are no generations. */
static bool check_stateless(tt_prepared *p)
{
    const tt_qttt_request *q = &p->request.qttt;
    if (q->generation > 0) {
        return refuse(p, 404, "qttt.generation", "generation_unknown",
                      "only a session has generations%s", "");
    }
    if (q->from_latest) {
        return refuse(p, 400, "qttt.start_from", "unsupported_parameter",
                      "\"latest\" needs a session%s", "");
    }
    return true;
}

/* The session's qttt is the default of its requests. */
static bool take_default(tt_prepared *p, const tt_session_record *r)
{
    tt_request *q = &p->request;
    if (q->have_qttt || !r->have_qttt) {
        return true;
    }
    q->qttt = r->qttt_parsed;
    return q->qttt.params.mode == TT_QTTT_OFF || q->n_prompts == 1
               ? true
               : refuse(p, 400, "qttt", "unsupported_parameter",
                        "with mode on or auto, which is the session's default, takes one prompt%s",
                        "");
}

/* The session's tokens are in memory. */
static tt_turn_next enter(tt_session_turn *t)
{
    tt_prepared *p = t->prepared;
    if (!take_default(p, t->record)) {
        return TT_TURN_REFUSED;
    }
    tt_session_touch(t->record);
    tt_http_header(p->http, p->http->server->settings->session_header,
                   t->record->id + TT_SESSION_PREFIX);
    return p->request.append ? begin_append(t) : tt_session_turn_plan(p);
}

/* They have been read. */
static void on_loaded(tt_session_loader *l, const tt_err *err)
{
    tt_session_turn *t = (tt_session_turn *)(void *)((char *)l - offsetof(tt_session_turn, loader));
    tt_prepared *p = t->prepared;
    t->loading = false;
    p->http->on_gone = NULL;
    if (err != NULL) {
        refuse_code(p, err);
        tt_prepare_go_on(p, TT_TURN_REFUSED);
    } else if (t->record->deleted) {
        refuse(p, 404, "session", "session_not_found", "the session '%s' was deleted",
               t->record->id);
        tt_prepare_go_on(p, TT_TURN_REFUSED);
    } else {
        tt_prepare_go_on(p, enter(t));
    }
}

static tt_turn_next load(tt_session_turn *t)
{
    tt_prepared *p = t->prepared;
    tt_err err;
    if (tt_session_usable(t->record, &err) < 0) {
        refuse_code(p, &err);
        if (t->record->foreign) {
            refuse(p, 409, "session", "session_of_another_model", "%s", err.msg);
        }
        return TT_TURN_REFUSED;
    }
    if (tt_session_in_memory(t->record)) {
        return enter(t);
    }
    t->loading = true;
    t->loader.go = on_loaded;
    p->http->arg = p;
    p->http->on_gone = on_gone;
    tt_session_load(t->record, &t->loader);
    return TT_TURN_LATER;
}

tt_turn_next tt_session_turn_begin(tt_prepared *p)
{
    const char *by_header = p->request.session == NULL ? p->session_key : "";
    if (p->request.append && !tt_http_once(p->http, by_header)) {
        return TT_TURN_ANSWERED;
    }
    tt_session_turn *t = p->turn = calloc(1, sizeof *t);
    if (t == NULL) {
        refuse_code(p, &(tt_err){.code = TT_E_NOMEM});
        return TT_TURN_REFUSED;
    }
    t->prepared = p;
    if (!find_record(p)) {
        return TT_TURN_REFUSED;
    }
    if (t->record == NULL) {
        tt_session_turn_destroy(&p->turn);
        tt_rendered_finish(&p->rendered);
        return check_stateless(p) ? TT_TURN_GO : TT_TURN_REFUSED;
    }
    return load(t);
}

/* ---- plan ---- */

static bool choose_generation(tt_session_turn *t)
{
    tt_prepared *p = t->prepared;
    int64_t asked = p->request.qttt.generation;
    tt_code rc = tt_session_choose(t->record->data, asked, &t->chosen);
    if (rc == TT_OK) {
        return true;
    }
    bool gone = rc == (tt_code)TT_SESSION_GONE;
    tt_error_set(&p->error, 404, "qttt.generation", gone ? "generation_gone" : "generation_unknown",
                 gone ? "generation %lld of the session is gone"
                      : "the session has had no generation %lld",
                 (long long)asked);
    return false;
}

/* An implicit session that found nothing to adapt to when it was made takes its context from the
 * first request that has something: nothing was frozen, so nothing changes under anybody. */
static tt_code late_context(tt_session_turn *t, tt_err *err)
{
    const tt_prepared *p = t->prepared;
    int32_t n_context;
    (void)tt_session_context(t->record->data, &n_context);
    if (!t->record->implicit || n_context > 0 || p->request.append ||
        p->request.qttt.params.mode == TT_QTTT_OFF || p->prompts[0].context_tokens == 0) {
        return TT_OK;
    }
    return tt_session_extend(t->record->data, p->prompts[0].ids, p->prompts[0].context_tokens, err);
}

/* A session's context is fixed: a request that names another one is told so. */
static bool check_context(tt_session_turn *t, int32_t i)
{
    tt_prepared *p = t->prepared;
    const tt_session_plan *plan = &t->plans[i];
    if (p->request.qttt.context == TT_CONTEXT_RULE || p->request.append || !plan->context_equal ||
        p->request.qttt.params.mode == TT_QTTT_OFF ||
        p->prompts[i].context_tokens == plan->n_base) {
        return true;
    }
    tt_error_set(&p->error, 400, "qttt.context", NULL,
                 "the session's context is fixed: %d tokens, not %d", (int)plan->n_base,
                 (int)p->prompts[i].context_tokens);
    return false;
}

tt_turn_next tt_session_turn_plan(tt_prepared *p)
{
    tt_session_turn *t = p->turn;
    tt_err err = {.code = TT_E_NOMEM};
    if (t->record->deleted) {
        refuse(p, 404, "session", "session_not_found", "the session '%s' was deleted",
               t->record->id);
        return TT_TURN_REFUSED;
    }
    t->plans = calloc((size_t)p->request.n_prompts, sizeof *t->plans);
    if (t->plans == NULL || late_context(t, &err) < 0) {
        refuse_code(p, &err);
        return TT_TURN_REFUSED;
    }
    if (!choose_generation(t)) {
        return TT_TURN_REFUSED;
    }
    for (int32_t i = 0; i < p->request.n_prompts; i++) {
        tt_code rc =
            tt_session_make_plan(t->record->data, p->prompts[i].ids, (int32_t)p->prompts[i].n_ids,
                                 &t->chosen, &t->plans[i], &err);
        if (rc < 0) {
            refuse_code(p, &err);
            return TT_TURN_REFUSED;
        }
        t->n_plans++;
        if (!check_context(t, i)) {
            return TT_TURN_REFUSED;
        }
    }
    t->warm = !t->created && t->record->status == TT_SESSION_READY;
    t->generation = t->plans[0].generation;
    if (t->chosen.adapter_id != 0) { /* it answers to the end, whatever becomes of the session */
        if (tt_engine_pin(p->http->server->engine, t->chosen.adapter_id, &err) < 0) {
            refuse_code(p, &err);
            return TT_TURN_REFUSED;
        }
        t->pinned = true;
    }
    return TT_TURN_GO;
}

/* ---- end ---- */

static void release_record(tt_session_turn *t)
{
    tt_session_record *r = t->record;
    if (t->loading) {
        tt_session_stop_loading(r, &t->loader);
    }
    if (t->waiting) {
        tt_session_stop_waiting(r, &t->waiter);
    }
    if (t->running) {
        tt_session_remove_user(r, &t->user);
    }
    if (t->appending) {
        tt_session_end_append(r->data);
    }
    tt_session_touch(r);
    if (t->created && !r->answered && r->users == NULL && !r->deleted) {
        tt_session_store_delete(r); /* made for a request of which nothing came */
    }
    if (t->appending) {
        tt_session_append_ended(r);
    }
    tt_session_unref(&t->record);
}

void tt_session_turn_destroy(tt_session_turn **turn)
{
    tt_session_turn *t = *turn;
    if (t == NULL) {
        return;
    }
    *turn = NULL;
    if (t->pinned && t->prepared->http->server->engine != NULL) {
        tt_engine_unpin(t->prepared->http->server->engine, t->chosen.adapter_id);
    }
    for (int32_t i = 0; i < t->n_plans; i++) {
        tt_session_plan_finish(&t->plans[i]);
    }
    for (int32_t i = 0; i < t->n_answers; i++) {
        free(t->answers[i].ids);
        tt_buf_finish(&t->answers[i].text);
    }
    free(t->plans);
    free(t->answers);
    tt_session_text_unref(&t->old);
    if (t->record != NULL) {
        release_record(t);
    }
    free(t);
}

int32_t tt_session_turn_generation(const tt_session_turn *t)
{
    return t->generation;
}

const tt_session_text *tt_session_turn_old(const tt_session_turn *t)
{
    return t->old;
}

tt_session_record *tt_session_turn_record(const tt_session_turn *t)
{
    return t->record;
}
