/* session_world.c - the sessions of session_world.h: life, adapters, what holds when nothing is in
 * flight. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/sysinfo.h"
#include "engine_client.h"
#include "session_world.h"

#define PATIENCE 60.0 /* seconds */

void world_init(world *w, tt_engine *e, uint64_t seed, int32_t max_tokens)
{
    *w = (world){.engine = e, .rng = tt_rng_make(seed, 1), .max_tokens = max_tokens};
    w->last_over = &w->first_over;
}

void world_finish(world *w)
{
    while (w->first_over != NULL) {
        world_op *op = w->first_over;
        w->first_over = op->next;
        tt_session_plan_finish(&op->plan);
        free(op->out.echo);
        free(op->decoded);
        free(op->ids);
        free(op->text);
        free(op);
    }
}

int32_t world_draw(world *w, int32_t n)
{
    return (int32_t)tt_rng_below(&w->rng, (uint64_t)n);
}

bool world_chance(world *w, int32_t percent)
{
    return world_draw(w, 100) < percent;
}

void world_draw_ids(world *w, int32_t *ids, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        ids[i] = 10 + world_draw(w, 200);
    }
}

/* ---- adapters ---- */

static struct world_pin *pin_of(world *w, uint64_t id)
{
    int32_t i = 0;
    while (i < w->n_pins && w->pins[i].id != id) {
        i++;
    }
    if (i == w->n_pins) {
        assert_true(w->n_pins < WORLD_PINS);
        w->pins[w->n_pins++] = (struct world_pin){.id = id};
    }
    return &w->pins[i];
}

void world_pin(world *w, uint64_t id)
{
    if (id != 0) {
        pin_of(w, id)->n++;
        client_pin(w->engine, id);
    }
}

void world_unpin(world *w, uint64_t id)
{
    if (id != 0) {
        struct world_pin *p = pin_of(w, id);
        assert_true(p->n > 0);
        p->n--;
        tt_engine_unpin(w->engine, id);
    }
}

bool world_is_lora(const world *w, uint64_t id)
{
    for (int32_t i = 0; i < w->n_pins; i++) {
        if (w->pins[i].id == id) {
            return w->pins[i].lora;
        }
    }
    return false;
}

void world_adopt(world *w, world_op *op)
{
    world_session *s = &w->sessions[op->slot];
    const tt_qttt_result *r = &op->out.result;
    struct world_pin *p = pin_of(w, r->adapter_id);
    p->n++;
    p->bytes = r->adapter_bytes;
    p->lora = op->p.qttt.lora;
    if (!s->alive || s->serial != op->serial) {
        world_unpin(w, r->adapter_id); /* nobody can ask for it any more */
        return;
    }
    tt_session_generation g = {.adapter_id = r->adapter_id, .adapter_bytes = r->adapter_bytes};
    uint64_t dropped, want_dropped;
    int32_t number;
    tt_code rc = tt_session_publish(s->data, &g, &number, &dropped);
    bool known = model_publish(&s->model, r->adapter_id, &want_dropped);
    assert_int_equal(rc, known ? (tt_code)TT_SESSION_KNOWN : TT_OK);
    assert_int_equal(dropped, want_dropped);
    assert_true(model_adapter(&s->model, number) == r->adapter_id);
    world_unpin(w, known ? r->adapter_id : dropped);
    w->count.published += !known;
    w->count.known += known;
    w->count.dropped += dropped != 0;
}

static void drop_adapters(world *w, world_session *s)
{
    tt_session_generation g;
    for (int32_t i = 0; tt_session_generation_at(s->data, i, &g); i++) {
        world_unpin(w, g.adapter_id);
    }
}

/* ---- sessions ---- */

int32_t world_free_slot(const world *w)
{
    for (int32_t i = 0; i < WORLD_SESSIONS; i++) {
        if (!w->sessions[i].alive) {
            return i;
        }
    }
    return -1;
}

static world_session *new_session(world *w, int32_t slot)
{
    world_session *s = &w->sessions[slot];
    assert_false(s->alive);
    *s = (world_session){.alive = true, .serial = ++w->last_serial};
    snprintf(s->scope, sizeof s->scope, "tenant-%d", (int)(s->serial % 2));
    return s;
}

static void prefill(world *w, int32_t slot)
{
    int32_t n;
    const int32_t *context = tt_session_context(w->sessions[slot].data, &n);
    world_op *op = n > 0 ? world_new_op(w, slot) : NULL;
    if (op != NULL) {
        op->p.kind = TT_JOB_PREFILL;
        assert_true(world_submit(w, op, context, NULL, n));
        w->count.prefills++;
    }
}

