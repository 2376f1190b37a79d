/* session_world.h - sessions over one engine as a server keeps them, each beside its model
 * (session_model.h), and the requests that are in flight. What to do next is the caller's choice;
 * what has to hold whatever it chooses is checked here. Thread: the test's. */
#ifndef SESSION_WORLD_H
#define SESSION_WORLD_H

#include "core/engine.h"
#include "core/rng.h"
#include "session_model.h"

enum { WORLD_SESSIONS = 6, WORLD_OPS = 8, WORLD_ANSWER = 96, WORLD_PINS = 1024 };

/* What came out of a job. */
typedef struct world_outcome {
    tt_event_type last; /* TT_EV_DONE or TT_EV_ERROR; before: the last one seen */
    tt_err error;
    int32_t ids[WORLD_ANSWER], n;
    float logprob[WORLD_ANSWER];
    float *echo; /* owned [n_prompt]: log-probabilities of prompt tokens, NaN = not told */
    tt_finish finish;
    bool adapted;
    tt_qttt_result result;
} world_outcome;

void world_note(world_outcome *o, int32_t n_prompt, const tt_event *ev);

typedef struct world_op {
    struct world_op *next; /* of those that are over */
    tt_job *job;           /* owned; NULL when it is over or nobody listens any more */
    tt_job_params p;
    int32_t *ids;     /* owned: p.prompt */
    uint8_t *decoded; /* owned: p.decoded by the model's account, or NULL */
    int32_t slot;
    uint32_t serial; /* of the session it was made in */
    bool append;
    model_text *text; /* owned: the prompt behind the context; NULL: another context, or no chat */
    model_plan want;
    tt_session_plan plan;
    int32_t abort_after; /* tokens; -1 = never */
    bool hang_up;        /* the abort is a lost client */
    bool cancelled, deadline;
    uint64_t answered_by; /* adapter */
    world_outcome out;
} world_op;

typedef struct world_session {
    bool alive;
    uint32_t serial; /* also its tag */
    tt_session *data;
    model_session model;
    char scope[16];
    model_text *lost; /* owned: the last text whose answer was cut, with what had come of it; of a
                         fork without a transcript, its parent's */
    int32_t retry[MODEL_TOKENS], n_retry; /* the user turn of an append that was cut */
} world_session;

typedef struct world_count {
    int32_t prefills, chats, appends, trainings, in_request, strangers;        /* started */
    int32_t answers, published, known, dropped, aborted, hung_up, expired;     /* ended */
    int32_t retried, busy, mismatched, gone, refused, stale, misses[4], edges; /* seen */
    int32_t forks, extensions, resets, deletions, pauses;
} world_count;

typedef struct world {
    tt_engine *engine; /* borrowed */
    tt_rng rng;
    int32_t max_tokens; /* of a prompt and its answer */
    world_session sessions[WORLD_SESSIONS];
    world_op *ops[WORLD_OPS]; /* in flight; NULL = free */
    int32_t n_ops;
    world_op *first_over, **last_over;
    uint32_t last_serial;
    struct world_pin {
        uint64_t id;
        int32_t n;
        int64_t bytes;
        bool lora;
    } pins[WORLD_PINS]; /* of every adapter seen */
    int32_t n_pins;
    world_count count;
} world;

void world_init(world *w, tt_engine *e, uint64_t seed, int32_t max_tokens);
void world_finish(world *w);

/* Below n. */
int32_t world_draw(world *w, int32_t n);
/* True in `percent` of all cases. */
bool world_chance(world *w, int32_t percent);
void world_draw_ids(world *w, int32_t *ids, int32_t n);

/* ---- session_world.c: sessions ---- */

/* The number of a free place, or -1. */
int32_t world_free_slot(const world *w);
void world_create_session(world *w, int32_t slot, const int32_t *context, int32_t n);
void world_fork(world *w, int32_t from, int32_t to, bool adapter, bool transcript);
void world_extend(world *w, int32_t slot, const int32_t *context, int32_t n);
void world_reset(world *w, int32_t slot);
void world_delete(world *w, int32_t slot);
/* A session's adapters. */
void world_pin(world *w, uint64_t adapter_id);
void world_unpin(world *w, uint64_t adapter_id);
/* An adapter that a job published, pinned once by it, becomes a generation. */
void world_adopt(world *w, world_op *op);
/* The kind of an adapter, for a training that goes on from it. */
bool world_is_lora(const world *w, uint64_t adapter_id);
/* Nothing is in flight: every session is what its model is, and the engine holds what they pin,
 * no page in use, no task. */
void world_check_idle(world *w);

/* ---- session_ops.c: requests ---- */

/* NULL when too many are in flight. Fields as the caller sets them; world_submit() takes over. */
world_op *world_new_op(world *w, int32_t slot);
/* `prompt` [n] is copied, as is `decoded`. False: the engine refused with TT_E_CAPACITY (a pinned
 * training); the op is gone. */
bool world_submit(world *w, world_op *op, const int32_t *prompt, const uint8_t *decoded, int32_t n);
void world_cancel(world *w, world_op *op, bool hang_up);
/* Takes what has come for everybody. */
void world_poll(world *w);
/* Until fewer than n are in flight; fails the test when that takes too long. */
void world_wait(world *w, int32_t n);

#endif
