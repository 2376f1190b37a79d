/* adapter_cache.h - adapters of finished adaptations by (context, hyperparameters, seed), and what
 * the guard said of them, so that "make sure that an adapter exists" trains once; and by id, for
 * sessions. Bounded in bytes; least recently used goes first. What a session has pinned stays: in
 * memory, or with a store in its file, from where it comes back on use, bit for bit. Thread: engine
 * only. */
#ifndef TT_ADAPTER_CACHE_H
#define TT_ADAPTER_CACHE_H

#include "core/adapter_store.h"
#include "core/job.h"
#include "core/probe.h"

typedef struct tt_adapter_cache tt_adapter_cache;

typedef struct tt_adapter_key {
    unsigned char
        bytes[256]; /* canonical image of context hash, length, tenant and every hyperparameter */
    uint32_t n;
} tt_adapter_key;

/* params: resolved. The key holds nothing of the request but what decides the result. */
void tt_adapter_key_make(tt_adapter_key *key, const int32_t *context, int32_t n_context,
                         const char *tenant, const tt_qttt_params *params);

tt_code tt_adapter_cache_create(tt_device *d, size_t max_bytes, tt_adapter_cache **ret_cache,
                                tt_err *reterr);
void tt_adapter_cache_destroy(tt_adapter_cache **cache);

/* A known result: *ret_adapter is referenced for the caller, NULL when the guard discarded it.
 * False = not known. */
bool tt_adapter_cache_find(tt_adapter_cache *c, const tt_adapter_key *key,
                           tt_qttt_result *ret_result, tt_adapter **ret_adapter);
/* Remembers a result (adapter may be NULL; referenced by the cache), pinned once when `pin`. An
 * adapter larger than what can leave memory, or memory running out: false, not remembered. While
 * others are in use the cache may hold more than its bytes: tt_adapter_cache_tend(). */
bool tt_adapter_cache_put(tt_adapter_cache *c, const tt_adapter_key *key,
                          const tt_qttt_result *result, tt_adapter *adapter, bool pin);

/* The adapter with this id, referenced for the caller, or NULL: it is not in memory. */
tt_adapter *tt_adapter_cache_get(tt_adapter_cache *c, uint64_t id);
/* One pin more (add = 1) or less (-1); with the last one the file goes too. False: no adapter of
 * this id; with a store, whatever is pinned is taken to have a file (sessions of before a restart).
 */
bool tt_adapter_cache_pin(tt_adapter_cache *c, uint64_t id, int32_t add);
/* Bytes of pinned adapters in memory; those among them that cannot leave it, for want of a file. */
size_t tt_adapter_cache_pinned(const tt_adapter_cache *c);
size_t tt_adapter_cache_stuck(const tt_adapter_cache *c);

/* ---- with a store (adapter_store.h) ---- */

/* Borrowed while the cache lives; once, before anything is in the cache. */
void tt_adapter_cache_set_store(tt_adapter_cache *c, tt_adapter_store *store);

bool tt_adapter_cache_has_store(const tt_adapter_cache *c);

typedef enum tt_adapter_home_state {
    TT_ADAPTER_VOLATILE, /* it has no file */
    TT_ADAPTER_WRITING,  /* its file is being written */
    TT_ADAPTER_DURABLE
} tt_adapter_home_state;

/* Where a pinned adapter stands; VOLATILE: *ret_why says what went wrong, "" = there is no store.
 */
tt_adapter_home_state tt_adapter_cache_home(const tt_adapter_cache *c, uint64_t id,
                                            tt_err *ret_why);
/* The same after it has begun to write one that is VOLATILE. */
tt_adapter_home_state tt_adapter_cache_save(tt_adapter_cache *c, uint64_t id, tt_err *ret_why);

enum { TT_ADAPTER_WAIT = 1 };

/* Like get, but reads what has left memory. *ticket: 0 at the first call, then left alone.
 * TT_ADAPTER_WAIT: call again when something was done. `must`: it comes whatever the cache holds;
 * without, it waits for room. TT_E_ADAPTER_LOST: there is none, or its file is no good; TT_E_IO,
 * TT_E_NOMEM, TT_E_DEVICE. */
tt_code tt_adapter_cache_fetch(tt_adapter_cache *c, uint64_t id, uint64_t *ticket, bool must,
                               tt_adapter **ret_adapter, tt_err *reterr);

/* Takes what the store has done; drops what is too much; every few seconds tries again to write
 * what could not be written. warn (may be NULL): called for each thing that went wrong. *ret_wait:
 * seconds until it has to be called again although nothing was done, INFINITY = need not. True:
 * something was done; what has come into memory is to be fetched before the next call, which may
 * drop it again. */
bool tt_adapter_cache_tend(tt_adapter_cache *c, void (*warn)(void *arg, const tt_err *err),
                           void *arg, double *ret_wait);
/* Removes the files of all but these and what is pinned. */
void tt_adapter_cache_keep(tt_adapter_cache *c, const uint64_t *ids, size_t n);
/* One adapter that nobody uses now leaves memory, to make some. False: none can. */
bool tt_adapter_cache_reclaim(tt_adapter_cache *c);
/* Pinned adapters that should have a file and have none. */
int32_t tt_adapter_cache_unsaved(const tt_adapter_cache *c);

/* The probe of a context under the base, the last 32 contexts. */
bool tt_adapter_cache_find_probe(tt_adapter_cache *c, uint64_t context_hash, int32_t n_context,
                                 tt_probe_result *ret_probe);
void tt_adapter_cache_put_probe(tt_adapter_cache *c, uint64_t context_hash, int32_t n_context,
                                const tt_probe_result *probe);

void tt_adapter_cache_stats(const tt_adapter_cache *c, int64_t *ret_bytes, int64_t *ret_adapters);

#endif
