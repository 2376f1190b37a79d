/* bench_draft.c - what drafts are worth, see bench.h: requests to quote a section of a long
 * document and requests for free text, by an engine with drafts and one without, which take turns.
 * Thread: the caller's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/bench_priv.h"
#include "core/rng.h"

#define SECTIONS 30 /* some 4,400 tokens: as long as a licence; fewer where they do not fit */
#define SECTIONS_MIN 4
#define WORDS 6     /* of a sentence, with as many links less one */
#define SENTENCES 7 /* of a section: longer than what is quoted */
#define ANSWER 96   /* tokens */

typedef enum kind { QUOTE, FREE, N_KINDS } kind;

typedef struct bench_text {
    char *p; /* owned [cap] */
    size_t n, cap;
} bench_text;

typedef struct drafting {
    tt_bench *b;
    tt_engine *e[2]; /* without drafts, with */
    double rate[N_KINDS][2][TT_BENCH_MAX_REPEAT];
    int64_t tokens[N_KINDS], drafted[N_KINDS], accepted[N_KINDS];
    int sections;
} drafting;

static const char *const words[] = {
    "lamp",   "bridge", "winter",  "ledger",  "orchard", "gate",   "granary", "barrel",
    "frost",  "letter", "witness", "harbor",  "market",  "stone",  "candle",  "river",
    "garden", "window", "copper",  "forest",  "bell",    "wagon",  "mill",    "island",
    "silver", "ladder", "castle",  "meadow",  "pepper",  "anchor", "violin",  "carpet",
    "tower",  "basket", "mirror",  "saddle",  "thunder", "pillow", "marble",  "lantern",
    "needle", "valley", "kettle",  "feather", "hammer",  "desert", "blanket", "engine"};
static const char *const links[] = {"shall carry the", "of the", "may keep a",        "with every",
                                    "beside that",     "for a",  "must not sell the", "under its"};

static void put(bench_text *t, const char *s)
{
    size_t n = strlen(s);
    if (t->n + n < t->cap) {
        memcpy(t->p + t->n, s, n + 1);
        t->n += n;
    }
}

/* A charter of numbered sections. Few of its words follow each other twice: what a model quotes it
 * has from one place. */
static void write_document(bench_text *t, int sections)
{
    tt_rng rng = tt_rng_make(5, 17);
    char number[32];
    for (int i = 1; i <= sections; i++) {
        snprintf(number, sizeof number, "Section %d.", i);
        put(t, number);
        for (int j = 0; j < SENTENCES * WORDS; j++) {
            put(t, j % WORDS == 0 ? " The " : " ");
            put(t, words[tt_rng_below(&rng, sizeof words / sizeof words[0])]);
            if (j % WORDS == WORDS - 1) {
                put(t, ".");
            } else {
                put(t, " ");
                put(t, links[tt_rng_below(&rng, sizeof links / sizeof links[0])]);
            }
        }
        put(t, "\n\n");
    }
}

/* The document, and what is asked of it (section: not the first) in words that a model without a
 * chat template goes on from as well. */
static tt_code prompt_of(drafting *d, kind what, int32_t section, int32_t **ret_ids, size_t *ret_n,
                         tt_err *reterr)
{
    bench_text t = {.cap = 1 << 16};
    t.p = malloc(t.cap);
    if (t.p == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the bench");
    }
    t.p[0] = '\0';
    write_document(&t, d->sections);
    if (what == QUOTE) {
        char ask[128], begins[40];
        snprintf(ask, sizeof ask, "Quote section %d word for word.\n\nSection %d.", (int)section,
                 (int)section);
        snprintf(begins, sizeof begins, "\nSection %d.", (int)section);
        put(&t, ask);
        const char *at = strstr(t.p, begins);
        char first[24] = "";
        if (at != NULL) { /* its first words, so that a small model finds the place */
            snprintf(first, sizeof first, "%s", at + strlen(begins));
            *strrchr(first, ' ') = '\0';
        }
        put(&t, first);
    } else {
        put(&t, "A letter to a friend about the sea.\n\nMy dear Anna,\n\n");
    }
    tt_code rc =
        tt_tokenizer_encode(tt_engine_tokenizer(d->e[0]), t.p, t.n,
                            &(tt_encode_options){.add_special = true}, ret_ids, ret_n, reterr);
    free(t.p);
    return rc;
}

