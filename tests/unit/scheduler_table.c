/* scheduler_table.c - what a large machine would do, by the simulator: one GPU with stated step
 * costs, 1,000 sessions that talk, 64 jobs that train. Prints the table of docs/operations.md.
 *
 * Usage: scheduler_table [seconds of each row, simulated; 600] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler_sim.h"

enum {
    N_SESSIONS = 1000,
    N_TENANTS = 100,
    N_JOBS = 64,
    TURNS = 5, /* of a conversation */
    MAX_DOC = 32768,
    MAX_PROMPT = MAX_DOC + 4096
};
static const double THINK_SECONDS = 20; /* between an answer and the next question, mean */
static const double WARM_SECONDS = 120; /* not counted */

/* An 8B model in BF16 (32 layers, 8 K/V heads of 128, so 128 KiB of K/V a token and 8 MiB a page)
 * on a GPU with 141 GB at 4.8 TB/s. */
static const sim_options machine = {
    .sched = {.max_running = 64,
              .max_queue = 128,
              .max_batch = 64,
              .max_jobs = 4,
              .max_queued_jobs = N_JOBS,
              .target_gap = 0.05,
              .train_share = 0.3},
    .costs = {.prefill_token = 1 / 20000.0,               /* 20,000 tokens/s at depth 0 */
              .prefill_token_depth = 1 / 20000.0 / 30000, /* half as fast at 30,000 */
              .again_factor = 2,
              .decode_step = 0.008,
              .decode_row = 0.00005,
              .decode_row_depth = 131072 / 4e12, /* K/V are read at 4 TB/s */
              .train_step = 0.02,                /* k = 128: 0.05 s at 32K */
              .train_step_depth = 0.03 / 32768,
              .n_units = 32,
              .prefill_chunk = 2048},
    .n_pages = 12000, /* 94 GiB */
};

typedef struct session {
    int32_t n_doc, n_tail; /* n_tail: of the turns so far */
    int32_t turns_left;    /* 0: it rests */
    uint64_t conversation;
    double next; /* when its user asks; INFINITY: not waiting for that */
    int32_t n_out;
    uint8_t *decoded; /* owned: [MAX_PROMPT] */
} session;

typedef struct world {
    tt_rng rng;
    session s[N_SESSIONS];
    double rate; /* conversations a second */
    double next_conversation, end;
    int32_t first; /* session whose user asks next, -1 = none */
    int64_t conversations;
    bool have_jobs;
    sim_result before, after; /* when counting began, and ended */
} world;

static double uniform(world *w, double from, double to)
{
    return from + (to - from) * tt_rng_uniform(&w->rng);
}

static double exponential(world *w, double mean)
{
    return -mean * log(1 - tt_rng_uniform(&w->rng));
}

static void find_first(world *w)
{
    w->first = -1;
    for (int32_t i = 0; i < N_SESSIONS; i++) {
        if (w->s[i].next < INFINITY && (w->first < 0 || w->s[i].next < w->s[w->first].next)) {
            w->first = i;
        }
    }
}

static double next_arrival(sim *m, void *arg)
{
    const world *w = arg;
    double turn = w->first < 0 ? INFINITY : w->s[w->first].next;
    double next = fmin(w->next_conversation, turn);
    (void)m;
    return next < w->end ? next : INFINITY;
}

static void submit_job(sim *m, world *w)
{
    int32_t i = (int32_t)tt_rng_below(&w->rng, N_SESSIONS);
    sim_submit(m, &(sim_spec){.key = 1 + (uint64_t)(i % N_TENANTS),
                              .tag = 1 + (uint64_t)i,
                              .job = true,
                              .doc = 1 + (uint64_t)i,
                              .n_doc = w->s[i].n_doc,
                              .steps = 32,
                              .user = -1});
}

/* A session that rests begins to talk. */
static void begin_conversation(world *w, double now)
{
    w->next_conversation += exponential(w, 1 / w->rate);
    for (int tries = 0; tries < 1000; tries++) {
        session *s = &w->s[tt_rng_below(&w->rng, N_SESSIONS)];
        if (s->turns_left == 0) {
            s->turns_left = TURNS;
            s->conversation = 100000 + (uint64_t)w->conversations++;
            s->n_tail = 0;
            s->next = now;
            break;
        }
    }
    find_first(w);
}

static void ask(sim *m, world *w, int32_t i)
{
    session *s = &w->s[i];
    int32_t n = (int32_t)uniform(w, 50, 350);
    memset(s->decoded + s->n_doc + s->n_tail, 0, (size_t)n);
    s->n_tail += n;
    s->n_out = (int32_t)uniform(w, 50, 450);
    s->next = INFINITY;
    find_first(w);
    if (!sim_submit(m, &(sim_spec){.key = 1 + (uint64_t)(i % N_TENANTS),
                                   .doc = 1 + (uint64_t)i,
                                   .n_doc = s->n_doc,
                                   .tail = s->conversation,
                                   .n_tail = s->n_tail,
                                   .decoded = s->decoded,
                                   .n_out = s->n_out,
                                   .keep = true,
                                   .user = i})) {
        s->turns_left = 0; /* the user goes away */
    }
}

