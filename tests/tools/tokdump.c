/* tokdump.c - the C side of the comparison with Hugging Face's tokenizers: reads commands on stdin,
 * prints results. Usage: tokdump VOCAB, a file written by gguf_vocab.py (tests/tools) or a Hugging
 * Face folder. Thread: main. e N\n<N bytes>      encode as user text: "id id ...\n" p N\n<N bytes>
 * encode with special tokens parsed      (a: and with the model's BOS and EOS) d N id id ...\n
 * decode: "length\n<bytes>\n"        (D: control tokens printed too) t N id id ...\n     decode
 * through tt_detok, one token at a time q\n                 quit */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/tokenizer.h"
#include "core/tokenizer_json.h"

struct reader {
    const unsigned char *p, *end;
};

static void die(const char *what)
{
    fprintf(stderr, "tokdump: %s\n", what);
    exit(2);
}

static uint32_t take_u32(struct reader *r)
{
    uint32_t x;
    if (r->end - r->p < 4) {
        die("the vocabulary is cut short");
    }
    memcpy(&x, r->p, 4);
    r->p += 4;
    return x;
}

static tt_str take_str(struct reader *r)
{
    tt_str s = {.n = take_u32(r)};
    if ((size_t)(r->end - r->p) < s.n) {
        die("the vocabulary is cut short");
    }
    s.p = (const char *)r->p;
    r->p += s.n;
    return s;
}

static void *array(size_t n, size_t elem_bytes)
{
    void *p = calloc(n + 1, elem_bytes);
    if (p == NULL) {
        die("out of memory");
    }
    return p;
}

/* Little-endian: kind, bos, eos, eot, unk, pad, flags, pre, n_tokens, per token (text, score,
 * type), n_merges, merges. */
static void read_vocab(const char *path, tt_vocab *v)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL || fseek(f, 0, SEEK_END) != 0) {
        die("cannot open the vocabulary");
    }
    size_t n = (size_t)ftell(f);
    unsigned char *data = array(n, 1);
    rewind(f);
    if (fread(data, 1, n, f) != n) {
        die("cannot read the vocabulary");
    }
    fclose(f);
    struct reader r = {data, data + n};
    v->kind = (tt_vocab_kind)take_u32(&r);
    v->bos = (int32_t)take_u32(&r);
    v->eos = (int32_t)take_u32(&r);
    v->eot = (int32_t)take_u32(&r);
    v->unk = (int32_t)take_u32(&r);
    v->pad = (int32_t)take_u32(&r);
    uint32_t flags = take_u32(&r);
    v->add_bos = flags & 1;
    v->add_eos = flags >> 1 & 1;
    v->add_space_prefix = flags >> 2 & 1;
    v->remove_extra_whitespaces = flags >> 3 & 1;
    v->pre = take_str(&r);
    v->n_tokens = (int32_t)take_u32(&r);
    tt_str *tokens = array((size_t)v->n_tokens, sizeof *tokens);
    float *scores = array((size_t)v->n_tokens, sizeof *scores);
    uint8_t *types = array((size_t)v->n_tokens, 1);
    for (int32_t i = 0; i < v->n_tokens; i++) {
        tokens[i] = take_str(&r);
        uint32_t bits = take_u32(&r);
        memcpy(&scores[i], &bits, 4);
        types[i] = (uint8_t)take_u32(&r);
    }
    v->n_merges = (int32_t)take_u32(&r);
    tt_str *merges = array((size_t)v->n_merges, sizeof *merges);
    for (int32_t i = 0; i < v->n_merges; i++) {
        merges[i] = take_str(&r);
    }
    v->tokens = tokens;
    v->scores = scores;
    v->types = types;
    v->merges = v->n_merges > 0 ? merges : NULL;
}

static void encode(const tt_tokenizer *tok, size_t n, bool parse_special, bool add_special)
{
    char *text = array(n, 1);
    if (fread(text, 1, n, stdin) != n) {
        die("input cut short");
    }
    tt_encode_options opt = {.add_special = add_special, .parse_special = parse_special};
    int32_t *ids;
    size_t n_ids;
    tt_err err;
    if (tt_tokenizer_encode(tok, text, n, &opt, &ids, &n_ids, &err) != TT_OK) {
        die(err.msg);
    }
    for (size_t i = 0; i < n_ids; i++) {
        printf(i > 0 ? " %" PRId32 : "%" PRId32, ids[i]);
    }
    putchar('\n');
    free(ids);
    free(text);
}

static void decode(const tt_tokenizer *tok, size_t n, char command)
{
    int32_t *ids = array(n, sizeof *ids);
    for (size_t i = 0; i < n; i++) {
        if (scanf("%" SCNd32, &ids[i]) != 1) {
            die("input cut short");
        }
    }
    char *text = NULL;
    size_t len = 0;
    tt_err err;
    if (command == 't') {
        tt_detok d = {0};
        size_t cap = 16;
        for (size_t i = 0; i < n; i++) {
            size_t piece;
            (void)tt_tokenizer_piece(tok, ids[i], false, &piece);
            cap += 4 + 3 * piece;
        }
        text = array(cap, 1);
        for (size_t i = 0; i < n; i++) {
            len += tt_detok_push(&d, tok, ids[i], text + len, cap - len);
        }
        len += tt_detok_flush(&d, text + len);
    } else if (tt_tokenizer_decode(tok, ids, n, command == 'D', &text, &len, &err) != TT_OK) {
        die(err.msg);
    }
    printf("%zu\n", len);
    fwrite(text, 1, len, stdout);
    putchar('\n');
    free(text);
    free(ids);
}

int main(int argc, char **argv)
{
    tt_vocab v = {0};
    const tt_vocab *vocab = &v;
    tt_tokenizer_json *json = NULL;
    tt_tokenizer *tok;
    tt_err err;
    struct stat st;
    if (argc != 2 || stat(argv[1], &st) != 0) {
        die("usage: tokdump VOCAB");
    }
    if (!S_ISDIR(st.st_mode)) {
        read_vocab(argv[1], &v);
    } else if (tt_tokenizer_json_read(argv[1], &json, &err) == TT_OK) {
        vocab = tt_tokenizer_json_vocab(json);
    } else {
        die(err.msg);
    }
    if (tt_tokenizer_create(vocab, &tok, &err) != TT_OK) {
        die(err.msg);
    }
    tt_tokenizer_set_threads(tok, 2);
    char command;
    size_t n;
    while (scanf(" %c", &command) == 1 && command != 'q') {
        if (scanf("%zu", &n) != 1) {
            die("a command without a count");
        }
        if (command == 'e' || command == 'p' || command == 'a') {
            if (getchar() != '\n') {
                die("a count without an end of line");
            }
            encode(tok, n, command != 'e', command == 'a');
        } else {
            decode(tok, n, command);
        }
        fflush(stdout);
    }
    tt_tokenizer_destroy(&tok);
    tt_tokenizer_json_destroy(&json);
    return 0;
}
