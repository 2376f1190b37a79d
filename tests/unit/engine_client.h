/* engine_client.h - a test's way to talk to an engine over a tiny model: requests in, whole
 * outcomes out. Thread: the test's. */
#ifndef ENGINE_CLIENT_H
#define ENGINE_CLIENT_H

#include "core/engine.h"

extern const char *client_folder;   /* of tiny models */
extern int32_t client_prompt[1600]; /* what client_params() points to */

typedef struct client_outcome {
    tt_event_type last;
    tt_err error;
    int32_t ids[64], n_ids, n_prompt_logprobs, n_adapt, last_step, cached;
    int32_t n_tokens, drafted, accepted;
    float logprob[64];
    char text[1024];
    bool adapted;
    tt_qttt_result qttt;
    tt_finish finish;
} client_outcome;

void client_nap(void);
/* Waits until it has loaded; asserts that it is in state `want` then. */
tt_engine *client_start(const tt_engine_options *extra, const char *file, tt_engine_state want);
/* One over the tiny Llama, with a cache of adapters. */
tt_engine *client_start_plain(void);
/* A greedy request over client_prompt, which is filled with a fixed pattern. */
tt_job_params client_params(int32_t n, int32_t max_tokens);
void client_turn_on(tt_job_params *p, int32_t context, int32_t steps, bool guard);
void client_pin(tt_engine *e, uint64_t adapter_id);
tt_job *client_submit(tt_engine *e, const tt_job_params *p);
/* All events until the last; drops the job. */
client_outcome client_collect(tt_job *job);
/* The same tokens with the same log-probabilities, bit for bit. */
void client_same_answer(const client_outcome *a, const client_outcome *b);

#endif
