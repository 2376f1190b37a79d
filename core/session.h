/* session.h - one session as data: what its tokens are, which kernel family made each of them, and
 * which adapters its generations are. It holds no K/V: pages are found by content, and whatever was
 * evicted is computed again, bit for bit, from what is recorded here. Thread: one at a time.
 *
 *   context [0, C)         fixed when the session is created; run under the base; what jobs train
 * on branches               up to TT_SESSION_BRANCHES transcripts that follow the context, the last
 *                          finished one first: the head. A request that goes on from a branch takes
 *                          its `decoded` flags over; an edit, a regenerated answer or a side call
 *                          becomes a branch of its own
 *   generations            n = 1, 2, ...: an adapter under a number that is the session's; 0 = base
 *
 * A whole-history request: tt_session_plan() before it, tt_session_commit() when it has finished;
 * in between the session does not change. An append is a transaction around the same two calls. */
#ifndef TT_SESSION_H
#define TT_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/err.h"

enum { TT_SESSION_BRANCHES = 4, TT_SESSION_JOB_ID = 96, TT_SESSION_PART_KEY = 36 };

typedef struct tt_session tt_session;

typedef struct tt_session_generation {
    int32_t number; /* 0 = base */
    uint64_t adapter_id;
    int64_t adapter_bytes;
    char job_id[TT_SESSION_JOB_ID]; /* that trained it; "" = none */
} tt_session_generation;

/* context: copied; n >= 0. max_generations >= 1. TT_E_NOMEM. */
tt_code tt_session_create(const int32_t *context, int32_t n, int32_t max_generations,
                          tt_session **ret_session, tt_err *reterr);
void tt_session_destroy(tt_session **session);

/* Borrowed until the next tt_session_extend(). */
const int32_t *tt_session_context(const tt_session *s, int32_t *ret_n);
/* Tokens of context and head together: what expected_tokens is compared with. */
int32_t tt_session_tokens(const tt_session *s);
/* The tokens of the head behind the context and their flags; borrowed until the next change.
 * *ret_adapter_id: what they were run under. */
const int32_t *tt_session_transcript(const tt_session *s, const uint8_t **ret_decoded,
                                     int32_t *ret_n, uint64_t *ret_adapter_id);
/* Memory that it holds. */
size_t tt_session_bytes(const tt_session *s);

/* ---- a request ---- */

enum {
    TT_SESSION_GONE = 1,    /* the generation was one, and is no more */
    TT_SESSION_UNKNOWN = 2, /* there has never been one of this number */
    TT_SESSION_BUSY = 3,
    TT_SESSION_MISMATCH = 4, /* expected_tokens is another number */
    TT_SESSION_STALE = 6
};

/* What answers: number < 0 = the latest. TT_OK, TT_SESSION_GONE, TT_SESSION_UNKNOWN. */
tt_code tt_session_choose(const tt_session *s, int64_t number, tt_session_generation *ret);

/* Why a prompt does not go on from what the session has. */
typedef enum tt_session_miss {
    TT_MISS_NONE,
    TT_MISS_CONTEXT,    /* the context is another: the base answers, the session stays as it is */
    TT_MISS_TRANSCRIPT, /* the context is the same, a later token is another */
    TT_MISS_ADAPTER     /* the tokens are the same, but were run under another adapter */
} tt_session_miss;
/* "context_diverged", "transcript_diverged", "adapter_changed"; NULL for none. */
const char *tt_session_miss_text(tt_session_miss miss);

typedef struct tt_session_plan {
    bool context_equal;
    uint64_t adapter_id; /* the chosen generation's, 0 when the context is another */
    int32_t generation;
    int32_t n_base;   /* tokens that run under the base: the context, or 0 when it is another */
    int32_t matched;  /* leading tokens equal to the context and the branch that fits best */
    int32_t position; /* of the miss: the first token that has to be computed because of it */
    tt_session_miss miss;
    uint8_t *decoded; /* owned, [n]: tt_session_plan_finish(); NULL = none is set */
    int32_t epoch;    /* of the context that it was made for */
} tt_session_plan;

/* ids: [n] the whole prompt, n >= 1. g: from tt_session_choose(). TT_E_NOMEM. */
tt_code tt_session_make_plan(const tt_session *s, const int32_t *ids, int32_t n,
                             const tt_session_generation *g, tt_session_plan *ret, tt_err *reterr);
void tt_session_plan_finish(tt_session_plan *plan);

