/* work.h - what must not run on the loop thread: parsing bodies, templates, tokenising. A bounded
 * number runs at a time in libuv's pool, the rest waits in order. Thread: the loop thread; `run`
 * runs in the pool and touches only its own item. */
#ifndef TT_WORK_H
#define TT_WORK_H

#include <stdbool.h>
#include <uv.h>

struct tt_server;

typedef struct tt_work {
    uv_work_t req;
    struct tt_work *next;
    struct tt_server *server;
    bool (*wanted)(
        struct tt_work *w); /* loop thread, before run: false = run is skipped. NULL = always */
    void (*run)(struct tt_work *w);  /* pool */
    void (*done)(struct tt_work *w); /* loop thread; may free w */
} tt_work;

void tt_work_submit(struct tt_server *s, tt_work *w);

#endif
