/* scheduler_sim_check.c - the invariants of scheduler_sim.h, from the tasks' states alone: nothing
 * here asks the scheduler what it thinks. */
#include <math.h>
#include <string.h>

#include "scheduler_sim.h"

static bool is_queued(const sim_task *t)
{
    return t->sched.state == TT_SCHED_QUEUED;
}

/* A piece of it could be run. */
static bool goes_on(const sim_task *t)
{
    tt_sched_state state = t->sched.state;
    return state == TT_SCHED_DECODE || ((state == TT_SCHED_PREFILL || state == TT_SCHED_TRAIN) &&
                                        (!t->sched.paused || t->sched.mid_step));
}

/* contended: a request decodes or prefills; jobs: there is something to do for jobs. */
void sim_look(const sim *m, bool *ret_contended, bool *ret_jobs)
{
    *ret_contended = *ret_jobs = false;
    for (int32_t i = 0; i < m->n_live; i++) {
        const sim_task *t = m->live[i];
        tt_sched_state state = t->sched.state;
        *ret_jobs |=
            goes_on(t) && (state == TT_SCHED_TRAIN || (state == TT_SCHED_PREFILL && t->sched.job));
        *ret_contended |= state == TT_SCHED_DECODE ||
                          (state == TT_SCHED_PREFILL && !t->sched.job && !t->sched.paused);
    }
}

/* ---- the queue ---- */

void sim_check_submitted(sim *m, sim_task *t)
{
    int kind = t->sched.job;
    memcpy(t->starts_seen, m->starts[kind], sizeof t->starts_seen);
    t->own_preempted = m->preempted[kind][t->sched.key % SIM_KEYS];
    t->rank = 0;
    for (int32_t i = 0; i < m->n_live; i++) {
        const sim_task *o = m->live[i];
        t->rank +=
            o != t && is_queued(o) && o->sched.key == t->sched.key && o->sched.job == t->sched.job;
    }
}

void sim_check_refused(sim *m, const sim_spec *spec)
{
    const tt_sched_options *o = &m->opt.sched;
    int32_t n = 0; /* the refused one is still in the list */
    for (int32_t i = 0; i < m->n_live; i++) {
        n += m->live[i]->sched.job == spec->job;
    }
    if (n <= (spec->job ? o->max_jobs + o->max_queued_jobs : o->max_running + o->max_queue)) {
        sim_fail(m, "refused with a queue that is not full");
    }
}

/* While it waits, another key gets about as many turns as its own. Tasks that lack pages may be
 * passed 16 times each. */
static void check_fair(sim *m, const sim_task *t)
{
    int kind = t->sched.job;
    int32_t own = (int32_t)(t->sched.key % SIM_KEYS);
    int32_t ahead = t->rank + m->preempted[kind][own] - t->own_preempted;
    for (int32_t k = 0; k < SIM_KEYS; k++) {
        int32_t turns = m->starts[kind][k] - t->starts_seen[k];
        if (k != own && turns > (ahead + 1) * 17 + 1) {
            sim_fail(m, "key %d had %d turns while a task of key %d with %d before it waited", k,
                     turns, own, ahead);
        }
    }
}

/* A job that could start while no other runs is not passed for ever. */
static void check_jobs_start(sim *m, const sim_task *started)
{
    bool waits = false, runs = false;
    for (int32_t i = 0; i < m->n_live; i++) {
        const sim_task *t = m->live[i];
        runs |= t->sched.job && !is_queued(t);
        waits |=
            t->sched.job && is_queued(t) && !t->sched.paused && !tt_sched_behind_tag(&t->sched);
    }
    m->jobs_passed = waits && !runs && !started->sched.job ? m->jobs_passed + 1 : 0;
    if (m->jobs_passed > 50) {
        sim_fail(m, "no job runs, one waits and is passed by %d requests", m->jobs_passed);
    }
}