/* Until the last event, which is filled into *ret_done. */
static tt_code run(tt_engine *e, const tt_job_params *p, tt_event *ret_done, tt_err *reterr)
{
    tt_job *job;
    tt_code rc = tt_job_create(p, NULL, NULL, &job, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    rc = tt_engine_submit(e, job, reterr);
    for (bool over = rc != TT_OK; !over;) {
        tt_event *ev = tt_job_next(job);
        if (ev == NULL) {
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
            continue;
        }
        over = ev->type == TT_EV_DONE || ev->type == TT_EV_ERROR;
        if (ev->type == TT_EV_DONE) {
            *ret_done = *ev;
        } else if (ev->type == TT_EV_ERROR) {
            *reterr = ev->u.error;
            rc = ev->u.error.code;
        }
        tt_event_free(ev);
    }
    tt_job_unref(&job);
    return rc;
}

/* One request to both engines; i < 0: their prefix caches are filled and nothing is noted. */
static tt_code both(drafting *d, kind what, int32_t i, tt_err *reterr)
{
    int32_t *ids = NULL;
    size_t n = 0;
    tt_code rc = prompt_of(d, what, 2 + (i < 0 ? 0 : i) % (d->sections - 1), &ids, &n, reterr);
    tt_job_params p = {.prompt = ids,
                       .n_prompt = (int32_t)n,
                       .max_tokens = i < 0 ? 1 : ANSWER,
                       .ignore_eos = true,
                       .sampling = {.top_p = 1,
                                    .temperature = what == FREE ? 1 : 0,
                                    .seed = (uint64_t)(i < 0 ? 0 : i)},
                       .n_logprobs = -1,
                       .n_prompt_logprobs = -1};
    for (int turn = 0; rc == TT_OK && turn < 2; turn++) {
        int with = (turn + (i & 1)) % 2;
        tt_event done = {0};
        rc = run(d->e[with], &p, &done, reterr);
        if (rc != TT_OK || i < 0) {
            continue;
        }
        double seconds = done.u.done.decode_seconds;
        d->rate[what][with][i] = seconds > 0 ? (done.u.done.completion_tokens - 1) / seconds : 0;
        d->tokens[what] += with ? done.u.done.completion_tokens : 0;
        d->drafted[what] += done.u.done.drafted_tokens;
        d->accepted[what] += done.u.done.accepted_tokens;
    }
    free(ids);
    return rc;
}

static void tell(drafting *d, kind what)
{
    static const char *const names[N_KINDS][5] = {
        {"quote a section, no drafts", "quote a section, drafts", "  against none, quote",
         "  tokens that drafts had right, quote", "  wrong rows a token, quote"},
        {"free text, no drafts", "free text, drafts", "  against none, free text",
         "  tokens that drafts had right, free", "  wrong rows a token, free text"}};
    tt_bench *b = d->b;
    double times[TT_BENCH_MAX_REPEAT];
    for (int32_t i = 0; i < b->repeat; i++) {
        times[i] = d->rate[what][0][i] > 0 ? d->rate[what][1][i] / d->rate[what][0][i] : 0;
    }
    for (int with = 0; with < 2; with++) {
        tt_bench_add(b, names[what][with], "tokens/s",
                     tt_bench_median(d->rate[what][with], b->repeat), TT_LIMIT_NONE, 0);
    }
    tt_bench_add(b, names[what][2], "times", tt_bench_median(times, b->repeat), TT_LIMIT_NONE, 0);
    double n = 0.01 * (double)d->tokens[what];
    tt_bench_add(b, names[what][3], "%", (double)d->accepted[what] / n, TT_LIMIT_NONE, 0);
    tt_bench_add(b, names[what][4], "%", (double)(d->drafted[what] - d->accepted[what]) / n,
                 TT_LIMIT_NONE, 0);
}

static tt_code start(tt_engine_options o, int with, tt_engine **ret, tt_err *reterr)
{
    o.max_draft = with ? 0 : -1;
    tt_code rc = tt_engine_create(&o, ret, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tt_engine_state state;
    while ((state = tt_engine_get_state(*ret, reterr)) == TT_ENGINE_LOADING) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return state == TT_ENGINE_READY ? TT_OK : reterr->code;
}

/* As many sections as there is context for. */
static tt_code size_document(drafting *d, bool *ret_fits, tt_err *reterr)
{
    int32_t room = tt_engine_max_context(d->e[0]) - ANSWER - 64;
    tt_code rc = TT_OK;
    *ret_fits = false;
    for (d->sections = SECTIONS; rc == TT_OK && !*ret_fits && d->sections >= SECTIONS_MIN;) {
        int32_t *ids = NULL;
        size_t n = 0;
        rc = prompt_of(d, QUOTE, 2, &ids, &n, reterr);
        free(ids);
        *ret_fits = (int64_t)n <= room;
        d->sections -= rc == TT_OK && !*ret_fits ? 2 : 0;
    }
    return rc;
}

tt_code tt_bench_drafts(tt_bench *b, tt_err *reterr)
{
    drafting d = {.b = b};
    bool fits = false;
    tt_code rc = start(*b->opt->engine, 0, &d.e[0], reterr);
    rc = rc == TT_OK ? start(*b->opt->engine, 1, &d.e[1], reterr) : rc;
    rc = rc == TT_OK ? size_document(&d, &fits, reterr) : rc;
    for (kind what = QUOTE; fits && what < N_KINDS; what++) {
        for (int32_t i = -1; rc == TT_OK && i < b->repeat; i++) {
            rc = both(&d, what, i, reterr);
        }
        if (rc == TT_OK) {
            tell(&d, what);
        }
    }
    tt_engine_destroy(&d.e[0]);
    tt_engine_destroy(&d.e[1]);
    return rc;
}
