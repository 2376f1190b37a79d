/* fake_engine.c - see fake_engine.h. One thread that gives each running job one step in turn; a
 * cancelled job is noticed within 2 ms, queued or running. */
#include "fake_engine.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_BYTES = 256, N_VOCAB = 259, IM_START = 256, IM_END, END_OF_TEXT, CONTEXT = 100000 };

/* A job, queued or running. */
typedef struct place {
    struct place *next;
    tt_job *job;
    double deadline;
    int ordinal; /* of starting, from 1 */
    bool trained;
    int step;             /* 0 nothing done; 1..4 parts of the prefill; then tokens */
    double started, due;  /* when its next step may be taken */
    int n_tokens, number; /* tokens pushed; the word that comes */
    char word[32];
    int n_word, at;
} place;

struct tt_engine {
    tt_engine_options opt;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool stopping;
    tt_engine_state state;
    place *first;  /* queued, under the mutex */
    place *active; /* running: the engine's thread only */
    int queued, running, n_started;
    tt_model model;
    tt_str tokens[N_VOCAB];
    uint8_t types[N_VOCAB];
    char spellings[N_BYTES][4];
    tt_tokenizer *tokenizer;
};

fake_script fake_engine_script;
static fake_counts counts;
static pthread_mutex_t counts_mutex = PTHREAD_MUTEX_INITIALIZER;