static void check_start(sim *m, const sim_task *t)
{
    int32_t running = 0, same_tag = 0;
    for (int32_t i = 0; i < m->n_live; i++) {
        const sim_task *o = m->live[i];
        if (is_queued(o)) {
            if (o->sched.key == t->sched.key && o->sched.job == t->sched.job && !o->sched.paused &&
                o->sched.order < t->sched.order && !tt_sched_behind_tag(&o->sched)) {
                sim_fail(m, "a task overtakes an older one of its key");
            }
            continue;
        }
        running += o->sched.job == t->sched.job;
        same_tag +=
            o->sched.job && t->sched.job && t->sched.tag != 0 && o->sched.tag == t->sched.tag;
    }
    if (running > (t->sched.job ? m->opt.sched.max_jobs : m->opt.sched.max_running)) {
        sim_fail(m, "%d run of a kind", running);
    }
    if (same_tag > 1) {
        sim_fail(m, "two jobs of tag %llu run", (unsigned long long)t->sched.tag);
    }
    if (t->sched.paused) {
        sim_fail(m, "a paused task starts");
    }
    if (!t->sched.preempted) {
        check_fair(m, t);
    }
    check_jobs_start(m, t);
    m->starts[t->sched.job][t->sched.key % SIM_KEYS]++;
}

/* The oldest that can go on is nobody's victim: it ends, so everybody does. */
bool sim_check_victim(sim *m, const tt_sched_task *needy, const tt_sched_task *victim)
{
    if (victim->state <= TT_SCHED_QUEUED || victim->held == 0) {
        sim_fail(m, "a victim that holds nothing");
        return false;
    }
    if (victim->order < needy->order && goes_on((const sim_task *)victim)) {
        sim_fail(m, "an older task that can go on gives way");
        return false;
    }
    for (int32_t i = 0; i < m->n_live; i++) {
        const tt_sched_task *o = &m->live[i]->sched;
        if (o != needy && o->order > victim->order && o->held > 0 && victim->order > needy->order &&
            goes_on((const sim_task *)victim)) {
            sim_fail(m, "not the youngest gives way");
            return false;
        }
    }
    return true;
}

/* Nothing could have been done. */
static void check_idle(sim *m)
{
    int32_t running[2] = {0};
    for (int32_t i = 0; i < m->n_live; i++) {
        running[m->live[i]->sched.job] += !is_queued(m->live[i]);
    }
    for (int32_t i = 0; i < m->n_live; i++) {
        const sim_task *t = m->live[i];
        int32_t max = t->sched.job ? m->opt.sched.max_jobs : m->opt.sched.max_running;
        if (goes_on(t)) {
            sim_fail(m, "idle with a task in state %d", (int)t->sched.state);
        } else if (is_queued(t) && !t->sched.paused && running[t->sched.job] < max &&
                   !tt_sched_behind_tag(&t->sched)) {
            sim_fail(m, "idle with a task that could start");
        }
    }
}

void sim_check_choice(sim *m, const tt_sched_choice *c)
{
    const sim_task *t = (const sim_task *)c->task;
    int32_t decoding = 0, mid_prefill = 0, mid_train = 0;
    bool expires = false;
    for (int32_t i = 0; i < m->n_live; i++) {
        const tt_sched_task *o = &m->live[i]->sched;
        decoding += o->state == TT_SCHED_DECODE;
        mid_prefill += o->state == TT_SCHED_PREFILL && o->mid_step;
        mid_train += o->state == TT_SCHED_TRAIN && o->mid_step;
        expires |= o->deadline <= m->now;
    }
    if (decoding == 0) {
        m->decode_due = -1;
    } else if (m->decode_due < 0) {
        m->decode_due = m->now;
        m->max_unit = 0;
    }
    if (expires != (c->what == TT_SCHED_EXPIRE)) {
        sim_fail(m, "a deadline has passed: %d, choice %d", expires, (int)c->what);
    }
    if (mid_prefill > 1 || mid_train > 1) {
        sim_fail(m, "two steps have begun");
    }
    if (c->what == TT_SCHED_IDLE) {
        check_idle(m);
    } else if (c->what == TT_SCHED_START) {
        check_start(m, t);
    } else if (c->what == TT_SCHED_RUN_DECODE) {
        int32_t full = decoding < m->opt.sched.max_batch ? decoding : m->opt.sched.max_batch;
        if (c->n != full) {
            sim_fail(m, "a decode step of %d rows, %d decode", c->n, decoding);
        }
    } else if (c->what != TT_SCHED_EXPIRE) {
        if (!goes_on(t) || (t->sched.state == TT_SCHED_TRAIN) != (c->what == TT_SCHED_RUN_TRAIN)) {
            sim_fail(m, "a piece of a task in state %d", (int)t->sched.state);
        }
        if (decoding > 0 && !(c->seconds <= m->opt.sched.target_gap)) {
            sim_fail(m, "long work of %f s beside a decode", c->seconds);
        }
    }
}

/* ---- time ---- */

