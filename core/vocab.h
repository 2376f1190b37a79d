/* vocab.h - what a model file says of its tokenizer: plain data between the file readers (gguf,
 * tokenizer_json) and tokenizer.c. Thread: immutable once filled. */
#ifndef TT_VOCAB_H
#define TT_VOCAB_H

#include <stdbool.h>
#include <stdint.h>

typedef struct tt_str {
    const char *p; /* not NUL-terminated */
    uint32_t n;    /* bytes */
} tt_str;

typedef enum tt_vocab_kind {
    TT_VOCAB_BPE, /* byte-level BPE: GPT-2, Llama 3, Qwen2, SmolLM */
    TT_VOCAB_SPM, /* SentencePiece BPE by scores with byte fallback: Llama 2, Gemma (GGUF "llama")
                   */
    TT_VOCAB_UNIGRAM /* SentencePiece unigram (Viterbi over scores) */
} tt_vocab_kind;

/* GGUF's tokenizer.ggml.token_type values. */
typedef enum tt_token_type {
    TT_TOKEN_NORMAL = 1,
    TT_TOKEN_UNKNOWN = 2,
    TT_TOKEN_CONTROL = 3, /* special: never comes out of user text */
    TT_TOKEN_USER_DEFINED = 4,
    TT_TOKEN_UNUSED = 5,
    TT_TOKEN_BYTE = 6
} tt_token_type;

/* What GGUF leaves to the name of the pre-split pattern and a tokenizer.json spells out. */
typedef enum tt_vocab_flag { TT_FLAG_BY_PRE, TT_FLAG_OFF, TT_FLAG_ON } tt_vocab_flag;

/* All pointers are borrowed from the model that filled it. */
typedef struct tt_vocab {
    tt_vocab_kind kind;
    tt_str pre; /* BPE: GGUF's tokenizer.ggml.pre ("smollm", "llama-bpe", "qwen2", "gpt-2");
                   tokenizer_json.c maps the patterns of a tokenizer.json to these names and refuses
                   what it does not know */
    tt_vocab_flag ignore_merges; /* BPE: a word that is a token is that token */
    tt_vocab_flag nfc;           /* BPE: text is brought to Unicode's composed form first */
    int32_t n_tokens;
    const tt_str *tokens; /* [n_tokens] */
    const float *scores;  /* [n_tokens] or NULL */
    const uint8_t *types; /* [n_tokens] of tt_token_type, or NULL = all normal */
    int32_t n_merges;
    const tt_str *merges;            /* [n_merges] "left right", or NULL */
    int32_t bos, eos, eot, unk, pad; /* -1 = none */
    bool add_bos, add_eos;
    bool add_space_prefix;  /* SPM: a space before the text and after each added token */
    bool space_prefix_once; /* SPM: before the text alone */
    bool space_prefix_lazy; /* SPM: not where there is a space already */
    bool split_at_spaces; /* SPM: no token crosses the place before a space, whatever the vocabulary
                             has */
    bool remove_extra_whitespaces;
} tt_vocab;

#endif
