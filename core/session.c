/* session.c - see session.h. A branch holds the tokens behind the context; branches[0] is the head,
 * the others follow by when they finished. Context and branches are parts: never changed once made,
 * shared by forks and backups. Generations lie in a list of at most max_generations, oldest
 * first. */
#include "core/session.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef struct part {
    int32_t refs;
    int32_t n;
    int32_t *ids;        /* owned: [n]; NULL: not in memory */
    uint8_t *decoded;    /* [n], in the memory behind ids; NULL: none is set */
    uint64_t adapter_id; /* that all of them were run under */
    char key[TT_SESSION_PART_KEY];
} part;

struct tt_session {
    part *context;                       /* a reference */
    int32_t epoch, last_epoch;           /* of the context: a plan of another is not committed */
    part *branches[TT_SESSION_BRANCHES]; /* [n_branches] references */
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

/* Uninitialised ids for n tokens, and flags; a context has none. */
static bool fill_part(part *p, bool flags)
{
    size_t n = (size_t)p->n;
    p->ids = malloc(n * (sizeof *p->ids + (flags ? 1 : 0)) + 1);
    p->decoded = flags && p->ids != NULL ? (uint8_t *)(p->ids + n) : NULL;
    return p->ids != NULL;
}

/* Of n tokens that are not in memory. */
static part *bare_part(int32_t n)
{
    part *p = calloc(1, sizeof *p);
    if (p != NULL) {
        p->refs = 1;
        p->n = n;
    }
    return p;
}

static part *make_part(int32_t n, bool flags)
{
    part *p = bare_part(n);
    if (p != NULL && !fill_part(p, flags)) {
        free(p);
        p = NULL;
    }
    return p;
}

static part *ref_part(part *p)
{
    p->refs++;
    return p;
}

static void unref_part(part **p)
{
    if (*p != NULL && --(*p)->refs == 0) {
        free((*p)->ids);
        free(*p);
    }
    *p = NULL;
}

static part *make_context(const int32_t *ids, int32_t n)
{
    part *p = make_part(n, false);
    if (p != NULL && n > 0) {
        memcpy(p->ids, ids, (size_t)n * sizeof *ids);
    }
    return p;
}

static void drop_branches(tt_session *s)
{
    while (s->n_branches > 0) {
        unref_part(&s->branches[--s->n_branches]);
    }
}

/* Without a context yet. */
static tt_session *make_session(int32_t max_generations)
{
    tt_session *s = calloc(1, sizeof *s);
    if (s != NULL) {
        s->max_generations = max_generations;
        s->generations = calloc((size_t)max_generations, sizeof *s->generations);
    }
    if (s != NULL && s->generations == NULL) {
        tt_session_destroy(&s);
    }
    return s;
}

tt_code tt_session_create(const int32_t *context, int32_t n, int32_t max_generations,
                          tt_session **ret_session, tt_err *reterr)
{
    assert(n >= 0 && max_generations >= 1);
    tt_session *s = make_session(max_generations);
    if (s != NULL) {
        s->context = make_context(context, n);
    }
    if (s == NULL || s->context == NULL) {
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
        drop_branches(s);
        unref_part(&s->context);
        free(s->generations);
        free(s);
        *session = NULL;
    }
}

const int32_t *tt_session_context(const tt_session *s, int32_t *ret_n)
{
    *ret_n = s->context->n;
    return s->context->ids;
}

int32_t tt_session_tokens(const tt_session *s)
{
    return s->context->n + (s->n_branches > 0 ? s->branches[0]->n : 0);
}

const int32_t *tt_session_transcript(const tt_session *s, const uint8_t **ret_decoded,
                                     int32_t *ret_n, uint64_t *ret_adapter_id)
{
    static const part none = {0};
    const part *b = s->n_branches > 0 ? s->branches[0] : &none;
    *ret_decoded = b->decoded;
    *ret_n = b->n;
    *ret_adapter_id = b->adapter_id;
    return b->ids;
}

static size_t part_bytes(const part *p)
{
    return sizeof *p +
           (p->ids != NULL ? (size_t)p->n * (sizeof *p->ids + (p->decoded != NULL ? 1 : 0)) : 0);
}

size_t tt_session_bytes(const tt_session *s)
{
    size_t n =
        sizeof *s + part_bytes(s->context) + (size_t)s->max_generations * sizeof *s->generations;
    for (int32_t i = 0; i < s->n_branches; i++) {
        n += part_bytes(s->branches[i]);
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
        const part *b = s->branches[i];
        int32_t same = common(b->ids, b->n, ids, n);
        bool better = best < 0 || same > *ret_common ||
                      (same == *ret_common && b->adapter_id == adapter_id &&
                       s->branches[best]->adapter_id != adapter_id);
        if (better) {
            best = i;
            *ret_common = same;
        }
    }
    return best;
}

/* Flags of a prompt of n tokens whose first `same` behind the context are the branch's. */
static tt_code copy_flags(const tt_session *s, const part *b, int32_t same, int32_t n,
                          uint8_t **ret, tt_err *reterr)
{
    if (same == 0 || memchr(b->decoded, 1, (size_t)same) == NULL) {
        return TT_OK;
    }
    uint8_t *flags = calloc((size_t)n, 1);
    if (flags == NULL) {
        return no_memory(reterr);
    }
    memcpy(flags + s->context->n, b->decoded, (size_t)same);
    *ret = flags;
    return TT_OK;
}

tt_code tt_session_make_plan(const tt_session *s, const int32_t *ids, int32_t n,
                             const tt_session_generation *g, tt_session_plan *ret, tt_err *reterr)
{
    tt_session_plan plan = {.epoch = s->epoch};
    assert(tt_session_loaded(s));
    int32_t in_context = common(s->context->ids, s->context->n, ids, n);
    if (in_context < s->context->n) {
        plan.matched = plan.position = in_context;
        plan.miss = TT_MISS_CONTEXT;
        *ret = plan;
        return TT_OK;
    }
    const int32_t *rest = ids + s->context->n;
    int32_t n_rest = n - s->context->n, same;
    int32_t i = best_branch(s, rest, n_rest, g->adapter_id, &same);
    const part *b = i >= 0 ? s->branches[i] : NULL;
    plan.context_equal = true;
    plan.adapter_id = g->adapter_id;
    plan.generation = g->number;
    plan.n_base = s->context->n;
    plan.matched = s->context->n + same;
    if (b != NULL && same > 0 && b->adapter_id != g->adapter_id) {
        plan.miss = TT_MISS_ADAPTER;
        plan.position = s->context->n;
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

/* Makes b the head, and takes it over. A branch that it goes on from, or repeats, is replaced, else
 * the oldest goes when there are too many. */
static void push_branch(tt_session *s, part *b)
{
    int32_t out = s->n_branches;
    for (int32_t i = 0; i < s->n_branches; i++) {
        const part *old = s->branches[i];
        if (old->n <= b->n && common(old->ids, old->n, b->ids, b->n) == old->n) {
            out = i;
            break;
        }
    }
    if (out == TT_SESSION_BRANCHES) {
        out--;
    }
    if (out < s->n_branches) {
        unref_part(&s->branches[out]);
    } else {
        s->n_branches++;
    }
    memmove(s->branches + 1, s->branches, (size_t)out * sizeof *s->branches);
    s->branches[0] = b;
}

tt_code tt_session_commit(tt_session *s, const tt_session_plan *plan, const int32_t *ids, int32_t n,
                          const int32_t *generated, int32_t n_generated, tt_err *reterr)
{
    if (!plan->context_equal || plan->epoch != s->epoch) {
        return (tt_code)TT_SESSION_STALE;
    }
    int32_t n_rest = n - s->context->n;
    assert(n_rest >= 0 && tt_session_loaded(s));
    part *b = n_generated <= INT32_MAX - n ? make_part(n_rest + n_generated, true) : NULL;
    if (b == NULL) {
        return no_memory(reterr);
    }
    b->adapter_id = plan->adapter_id;
    if (n_rest > 0) {
        memcpy(b->ids, ids + s->context->n, (size_t)n_rest * sizeof *b->ids);
    }
    if (n_generated > 0) {
        memcpy(b->ids + n_rest, generated, (size_t)n_generated * sizeof *b->ids);
    }
    if (plan->decoded != NULL) {
        memcpy(b->decoded, plan->decoded + s->context->n, (size_t)n_rest);
    } else {
        memset(b->decoded, 0, (size_t)n_rest);
    }
    memset(b->decoded + n_rest, 1, (size_t)n_generated);
    push_branch(s, b);
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

/* A session that shares the parts of `s`. */
static tt_session *share(const tt_session *s, const tt_session_fork_options *opt)
{
    tt_session *f = make_session(s->max_generations);
    if (f == NULL) {
        return NULL;
    }
    f->context = ref_part(s->context);
    if (opt->adapter) {
        memcpy(f->generations, s->generations, (size_t)s->n_generations * sizeof *s->generations);
        f->n_generations = s->n_generations;
        f->last_number = s->last_number;
    }
    for (int32_t i = 0; opt->transcript && i < s->n_branches; i++) {
        f->branches[f->n_branches++] = ref_part(s->branches[i]);
    }
    return f;
}

tt_code tt_session_fork(const tt_session *s, const tt_session_fork_options *opt,
                        tt_session **ret_session, tt_err *reterr)
{
    tt_session *f = share(s, opt);
    if (f == NULL) {
        return no_memory(reterr);
    }
    *ret_session = f;
    return TT_OK;
}

tt_code tt_session_extend(tt_session *s, const int32_t *ids, int32_t n, tt_err *reterr)
{
    part *context = make_context(ids, n);
    if (context == NULL) {
        return no_memory(reterr);
    }
    unref_part(&s->context);
    s->context = context;
    s->epoch = ++s->last_epoch;
    drop_branches(s);
    return TT_OK;
}

/* ---- undo ---- */

tt_code tt_session_backup(const tt_session *s, tt_session **ret, tt_err *reterr)
{
    tt_session *b = share(s, &(tt_session_fork_options){.adapter = true, .transcript = true});
    if (b == NULL) {
        return no_memory(reterr);
    }
    b->epoch = s->epoch;
    *ret = b;
    return TT_OK;
}

/* In its place by number; when there are too many, the oldest is what comes back. False: all have a
 * place. */
static bool insert_generation(tt_session *s, tt_session_generation g, tt_session_generation *ret)
{
    int32_t i = s->n_generations;
    while (i > 0 && s->generations[i - 1].number > g.number) {
        i--;
    }
    if (i > 0 && s->generations[i - 1].number == g.number) {
        return false;
    }
    bool full = s->n_generations == s->max_generations;
    if (full && i == 0) {
        *ret = g;
        return true;
    }
    if (full) {
        *ret = s->generations[0];
        memmove(s->generations, s->generations + 1, (size_t)(i - 1) * sizeof *s->generations);
        s->generations[i - 1] = g;
        return true;
    }
    memmove(s->generations + i + 1, s->generations + i,
            (size_t)(s->n_generations - i) * sizeof *s->generations);
    s->generations[i] = g;
    s->n_generations++;
    return false;
}

void tt_session_revert(tt_session *s, tt_session *b, bool adapters)
{
    int32_t n_over = 0;
    drop_branches(s);
    unref_part(&s->context);
    s->context = ref_part(b->context);
    for (int32_t i = 0; i < b->n_branches; i++) {
        s->branches[s->n_branches++] = ref_part(b->branches[i]);
    }
    s->epoch = b->epoch; /* last_epoch stays: plans for the context that is undone are stale */
    for (int32_t i = 0; adapters && i < b->n_generations; i++) {
        n_over += insert_generation(s, b->generations[i], &b->generations[n_over]);
    }
    b->n_generations = n_over;
}

/* ---- disk ---- */

static part *part_at(const tt_session *s, int32_t i)
{
    return i == 0 ? s->context : i <= s->n_branches ? s->branches[i - 1] : NULL;
}

bool tt_session_part_at(const tt_session *s, int32_t i, tt_session_part *ret)
{
    part *p = part_at(s, i);
    if (p == NULL) {
        return false;
    }
    *ret = (tt_session_part){.n = p->n,
                             .ids = p->ids,
                             .decoded = p->decoded,
                             .adapter_id = p->adapter_id,
                             .key = p->key};
    return true;
}

bool tt_session_loaded(const tt_session *s)
{
    bool all = s->context->ids != NULL;
    for (int32_t i = 0; i < s->n_branches; i++) {
        all = all && s->branches[i]->ids != NULL;
    }
    return all;
}

/* Those whom forks share stay in memory for them. */
static void unload_part(part **slot)
{
    part *old = *slot;
    if (old->ids == NULL) {
        return;
    }
    part *bare = bare_part(old->n);
    if (bare != NULL) {
        bare->adapter_id = old->adapter_id;
        memcpy(bare->key, old->key, sizeof bare->key);
        unref_part(slot);
        *slot = bare;
    }
}

void tt_session_unload(tt_session *s)
{
    unload_part(&s->context);
    for (int32_t i = 0; i < s->n_branches; i++) {
        unload_part(&s->branches[i]);
    }
}

tt_code tt_session_load_part(tt_session *s, int32_t i, const int32_t *ids, const uint8_t *decoded,
                             tt_err *reterr)
{
    part *p = part_at(s, i);
    if (p->ids != NULL) {
        return TT_OK;
    }
    if (!fill_part(p, i > 0)) { /* for all who share it */
        return no_memory(reterr);
    }
    if (p->n > 0) {
        memcpy(p->ids, ids, (size_t)p->n * sizeof *ids);
    }
    if (i > 0 && p->n > 0) {
        memcpy(p->decoded, decoded, (size_t)p->n);
    }
    return TT_OK;
}

tt_code tt_session_restore(const tt_session_image *im, int32_t max_generations, tt_session **ret,
                           tt_err *reterr)
{
    int32_t skip = im->n_generations > max_generations ? im->n_generations - max_generations : 0;
    assert(im->n_parts >= 1 && im->n_parts <= 1 + TT_SESSION_BRANCHES);
    tt_session *s = make_session(max_generations);
    for (int32_t i = 0; s != NULL && i < im->n_parts; i++) {
        part *p = bare_part(im->parts[i].n);
        if (p == NULL) {
            tt_session_destroy(&s);
            break;
        }
        p->adapter_id = im->parts[i].adapter_id;
        memcpy(p->key, im->parts[i].key, sizeof p->key);
        *(i == 0 ? &s->context : &s->branches[s->n_branches++]) = p;
    }
    if (s == NULL) {
        return no_memory(reterr);
    }
    s->n_generations = im->n_generations - skip;
    if (s->n_generations > 0) {
        memcpy(s->generations, im->generations + skip,
               (size_t)s->n_generations * sizeof *s->generations);
    }
    s->last_number = im->last_number;
    *ret = s;
    return TT_OK;
}

int32_t tt_session_last_number(const tt_session *s)
{
    return s->last_number;
}
