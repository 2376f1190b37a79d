/* tokenizer_priv.h - what tokenizer.c shares with tokenizer_bpe.c, tokenizer_spm.c and detok.c; for
 * nobody else. Thread: a tokenizer is immutable; a tt_encoding belongs to one call. */
#ifndef TT_TOKENIZER_PRIV_H
#define TT_TOKENIZER_PRIV_H

#include "core/presplit.h"
#include "core/token_map.h"
#include "core/token_merge.h"
#include "core/tokenizer.h"
#include "core/word_cache.h"

enum { TT_ASCII = 128 };

struct tt_tokenizer {
    const tt_vocab *vocab; /* borrowed */
    int n_threads;
    size_t unit_bytes; /* of long text, that a thread encodes at a time; tests have shorter ones */
    uint8_t *types;    /* [n_tokens] the file's, mended: see effective_types() */
    bool *is_eog;      /* [n_tokens] */
    tt_token_map map;  /* by the vocabulary's own spelling */
    tt_token_trie added; /* control, unknown and user-defined tokens as they stand in text */
    char *bytes;         /* what each token prints, one after the other */
    uint32_t *bytes_at;  /* [n_tokens + 1] */
    tt_pair_map pairs;   /* merges by rank; without slots when the merges follow from scores */

    tt_presplit *split;      /* BPE */
    bool ignore_merges, nfc; /* BPE */
    int32_t byte_ids[256];   /* BPE: token of the byte's letter; SPM: the byte token; -1 = none */

    uint32_t
        *score_ranks; /* [n_tokens] SPM: 0 = highest score, NO_RANK = never the result of a merge */
    uint64_t *joins;  /* SPM: bit set of code points that some token has right before a space */
    uint64_t *lines;  /* SPM: those that some token has right behind a line feed */
    bool spans[TT_ASCII + 1][TT_ASCII]; /* SPM: some token has the two side by side; the last row is
                                           the space mark's */
    tt_token_trie words;                /* unigram: the normal tokens */
    float unk_score;                    /* unigram */
    bool mark_spelt, line_spelt;        /* SPM: the space mark, a line feed always become tokens */
    int32_t ascii_ids[TT_ASCII];        /* SPM: token of the character, -1 = none that merges */
};

/* A control token or unk: never out of user text. */
static inline bool tt_token_is_special(uint8_t type)
{
    return type == TT_TOKEN_CONTROL || type == TT_TOKEN_UNKNOWN;
}

/* The state of one encode call, or of one thread of it. */
typedef struct tt_encoding {
    const tt_tokenizer *tok;
    int32_t *ids;
    size_t n, cap;
    bool lent;          /* ids are a part of somebody's block */
    bool may_be_unk;    /* an unk token that is a control token may stand for what the vocabulary
                           cannot spell */
    bool first_segment; /* nothing of the text has been encoded yet */
    bool mid_text;      /* the next segment goes on from plain text that is tokens already */
    bool inside;        /* the next segment goes on from plain text of the same call that another
                           unit encodes */
    bool last_is_unk;   /* SPM: neighbouring unks are one */
    size_t n_unknown;   /* SPM: characters that could not be spelt */
    tt_merge_space merge;
    tt_word_cache words;
} tt_encoding;

/* False: out of memory. */
bool tt_encoding_push(tt_encoding *e, int32_t id);
bool tt_encoding_push_word(tt_encoding *e, const tt_word_entry *entry);
/* What has been pushed since ids[from] is the word of `key`, if the cache has room for so much. */
void tt_encoding_remember(tt_encoding *e, tt_word_entry *place, const tt_word_key *key,
                          size_t from);

/* Each fills its part of a zeroed tokenizer whose vocab, types and map are set;
 * tt_tokenizer_destroy frees all parts. */
tt_code tt_bpe_init(tt_tokenizer *tok, tt_err *reterr);
tt_code tt_spm_init(tt_tokenizer *tok, tt_err *reterr);
/* "left right" merges of the vocabulary into tok->pairs. A merge whose parts or whole are no tokens
 * can never apply and is left out. TT_E_MODEL: a merge without a space. */
tt_code tt_pairs_init(tt_tokenizer *tok, tt_err *reterr);
/* A tt_merge_find over them; ctx: the tokenizer. */
bool tt_pairs_find(const void *ctx, int32_t left, int32_t right, const char *p, size_t n,
                   uint32_t *ret_rank, int32_t *ret_merged);

/* Appends the ids of plain text (no added tokens in it); any bytes. TT_E_NOMEM, TT_E_INTERNAL. */
tt_code tt_bpe_encode(tt_encoding *e, const char *text, size_t n, tt_err *reterr);
tt_code tt_spm_encode(tt_encoding *e, const char *text, size_t n, tt_err *reterr);

/* May text[0, n) be cut at `at`, 0 < at < n, so that its parts, the second one `inside`, give the
 * ids of the whole? */
bool tt_spm_may_cut(const tt_tokenizer *tok, const char *text, size_t n, size_t at);

/* What a token prints, at most tokens[id].n bytes: writes to out, returns the bytes written. */
size_t tt_bpe_token_bytes(const tt_tokenizer *tok, int32_t id, char *out);
size_t tt_spm_token_bytes(const tt_tokenizer *tok, int32_t id, char *out);

/* The value of a byte token "<0xHH>", or -1. */
int tt_spm_byte_value(const tt_tokenizer *tok, int32_t id);

#endif
