/* page_store.h - the level under the pool of K/V pages: pages of contexts on disk, in runs
 * (page_run.h) under FOLDER/FINGERPRINT/, found by their content keys. It is a cache: what is
 * missing, damaged or of another model is recomputed by who asked, and a disk that fails costs
 * speed, nothing else.
 *
 * Thread: the engine's calls the functions here unless they say "any"; none of them waits for the
 * disk but open and close. A reader and a writer thread of its own do; they also call `wake` and
 * `warn`, without a lock. What waits in memory for them is bounded on either side by staging_bytes
 * (or one page). */
#ifndef TT_PAGE_STORE_H
#define TT_PAGE_STORE_H

#include "core/kv.h"

typedef struct tt_page_store tt_page_store;

typedef struct tt_page_store_options {
    const char *folder;   /* made when it is not there */
    uint64_t fingerprint; /* kv_fingerprint.h: of all that decides a page's bytes but its key */
    size_t page_bytes;
    uint64_t max_bytes;      /* of all files, other fingerprints' too; the run that was used least
                                recently goes first */
    uint64_t reserve_bytes;  /* that stay free on the disk, 0 = 64 MiB */
    size_t staging_bytes;    /* 0 = 64 MiB */
    void (*wake)(void *arg); /* a fetch has ended, or there is room to put pages; may be NULL */
    void *wake_arg;
    void (*warn)(void *arg, const char *text); /* one line for the operator; may be NULL */
    void *warn_arg;
} tt_page_store_options;

/* Reads the keys of the runs that are there, removes what crashes left (temporary files, runs that
 * are damaged) and what is beyond max_bytes. A folder that cannot be made or read is no failure:
 * warn() tells, and the writer tries again later. TT_E_NOMEM. */
tt_code tt_page_store_open(const tt_page_store_options *opt, tt_page_store **ret_store,
                           tt_err *reterr);
/* Writes what was put. Every fetch has been freed. */
void tt_page_store_close(tt_page_store **store);

/* Any thread: a page with this content can be fetched (its key's hash is known; the ids are
 * compared when it is). */
bool tt_page_store_has(tt_page_store *s, const tt_page_key *key);

/* ---- saving ---- */

typedef enum tt_page_room {
    TT_PAGE_ROOM,    /* a page can be put */
    TT_PAGE_NO_ROOM, /* later: wake() tells */
    TT_PAGE_REFUSED  /* the disk has failed lately, or a run is more than the budget */
} tt_page_room;

tt_page_room tt_page_store_room(tt_page_store *s);
/* A page with this content is on disk or on its way: need not be put. Counts as a use of it. */
bool tt_page_store_knows(tt_page_store *s, const tt_page_key *key);
/* The next page of the run being put (a first one begins a run; each follows the one before it).
 * bytes: malloc'ed [page_bytes], transferred. A run ends after 16 pages, or by _end. False: no
 * memory, or there is no room; bytes are still the caller's, and the run has ended. */
bool tt_page_store_put(tt_page_store *s, const tt_page_key *key, void *bytes);
void tt_page_store_end(tt_page_store *s);

/* ---- fetching ---- */

typedef struct tt_page_fetch tt_page_fetch;

/* Asks for pages that follow one another, keys[0..n): as many of them from the first one on as one
 * run has, at most 16. A fetch that began with the same page and is not over is shared. NULL: the
 * first one is not on disk (or no memory). */
tt_page_fetch *tt_page_store_fetch(tt_page_store *s, const tt_page_key *keys, int32_t n);
bool tt_page_fetch_done(tt_page_fetch *f);
/* Of one that is done: pages that were read and verified, 0 = none: nothing of them can be used. */
int32_t tt_page_fetch_pages(const tt_page_fetch *f);
/* Bytes of page i if it is the one with this content, else NULL. Valid until the fetch is freed. */
const void *tt_page_fetch_bytes(const tt_page_fetch *f, const tt_page_key *key);
/* At any time; legal on NULL. */
void tt_page_fetch_free(tt_page_fetch **fetch);

typedef struct tt_page_store_stats {
    int64_t runs, bytes;                /* on disk now */
    uint64_t written_bytes, read_bytes; /* of pages */
    uint64_t corrupt_runs;              /* damaged, and removed; or could not be read, and stay */
    uint64_t evicted_runs;              /* for the budget or the disk's last bytes */
    uint64_t write_failures;            /* runs that could not be written */
} tt_page_store_stats;

/* Any thread. */
tt_page_store_stats tt_page_store_get_stats(tt_page_store *s);

#endif
