/* scheduler_sim.c - see scheduler_sim.h: what an engine does with the scheduler's choices. */
#include "scheduler_sim.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sim_fail(sim *m, const char *fmt, ...)
{
    if (m->r.failure[0] != '\0') {
        return;
    }
    int n = snprintf(m->r.failure, sizeof m->r.failure, "at %.6f s, choice %llu: ", m->now,
                     (unsigned long long)m->choices);
    va_list args;
    va_start(args, fmt);
    vsnprintf(m->r.failure + n, sizeof m->r.failure - (size_t)n, fmt, args);
    va_end(args);
}

/* ---- figures ---- */

static void sample(sim_quantiles *q, double seconds)
{
    int c = seconds < 1e-5 ? 0 : (int)(log(seconds / 1e-5) / log(1.05)) + 1;
    q->class[c < 399 ? c : 399]++;
    q->n++;
}

double sim_quantile(const sim_quantiles *q, double p)
{
    uint64_t want = (uint64_t)ceil(p * (double)q->n), have = 0;
    for (int c = 0; c < 400; c++) {
        have += q->class[c];
        if (have >= want && have > 0) {
            return c == 0 ? 0 : 1e-5 * pow(1.05, c - 0.5);
        }
    }
    return NAN;
}

/* ---- tokens and their K/V ---- */

uint64_t sim_mix(uint64_t x)
{
    x = (x ^ (x >> 31)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 29)) * 0x94D049BB133111EBu;
    return x ^ (x >> 32);
}

/* What the K/V of token `at` of the task's sequence are a function of. */
uint64_t sim_token_sum(const sim_task *t, uint64_t before, int32_t at)
{
    uint64_t adapter = at >= t->seq.n_base ? t->seq.adapter_id : 0;
    uint64_t of = 2 * adapter + t->decoded[at];
    return sim_mix(before + (uint64_t)(uint32_t)t->ids[at] * 0x9E3779B97F4A7C15u + of);
}

uint64_t *sim_token_kv(const sim *m, const sim_task *t, int32_t at)
{
    const tt_kv_layer *l = tt_kv_layer_of(m->kv, 0);
    char *page = (char *)(uintptr_t)l->k + (int64_t)t->seq.pages[at / 64] * l->page_stride;
    return (uint64_t *)(void *)page + at % 64;
}

/* Runs the next n tokens, all of one family: their K/V are in the pages then. */
static void run_tokens(sim *m, sim_task *t, int32_t n, bool publish)
{
    for (int32_t i = 0; m->opt.check && i < n; i++) {
        t->sum = sim_token_sum(t, t->sum, t->seq.n + i);
        *sim_token_kv(m, t, t->seq.n + i) = t->sum;
    }
    tt_seq_append(&t->seq, t->ids + t->seq.n, n, t->decoded[t->seq.n], publish);
}

static int32_t token(uint64_t stream, int32_t at)
{
    return (int32_t)(sim_mix(stream * 0x9E3779B97F4A7C15u + (uint64_t)at) & 0x7FFFFFFF);
}

static int32_t token_of(const sim_spec *p, int32_t at)
{
    return at < p->n_doc || p->n_tail == 0 ? token(p->doc, at) : token(p->tail, at - p->n_doc);
}

static int32_t n_prompt(const sim_task *t)
{
    return t->spec.n_doc + t->spec.n_tail;
}

static bool make_ids(sim_task *t)
{
    if (t->ids != NULL) {
        return true;
    }
    size_t n = (size_t)(n_prompt(t) + t->spec.n_out + 1);
    t->ids = malloc(n * sizeof *t->ids);
    t->decoded = calloc(n, 1);
    if (t->ids == NULL || t->decoded == NULL) {
        return false;
    }
    for (t->n_ids = 0; t->n_ids < n_prompt(t); t->n_ids++) {
        t->ids[t->n_ids] = token_of(&t->spec, t->n_ids);
    }
    if (t->spec.decoded != NULL) {
        memcpy(t->decoded, t->spec.decoded, (size_t)n_prompt(t));
    }
    return true;
}

/* ---- tasks in and out ---- */

