/* small_vocab.h - vocabularies of a few hundred tokens for tests and fuzzers, made in memory.
 * Thread: one. */
#ifndef TT_TEST_SMALL_VOCAB_H
#define TT_TEST_SMALL_VOCAB_H

#include "core/vocab.h"

enum { SMALL_MAX_TOKENS = 1024, SMALL_MAX_MERGES = 512 };

typedef struct small_vocab {
    tt_vocab v;
    char text[32768];
    unsigned n_text;
    tt_str tokens[SMALL_MAX_TOKENS], merges[SMALL_MAX_MERGES];
    float scores[SMALL_MAX_TOKENS];
    uint8_t types[SMALL_MAX_TOKENS];
} small_vocab;

/* Adds a token (its bytes are copied) and returns its id. */
int32_t small_vocab_add(small_vocab *s, const char *p, unsigned n, uint8_t type, float score);
/* "left right", spelt in letters of the byte-level alphabet where kind is BPE; adds the whole as a
 * token. */
void small_vocab_merge(small_vocab *s, const char *left, const char *right);

/* Byte-level BPE: the 256 letters, some merges (runs of a up to 64, words, spaces), control tokens
 * <|im_start|>, <|im_end|>,
 * <|end|>, and the user-defined "[[". */
void small_vocab_bpe(small_vocab *s, const char *pre);
/* SentencePiece (SPM or UNIGRAM): <unk>, <s>, </s>, 256 bytes, pieces, user-defined "\n\n" and
 * "[[". */
void small_vocab_spm(small_vocab *s, tt_vocab_kind kind);

#endif
