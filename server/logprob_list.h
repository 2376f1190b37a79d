/* logprob_list.h - the log-probabilities of one choice, grown token by token, in the two shapes
 * that clients know. Both print every number from the same float, so that a greedy test may compare
 * them for equality. Thread: the loop thread. */
#ifndef TT_LOGPROB_LIST_H
#define TT_LOGPROB_LIST_H

#include "core/job.h"
#include "core/tokenizer.h"
#include "server/buf.h"

typedef struct tt_logprob_list {
    bool legacy;
    const tt_tokenizer *tokenizer;  /* borrowed */
    tt_buf entries;                 /* chat: content; legacy: tokens */
    tt_buf logprobs, tops, offsets; /* legacy only */
    size_t offset;                  /* code points of text so far */
    tt_detok detok;                 /* counts them */
    tt_buf scratch;
} tt_logprob_list;

void tt_logprob_list_init(tt_logprob_list *l, const tt_tokenizer *tokenizer, bool legacy);
void tt_logprob_list_finish(tt_logprob_list *l);
bool tt_logprob_list_empty(const tt_logprob_list *l);
bool tt_logprob_list_failed(const tt_logprob_list *l);
/* Forgets the entries (they were sent), keeps the offset. */
void tt_logprob_list_clear(tt_logprob_list *l);

typedef struct tt_logprob_entry {
    int32_t id;
    const char *piece; /* the token's own bytes */
    size_t n_piece;
    bool have_logprob; /* false: the first token of a prompt */
    float logprob;
    const tt_logprob *top; /* [n_top], descending */
    int32_t n_top;
} tt_logprob_entry;

void tt_logprob_list_add(tt_logprob_list *l, const tt_logprob_entry *e);
/* The value of "logprobs". */
void tt_logprob_list_write(tt_buf *b, const tt_logprob_list *l);

#endif
