/* adapter_store.h - the folder of adapters' files and the thread that reads and writes them, so
 * that the engine's never waits for a disk. What is asked for is done one after another, in the
 * order of asking; what came of it is taken with tt_adapter_store_next(). Thread: engine only, with
 * one of its own inside. */
#ifndef TT_ADAPTER_STORE_H
#define TT_ADAPTER_STORE_H

#include "core/adapter_file.h"

typedef struct tt_adapter_store tt_adapter_store;

typedef enum tt_adapter_op_kind {
    TT_ADAPTER_SAVE,
    TT_ADAPTER_LOAD,
    TT_ADAPTER_REMOVE,
    TT_ADAPTER_KEEP
} tt_adapter_op_kind;

typedef struct tt_adapter_op {
    struct tt_adapter_op *next;
    tt_adapter_op_kind kind;
    uint64_t id;
    uint64_t serial; /* rises with each order; never 0 */
    /* SAVE: in. LOAD: out, with TT_OK. Owned. */
    tt_adapter_image *image;
    uint64_t *ids; /* KEEP: owned [n_ids], rising */
    size_t n_ids;
    tt_code rc;
    tt_err err; /* rc < 0 */
} tt_adapter_op;

/* Starts the thread. wake(arg) is called by it when something is done. home: folder copied, model
 * borrowed. TT_E_NOMEM. */
tt_code tt_adapter_store_create(const tt_adapter_home *home, void (*wake)(void *arg), void *arg,
                                tt_adapter_store **ret_store, tt_err *reterr);
/* Does what was asked for, ends the thread. NULL is legal. */
void tt_adapter_store_destroy(tt_adapter_store **store);

/* Each is told with the serial of its order. img: transferred on success. TT_E_NOMEM. */
tt_code tt_adapter_store_save(tt_adapter_store *s, tt_adapter_image *img, uint64_t *ret_serial,
                              tt_err *reterr);
tt_code tt_adapter_store_load(tt_adapter_store *s, uint64_t id, uint64_t *ret_serial,
                              tt_err *reterr);
/* Nothing comes of these two but a warning. When memory is missing the file stays, until it is
 * swept. */
void tt_adapter_store_remove(tt_adapter_store *s, uint64_t id);
/* Removes every file but those of ids[n] (copied, any order), and what a crash left half written.
 */
void tt_adapter_store_keep(tt_adapter_store *s, const uint64_t *ids, size_t n);

/* The next order that is done, transferred: tt_adapter_op_free(); NULL = none now. */
tt_adapter_op *tt_adapter_store_next(tt_adapter_store *s);
void tt_adapter_op_free(tt_adapter_op *op);
/* Waits until everything asked for so far is done. */
void tt_adapter_store_flush(tt_adapter_store *s);

#endif