void world_create_session(world *w, int32_t slot, const int32_t *context, int32_t n)
{
    tt_err err;
    world_session *s = new_session(w, slot);
    assert_int_equal(tt_session_create(context, n, MODEL_GENERATIONS, &s->data, &err), TT_OK);
    model_init(&s->model, context, n);
    prefill(w, slot);
}

void world_fork(world *w, int32_t from, int32_t to, bool adapter, bool transcript)
{
    tt_err err;
    const world_session *old = &w->sessions[from];
    world_session *s = new_session(w, to);
    tt_session_fork_options o = {.adapter = adapter, .transcript = transcript};
    memcpy(s->scope, old->scope, sizeof s->scope);
    assert_int_equal(tt_session_fork(old->data, &o, &s->data, &err), TT_OK);
    model_fork(&s->model, &old->model, adapter, transcript);
    tt_session_generation g;
    for (int32_t i = 0; tt_session_generation_at(s->data, i, &g); i++) {
        world_pin(w, g.adapter_id);
    }
    if (!transcript &&
        old->model.n_branches > 0) { /* the client knows what was said all the same */
        s->lost = malloc(sizeof *s->lost);
        assert_non_null(s->lost);
        *s->lost = old->model.branches[0]->text;
    }
    model_same(&s->model, s->data);
    w->count.forks++;
}

void world_extend(world *w, int32_t slot, const int32_t *context, int32_t n)
{
    tt_err err;
    world_session *s = &w->sessions[slot];
    assert_int_equal(tt_session_extend(s->data, context, n, &err), TT_OK);
    model_extend(&s->model, context, n);
    free(s->lost);
    s->lost = NULL;
    model_same(&s->model, s->data);
    prefill(w, slot);
    w->count.extensions++;
}

void world_reset(world *w, int32_t slot)
{
    world_session *s = &w->sessions[slot];
    drop_adapters(w, s);
    tt_session_reset(s->data);
    model_reset(&s->model);
    model_same(&s->model, s->data);
    w->count.resets++;
}

void world_delete(world *w, int32_t slot)
{
    world_session *s = &w->sessions[slot];
    drop_adapters(w, s);
    tt_session_destroy(&s->data);
    model_finish(&s->model);
    free(s->lost);
    s->lost = NULL;
    s->alive = false;
    for (int32_t i = 0; i < WORLD_OPS; i++) {
        if (w->ops[i] != NULL && w->ops[i]->serial == s->serial) {
            world_cancel(w, w->ops[i], false);
        }
    }
    w->count.deletions++;
}

/* ---- nothing in flight ---- */

static void check_engine(world *w, int64_t pinned_bytes)
{
    tt_engine_stats st = {.adapter_pinned_bytes = -1};
    tt_engine_kick(w->engine);
    for (double t0 = tt_sys_now(); tt_sys_now() - t0 < PATIENCE;) { /* unpinning takes its time */
        tt_engine_get_stats(w->engine, &st);
        if (st.adapter_pinned_bytes == pinned_bytes && st.kv_pages_used == 0 &&
            st.queued + st.running + st.queued_jobs + st.running_jobs == 0) {
            return;
        }
        if (tt_sys_now() - t0 > 2) {
            break;
        }
        client_nap();
    }
    fail_msg("the idle engine: %lld bytes of adapters pinned, not %lld; %lld pages in use; %d + %d "
             "requests, %d + %d jobs",
             (long long)st.adapter_pinned_bytes, (long long)pinned_bytes,
             (long long)st.kv_pages_used, st.queued, st.running, st.queued_jobs, st.running_jobs);
}

void world_check_idle(world *w)
{
    assert_int_equal(w->n_ops, 0);
    int64_t bytes = 0;
    int32_t pins = 0, generations = 0;
    for (int32_t i = 0; i < w->n_pins; i++) {
        bytes += w->pins[i].n > 0 ? w->pins[i].bytes : 0;
        pins += w->pins[i].n;
    }
    for (int32_t i = 0; i < WORLD_SESSIONS; i++) {
        const world_session *s = &w->sessions[i];
        if (s->alive) {
            model_same(&s->model, s->data);
            generations += s->model.n_generations;
        }
    }
    assert_int_equal(pins, generations);
    check_engine(w, bytes);
}
