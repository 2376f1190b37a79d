/* session_replay.h - what a world (session_world.h) has seen, computed again from scratch: a second
 * engine, every job alone, under a tenant of its own so that no page and no adapter is found.
 * Thread: the test's. */
#ifndef SESSION_REPLAY_H
#define SESSION_REPLAY_H

#include "session_world.h"

typedef struct replay_count {
    int32_t answers, beginnings, tokens, trainings, prompt_logprobs;
} replay_count;

/* Everything that is over. Fails the test when a token, a log-probability or a figure of a training
 * is another one, in a single bit. cold: an engine of the same model. */
void replay_all(const world *w, tt_engine *cold, replay_count *count);

#endif
