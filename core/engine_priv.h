/* engine_priv.h - the inside of the engine, shared by engine.c (its boundary, any thread) and what
 * its thread runs: engine_loop.c (the loop), engine_end.c (the end of tasks), engine_pages.c,
 * engine_adapters.c. */
#ifndef TT_ENGINE_PRIV_H
#define TT_ENGINE_PRIV_H

#include <pthread.h>

#include "core/restore.h"
#include "core/task.h"

typedef struct tt_pin_order {
    struct tt_pin_order *next;
    uint64_t id;
    int32_t add;   /* 0: keep the files of ids[n] alone */
    uint64_t *ids; /* owned */
    size_t n;
} tt_pin_order;

struct tt_engine {
    tt_engine_options opt;
    char *model_path;     /* owned */
    char *adapter_folder; /* owned; NULL = none */
    pthread_t thread;
    /* Guards everything below but `worker`. Never held while a job's mutex is taken or a callback
     * runs. The thread holds it for a choice, not for the work. */
    pthread_mutex_t mutex;
    pthread_cond_t wake; /* on the monotonic clock */
    bool stopping, kicked;
    bool sleeping; /* the thread, with nothing to do; nobody has called it since */
    tt_sched *sched;
    tt_pin_order *pins, **pins_tail; /* to be done by the thread, in order */
    size_t stuck_bytes, arena_bytes; /* of adapters that cannot leave memory; of trainings, kept
                                        between them */
    tt_engine_state state;
    tt_err failure;
    tt_engine_stats stats;
    /* Written by the thread before TT_ENGINE_READY, then immutable model and tokenizer; all else is
     * the thread's own. */
    tt_worker worker;
    tt_saver *saver;     /* the thread's own; NULL = nothing is saved */
    double poll_seconds; /* until somebody who waits for the disk is looked at again */
    /* The thread's. */
    tt_adapter_store *adapter_store; /* owned; NULL = no state folder */
    tt_pin_order *held_unpins;       /* of adapters that a task still waits for */
    double tend_wait;                /* tt_adapter_cache_tend()'s */
    double memory_read;              /* when the GPU's memory was last asked for */
};

void *tt_engine_main(void *engine);

/* ---- engine_end.c ---- */

/* Counters and the watchdog's clock. */
void tt_engine_publish(tt_engine *e);
static inline tt_task *tt_engine_task_of(tt_sched_task *s)
{
    return (tt_task *)(void *)s;
}

void tt_engine_set_task(tt_engine *e, tt_task *t, tt_sched_state state);
/* The task after t in order of arrival, the oldest for NULL; NULL = no more. The thread alone
 * removes tasks: who ends t asks for the next one first. */
tt_task *tt_engine_next_task(tt_engine *e, tt_task *t);

/* TT_OK: the result holds (a training's; a request's last event is filled); else err goes to the
 * client. Frees t; the end of a training resumes who waited for it, and may end those. */
void tt_engine_end_task(tt_engine *e, tt_task *t, tt_code rc, const tt_err *err);
void tt_engine_finish_request(tt_engine *e, tt_task *t);
/* The request on whose behalf t trains wants it no more: t goes on for the oldest other that waits
 * for it, from the step where it is. False: there is none, or t is no such training. */
bool tt_engine_pass_on(tt_engine *e, tt_task *t);
/* A parked request goes on with a training's result (its adapter is NULL or stays the caller's);
 * with none (NULL) it asks again. False: it could not be told, and has ended. */
bool tt_engine_resume_request(tt_engine *e, tt_task *r, const tt_qttt_result *result,
                              tt_adapter *adapter);

/* ---- engine_store.c ---- */

/* Opens the page store, if there is to be one. A store that cannot be had is told and done without.
 */
void tt_engine_open_store(tt_engine *e);
/* Saves what waits, for some seconds at most, and closes it. */
void tt_engine_close_store(tt_engine *e);
/* The context of t has been prefilled. */
void tt_engine_save_context(tt_engine *e, tt_task *t);
/* Saves some pages between two choices. True: more could be saved at once. */
bool tt_engine_save_some(tt_engine *e);
/* t waits for pages on disk from now on. */
void tt_engine_wait_for_disk(tt_engine *e, tt_task *t);
/* A task whose pages have come, or do not come, goes on. One a call at most; true: one did. */
bool tt_engine_poll_disk(tt_engine *e, tt_task *t, double now);
/* ---- engine_adapters.c ---- */

/* After the worker was opened. TT_E_NOMEM. */
tt_code tt_engine_open_adapters(tt_engine *e, tt_err *reterr);
/* Pins, unpins and what is kept, in the order of asking. */
void tt_engine_do_pins(tt_engine *e);
void tt_engine_free_pins(tt_pin_order **list);
/* What the store has done: those who waited for it go on. */
void tt_engine_tend_adapters(tt_engine *e);
/* Looks for the adapters that t names. False: they are being read, t waits. `must`: even if there
 * is no room for them. */
bool tt_engine_name_adapters(tt_engine *e, tt_task *t, bool must);
/* A training is over and somebody pins its adapter: t waits for the file (true), or there is
 * nothing to wait for. */
bool tt_engine_saves_first(tt_engine *e, tt_task *t);
/* Says in a result whether its adapter is on disk. */
void tt_engine_note_durable(const tt_engine *e, tt_qttt_result *result);
/* At the end of the thread: what is being written is written, who waits for it ends. */
void tt_engine_settle_adapters(tt_engine *e);

/* ---- engine_pages.c ---- */

/* Pages that are free or can be evicted. */
int32_t tt_engine_free_pages(const tt_engine *e);
/* What running tasks have been promised at their start and not yet taken. The mutex is held. */
int32_t tt_engine_promised_pages(const tt_engine *e);
/* A request's tokens so far and a page to go on; a training's context and its scratch. */
int32_t tt_engine_pages_of(const tt_task *t);
/* Sets what a task needs to start (again, or at all), less what others hold for it. */
void tt_engine_refresh_pages(tt_engine *e, tt_task *t);
/* `t` lacks `need` pages: others give theirs. False: they may not. */
bool tt_engine_make_room(tt_engine *e, tt_task *t, int32_t need);
/* There is no room even so: it goes back to the queue; with nobody else there it ends. */
void tt_engine_give_way(tt_engine *e, tt_task *t);

#endif