static void arrive(sim *m, void *arg)
{
    world *w = arg;
    if (m->now < WARM_SECONDS) {
        w->before = m->r;
    }
    w->after = m->r;
    for (int i = 0; i < N_JOBS && !w->have_jobs; i++) {
        submit_job(m, w);
    }
    w->have_jobs = true;
    if (w->next_conversation <= m->now) {
        begin_conversation(w, m->now);
    } else {
        ask(m, w, w->first);
    }
}

static void ended(sim *m, const sim_task *t, sim_end how, void *arg)
{
    world *w = arg;
    (void)how;
    if (t->spec.user < 0) {
        if (m->now < w->end) { /* another takes its place */
            submit_job(m, w);
        }
        return;
    }
    session *s = &w->s[t->spec.user];
    memset(s->decoded + s->n_doc + s->n_tail, 1, (size_t)s->n_out);
    s->n_tail += s->n_out;
    s->next = --s->turns_left > 0 ? m->now + exponential(w, THINK_SECONDS) : INFINITY;
    find_first(w);
}

static sim_quantiles less(const sim_quantiles *a, const sim_quantiles *b)
{
    sim_quantiles q = {.n = a->n - b->n};
    for (size_t i = 0; i < sizeof q.class / sizeof q.class[0]; i++) {
        q.class[i] = a->class[i] - b->class[i];
    }
    return q;
}

static void print_row(const world *w, double turns, double seconds)
{
    const sim_result *a = &w->after, *b = &w->before;
    sim_quantiles ttft = less(&a->ttft, &b->ttft), gap = less(&a->gap, &b->gap);
    double cached = (double)(a->cached - b->cached), read = (double)(a->prefilled - b->prefilled);
    double asked = (double)(a->submitted - a->jobs_submitted - b->submitted + b->jobs_submitted);
    printf("| %.1f | %.2f / %.1f s | %.0f / %.0f ms | %.0f | %.0f %% | %.0f | %.1f %% |\n", turns,
           sim_quantile(&ttft, 0.5), sim_quantile(&ttft, 0.99), sim_quantile(&gap, 0.5) * 1e3,
           sim_quantile(&gap, 0.99) * 1e3, (double)(a->tokens - b->tokens) / seconds,
           100 * cached / (cached + read), (double)(a->jobs_done - b->jobs_done) * 3600 / seconds,
           100 * (double)(a->ended[SIM_REFUSED] - b->ended[SIM_REFUSED]) / asked);
    fflush(stdout);
}

/* One row: turns a second offered; documents of max_doc / 16 to max_doc tokens, log-uniform. */
static bool row(int32_t max_doc, double turns, double seconds)
{
    world *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return false;
    }
    *w = (world){.rng = tt_rng_make(1, 0), .rate = turns / TURNS, .first = -1};
    w->end = WARM_SECONDS + seconds;
    bool ok = true;
    for (int32_t i = 0; i < N_SESSIONS; i++) {
        w->s[i].n_doc = (int32_t)(max_doc / 16 * exp(uniform(w, 0, log(16))));
        w->s[i].next = INFINITY;
        w->s[i].decoded = calloc(1, MAX_PROMPT);
        ok &= w->s[i].decoded != NULL;
    }
    sim_options opt = machine;
    sim_result r;
    opt.next_arrival = next_arrival;
    opt.arrive = arrive;
    opt.ended = ended;
    opt.arg = w;
    ok = ok && sim_run(&opt, &r);
    if (ok && r.failure[0] != '\0') {
        fprintf(stderr, "%s\n", r.failure);
        ok = false;
    }
    if (ok) {
        print_row(w, turns, seconds);
    }
    for (int32_t i = 0; i < N_SESSIONS; i++) {
        free(w->s[i].decoded);
    }
    free(w);
    return ok;
}

int main(int argc, char **argv)
{
    static const struct {
        int32_t max_doc;
        double turns[7];
    } tables[] = {{MAX_DOC, {0.5, 1, 1.5, 2, 3, 4, 8}}, {MAX_DOC / 4, {1, 2, 4, 6, 8, 12, 16}}};
    double seconds = argc > 1 ? atof(argv[1]) : 600;
    if (!(seconds > 0)) {
        fprintf(stderr, "Usage: scheduler_table [seconds]\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        printf("%sDocuments of %d to %d tokens:\n\n"
               "| turns/s offered | TTFT p50 / p99 | gap p50 / p99 | tokens/s | cached | jobs/h | "
               "refused |\n|---|---|---|---|---|---|---|\n",
               i > 0 ? "\n" : "", tables[i].max_doc / 16, tables[i].max_doc);
        for (size_t j = 0; j < sizeof tables[i].turns / sizeof tables[i].turns[0]; j++) {
            if (!row(tables[i].max_doc, tables[i].turns[j], seconds)) {
                return 1;
            }
        }
    }
    return 0;
}
