/* tokenizer.h - text to token ids and back. Thread: a tokenizer is immutable; any number of threads
 * may use one. */
#ifndef TT_TOKENIZER_H
#define TT_TOKENIZER_H

#include <stddef.h>

#include "core/vocab.h"
#include "kernels/err.h"

typedef struct tt_tokenizer tt_tokenizer;

/* vocab: borrowed while the tokenizer lives. It comes from an untrusted file: ids and lengths are
 * checked here. TT_E_MODEL, TT_E_UNSUPPORTED (unknown pre-split pattern, named), TT_E_NOMEM. */
tt_code tt_tokenizer_create(const tt_vocab *vocab, tt_tokenizer **ret_tok, tt_err *reterr);
void tt_tokenizer_destroy(tt_tokenizer **tok);

/* Threads that encode a long text, and beside the callers of several at once n_threads - 1 in all;
 * 1 at first. The ids are the same for any number. Before others use the tokenizer. */
void tt_tokenizer_set_threads(tt_tokenizer *tok, int n_threads);

typedef struct tt_encode_options {
    bool add_special;   /* BOS/EOS as the model asks for */
    bool parse_special; /* control tokens written in the text become their ids; false: they are
                           plain text */
} tt_encode_options;

/* Ids of UTF-8 text; invalid bytes are encoded as bytes where the vocabulary can, else as unk.
 * Linear time. ret_ids: malloc'ed [*ret_n], transferred; free(). */
tt_code tt_tokenizer_encode(const tt_tokenizer *tok, const char *text, size_t n_bytes,
                            const tt_encode_options *opt, int32_t **ret_ids, size_t *ret_n,
                            tt_err *reterr);

/* A rendered chat prompt is pieces of template text (special tokens are parsed) and of user text
 * (they never are). */
typedef struct tt_text_piece {
    const char *p;
    size_t n;
    bool trusted; /* written by the template: special tokens are parsed */
} tt_text_piece;

/* As encode over the concatenation of the pieces, with the pre-split running across borders where
 * both sides are plain text: equal to encode(parse_special) when no user text holds a special
 * token's spelling. */
tt_code tt_tokenizer_encode_pieces(const tt_tokenizer *tok, const tt_text_piece *pieces,
                                   size_t n_pieces, bool add_special, int32_t **ret_ids,
                                   size_t *ret_n, tt_err *reterr);

/* The same in the middle of a text, of which `before` is the last token so far: nothing is put in
 * front, not even SPM's space (but where the model wants it behind a control token). */
tt_code tt_tokenizer_encode_more(const tt_tokenizer *tok, int32_t before,
                                 const tt_text_piece *pieces, size_t n_pieces, int32_t **ret_ids,
                                 size_t *ret_n, tt_err *reterr);

/* The bytes of one token as decoding prints them (byte-level and byte-fallback tokens resolved; not
 * necessarily whole UTF-8). Control tokens give "" unless `special`. *ret_n bytes, borrowed from
 * the tokenizer. An id out of range gives "". */
const char *tt_tokenizer_piece(const tt_tokenizer *tok, int32_t id, bool special, size_t *ret_n);

/* Incremental decoding of one sequence: never cuts a code point; bytes that can never become valid
 * UTF-8 come out as U+FFFD, one for each maximal invalid part. The first token of a sequence loses
 * SPM's space prefix. */
typedef struct tt_detok {
    unsigned char pending[4];
    uint8_t n_pending;
    bool started;
    bool special; /* print control tokens too */
} tt_detok;

/* Appends the text of `id` to out[cap] (cap >= 4 + 3 * piece length suffices) and returns the bytes
 * written. */
size_t tt_detok_push(tt_detok *d, const tt_tokenizer *tok, int32_t id, char *out, size_t cap);
/* What is left at the end (an incomplete code point becomes U+FFFD); out needs 12 bytes. */
size_t tt_detok_flush(tt_detok *d, char *out);

/* Whole sequence; ret_text malloc'ed and NUL-terminated, transferred. Special tokens printed when
 * `special`. */
tt_code tt_tokenizer_decode(const tt_tokenizer *tok, const int32_t *ids, size_t n, bool special,
                            char **ret_text, size_t *ret_n, tt_err *reterr);

int32_t tt_tokenizer_find(const tt_tokenizer *tok, const char *piece,
                          size_t n); /* id of a vocabulary entry, -1 = none */
bool tt_tokenizer_is_control(const tt_tokenizer *tok, int32_t id);
/* Ends a generation: eos, eot, and the known end-of-turn control tokens of the vocabulary
 * (<|im_end|>, <|eot_id|>, <end_of_turn>, <|endoftext|>, </s>, ...). */
bool tt_tokenizer_is_eog(const tt_tokenizer *tok, int32_t id);
const tt_vocab *tt_tokenizer_vocab(const tt_tokenizer *tok);

#endif
