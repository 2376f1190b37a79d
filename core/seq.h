/* seq.h - one sequence of tokens and the K/V pages that hold them. Thread: engine only.
 * Tokens [0, n_base) are run under the base weights, the rest under the sequence's adapter. */
#ifndef TT_SEQ_H
#define TT_SEQ_H

#include "core/kv.h"

typedef struct tt_seq {
    tt_kv_pool *kv; /* borrowed */
    int32_t *ids;   /* owned: [n] tokens whose K/V are in the pages */
    int32_t n, ids_cap;
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

/* For an empty sequence: takes over every cached base page that holds a prefix of ids[0..n).
 * Returns the tokens found, a multiple of
 * 64. The tokens become part of the sequence. */
tt_code tt_seq_match(tt_seq *s, const int32_t *ids, int32_t n, int32_t *ret_found, tt_err *reterr);
/* Pages for n more tokens. TT_E_CAPACITY when the pool has none left: nothing is changed. */
tt_code tt_seq_reserve(tt_seq *s, int32_t n, tt_err *reterr);
/* Tokens whose K/V have just been written (their pages were reserved). `publish`: full pages get
 * their content key, so that others find them; generated tokens are not published (their K/V come
 * from the decode family). */
void tt_seq_append(tt_seq *s, const int32_t *ids, int32_t n, bool publish);
/* From now on tokens are run under this adapter. */
void tt_seq_set_adapter(tt_seq *s, uint64_t adapter_id);

#endif
