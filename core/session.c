/* session.c - see session.h. A branch holds the tokens behind the context; branches[0] is the head,
 * the others follow by when they finished. Generations lie in a list of at most max_generations,
 * oldest first. */
#include "core/session.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef struct branch {
    int32_t *ids;     /* owned: [n] */
    uint8_t *decoded; /* owned: [n], in the memory behind ids */
    int32_t n;
    uint64_t adapter_id; /* that all of them were run under */
} branch;

struct tt_session {
    int32_t *context; /* owned */
    int32_t n_context;
    int32_t epoch; /* counts the contexts it has had: a plan of an older one is not committed */
    branch branches[TT_SESSION_BRANCHES];
    int32_t n_branches;
    tt_session_generation *generations; /* owned: [max_generations] */
    int32_t n_generations, max_generations;
    int32_t last_number; /* ever given */
    bool appending;
};

static tt_code no_memory(tt_err *reterr)
{
    return tt_fail(reterr, TT_E_NOMEM, "out of memory for a session");
}

static int32_t *copy_ids(const int32_t *ids, int32_t n)
{
    int32_t *copy = malloc(((size_t)n + 1) * sizeof *copy);
    if (copy != NULL && n > 0) {
        memcpy(copy, ids, (size_t)n * sizeof *copy);
    }
    return copy;
}

/* Room for n tokens and their flags, uninitialised. */
static bool alloc_branch(branch *b, int32_t n)
{
    b->ids = malloc((size_t)n * (sizeof *b->ids + 1) + 1);
    if (b->ids == NULL) {
        return false;
    }
    b->decoded = (uint8_t *)(b->ids + n);
    b->n = n;
    return true;
}

static void free_branches(tt_session *s)
{
    for (int32_t i = 0; i < s->n_branches; i++) {
        free(s->branches[i].ids);
    }
    s->n_branches = 0;
}

tt_code tt_session_create(const int32_t *context, int32_t n, int32_t max_generations,
                          tt_session **ret_session, tt_err *reterr)
{
    assert(n >= 0 && max_generations >= 1);
    tt_session *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return no_memory(reterr);
    }
    s->context = copy_ids(context, n);
    s->n_context = n;
    s->max_generations = max_generations;
    s->generations = calloc((size_t)max_generations, sizeof *s->generations);
    if (s->context == NULL || s->generations == NULL) {
        tt_session_destroy(&s);
        return no_memory(reterr);
    }
    *ret_session = s;
    return TT_OK;
}

void tt_session_destroy(tt_session **session)
{
    tt_session *s = *session;
    if (s != NULL) {
        free_branches(s);
        free(s->context);
        free(s->generations);
        free(s);
        *session = NULL;
    }
}

const int32_t *tt_session_context(const tt_session *s, int32_t *ret_n)
{
    *ret_n = s->n_context;
    return s->context;
}

int32_t tt_session_tokens(const tt_session *s)
{
    return s->n_context + (s->n_branches > 0 ? s->branches[0].n : 0);
}

const int32_t *tt_session_transcript(const tt_session *s, const uint8_t **ret_decoded,
                                     int32_t *ret_n, uint64_t *ret_adapter_id)
{
    static const branch none = {0};
    const branch *b = s->n_branches > 0 ? &s->branches[0] : &none;
    *ret_decoded = b->decoded;
    *ret_n = b->n;
    *ret_adapter_id = b->adapter_id;
    return b->ids;
}

size_t tt_session_bytes(const tt_session *s)
{
    size_t n = sizeof *s + (size_t)s->n_context * sizeof *s->context +
               (size_t)s->max_generations * sizeof *s->generations;
    for (int32_t i = 0; i < s->n_branches; i++) {
        n += (size_t)s->branches[i].n * (sizeof *s->branches[i].ids + 1);
    }
    return n;
}

tt_code tt_session_choose(const tt_session *s, int64_t number, tt_session_generation *ret)
{
    if (number < 0) {
        number = tt_session_latest(s);
    }
    if (number == 0) {
        *ret = (tt_session_generation){0};
        return TT_OK;
    }
    for (int32_t i = 0; i < s->n_generations; i++) {
        if (s->generations[i].number == number) {
            *ret = s->generations[i];
            return TT_OK;
        }
    }
    return (tt_code)(number <= s->last_number ? TT_SESSION_GONE : TT_SESSION_UNKNOWN);
}

