/* restore.h - pages of contexts between a task and the page store: those that it misses are
 * fetched while it waits, those that it has prefilled are saved once it has them. Private to the
 * engine. Thread: engine only. */
#ifndef TT_RESTORE_H
#define TT_RESTORE_H

#include "core/page_store.h"
#include "core/task.h"

/* ---- what a task misses ---- */

/* The next pages of t's sequence that are on disk are asked for. TT_TASK_WAITING: t->fetch is under
 * way. TT_OK: there is nothing (any more) to be had. */
tt_code tt_restore_ask(tt_worker *w, tt_task *t);
/* Takes what a fetch that is done has brought into the sequence, published like any other page.
 * TT_OK: taken, the fetch is freed, there may be more (t->fresh). TT_TASK_WAITING: it is not done.
 * TT_E_CAPACITY: call again when there are pages; the fetch stays. TT_E_NOMEM. */
tt_code tt_restore_take(tt_worker *w, tt_task *t, tt_err *reterr);
/* Gives up what it waits for; its tokens will be recomputed. Legal when it waits for nothing. */
void tt_restore_forget(tt_task *t);

/* Leading tokens of a prompt that are in the pool or on disk. Any thread. */
int32_t tt_restore_stored(const tt_worker *w, const tt_job_params *p);

/* ---- what a task leaves ---- */

typedef struct tt_saver tt_saver;

/* TT_E_NOMEM. Over a worker that has a store. */
tt_code tt_saver_create(tt_worker *w, tt_saver **ret_saver, tt_err *reterr);
void tt_saver_destroy(tt_saver **saver);
/* The context of the job (its first keep_context tokens) is to be saved, in time; the job is
 * referenced until then. At most 64 contexts wait, others are not saved. */
void tt_saver_add(tt_saver *s, tt_job *job);
/* Copies pages from the pool to the store for about `seconds`, at least one. True: there is more
 * that could be done now; false: nothing, or the disk is behind. */
bool tt_saver_run(tt_saver *s, double seconds);
/* Contexts that wait. */
int32_t tt_saver_waiting(const tt_saver *s);

#endif