static int32_t pages_of(int32_t n_tokens)
{
    return (n_tokens + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS;
}

static sim_task *new_task(sim *m)
{
    if (m->n_live == m->live_cap) {
        int32_t cap = m->live_cap == 0 ? 256 : 2 * m->live_cap;
        sim_task **live = realloc(m->live, (size_t)cap * sizeof *live);
        if (live == NULL) {
            return NULL;
        }
        m->live = live;
        m->live_cap = cap;
    }
    sim_task *t = m->free_tasks;
    if (t != NULL) {
        m->free_tasks = t->next_free;
    } else {
        t = malloc(sizeof *t);
    }
    if (t != NULL) {
        *t = (sim_task){.live = true, .live_at = m->n_live, .last_token = -1, .arrived = m->now};
        m->live[m->n_live++] = t;
    }
    return t;
}

static void drop_task(sim *m, sim_task *t)
{
    m->live[t->live_at] = m->live[--m->n_live];
    m->live[t->live_at]->live_at = t->live_at;
    free(t->ids);
    free(t->decoded);
    t->ids = NULL;
    t->decoded = NULL;
    t->live = false;
    t->next_free = m->free_tasks;
    m->free_tasks = t;
}

bool sim_submit(sim *m, const sim_spec *spec)
{
    tt_err err;
    sim_task *t = new_task(m);
    if (t == NULL) {
        sim_fail(m, "no memory");
        return false;
    }
    t->spec = *spec;
    t->sched = (tt_sched_task){.key = spec->key,
                               .tag = spec->tag,
                               .job = spec->job,
                               .pages = pages_of(n_prompt(t) + 1),
                               .deadline = spec->timeout > 0 ? m->now + spec->timeout : INFINITY};
    m->r.submitted++;
    m->r.jobs_submitted += spec->job;
    tt_sched_task *task = &t->sched;
    tt_code rc = tt_sched_add(m->s, &task, 1, m->now, &err);
    if (rc == TT_OK) {
        sim_check_submitted(m, t);
        return true;
    }
    m->r.ended[SIM_REFUSED]++;
    if (rc == TT_E_BUSY) {
        sim_check_refused(m, spec);
    } else {
        sim_fail(m, "not queued: %s", err.msg);
    }
    drop_task(m, t);
    return false;
}

/* Whoever waits for this training looks again. */
static void wake_parked(sim *m, const sim_task *trainer)
{
    if (trainer->spec.adapter == 0 || m->adapter[trainer->spec.adapter].trainer != trainer) {
        return;
    }
    m->adapter[trainer->spec.adapter].trainer = NULL;
    for (int32_t i = 0; i < m->n_live; i++) {
        sim_task *t = m->live[i];
        if (t->trainer == trainer) {
            t->trainer = NULL;
            if (t->sched.state == TT_SCHED_PARKED) {
                tt_sched_set(m->s, &t->sched, TT_SCHED_PREFILL);
            }
        }
    }
}

void sim_end_task(sim *m, sim_task *t, sim_end how)
{
    if (!t->live) {
        sim_fail(m, "a task ends twice");
        return;
    }
    if (m->opt.check && how == SIM_DONE) {
        sim_check_content(m, t);
    }
    tt_seq_finish(&t->seq);
    tt_sched_remove(m->s, &t->sched, m->now);
    wake_parked(m, t);
    m->r.ended[how]++;
    m->r.jobs_done += t->spec.job && how == SIM_DONE;
    m->r.live_max = fmax(m->r.live_max, m->now - t->arrived);
    if (m->opt.ended != NULL) {
        m->opt.ended(m, t, how, m->opt.arg);
    }
    drop_task(m, t);
}

/* ---- pages ---- */

static void preempt(sim *m, sim_task *t)
{
    m->r.preemptions++;
    m->preempted[t->sched.job][t->sched.key % SIM_KEYS]++;
    tt_seq_finish(&t->seq);
    t->stage = SIM_CONTEXT;
    t->trainer = NULL;
    t->units_left = 0;
    t->sched.pages = pages_of(t->n_ids + 1);
    tt_sched_set(m->s, &t->sched, TT_SCHED_QUEUED);
}

/* Pages for n more tokens, at the cost of others; false: it had to give way itself. */
static bool reserve(sim *m, sim_task *t, int32_t n)
{
    tt_err err;
    tt_code rc;
    while ((rc = tt_seq_reserve(&t->seq, n, &err)) == TT_E_CAPACITY) {
        tt_sched_task *victim = tt_sched_victim(m->s, &t->sched);
        if (victim == NULL) {
            preempt(m, t);
            return false;
        }
        if (!sim_check_victim(m, &t->sched, victim)) {
            return false;
        }
        preempt(m, (sim_task *)victim);
    }
    if (rc != TT_OK) {
        sim_fail(m, "%s", err.msg);
        return false;
    }
    t->sched.held = t->seq.n_pages;
    return true;
}

/* ---- stages ---- */

static int32_t prefill_end(const sim_task *t)
{
    bool context = t->stage == SIM_CONTEXT && (t->spec.job || t->spec.adapter != 0);
    return context ? t->spec.n_doc : t->n_ids;
}

static void emit(sim *m, sim_task *t)
{
    sample(t->last_token < 0 ? &m->r.ttft : &m->r.gap,
           m->now - (t->last_token < 0 ? t->arrived : t->last_token));
    t->last_token = m->now;
    t->ids[t->n_ids] = token_of(&t->spec, t->n_ids);
    t->decoded[t->n_ids++] = 1;
    t->n_gen++;
    m->r.tokens++;
}

/* Takes over what is cached of the tokens to prefill. The last token is run again: its logits are
 * wanted. */
static bool match(sim *m, sim_task *t)
{
    tt_err err;
    int32_t end = prefill_end(t), had = t->seq.n, n;
    bool logits = end == t->n_ids && !t->spec.job;
    if (tt_seq_match(&t->seq, t->ids, t->decoded, logits ? end - 1 : end, &n, &err) != TT_OK) {
        sim_fail(m, "%s", err.msg);
        return false;
    }
    m->r.cached += n - had;
    t->sched.held = t->seq.n_pages;
    for (int32_t i = had; m->opt.check && i < n; i++) {
        t->sum = sim_token_sum(t, t->sum, i);
        if (*sim_token_kv(m, t, i) != t->sum) {
            sim_fail(m, "a cached page holds other K/V than its tokens'");
        }
    }
    return true;
}

/* The context is there: train, wait for who trains, or go on. */
static void after_context(sim *m, sim_task *t)
{
    int32_t a = t->spec.adapter;
    if (!t->spec.job && m->adapter[a].trained) {
        tt_seq_set_adapter(&t->seq, (uint64_t)a, t->spec.n_doc);
        t->stage = SIM_REST;
        match(m, t);
        tt_sched_set(m->s, &t->sched, TT_SCHED_PREFILL);
    } else if (!t->spec.job && m->adapter[a].trainer != NULL && m->adapter[a].trainer != t) {
        t->trainer = m->adapter[a].trainer;
        m->r.parked++;
        tt_sched_set(m->s, &t->sched, TT_SCHED_PARKED);
    } else {
        if (!t->spec.job) {
            m->adapter[a].trainer = t;
        }
        t->stage = SIM_TRAINING;
        tt_sched_set(m->s, &t->sched, TT_SCHED_TRAIN);
    }
}

/* No prefill is left at this stage. */
static void after_prefill(sim *m, sim_task *t)
{
    if (t->stage == SIM_CONTEXT && (t->spec.job || t->spec.adapter != 0)) {
        after_context(m, t);
        if (t->sched.state != TT_SCHED_PREFILL || t->seq.n < t->n_ids) {
            return;
        }
    }
    t->stage = SIM_DECODING;
    emit(m, t);
    if (t->n_gen >= t->spec.n_out) {
        sim_end_task(m, t, SIM_DONE);
        return;
    }
    t->decode_no = m->decode_no;
    tt_sched_set(m->s, &t->sched, TT_SCHED_DECODE);
}

static void start_task(sim *m, sim_task *t)
{
    t->sum = 0;
    t->seq = (tt_seq){0};
    tt_seq_init(&t->seq, m->kv, "");
    if (!make_ids(t)) {
        sim_fail(m, "no memory");
    } else if (match(m, t) && reserve(m, t, t->n_ids - t->seq.n) && t->seq.n >= prefill_end(t)) {
        after_prefill(m, t);
    }
}

/* ---- steps ---- */

static void begin_prefill(sim *m, sim_task *t)
{
    const sim_costs *c = &m->opt.costs;
    int32_t first = t->seq.n, n = 1, end = prefill_end(t);
    while (n < c->prefill_chunk && first + n < end && first + n != n_prompt(t) &&
           t->decoded[first + n] == t->decoded[first]) {
        n++;
    }
    double again = t->decoded[first] ? c->again_factor : 1;
    t->step_tokens = n;
    t->units = t->units_left = c->n_units;
    t->unit_seconds =
        n * (c->prefill_token * again + c->prefill_token_depth * (first + 0.5 * n)) / c->n_units;
}

static void end_prefill(sim *m, sim_task *t)
{
    run_tokens(m, t, t->step_tokens, t->seq.n < n_prompt(t) || t->spec.keep);
    m->r.prefilled += t->step_tokens;
    if (t->seq.n >= prefill_end(t)) {
        after_prefill(m, t);
    }
}

static void begin_train(sim *m, sim_task *t)
{
    const sim_costs *c = &m->opt.costs;
    t->units = t->units_left = 2 * c->n_units;
    t->unit_seconds = (c->train_step + c->train_step_depth * t->seq.n) / t->units;
}

static void end_train(sim *m, sim_task *t)
{
    m->r.train_steps++;
    if (++t->steps_done < t->spec.steps) {
        return;
    }
    if (t->spec.job) {
        sim_end_task(m, t, SIM_DONE);
        return;
    }
    m->adapter[t->spec.adapter].trained = true;
    wake_parked(m, t);
    after_context(m, t);
    if (t->seq.n >= t->n_ids) {
        after_prefill(m, t);
    }
}

/* A piece of the task's step, as the engine runs one: unit by unit until the time is up. A task
 * that woke up parked with nothing to prefill only moves on. */
static void run_long(sim *m, sim_task *t, double seconds)
{
    bool train = t->sched.state == TT_SCHED_TRAIN;
    double started = m->now;
    if (!train && t->units_left == 0 && t->seq.n >= prefill_end(t)) {
        after_prefill(m, t);
        return;
    }
    if (t->units_left == 0) {
        if (train) {
            begin_train(m, t);
        } else {
            begin_prefill(m, t);
        }
    }
    double arrival = m->opt.next_arrival(m, m->opt.arg);
    m->max_unit = fmax(m->max_unit, t->unit_seconds);
    do {
        m->now += t->unit_seconds;
        t->units_left--;
    } while (t->units_left > 0 && m->now - started < seconds &&
             !(isinf(seconds) && arrival <= m->now));
    t->sched.mid_step = t->units_left > 0;
    if (t->units_left == 0 && train) {
        end_train(m, t);
    } else if (t->units_left == 0) {
        end_prefill(m, t);
    }
}

static void run_decode(sim *m, const tt_sched_choice *c)
{
    const sim_costs *cost = &m->opt.costs;
    double seconds = cost->decode_step;
    int32_t rows = 0;
    m->decode_no++;
    m->r.decode_steps++;
    for (int32_t i = 0; i < c->n; i++) {
        sim_task *t = (sim_task *)c->batch[i];
        if (t->sched.state == TT_SCHED_DECODE && reserve(m, t, 1)) {
            seconds += cost->decode_row + cost->decode_row_depth * t->seq.n;
            rows++;
        }
    }
    if (rows == 0) {
        return; /* nothing was run; choices without time passing are counted */
    }
    m->now += seconds;
    for (int32_t i = 0; i < c->n; i++) {
        sim_task *t = (sim_task *)c->batch[i];
        /* A row may have lost its pages to one further on. */
        if (t->sched.state != TT_SCHED_DECODE || t->seq.n_pages * 64 <= t->seq.n) {
            continue;
        }
        run_tokens(m, t, 1, t->spec.keep);
        t->decode_no = m->decode_no;
        emit(m, t);
        if (t->n_gen >= t->spec.n_out) {
            sim_end_task(m, t, SIM_DONE);
        }
    }
}

static void run_choice(sim *m, const tt_sched_choice *c)
{
    double started = m->now;
    bool contended = false, jobs = false;
    bool of_job = c->task != NULL && (c->task->job || c->what == TT_SCHED_RUN_TRAIN);
    if (m->opt.check) {
        sim_look(m, &contended, &jobs);
    }
    if (c->what == TT_SCHED_RUN_DECODE) {
        run_decode(m, c);
    } else {
        run_long(m, (sim_task *)c->task, c->seconds);
    }
    tt_sched_ran(m->s, c, started, m->now);
    if (m->opt.check) {
        sim_check_ran(m, c, started, contended, jobs, of_job);
    }
}

/* ---- the loop ---- */

static void idle(sim *m, double wait)
{
    double until = fmin(m->opt.next_arrival(m, m->opt.arg), m->now + wait);
    if (until < INFINITY) {
        m->now = fmax(m->now, until);
    } else if (m->quiet < 3 && m->opt.stuck != NULL) {
        m->opt.stuck(m, m->opt.arg);
    } else {
        sim_fail(m, "deadlock: %d tasks are left, nothing runs", m->n_live);
    }
}

static void one_choice(sim *m)
{
    double before = m->now;
    while (m->opt.next_arrival(m, m->opt.arg) <= m->now) {
        m->opt.arrive(m, m->opt.arg);
    }
    tt_kv_stats st = tt_kv_get_stats(m->kv);
    tt_sched_choice c = tt_sched_next(m->s, m->now, st.total - st.used);
    m->choices++;
    if (m->opt.check) {
        sim_check_choice(m, &c);
    }
    switch (c.what) {
    case TT_SCHED_IDLE:
        idle(m, c.wait);
        break;
    case TT_SCHED_EXPIRE:
        if (c.task->deadline > m->now) {
            sim_fail(m, "a task expires before its deadline");
        }
        sim_end_task(m, (sim_task *)c.task, SIM_EXPIRED);
        break;
    case TT_SCHED_START:
        start_task(m, (sim_task *)c.task);
        break;
    default:
        run_choice(m, &c);
    }
    m->quiet = m->now > before ? 0 : m->quiet + 1;
    if (m->quiet > 10000) {
        sim_fail(m, "10,000 choices and no time passed");
    }
    if (m->opt.check && m->choices % 61 == 0) {
        sim_check_pages(m);
    }
}

static void close_sim(sim *m)
{
    while (m->n_live > 0) { /* only after a failure */
        tt_seq_finish(&m->live[0]->seq);
        tt_sched_remove(m->s, &m->live[0]->sched, m->now);
        drop_task(m, m->live[0]);
    }
    for (sim_task *t; (t = m->free_tasks) != NULL;) {
        m->free_tasks = t->next_free;
        free(t);
    }
    free(m->live);
    free(m->holders);
    tt_sched_destroy(&m->s);
    tt_kv_destroy(&m->kv);
    if (m->device.lane != NULL) {
        m->device.ops.lane_destroy(&m->device.lane);
    }
}

bool sim_run(const sim_options *opt, sim_result *ret)
{
    tt_err err;
    sim m = {.opt = *opt, .decode_due = -1};
    m.model = (tt_model){.n_layers = 1, .n_kv_heads = 1, .head_dim = 2}; /* 8 bytes of K a token */
    m.device.model = &m.model;
    m.holders = calloc((size_t)opt->n_pages, sizeof *m.holders);
    tt_ops_get(&m.device.ops, 0);
    bool ok =
        m.holders != NULL &&
        m.device.ops.lane_create(&m.device.ops, &(tt_lane_options){.n_threads = 1}, &m.device.lane,
                                 &err) == TT_OK &&
        tt_kv_create(&m.device, &(tt_kv_options){TT_F32, opt->n_pages}, &m.kv, &err) == TT_OK &&
        tt_sched_create(&m.opt.sched, &m.s, &err) == TT_OK;
    if (ok) {
        tt_sched_set_pages_total(m.s, opt->n_pages);
    }
    while (ok && m.r.failure[0] == '\0' &&
           (m.n_live > 0 || m.opt.next_arrival(&m, m.opt.arg) < INFINITY)) {
        one_choice(&m);
    }
    if (ok && m.r.failure[0] == '\0') {
        int64_t ends = 0;
        for (int i = 0; i < SIM_ENDS; i++) {
            ends += m.r.ended[i];
        }
        if (ends != m.r.submitted) {
            sim_fail(&m, "%lld tasks, %lld ends", (long long)m.r.submitted, (long long)ends);
        } else if (tt_kv_get_stats(m.kv).used != 0) {
            sim_fail(&m, "%d pages leaked", tt_kv_get_stats(m.kv).used);
        }
    }
    m.r.seconds = m.now;
    close_sim(&m);
    *ret = m.r;
    return ok;
}
