/* engine_priv.h - the inside of the engine, shared by engine.c (its boundary, any thread) and
 * engine_loop.c (its thread). */
#ifndef TT_ENGINE_PRIV_H
#define TT_ENGINE_PRIV_H

#include <pthread.h>

#include "core/task.h"

typedef struct tt_pin_order {
    struct tt_pin_order *next;
    uint64_t id;
    int32_t add;
} tt_pin_order;

struct tt_engine {
    tt_engine_options opt;
    char *model_path; /* owned */
    pthread_t thread;
    /* Guards everything below but `worker`. Never held while a job's mutex is taken or a callback
     * runs. The thread holds it for a choice, not for the work. */
    pthread_mutex_t mutex;
    pthread_cond_t wake; /* on the monotonic clock */
    bool stopping, kicked;
    tt_sched *sched;
    tt_pin_order *pins, **pins_tail; /* to be done by the thread, in order */
    size_t pinned_bytes;
    tt_engine_state state;
    tt_err failure;
    tt_engine_stats stats;
    /* Written by the thread before TT_ENGINE_READY, then immutable model and tokenizer; all else is
     * the thread's own. */
    tt_worker worker;
};

void *tt_engine_main(void *engine);

#endif
