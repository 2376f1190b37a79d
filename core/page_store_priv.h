/* page_store_priv.h - the inside of the page store, shared by page_store.c (what the engine calls),
 * page_store_io.c (its two threads) and page_store_scan.c (what is there at start). */
#ifndef TT_PAGE_STORE_PRIV_H
#define TT_PAGE_STORE_PRIV_H

#include <limits.h>
#include <pthread.h>

#include "core/page_index.h"
#include "core/page_store.h"

/* What the writer has to do: a page more of a run, or (no bytes) its end. */
typedef struct tt_page_put {
    struct tt_page_put *next;
    tt_run *run;
    tt_run_key key;
    void *bytes; /* owned */
} tt_page_put;

typedef enum tt_fetch_state { TT_FETCH_QUEUED, TT_FETCH_READING, TT_FETCH_DONE } tt_fetch_state;

struct tt_page_fetch {
    tt_page_fetch *prev, *next; /* in order of asking */
    tt_page_store *store;
    int32_t refs; /* 0 while READING: the reader frees it */
    tt_fetch_state state;
    tt_run_key key[TT_RUN_PAGES];
    int32_t n_keys, n_pages;
    uint8_t *bytes; /* owned [n_pages][page_bytes] */
    size_t staged;  /* what it counts for */
};

struct tt_page_store {
    tt_page_store_options opt;
    char root[PATH_MAX], folder[PATH_MAX]; /* ours is root/fingerprint */
    size_t page_bytes;
    pthread_t reader, writer;
    bool reading, writing; /* the threads run */
    /* Guards all below. A leaf: nothing is called under it, and no file touched. */
    pthread_mutex_t mutex;
    pthread_cond_t to_read, to_write;
    bool stopping;
    tt_page_index index;
    tt_page_put *puts, **puts_tail;
    size_t put_bytes; /* staged */
    bool put_waited;  /* somebody found no room */
    tt_run *open;     /* being put */
    double retry_at;  /* of writing after a failure */
    tt_page_fetch *fetch_first, *fetch_last;
    size_t fetch_bytes; /* staged */
    tt_page_store_stats stats;
};

/* ---- page_store.c ---- */

void tt_page_store_warn(tt_page_store *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void tt_page_store_folder(const tt_page_store *s, uint64_t fingerprint, char path[PATH_MAX]);
/* Takes the fetch out and frees it. The mutex is held. */
void tt_page_fetch_release(tt_page_fetch *f);

/* ---- page_store_io.c ---- */

void *tt_page_store_read_thread(void *store);
void *tt_page_store_write_thread(void *store);
/* Removes the least recently used runs until `more` bytes fit the budget. The mutex is not held. */
void tt_page_store_evict(tt_page_store *s, uint64_t more);

/* ---- page_store_scan.c ---- */

/* TT_E_NOMEM; whatever is wrong on disk is told by warn(). Before the threads run. */
tt_code tt_page_store_scan(tt_page_store *s, tt_err *reterr);
/* Keeps the order of use for the next start in the files' times. After the threads have ended. */
void tt_page_store_keep_order(tt_page_store *s);

#endif
