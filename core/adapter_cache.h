/* adapter_cache.h - adapters of finished adaptations by (context, hyperparameters, seed), and what
 * the guard said of them, so that "make sure that an adapter exists" trains once; and by id, for
 * sessions. Bounded in bytes; least recently used goes first, what a session has pinned stays.
 * Thread: engine only. */
#ifndef TT_ADAPTER_CACHE_H
#define TT_ADAPTER_CACHE_H

#include "core/adapter.h"
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
 * adapter larger than what is not pinned, or memory running out: false, not remembered. */
bool tt_adapter_cache_put(tt_adapter_cache *c, const tt_adapter_key *key,
                          const tt_qttt_result *result, tt_adapter *adapter, bool pin);

/* The adapter with this id, referenced for the caller, or NULL. */
tt_adapter *tt_adapter_cache_get(tt_adapter_cache *c, uint64_t id);
/* One pin more (add = 1) or less (-1). False: no adapter of this id. */
bool tt_adapter_cache_pin(tt_adapter_cache *c, uint64_t id, int32_t add);
/* Bytes of pinned adapters. */
size_t tt_adapter_cache_pinned(const tt_adapter_cache *c);

/* The probe of a context under the base, the last 32 contexts. */
bool tt_adapter_cache_find_probe(tt_adapter_cache *c, uint64_t context_hash, int32_t n_context,
                                 tt_probe_result *ret_probe);
void tt_adapter_cache_put_probe(tt_adapter_cache *c, uint64_t context_hash, int32_t n_context,
                                const tt_probe_result *probe);

void tt_adapter_cache_stats(const tt_adapter_cache *c, int64_t *ret_bytes, int64_t *ret_adapters);

#endif
