/* page_run.h - the file of a run of K/V pages: up to 16 pages that follow one another, 1,024 tokens
 * of one sequence, each with all that its content key covers. Thread: any.
 *
 * A run is a state file (state_file.h) of kind PAGE: a block a page with the page's bytes as the
 * pool holds them, then one block with the keys. It is named after the chain key of its last page,
 * which covers all that decides its bytes but the model: that is in the fingerprint. Bytes are in
 * the machine's order, which is part of the fingerprint too. */
#ifndef TT_PAGE_RUN_H
#define TT_PAGE_RUN_H

#include "core/kv.h"
#include "core/state_file.h"

enum {
    TT_RUN_PAGES = 16,
    TT_RUN_VERSION = 1,
    TT_RUN_KEY_BYTES = 32 + TT_PAGE_TOKENS * 4, /* of a page in the block of keys */
    TT_RUN_NAME_BYTES = 24
};

/* A key that owns its ids. */
typedef struct tt_run_key {
    uint64_t hash, parent, adapter_id, decoded;
    int32_t n_base;
    int32_t ids[TT_PAGE_TOKENS];
} tt_run_key;

void tt_run_key_copy(tt_run_key *dst, const tt_page_key *key);
tt_page_key tt_run_key_view(const tt_run_key *key); /* borrows its ids */
bool tt_run_key_equal(const tt_run_key *a, const tt_run_key *b);

void tt_run_name(char name[TT_RUN_NAME_BYTES], uint64_t last_key);
bool tt_run_parse_name(const char *name, uint64_t *ret_last_key);

/* Writing: open, the pages in order with tt_state_writer_add(), commit with their keys. The writer
 * is given up with tt_state_writer_abandon(). */
tt_code tt_run_create(const char *folder, uint64_t first_key, uint64_t fingerprint,
                      tt_state_writer **ret_writer, tt_err *reterr);
tt_code tt_run_commit(tt_state_writer **writer, const tt_run_key *keys, int32_t n,
                      uint64_t *ret_bytes, tt_err *reterr);

/* Opens a run and reads its keys, which are checked: each page follows the one before it, the last
 * one gives the file its name, a page has page_bytes. keys: [TT_RUN_PAGES]; page i is the reader's
 * block i. TT_E_INVALID: it is not what was written; TT_E_IO; TT_E_NOMEM. */
tt_code tt_run_open(const char *folder, const char *name, uint64_t fingerprint, size_t page_bytes,
                    tt_state_reader **ret_reader, tt_run_key *keys, int32_t *ret_n, tt_err *reterr);

#endif
