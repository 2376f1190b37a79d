/* seq.h - one sequence of tokens and the K/V pages that hold them. Thread: engine only.
 * Tokens [0, n_base) are run under the base weights, the rest under the sequence's adapter; a token
 * of an earlier answer is `decoded`: its K/V come from the decode family of kernels. */
#ifndef TT_SEQ_H
#define TT_SEQ_H

#include "core/kv.h"

typedef struct tt_seq {
    tt_kv_pool *kv;   /* borrowed */
    int32_t *ids;     /* owned: [n] tokens whose K/V are in the pages */
    uint8_t *decoded; /* owned: [n] */
    int32_t n, cap;
    int32_t *pages; /* owned, each referenced: [n_pages] */
    int32_t n_pages, pages_cap;
    int32_t n_published; /* leading full pages that have their key */
    uint64_t key;        /* chain key of the last published page, or the root */
    uint64_t adapter_id; /* of tokens from n_base on; 0 = base */
    int32_t n_base;
} tt_seq;

void tt_seq_init(tt_seq *s, tt_kv_pool *kv, const char *tenant);
/* Gives all pages back. Legal on a zeroed sequence and twice. */
void tt_seq_finish(tt_seq *s);

/* Tokens from n_base on (none of which is in the sequence yet) are run under this adapter. */
void tt_seq_set_adapter(tt_seq *s, uint64_t adapter_id, int32_t n_base);

/* Takes over cached pages that go on from the sequence's full pages, as far as they hold a prefix
 * of ids[0..n), of which the sequence's tokens are a prefix; a private last page that is not full
 * makes way for a cached one. decoded: [n], NULL = none. *ret_n: tokens of the sequence now; only
 * ever grows. */
tt_code tt_seq_match(tt_seq *s, const int32_t *ids, const uint8_t *decoded, int32_t n,
                     int32_t *ret_n, tt_err *reterr);
/* The next page of a sequence of whole published pages comes from elsewhere: `bytes` are what
 * running ids[0, 64) would have written after it. decoded: [64], NULL = none. TT_E_CAPACITY when
 * the pool has no page left: nothing is changed. TT_E_NOMEM. */
tt_code tt_seq_restore(tt_seq *s, const int32_t *ids, const uint8_t *decoded, const void *bytes,
                       tt_err *reterr);
/* The key of page i of ids [(i + 1) * 64] whose page before it has the key `parent`. Borrows ids.
 */
tt_page_key tt_seq_page_key(uint64_t parent, uint64_t adapter_id, int32_t n_base,
                            const int32_t *ids, const uint8_t *decoded, int32_t i);
/* Leading tokens of a prompt that tt_seq_match() would find on an empty sequence: in any page (any
 * thread), or in pages that are in use (engine only). */
int32_t tt_seq_cached(tt_kv_pool *kv, const char *tenant, uint64_t adapter_id, int32_t n_base,
                      const int32_t *ids, const uint8_t *decoded, int32_t n);
int32_t tt_seq_shared(tt_kv_pool *kv, const char *tenant, uint64_t adapter_id, int32_t n_base,
                      const int32_t *ids, const uint8_t *decoded, int32_t n);
/* Pages that reserving n tokens more would take. */
int32_t tt_seq_need(const tt_seq *s, int32_t n);
/* Pages for n more tokens. TT_E_CAPACITY when the pool has none left: nothing is changed. */
tt_code tt_seq_reserve(tt_seq *s, int32_t n, tt_err *reterr);
/* Gives back pages that n tokens more would not need. */
void tt_seq_trim(tt_seq *s, int32_t n);
/* Tokens whose K/V have just been written (their pages were reserved), all of one family.
 * `publish`: full pages get their content key, so that others find them. */
void tt_seq_append(tt_seq *s, const int32_t *ids, int32_t n, bool decoded, bool publish);

#endif
