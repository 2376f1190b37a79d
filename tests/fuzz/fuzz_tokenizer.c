/* fuzz_tokenizer.c - any bytes through every small vocabulary: ids are in range, control tokens
 * come out of trusted text only, the bytes come back, pieces agree with the whole. The first byte
 * chooses the vocabulary and the options. Thread: main. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/small_vocab.h"
#include "core/textout.h"
#include "core/tokenizer.h"
#include "core/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_VOCABS = 6, MAX_BYTES = 1 << 16 };
static small_vocab vocabs[N_VOCABS];
static tt_tokenizer *toks[N_VOCABS];

static void require(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "fuzz_tokenizer: %s\n", what);
        abort();
    }
}

static void setup(void)
{
    if (toks[0] != NULL) {
        return;
    }
    small_vocab_bpe(&vocabs[0], "gpt-2");
    small_vocab_bpe(&vocabs[1], "smollm");
    small_vocab_bpe(&vocabs[2], "llama-bpe");
    small_vocab_bpe(&vocabs[3], "qwen2");
    vocabs[3].v.nfc = TT_FLAG_OFF; /* so that the bytes come back */
    small_vocab_spm(&vocabs[4], TT_VOCAB_SPM);
    small_vocab_spm(&vocabs[5], TT_VOCAB_UNIGRAM);
    for (int i = 0; i < N_VOCABS; i++) {
        vocabs[i].v.add_space_prefix = false;
        require(tt_tokenizer_create(&vocabs[i].v, &toks[i], NULL) == TT_OK, "create");
    }
}

/* The bytes of the ids are those of the text, SentencePiece's mark apart, which is read back as a
 * space. */
static void check_ids(const tt_tokenizer *tok, const int32_t *ids, size_t n_ids, const char *text,
                      size_t n, bool trusted)
{
    const tt_vocab *v = tt_tokenizer_vocab(tok);
    size_t at = 0;
    for (size_t i = 0; i < n_ids; i++) {
        require(ids[i] >= 0 && ids[i] < v->n_tokens, "an id out of range");
        require(trusted || !tt_tokenizer_is_control(tok, ids[i]),
                "a control token out of user text");
        size_t piece_n;
        const char *piece = tt_tokenizer_piece(tok, ids[i], true, &piece_n);
        for (size_t k = 0; k < piece_n; k++) {
            if (v->kind != TT_VOCAB_BPE && n - at >= 3 &&
                memcmp(text + at, "\xe2\x96\x81", 3) == 0 && piece[k] == ' ') {
                at += 3;
                continue;
            }
            require(at < n && piece[k] == text[at], "bytes that differ");
            at++;
        }
    }
    require(at == n, "bytes left over");
}

static void check_incremental(const tt_tokenizer *tok, const int32_t *ids, size_t n_ids)
{
    tt_str stop = {"hell", 4};
    tt_textout_options opt = {.stops = &stop, .n_stops = 1, .special = true};
    tt_textout *out;
    require(tt_textout_create(tok, &opt, &out, NULL) == TT_OK, "textout");
    for (size_t i = 0; i < n_ids; i++) {
        tt_code rc = tt_textout_push(out, ids[i], NULL);
        size_t n;
        const char *p = tt_textout_take(out, &n);
        require(rc >= 0 && tt_utf8_valid_prefix(p, n) == n, "text that is not UTF-8");
    }
    require(tt_textout_flush(out, NULL) >= 0, "flush");
    tt_textout_destroy(&out);
}

static void check_pieces(const tt_tokenizer *tok, const char *text, size_t n, size_t cut,
                         const int32_t *ids, size_t n_ids)
{
    char *head = malloc(cut + 1), *tail = malloc(n - cut + 1);
    require(head != NULL && tail != NULL, "memory");
    memcpy(head, text, cut);
    memcpy(tail, text + cut, n - cut);
    tt_text_piece pieces[] = {{head, cut, false}, {tail, n - cut, false}};
    int32_t *again;
    size_t n_again;
    require(tt_tokenizer_encode_pieces(tok, pieces, 2, false, &again, &n_again, NULL) == TT_OK,
            "pieces");
    require(n_again == n_ids && memcmp(again, ids, n_ids * sizeof *ids) == 0,
            "pieces that differ from the whole");
    free(again);
    free(head);
    free(tail);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    setup();
    if (size < 2 || size > MAX_BYTES) {
        return 0;
    }
    const tt_tokenizer *tok = toks[data[0] % N_VOCABS];
    const char *text = (const char *)data + 2;
    size_t n = size - 2;
    for (int trusted = 0; trusted < 2; trusted++) {
        tt_encode_options opt = {.parse_special = trusted != 0};
        int32_t *ids;
        size_t n_ids;
        require(tt_tokenizer_encode(tok, text, n, &opt, &ids, &n_ids, NULL) == TT_OK, "encode");
        check_ids(tok, ids, n_ids, text, n, trusted != 0);
        check_incremental(tok, ids, n_ids);
        if (!trusted) {
            check_pieces(tok, text, n, n * data[1] / 256, ids, n_ids);
        }
        char *whole;
        size_t whole_n;
        require(tt_tokenizer_decode(tok, ids, n_ids, false, &whole, &whole_n, NULL) == TT_OK,
                "decode");
        require(tt_utf8_valid_prefix(whole, whole_n) == whole_n, "decoded text that is not UTF-8");
        free(whole);
        free(ids);
    }
    return 0;
}
