/* kv.h - the pool of K/V pages: reference counts, content keys, least-recently-used eviction.
 * Thread: engine only, but for tt_kv_has() and tt_kv_total(). Source of the idea: vLLM's hashed
 * prefix blocks; the layout is ops.h's tt_kv_layer.
 *
 * A page holds 64 tokens of one sequence, all layers, and is in one of three states:
 *   free                 nobody's, no content
 *   in use  (refs > 0)   of one or more sequences; shared pages are full and never written again
 *   cached  (refs == 0)  full, found by its key, evicted when a page is needed
 *
 * A key covers everything that decides the page's bytes: the key of the page before it, the token
 * ids, the adapter they were run under (0 = base), how many of its first tokens were run under the
 * base all the same, and which of them the decode family made (an answer's tokens; its sums are
 * ordered differently). So a hit is bit for bit what a recomputation would be. */
#ifndef TT_KV_H
#define TT_KV_H

#include "core/device.h"

typedef struct tt_kv_pool tt_kv_pool;

typedef struct tt_kv_options {
    tt_dtype type;   /* TT_BF16, TT_F32 or TT_I8 */
    int32_t n_pages; /* > 0 */
} tt_kv_options;

tt_code tt_kv_create(tt_device *d, const tt_kv_options *opt, tt_kv_pool **ret_pool, tt_err *reterr);
void tt_kv_destroy(tt_kv_pool **pool);

/* Pages of the pool; any thread. */
int32_t tt_kv_total(const tt_kv_pool *pool);
size_t tt_kv_page_bytes(const tt_model *m, tt_dtype type);
/* The view of one layer for kernels; valid while the pool lives. */
const tt_kv_layer *tt_kv_layer_of(const tt_kv_pool *pool, int32_t layer);

/* A page with refs == 1 and no content; the least recently used cached page is given up when none
 * is free. -1 = all in use. */
int32_t tt_kv_take(tt_kv_pool *pool);
void tt_kv_ref(tt_kv_pool *pool, int32_t page);
/* At 0 a page with a key stays as cached, another becomes free. */
void tt_kv_unref(tt_kv_pool *pool, int32_t page);

typedef struct tt_page_key {
    uint64_t parent;     /* tt_kv_publish's or _find's *ret_key of the page before; the root's is
                            tt_kv_root() */
    uint64_t adapter_id; /* 0 = base */
    int32_t n_base;      /* leading tokens run under the base; 64 when adapter_id is 0 */
    uint64_t decoded;    /* bit i: token i was generated, its K/V come from the decode family */
    const int32_t *ids;  /* [64] */
} tt_page_key;

/* The parent key of a first page: of no other tenant's. */
uint64_t tt_kv_root(const char *tenant);
uint64_t tt_page_key_hash(const tt_page_key *key);
/* The page with this content, referenced for the caller, or -1. Ids are compared, not the hash
 * alone. */
int32_t tt_kv_find(tt_kv_pool *pool, const tt_page_key *key);
/* The same without a reference and without counting as a use: good until the next tt_kv_take(). */
int32_t tt_kv_peek(const tt_kv_pool *pool, const tt_page_key *key);
/* Whether a page with this content is there now. Any thread. */
bool tt_kv_has(tt_kv_pool *pool, const tt_page_key *key);
/* Whether a page with this content is there and in use, so that one more user takes none. */
bool tt_kv_in_use(tt_kv_pool *pool, const tt_page_key *key);
/* Gives a full page in use its key, from now on others may find it. When the content is known
 * already, nothing changes. */
void tt_kv_publish(tt_kv_pool *pool, int32_t page, const tt_page_key *key);

/* Copies a page's bytes over another's (device to device). */
void tt_kv_copy_page(tt_kv_pool *pool, int32_t dst, int32_t src);
/* The checksum (ops.h) of the bytes of a page's first n_tokens over all layers, made where they
 * lie: only the sum is downloaded. Synchronises the lane. */
tt_code tt_kv_checksum(tt_kv_pool *pool, int32_t page, int32_t n_tokens, uint64_t *ret_sum,
                       tt_err *reterr);
/* Reads or writes the bytes of one whole page; reading synchronises. */
tt_code tt_kv_read_page(tt_kv_pool *pool, int32_t page, void *dst, tt_err *reterr);
void tt_kv_write_page(tt_kv_pool *pool, int32_t page, const void *src);

typedef struct tt_kv_stats {
    int32_t total, used, cached; /* total - used can be taken */
    size_t bytes_total;
} tt_kv_stats;

tt_kv_stats tt_kv_get_stats(const tt_kv_pool *pool);
/* Forgets every cached page's content. */
void tt_kv_drop_cached(tt_kv_pool *pool);

#endif