const char *tt_session_miss_text(tt_session_miss miss)
{
    static const char *const text[] = {[TT_MISS_NONE] = NULL,
                                       [TT_MISS_CONTEXT] = "context_diverged",
                                       [TT_MISS_TRANSCRIPT] = "transcript_diverged",
                                       [TT_MISS_ADAPTER] = "adapter_changed"};
    return text[miss];
}

static int32_t common(const int32_t *a, int32_t n_a, const int32_t *b, int32_t n_b)
{
    int32_t n = n_a < n_b ? n_a : n_b, i = 0;
    while (i < n && a[i] == b[i]) {
        i++;
    }
    return i;
}

/* The branch with the longest common beginning, the latest of equals; one that was run under
 * `adapter_id` before any other, as its K/V can be used. -1 = there is none. */
static int32_t best_branch(const tt_session *s, const int32_t *ids, int32_t n, uint64_t adapter_id,
                           int32_t *ret_common)
{
    int32_t best = -1;
    *ret_common = 0;
    for (int32_t i = 0; i < s->n_branches; i++) {
        const branch *b = &s->branches[i];
        int32_t same = common(b->ids, b->n, ids, n);
        bool better = best < 0 || same > *ret_common ||
                      (same == *ret_common && b->adapter_id == adapter_id &&
                       s->branches[best].adapter_id != adapter_id);
        if (better) {
            best = i;
            *ret_common = same;
        }
    }
    return best;
}

/* Flags of a prompt of n tokens whose first `same` behind the context are the branch's. */
static tt_code copy_flags(const tt_session *s, const branch *b, int32_t same, int32_t n,
                          uint8_t **ret, tt_err *reterr)
{
    if (same == 0 || memchr(b->decoded, 1, (size_t)same) == NULL) {
        return TT_OK;
    }
    uint8_t *flags = calloc((size_t)n, 1);
    if (flags == NULL) {
        return no_memory(reterr);
    }
    memcpy(flags + s->n_context, b->decoded, (size_t)same);
    *ret = flags;
    return TT_OK;
}

tt_code tt_session_make_plan(const tt_session *s, const int32_t *ids, int32_t n,
                             const tt_session_generation *g, tt_session_plan *ret, tt_err *reterr)
{
    tt_session_plan plan = {.epoch = s->epoch};
    int32_t in_context = common(s->context, s->n_context, ids, n);
    if (in_context < s->n_context) {
        plan.matched = plan.position = in_context;
        plan.miss = TT_MISS_CONTEXT;
        *ret = plan;
        return TT_OK;
    }
    const int32_t *rest = ids + s->n_context;
    int32_t n_rest = n - s->n_context, same;
    int32_t i = best_branch(s, rest, n_rest, g->adapter_id, &same);
    const branch *b = i >= 0 ? &s->branches[i] : NULL;
    plan.context_equal = true;
    plan.adapter_id = g->adapter_id;
    plan.generation = g->number;
    plan.n_base = s->n_context;
    plan.matched = s->n_context + same;
    if (b != NULL && same > 0 && b->adapter_id != g->adapter_id) {
        plan.miss = TT_MISS_ADAPTER;
        plan.position = s->n_context;
    } else if (b != NULL && same < b->n && same < n_rest) {
        plan.miss = TT_MISS_TRANSCRIPT;
        plan.position = plan.matched;
    }
    if (b != NULL) {
        tt_code rc = copy_flags(s, b, same, n, &plan.decoded, reterr);
        if (rc < 0) {
            return rc;
        }
    }
    *ret = plan;
    return TT_OK;
}

void tt_session_plan_finish(tt_session_plan *plan)
{
    free(plan->decoded);
    plan->decoded = NULL;
}

/* Makes b the head. A branch that it goes on from, or repeats, is replaced, else the oldest goes
 * when there are too many. */
static void push_branch(tt_session *s, const branch *b)
{
    int32_t out = s->n_branches;
    for (int32_t i = 0; i < s->n_branches; i++) {
        const branch *old = &s->branches[i];
        if (old->n <= b->n && common(old->ids, old->n, b->ids, b->n) == old->n) {
            out = i;
            break;
        }
    }
    if (out == TT_SESSION_BRANCHES) {
        out--;
    }
    if (out < s->n_branches) {
        free(s->branches[out].ids);
    } else {
        s->n_branches++;
    }
    memmove(s->branches + 1, s->branches, (size_t)out * sizeof *s->branches);
    s->branches[0] = *b;
}