fake_counts fake_engine_counts(void)
{
    pthread_mutex_lock(&counts_mutex);
    fake_counts c = counts;
    pthread_mutex_unlock(&counts_mutex);
    return c;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void nap_us(int us)
{
    nanosleep(&(struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000L}, NULL);
}

/* GPT-2's spelling of a byte: printable Latin-1 is itself, the rest follows from U+0100. */
static void make_vocab(tt_engine *e)
{
    static const char *const control[] = {"<|im_start|>", "<|im_end|>", "<|endoftext|>"};
    int extra = 0;
    for (int b = 0; b < N_BYTES; b++) {
        bool plain = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        int cp = plain ? b : 256 + extra++;
        int n = cp < 0x80
                    ? snprintf(e->spellings[b], 4, "%c", cp)
                    : snprintf(e->spellings[b], 4, "%c%c", 0xC0 | cp >> 6, 0x80 | (cp & 0x3F));
        e->tokens[b] = (tt_str){e->spellings[b], (uint32_t)n};
        e->types[b] = TT_TOKEN_NORMAL;
    }
    for (int i = 0; i < 3; i++) {
        e->tokens[IM_START + i] = (tt_str){control[i], (uint32_t)strlen(control[i])};
        e->types[IM_START + i] = TT_TOKEN_CONTROL;
    }
    e->model.vocab = (tt_vocab){.kind = TT_VOCAB_BPE,
                                .pre = {"gpt-2", 5},
                                .n_tokens = N_VOCAB,
                                .tokens = e->tokens,
                                .types = e->types,
                                .bos = -1,
                                .eos = IM_END,
                                .eot = -1,
                                .unk = -1,
                                .pad = -1};
    snprintf(e->model.name, sizeof e->model.name, "fake");
    snprintf(e->model.arch, sizeof e->model.arch, "fake");
    snprintf(e->model.quant, sizeof e->model.quant, "none");
    e->model.n_vocab = N_VOCAB;
    e->model.n_layers = 4;
    e->model.bos_text = (tt_str){"", 0};
    e->model.eos_text = e->tokens[IM_END];
}

static void push(tt_job *job, tt_event ev)
{
    tt_event *copy = malloc(sizeof *copy);
    if (copy == NULL) {
        abort();
    }
    *copy = ev;
    tt_job_push(job, copy);
}

static void push_error(tt_job *job, tt_code code, const char *text)
{
    tt_event ev = {.type = TT_EV_ERROR};
    tt_fail(&ev.u.error, code, "%s", text);
    push(job, ev);
}

static bool stopping(tt_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    bool s = e->stopping;
    pthread_mutex_unlock(&e->mutex);
    return s;
}

/* "word0 word1 ...", behind "SEED:" if the script says so. */
static void push_token(place *at)
{
    const tt_job_params *p = tt_job_get_params(at->job);
    if (at->at == at->n_word) {
        bool tell = fake_engine_script.tell_seed && at->n_tokens == 0;
        at->n_word = tell ? snprintf(at->word, sizeof at->word,
                                     "%llu:", (unsigned long long)p->sampling.seed)
                          : snprintf(at->word, sizeof at->word, "word%d ", at->number++);
        at->at = 0;
    }
    tt_event ev = {.type = TT_EV_TOKEN};
    ev.owned = malloc(1);
    if (ev.owned == NULL) {
        abort();
    }
    memcpy(ev.owned, at->word + at->at, 1);
    ev.u.token.id = (unsigned char)at->word[at->at++];
    ev.u.token.text = ev.u.token.piece = ev.owned;
    ev.u.token.n_text = ev.u.token.n_piece = 1;
    if (p->n_logprobs >= 0) {
        ev.u.token.have_logprob = true;
        ev.u.token.logprob = -0.5f;
        ev.u.token.n_top = p->n_logprobs;
        for (int k = 0; k < p->n_logprobs; k++) {
            ev.u.token.top[k] = (tt_logprob){k == 0 ? ev.u.token.id : k, -0.5f - (float)k};
        }
    }
    push(at->job, ev);
    at->n_tokens++;
}

static void push_prompt_logprobs(tt_job *job)
{
    const tt_job_params *p = tt_job_get_params(job);
    int n = p->n_prompt - 1, n_top = p->n_prompt_logprobs;
    if (n_top < 0 || n <= 0) {
        return;
    }
    tt_event ev = {.type = TT_EV_PROMPT_LOGPROBS};
    tt_logprob *all = ev.owned = malloc((size_t)n * (size_t)(1 + n_top) * sizeof *all);
    if (all == NULL) {
        abort();
    }
    for (int i = 0; i < n; i++) {
        all[i] = (tt_logprob){p->prompt[i + 1], -0.25f};
        for (int k = 0; k < n_top; k++) {
            all[n + i * n_top + k] = (tt_logprob){k == 0 ? p->prompt[i + 1] : k, -0.25f - (float)k};
        }
    }
    ev.u.prompt_logprobs.first = 1;
    ev.u.prompt_logprobs.n = n;
    ev.u.prompt_logprobs.n_top = n_top;
    ev.u.prompt_logprobs.chosen = all;
    ev.u.prompt_logprobs.top = all + n;
    push(job, ev);
}

static bool same_prompt(const tt_job *a, const tt_job *b)
{
    const tt_job_params *p = tt_job_get_params(a), *q = tt_job_get_params(b);
    return p->n_prompt == q->n_prompt &&
           memcmp(p->prompt, q->prompt, (size_t)p->n_prompt * sizeof *p->prompt) == 0;
}

/* The first of the running jobs with one prompt trains, the others use its adapter. Of the rule for
 * mode auto the fake knows the length of the context. */
static void adapt(tt_engine *e, place *at)
{
    const tt_qttt_params *q = &tt_job_get_params(at->job)->qttt;
    if (q->mode == TT_QTTT_AUTO && q->context_tokens < e->opt.auto_rule.min_tokens) {
        push(at->job,
             (tt_event){.type = TT_EV_ADAPTED,
                        .u.adapted = {
                            .status = "skipped", .reason = "auto_context_is_short", .params = *q}});
        return;
    }
    const place *teacher = e->active;
    while (teacher != NULL && !(teacher->trained && same_prompt(teacher->job, at->job))) {
        teacher = teacher->next;
    }
    if (teacher == NULL) {
        push(at->job, (tt_event){.type = TT_EV_ADAPT, .u.adapt = {1, 2, 0, 16, 1.5, 1, 1e-5, 0.1}});
    }
    tt_event ev = {.type = TT_EV_ADAPTED};
    ev.u.adapted = (tt_qttt_result){.status = "succeeded",
                                    .stop_reason = "steps",
                                    .kept = true,
                                    .cached = teacher != NULL,
                                    .adapter_id = 1,
                                    .generation = 1,
                                    .steps_done = 2,
                                    .params = *q,
                                    .span_loss_before = NAN,
                                    .span_loss_after = 0.5};
    push(at->job, ev);
    at->trained = teacher == NULL;
}

static void prefill(tt_engine *e, place *at)
{
    const tt_job_params *p = tt_job_get_params(at->job);
    push(at->job, (tt_event){.type = TT_EV_PREFILL,
                             .u.prefill = {p->n_prompt * at->step / 4, p->n_prompt, 0,
                                           now() - at->started}});
    if (at->step == 4) {
        push_prompt_logprobs(at->job);
        if (p->qttt.mode != TT_QTTT_OFF) {
            adapt(e, at);
        }
    }
}

/* The last event. */
static void end(place *at, tt_code code, const char *text)
{
    const tt_job_params *p = tt_job_get_params(at->job);
    pthread_mutex_lock(&counts_mutex);
    counts.done += code != TT_E_CANCELLED;
    counts.cancelled += code == TT_E_CANCELLED;
    counts.last_cancel_seconds = code == TT_E_CANCELLED ? now() : counts.last_cancel_seconds;
    pthread_mutex_unlock(&counts_mutex);
    if (code != TT_OK) {
        push_error(at->job, code, text);
        return;
    }
    push(at->job,
         (tt_event){.type = TT_EV_DONE,
                    .u.done = {.reason = p->max_tokens >= 0 ? TT_FINISH_LENGTH : TT_FINISH_STOP,
                               .prompt_tokens = p->n_prompt,
                               .cached_tokens = at->ordinal - 1, /* the tests can tell jobs apart */
                               .completion_tokens = at->n_tokens,
                               .decode_seconds = now() - at->started}});
}

/* Why it must end now, or TT_OK. */
static tt_code must_end(tt_engine *e, const place *at)
{
    return tt_job_cancelled(at->job) || stopping(e) ? TT_E_CANCELLED
           : now() > at->deadline                   ? TT_E_TIMEOUT
                                                    : TT_OK;
}

/* One step of a running job; false when that was its last. */
static bool step(tt_engine *e, place *at)
{
    const tt_job_params *p = tt_job_get_params(at->job);
    fake_script s = fake_engine_script;
    int n = p->max_tokens >= 0 ? p->max_tokens : s.n_tokens;
    tt_code code = must_end(e, at);
    if (code != TT_OK) {
        end(at, code, code == TT_E_TIMEOUT ? "out of time" : "the request was cancelled");
        return false;
    }
    if (now() < at->due) {
        return true;
    }
    if (at->step < 4) {
        at->step++;
        prefill(e, at);
    } else if (s.failure != TT_OK && at->n_tokens == s.fail_after &&
               (s.failing == 0 || s.failing == at->ordinal)) {
        end(at, s.failure, "as scripted");
        return false;
    } else if (at->n_tokens < n) {
        push_token(at);
    } else {
        end(at, TT_OK, NULL);
        return false;
    }
    at->due = now() + (at->step < 4 ? s.prefill_ms * 2.5e-4 : s.token_us * 1e-6);
    return true;
}

static void set_state(tt_engine *e, tt_engine_state state, const tt_err *err)
{
    pthread_mutex_lock(&e->mutex);
    e->state = state;
    pthread_mutex_unlock(&e->mutex);
    if (e->opt.on_state != NULL) {
        e->opt.on_state(e->opt.on_state_arg, state, err);
    }
}

static void drop(place *at)
{
    tt_job_unref(&at->job);
    free(at);
}

/* Takes what waits and is over, and what may start, from the queue; waits for something to do.
 * False: the engine ends and nothing is left. */
static bool admit(tt_engine *e)
{
    int most = fake_engine_script.parallel > 0 ? fake_engine_script.parallel : 1;
    pthread_mutex_lock(&e->mutex);
    while (e->first == NULL && e->active == NULL && !e->stopping) {
        pthread_cond_wait(&e->cond, &e->mutex);
    }
    place *over = NULL;
    for (place **at = &e->first; *at != NULL;) {
        place *p = *at;
        bool ends = tt_job_cancelled(p->job) || e->stopping || now() > p->deadline;
        if (!ends && e->running >= most) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        e->queued--;
        place **to = ends ? &over : &e->active; /* at the end: turns are in order of arrival */
        while (*to != NULL) {
            to = &(*to)->next;
        }
        *to = p;
        p->next = NULL;
        if (!ends) {
            e->running++;
            p->ordinal = ++e->n_started;
            p->started = now();
            p->due = p->started + fake_engine_script.prefill_ms * 2.5e-4;
            pthread_mutex_lock(&counts_mutex);
            counts.started++;
            pthread_mutex_unlock(&counts_mutex);
            push(p->job, (tt_event){.type = TT_EV_STARTED});
        }
    }
    bool more = e->active != NULL || !e->stopping;
    pthread_mutex_unlock(&e->mutex);
    while (over != NULL) {
        place *p = over;
        over = p->next;
        step(e, p);
        drop(p);
    }
    return more;
}

/* One step of every running job; sleeps when none was due. */
static void round_of_steps(tt_engine *e)
{
    double first_due = now() + 0.002;
    for (place **at = &e->active; *at != NULL;) {
        place *p = *at;
        if (step(e, p)) {
            first_due = p->due < first_due ? p->due : first_due;
            at = &p->next;
            continue;
        }
        *at = p->next;
        drop(p);
        pthread_mutex_lock(&e->mutex);
        e->running--;
        pthread_mutex_unlock(&e->mutex);
    }
    double wait = first_due - now();
    if (e->active != NULL && wait > 0) {
        nap_us((int)(wait * 1e6));
    }
}

static void *main_of_thread(void *arg)
{
    tt_engine *e = arg;
    tt_err err = {0};
    for (int ms = fake_engine_script.load_ms; ms > 0 && !stopping(e); ms -= 2) {
        nap_us(2000);
    }
    if (fake_engine_script.load_failure != TT_OK) {
        tt_fail(&err, fake_engine_script.load_failure, "fake: cannot be loaded");
        set_state(e, TT_ENGINE_FAILED, &err);
        return NULL;
    }
    make_vocab(e);
    if (tt_tokenizer_create(&e->model.vocab, &e->tokenizer, &err) != TT_OK) {
        set_state(e, TT_ENGINE_FAILED, &err);
        return NULL;
    }
    set_state(e, TT_ENGINE_READY, NULL);
    while (admit(e)) {
        round_of_steps(e);
    }
    return NULL;
}

tt_code tt_engine_create(const tt_engine_options *opt, tt_engine **ret_engine, tt_err *reterr)
{
    tt_engine *e = calloc(1, sizeof *e);
    if (e == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    e->opt = *opt;
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->cond, NULL);
    if (pthread_create(&e->thread, NULL, main_of_thread, e) != 0) {
        abort();
    }
    *ret_engine = e;
    return TT_OK;
}

void tt_engine_destroy(tt_engine **engine)
{
    tt_engine *e = *engine;
    if (e == NULL) {
        return;
    }
    *engine = NULL;
    pthread_mutex_lock(&e->mutex);
    e->stopping = true;
    pthread_cond_signal(&e->cond);
    pthread_mutex_unlock(&e->mutex);
    pthread_join(e->thread, NULL);
    tt_tokenizer_destroy(&e->tokenizer);
    pthread_cond_destroy(&e->cond);
    pthread_mutex_destroy(&e->mutex);
    free(e);
}

tt_engine_state tt_engine_get_state(const tt_engine *engine, tt_err *ret_failure)
{
    tt_engine *e = (tt_engine *)(uintptr_t)engine;
    pthread_mutex_lock(&e->mutex);
    tt_engine_state state = e->state;
    pthread_mutex_unlock(&e->mutex);
    return state;
}

const tt_model *tt_engine_model(const tt_engine *e)
{
    return &e->model;
}

const tt_tokenizer *tt_engine_tokenizer(const tt_engine *e)
{
    return e->tokenizer;
}

int32_t tt_engine_max_context(const tt_engine *e)
{
    return CONTEXT;
}

const char *tt_engine_isa(const tt_engine *e)
{
    return "fake";
}

const char *tt_engine_device(const tt_engine *e)
{
    return "fake";
}

int tt_engine_threads(const tt_engine *e)
{
    return 1;
}

static void enqueue(tt_engine *e, place *p, tt_job *job)
{
    double timeout = tt_job_get_params(job)->timeout_seconds;
    place **at = &e->first;
    while (*at != NULL) {
        at = &(*at)->next;
    }
    *p = (place){.job = job, .deadline = timeout > 0 ? now() + timeout : INFINITY};
    *at = p;
    tt_job_ref(job);
    e->queued++;
    pthread_mutex_lock(&counts_mutex);
    counts.submitted++;
    pthread_mutex_unlock(&counts_mutex);
}

tt_code tt_engine_submit_all(tt_engine *e, tt_job *const *jobs, int32_t n, tt_err *reterr)
{
    pthread_mutex_lock(&e->mutex);
    bool full = e->queued + n > e->opt.max_queue;
    for (int32_t i = 0; !full && i < n; i++) {
        place *p = malloc(sizeof *p);
        if (p == NULL) {
            abort();
        }
        enqueue(e, p, jobs[i]);
    }
    pthread_cond_signal(&e->cond);
    pthread_mutex_unlock(&e->mutex);
    return full ? tt_fail(reterr, TT_E_BUSY, "%d requests wait already", (int)e->opt.max_queue)
                : TT_OK;
}

tt_code tt_engine_submit(tt_engine *e, tt_job *job, tt_err *reterr)
{
    return tt_engine_submit_all(e, &job, 1, reterr);
}

void tt_engine_get_stats(const tt_engine *engine, tt_engine_stats *ret_stats)
{
    tt_engine *e = (tt_engine *)(uintptr_t)engine;
    pthread_mutex_lock(&e->mutex);
    double age = fake_engine_script.stuck ? 3600 : 0;
    *ret_stats = (tt_engine_stats){.queued = e->queued,
                                   .running = e->running,
                                   .pending = e->queued + e->running > 0,
                                   .last_progress_seconds = now() - age};
    pthread_mutex_unlock(&e->mutex);
}

void tt_engine_kick(tt_engine *e)
{
    (void)e;
}

int32_t tt_engine_retry_after(const tt_engine *e)
{
    (void)e;
    return FAKE_RETRY_AFTER;
}

tt_code tt_engine_pin(tt_engine *e, uint64_t adapter_id, tt_err *reterr)
{
    (void)e;
    (void)adapter_id;
    (void)reterr;
    return TT_OK;
}

void tt_engine_unpin(tt_engine *e, uint64_t adapter_id)
{
    (void)e;
    (void)adapter_id;
}

void tt_engine_keep_adapters(tt_engine *e, const uint64_t *ids, size_t n)
{
    (void)e;
    (void)ids;
    (void)n;
}

bool tt_engine_restoring(const tt_engine *e, uint64_t session_tag)
{
    (void)e;
    (void)session_tag;
    return false;
}

int32_t tt_engine_stored_tokens(const tt_engine *e, const tt_job_params *params)
{
    return tt_engine_cached_tokens(e, params);
}

int32_t tt_engine_cached_tokens(const tt_engine *e, const tt_job_params *params)
{
    (void)e;
    (void)params;
    return 0;
}

size_t tt_engine_page_bytes(const tt_engine *e)
{
    (void)e;
    return 4096;
}
