/* session_content.h - the tokens and texts of sessions as rows of their own, named by the hash of
 * what is in them: forks share them, and a turn writes only what is new. This counts how many
 * records refer to each, so that what nobody refers to is deleted. Thread: the loop thread. */
#ifndef TT_SESSION_CONTENT_H
#define TT_SESSION_CONTENT_H

#include "core/session.h"
#include "server/buf.h"
#include "server/session_text.h"
#include "server/state_db.h"

typedef struct tt_content_table tt_content_table;

tt_code tt_content_create(tt_content_table **ret, tt_err *reterr);
void tt_content_destroy(tt_content_table **table);

/* One record more refers to it. True: it is the first, or memory for counting ran out; the row has
 * to be put. */
bool tt_content_ref(tt_content_table *t, const char *key);
/* True: it was the last, the row can go. Once memory for counting ran out none goes any more: the
 * next start deletes what nobody refers to. */
bool tt_content_unref(tt_content_table *t, const char *key);
bool tt_content_known(const tt_content_table *t, const char *key);

/* Appends a part's bytes; it is in memory. */
void tt_content_pack_part(const tt_session_part *p, tt_buf *b);
/* The tokens of a row: *ret_ids, *ret_decoded [*ret_n] borrowed from it. False: not what pack
 * writes. */
bool tt_content_unpack_part(const void *p, size_t n, const int32_t **ret_ids,
                            const uint8_t **ret_decoded, int32_t *ret_n);

/* key [TT_SESSION_PART_KEY]: the hash of p [n]. */
void tt_content_key(const void *p, size_t n, char *key);

#endif