static void check_gap(sim *m, double started)
{
    double late = m->now - m->decode_due - m->opt.sched.target_gap;
    m->r.decode_late_max = fmax(m->r.decode_late_max, late);
    if (late > m->max_unit + (m->now - started) + 1e-9) {
        sim_fail(m, "a decode step came %f s late, a unit takes %f", late, m->max_unit);
    }
    int32_t max = m->opt.sched.max_running + m->opt.sched.max_jobs;
    int32_t rounds = (max + m->opt.sched.max_batch - 1) / m->opt.sched.max_batch;
    for (int32_t i = 0; i < m->n_live; i++) {
        if (m->live[i]->sched.state == TT_SCHED_DECODE &&
            m->decode_no - m->live[i]->decode_no > (uint64_t)rounds) {
            sim_fail(m, "a row waits for its %d. decode step",
                     (int)(m->decode_no - m->live[i]->decode_no));
        }
    }
    m->decode_due = m->now;
    m->max_unit = 0;
}

/* Jobs get no more than its share of every ten seconds in which they compete, and no less of
 * every two in a row (or as much as fits between decode steps). */
static void check_share(sim *m, double took, bool of_job, bool decode)
{
    double share = m->opt.sched.train_share, gap = m->opt.sched.target_gap;
    m->max_decode = fmax(m->max_decode, decode ? took : 0);
    double least = fmin(share, gap / (gap + m->max_decode)) - 0.1;
    m->r.contended += took;
    m->r.contended_jobs += of_job ? took : 0;
    for (int i = 0; i < 2; i++) {
        m->window[i] += took;
        m->window_jobs[i] += of_job ? took : 0;
        if (m->window[i] < (i == 0 ? 10 : 2)) {
            continue;
        }
        double got = m->window_jobs[i] / m->window[i];
        if (i == 0 ? got > share + 0.05 : got < least) {
            sim_fail(m, "jobs got %.3f of the time, their share is %.3f", got, share);
        }
        m->window[i] = m->window_jobs[i] = 0;
    }
}

/* contended, jobs: sim_look() before it; of_job: it was a job's. */
void sim_check_ran(sim *m, const tt_sched_choice *c, double started, bool contended, bool jobs,
                   bool of_job)
{
    if (c->what == TT_SCHED_RUN_DECODE && m->now > started) {
        check_gap(m, started);
    }
    if (contended && jobs) {
        check_share(m, m->now - started, of_job, c->what == TT_SCHED_RUN_DECODE);
    } else if (m->now > started) {
        m->window[1] = m->window_jobs[1] = m->max_decode = 0;
    }
}

/* ---- pages ---- */

/* A page of two sequences is full and published in both; all pages in use are somebody's. */
void sim_check_pages(sim *m)
{
    int32_t distinct = 0;
    memset(m->holders, 0, (size_t)m->opt.n_pages * sizeof *m->holders);
    for (int32_t i = 0; i < m->n_live; i++) {
        const sim_task *t = m->live[i];
        if (t->seq.n_pages > 0 && t->sched.state <= TT_SCHED_QUEUED) {
            sim_fail(m, "a task that does not run holds pages");
        }
        for (int32_t j = 0; j < t->seq.n_pages; j++) {
            distinct += m->holders[t->seq.pages[j]]++ == 0;
        }
    }
    for (int32_t i = 0; i < m->n_live; i++) {
        const sim_task *t = m->live[i];
        for (int32_t j = t->seq.n_published; j < t->seq.n_pages; j++) {
            if (m->holders[t->seq.pages[j]] != 1) {
                sim_fail(m, "a page that is written is shared by %d", m->holders[t->seq.pages[j]]);
            }
        }
    }
    tt_kv_stats st = tt_kv_get_stats(m->kv);
    if (st.used != distinct || st.used + st.cached > st.total) {
        sim_fail(m, "%d pages are in use, %d are held, %d are cached", st.used, distinct,
                 st.cached);
    }
}

/* Its K/V are those of its tokens, from the first to the last. */
void sim_check_content(sim *m, const sim_task *t)
{
    uint64_t sum = 0;
    for (int32_t i = 0; i < t->seq.n; i++) {
        sum = sim_token_sum(t, sum, i);
        if (*sim_token_kv(m, t, i) != sum) {
            sim_fail(m, "token %d of %d has other K/V than its own", i, t->seq.n);
            return;
        }
    }
    if (!t->spec.job && (t->n_gen != t->spec.n_out || t->seq.n != t->n_ids - 1)) {
        sim_fail(m, "a request is done with %d of %d tokens", t->n_gen, t->spec.n_out);
    }
}
