/* session_model.h - a plain account of one session, kept beside core/session.c by a test: texts as
 * lists of turns, up to four of them, numbered generations. It shares no code with what it is
 * compared with. Thread: the test's. */
#ifndef SESSION_MODEL_H
#define SESSION_MODEL_H

#include "core/session.h"

enum {
    MODEL_TOKENS = 1600,
    MODEL_TURNS = 96,
    MODEL_BRANCHES = 4,
    MODEL_GENERATIONS = 3 /* of a session */
};

/* Turns laid end to end. */
typedef struct model_text {
    int32_t ids[MODEL_TOKENS];
    uint8_t made[MODEL_TOKENS]; /* 1 = the server knows that it generated this token */
    int32_t n;
    int32_t end[MODEL_TURNS]; /* of each turn */
    bool answer[MODEL_TURNS];
    int32_t n_turns;
} model_text;

/* False, and nothing happens, when there is no room. */
bool model_text_add(model_text *t, const int32_t *ids, int32_t n, bool answer, bool made);
/* Without the turns from `n_turns` on. */
void model_text_cut(model_text *t, int32_t n_turns);
/* How often ids [n] stand in the text. */
int32_t model_text_count(const model_text *t, const int32_t *ids, int32_t n);

typedef struct model_branch {
    model_text text; /* behind the context */
    uint64_t adapter_id;
} model_branch;

typedef struct model_session {
    int32_t context[MODEL_TOKENS];
    int32_t n_context, epoch;
    model_branch *branches[MODEL_BRANCHES]; /* owned; the last finished first */
    int32_t n_branches;
    struct {
        int32_t number;
        uint64_t adapter_id;
    } generations[MODEL_GENERATIONS]; /* oldest first */
    int32_t n_generations, last_number;
    bool appending;
} model_session;

void model_init(model_session *m, const int32_t *context, int32_t n);
void model_finish(model_session *m);
/* 0 = base. */
uint64_t model_adapter(const model_session *m, int32_t number);
int32_t model_latest(const model_session *m);

/* What the session is expected to say of a prompt: context and `text` (whose `made` is set), or,
 * with another context, ids [n] that differ from it at position `at`. */
typedef struct model_plan {
    bool context_equal;
    int32_t matched, position, epoch;
    tt_session_miss miss;
    uint64_t adapter_id;
} model_plan;
model_plan model_expect(const model_session *m, model_text *text, uint64_t adapter_id);
model_plan model_expect_stranger(const model_session *m, int32_t at);
/* Fails the test when they differ. n: tokens of the prompt. */
void model_same_plan(const model_session *m, const model_plan *want, const model_text *text,
                     const tt_session_plan *got, int32_t n);

/* text: the prompt's, with the answer as its last turn. */
void model_commit(model_session *m, const model_plan *plan, const model_text *text);
/* *ret_dropped: 0 = none. True: it is one of the generations already. */
bool model_publish(model_session *m, uint64_t adapter_id, uint64_t *ret_dropped);
void model_reset(model_session *m);
void model_fork(model_session *to, const model_session *from, bool adapter, bool transcript);
void model_extend(model_session *m, const int32_t *context, int32_t n);

/* Fails the test when the session holds anything else. */
void model_same(const model_session *m, const tt_session *s);

#endif