tt_code tt_session_commit(tt_session *s, const tt_session_plan *plan, const int32_t *ids, int32_t n,
                          const int32_t *generated, int32_t n_generated, tt_err *reterr)
{
    if (!plan->context_equal || plan->epoch != s->epoch) {
        return (tt_code)TT_SESSION_STALE;
    }
    int32_t n_rest = n - s->n_context;
    branch b = {.adapter_id = plan->adapter_id};
    assert(n_rest >= 0);
    if (n_generated > INT32_MAX - n || !alloc_branch(&b, n_rest + n_generated)) {
        return no_memory(reterr);
    }
    if (n_rest > 0) {
        memcpy(b.ids, ids + s->n_context, (size_t)n_rest * sizeof *b.ids);
    }
    if (n_generated > 0) {
        memcpy(b.ids + n_rest, generated, (size_t)n_generated * sizeof *b.ids);
    }
    if (plan->decoded != NULL) {
        memcpy(b.decoded, plan->decoded + s->n_context, (size_t)n_rest);
    } else {
        memset(b.decoded, 0, (size_t)n_rest);
    }
    memset(b.decoded + n_rest, 1, (size_t)n_generated);
    push_branch(s, &b);
    return TT_OK;
}

tt_code tt_session_begin_append(tt_session *s, int64_t expected_tokens)
{
    if (s->appending) {
        return (tt_code)TT_SESSION_BUSY;
    }
    if (expected_tokens >= 0 && expected_tokens != tt_session_tokens(s)) {
        return (tt_code)TT_SESSION_MISMATCH;
    }
    s->appending = true;
    return TT_OK;
}

void tt_session_end_append(tt_session *s)
{
    s->appending = false;
}

bool tt_session_appending(const tt_session *s)
{
    return s->appending;
}

tt_code tt_session_publish(tt_session *s, const tt_session_generation *g, int32_t *ret_number,
                           uint64_t *ret_dropped)
{
    *ret_dropped = 0;
    for (int32_t i = 0; i < s->n_generations; i++) {
        if (s->generations[i].adapter_id == g->adapter_id) {
            *ret_number = s->generations[i].number;
            return (tt_code)TT_SESSION_KNOWN;
        }
    }
    if (s->n_generations == s->max_generations) {
        *ret_dropped = s->generations[0].adapter_id;
        s->n_generations--;
        memmove(s->generations, s->generations + 1,
                (size_t)s->n_generations * sizeof *s->generations);
    }
    tt_session_generation *slot = &s->generations[s->n_generations++];
    *slot = *g;
    slot->number = *ret_number = ++s->last_number;
    return TT_OK;
}

void tt_session_reset(tt_session *s)
{
    s->n_generations = 0;
}

bool tt_session_generation_at(const tt_session *s, int32_t i, tt_session_generation *ret)
{
    if (i >= s->n_generations) {
        return false;
    }
    *ret = s->generations[i];
    return true;
}

int32_t tt_session_latest(const tt_session *s)
{
    return s->n_generations > 0 ? s->generations[s->n_generations - 1].number : 0;
}

static bool copy_branches(tt_session *to, const tt_session *from)
{
    for (int32_t i = 0; i < from->n_branches; i++) {
        const branch *b = &from->branches[i];
        branch *copy = &to->branches[i];
        if (!alloc_branch(copy, b->n)) {
            return false;
        }
        memcpy(copy->ids, b->ids, (size_t)b->n * (sizeof *b->ids + 1));
        copy->adapter_id = b->adapter_id;
        to->n_branches++;
    }
    return true;
}

tt_code tt_session_fork(const tt_session *s, const tt_session_fork_options *opt,
                        tt_session **ret_session, tt_err *reterr)
{
    tt_session *f = NULL;
    tt_code rc = tt_session_create(s->context, s->n_context, s->max_generations, &f, reterr);
    if (rc < 0) {
        return rc;
    }
    if (opt->adapter) {
        memcpy(f->generations, s->generations, (size_t)s->n_generations * sizeof *s->generations);
        f->n_generations = s->n_generations;
        f->last_number = s->last_number;
    }
    if (opt->transcript && !copy_branches(f, s)) {
        tt_session_destroy(&f);
        return no_memory(reterr);
    }
    *ret_session = f;
    return TT_OK;
}

tt_code tt_session_extend(tt_session *s, const int32_t *ids, int32_t n, tt_err *reterr)
{
    int32_t *context = copy_ids(ids, n);
    if (context == NULL) {
        return no_memory(reterr);
    }
    free(s->context);
    s->context = context;
    s->n_context = n;
    s->epoch++;
    free_branches(s);
    return TT_OK;
}
