/* page_index.h - which runs of K/V pages there are on disk, by the key of each of their pages, and
 * in the order of their last use. Plain data: no files. Thread: one at a time (the page store's
 * mutex). */
#ifndef TT_PAGE_INDEX_H
#define TT_PAGE_INDEX_H

#include "core/page_run.h"

typedef enum tt_run_state {
    TT_RUN_WRITING, /* its file is being written: known, not readable */
    TT_RUN_READY,
    TT_RUN_DROPPING /* its file is being removed */
} tt_run_state;

typedef struct tt_run tt_run;

typedef struct tt_run_entry {
    uint64_t hash;
    struct tt_run_entry *next; /* in its bucket */
    tt_run *run;
} tt_run_entry;

struct tt_run {
    tt_run *prev, *next; /* among the READY ones, the least recently used first */
    tt_run_state state;
    uint64_t fingerprint; /* the folder it lies in; another's is only counted and dropped */
    uint64_t name;        /* the key of its last page */
    uint64_t bytes;       /* of its file */
    bool used;            /* since its file's time was set */
    int32_t n;
    tt_run_entry entry[TT_RUN_PAGES]; /* [n]; of another fingerprint: none */
};

typedef struct tt_page_index {
    tt_run_entry **bucket; /* owned [n_buckets], a power of two */
    size_t n_buckets, n_entries;
    tt_run *first, *last; /* READY, in order of use */
    int64_t n_runs;       /* READY */
    uint64_t bytes;       /* of READY runs */
} tt_page_index;

/* TT_E_NOMEM. */
tt_code tt_page_index_init(tt_page_index *x, tt_err *reterr);
/* Frees the READY runs; there are no others. Legal on a zeroed index. */
void tt_page_index_finish(tt_page_index *x);

/* A run that is being written, without pages yet. NULL: no memory. */
tt_run *tt_page_index_begin(uint64_t fingerprint);
/* One page more of it. */
void tt_page_index_add(tt_page_index *x, tt_run *run, uint64_t hash);
/* Its file is there: it is the most recently used one. */
void tt_page_index_ready(tt_page_index *x, tt_run *run, uint64_t name, uint64_t bytes);
/* A READY run is about to lose its file: no longer counted nor readable, still known. */
void tt_page_index_drop(tt_page_index *x, tt_run *run);
/* Forgets and frees one that is not READY. */
void tt_page_index_forget(tt_page_index *x, tt_run *run);
void tt_page_index_use(tt_page_index *x, tt_run *run);

/* The run that has, will have or had a page with this key; *ret_i: which of its pages. NULL: none.
 * Of several a READY one. */
tt_run *tt_page_index_find(const tt_page_index *x, uint64_t hash, int32_t *ret_i);

#endif