/* The request has finished: its prompt and what it generated become the head. TT_SESSION_STALE: the
 * plan's context was another, or is no longer the session's, and nothing has changed; nor has it
 * after TT_E_NOMEM. */
tt_code tt_session_commit(tt_session *s, const tt_session_plan *plan, const int32_t *ids, int32_t n,
                          const int32_t *generated, int32_t n_generated, tt_err *reterr);

/* One append at a time. expected_tokens < 0: any. TT_OK, TT_SESSION_BUSY, TT_SESSION_MISMATCH. */
tt_code tt_session_begin_append(tt_session *s, int64_t expected_tokens);
/* After its commit, or instead of it: a rolled back append has left no trace. */
void tt_session_end_append(tt_session *s);
bool tt_session_appending(const tt_session *s);

/* ---- its adapters. The caller pins and unpins them in the engine. ---- */

/* Makes an adapter the latest generation. *ret_number: its number; when the adapter is a generation
 * already, that one's, and nothing changes: TT_SESSION_KNOWN. *ret_dropped: the adapter of the
 * generation that had to go, or 0. */
enum { TT_SESSION_KNOWN = 5 };
tt_code tt_session_publish(tt_session *s, const tt_session_generation *g, int32_t *ret_number,
                           uint64_t *ret_dropped);
/* Back to the base. Numbers go on. Adapters to unpin: walk tt_session_generation_at() before. */
void tt_session_reset(tt_session *s);
/* Oldest first; false beyond the end. */
bool tt_session_generation_at(const tt_session *s, int32_t i, tt_session_generation *ret);
/* 0 = base. */
int32_t tt_session_latest(const tt_session *s);

/* ---- others made of it ---- */

typedef struct tt_session_fork_options {
    bool adapter;    /* its generations, with their numbers; else from the base */
    bool transcript; /* its branches; else the context alone */
} tt_session_fork_options;
tt_code tt_session_fork(const tt_session *s, const tt_session_fork_options *opt,
                        tt_session **ret_session, tt_err *reterr);

/* ids [0, n) is the context from now on; the branches are forgotten, and with them which tokens
 * were generated: the new context is the base's prefill from end to end. */
tt_code tt_session_extend(tt_session *s, const int32_t *ids, int32_t n, tt_err *reterr);

/* ---- undo ---- */

/* All of it as it is now; shares its tokens. TT_E_NOMEM. */
tt_code tt_session_backup(const tt_session *s, tt_session **ret, tt_err *reterr);
/* Context and branches are what they were; a running append stays what it is. With `adapters` the
 * generations come back, beside those that were published since; the backup's generations are then
 * those for which there is no room, the oldest: the caller gives their pins back. */
void tt_session_revert(tt_session *s, tt_session *backup, bool adapters);

/* ---- disk: tokens may leave memory while their number stays known ---- */

/* The context (i = 0) or a branch (i - 1 = 0: the head). */
typedef struct tt_session_part {
    int32_t n;
    const int32_t *ids;     /* [n]; NULL: not in memory */
    const uint8_t *decoded; /* [n]; NULL: none is set, as in a context */
    uint64_t adapter_id;
    char *key; /* [TT_SESSION_PART_KEY] the owner's: "" at first; goes with the tokens to forks */
} tt_session_part;
/* False beyond the last. Borrowed until the next change. */
bool tt_session_part_at(const tt_session *s, int32_t i, tt_session_part *ret);

/* What needs tokens (make_plan, commit, the content of context and transcript) asserts this. */
bool tt_session_loaded(const tt_session *s);
void tt_session_unload(tt_session *s);
/* ids, decoded: [n of the part], copied; nothing happens when it is there. TT_E_NOMEM. */
tt_code tt_session_load_part(tt_session *s, int32_t i, const int32_t *ids, const uint8_t *decoded,
                             tt_err *reterr);

/* A session as it was, not loaded. Of too many generations the oldest are left out. */
typedef struct tt_session_image {
    struct {
        int32_t n;
        uint64_t adapter_id;
        char key[TT_SESSION_PART_KEY];
    } parts[1 + TT_SESSION_BRANCHES];
    int32_t n_parts;                          /* >= 1 */
    const tt_session_generation *generations; /* [n_generations], oldest first */
    int32_t n_generations, last_number;
} tt_session_image;
tt_code tt_session_restore(const tt_session_image *im, int32_t max_generations, tt_session **ret,
                           tt_err *reterr);
/* The highest number that a generation ever had. */
int32_t tt_session_last_number(const tt_session *s);

#endif
