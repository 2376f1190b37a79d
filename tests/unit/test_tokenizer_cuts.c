/* test_tokenizer_cuts.c - long text is encoded in parts by several threads: the ids are those of
 * the whole, wherever it is cut, whoever encodes what, and when memory runs out nothing is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "core/tokenizer_priv.h"
#include "core/utf8.h"
#include "fail_alloc.h"
#include "small_vocab.h"

enum { N_VOCABS = 8, LONG_TEXT = 256 << 10 };

static small_vocab vocab;
static bool no_more_threads;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *arg);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *arg)
{
    return no_more_threads ? EAGAIN : __real_pthread_create(thread, attr, start, arg);
}

/* Every kind, with the settings that look at neighbours: prefixes, collapsed spaces, unk. */
static tt_tokenizer *make(int i)
{
    static const char *const pre[] = {"gpt-2", "smollm", "llama-bpe", "qwen2"};
    tt_tokenizer *tok = NULL;
    if (i < 4) {
        small_vocab_bpe(&vocab, pre[i]);
    } else {
        small_vocab_spm(&vocab, i % 2 == 0 ? TT_VOCAB_SPM : TT_VOCAB_UNIGRAM);
        vocab.v.remove_extra_whitespaces = i >= 6;
        vocab.v.add_space_prefix = true;
        vocab.v.space_prefix_once = i == 6;
        for (int32_t id = 0; i >= 6 && id < vocab.v.n_tokens; id++) { /* no bytes: unk instead */
            vocab.types[id] = vocab.types[id] == TT_TOKEN_BYTE ? TT_TOKEN_UNUSED : vocab.types[id];
        }
    }
    assert_int_equal(tt_tokenizer_create(&vocab.v, &tok, NULL), TT_OK);
    return tok;
}

static size_t random_text(tt_rng *rng, char *out, size_t cap)
{
    static const char *const bits[] = {" ",
                                       "  ",
                                       "hello",
                                       " hello",
                                       "world",
                                       "aaa",
                                       "\n",
                                       "\n\n",
                                       "\r\n",
                                       ".",
                                       ",",
                                       "'s",
                                       "1",
                                       "23",
                                       "[[",
                                       "<|end|>",
                                       "<|im_end|>",
                                       "</s>",
                                       "\xff",
                                       "\xe4",
                                       "\xc3\xa9",
                                       "\xe4\xb8\xad\xe6\x96\x87",
                                       "\xe2\x96\x81",
                                       "\xe3\x80\x80",
                                       "e\xcc\x81",
                                       "x",
                                       "\t",
                                       "<s>"};
    size_t n = 0;
    while (n + 16 < cap) {
        if (tt_rng_below(rng, 12) > 0) {
            const char *bit = bits[tt_rng_below(rng, sizeof bits / sizeof *bits)];
            memcpy(out + n, bit, strlen(bit));
            n += strlen(bit);
        } else {
            uint32_t cp = (uint32_t)tt_rng_below(rng, 0xd800);
            n += (size_t)tt_utf8_put(cp, out + n);
        }
    }
    return n;
}

/* In three pieces of which the middle one is trusted, as a rendered chat is. */
static size_t encode(const tt_tokenizer *tok, const char *text, size_t n, const int32_t *before,
                     int32_t **ret)
{
    size_t count;
    tt_text_piece pieces[] = {{text, n / 3, false},
                              {text + n / 3, n / 3, true},
                              {text + n / 3 * 2, n - n / 3 * 2, false}};
    tt_code rc = before != NULL
                     ? tt_tokenizer_encode_more(tok, *before, pieces, 3, ret, &count, NULL)
                     : tt_tokenizer_encode_pieces(tok, pieces, 3, true, ret, &count, NULL);
    assert_int_equal(rc, TT_OK);
    return count;
}

/* As many cuts as there can be, in short texts. */
static void every_cut(void **state)
{
    (void)state;
    char text[400];
    for (int v = 0; v < N_VOCABS; v++) {
        tt_rng rng = tt_rng_make(77, (uint64_t)v);
        tt_tokenizer *tok = make(v);
        for (int round = 0; round < 300; round++) {
            int32_t *whole, *parts, before = (int32_t)tt_rng_below(&rng, 200);
            const int32_t *more = round % 4 == 3 ? &before : NULL;
            size_t n = random_text(&rng, text, 20 + tt_rng_below(&rng, sizeof text - 20));
            tok->unit_bytes = SIZE_MAX / 4;
            size_t want = encode(tok, text, n, more, &whole);
            tok->unit_bytes = 1 + tt_rng_below(&rng, 20);
            assert_int_equal(encode(tok, text, n, more, &parts), want);
            assert_memory_equal(parts, whole, want * sizeof *whole);
            free(whole);
            free(parts);
        }
        tt_tokenizer_destroy(&tok);
    }
}

static void any_number_of_threads(void **state)
{
    (void)state;
    char *text = malloc(LONG_TEXT);
    assert_non_null(text);
    for (int v = 0; v < N_VOCABS; v++) {
        tt_rng rng = tt_rng_make(78, (uint64_t)v);
        tt_tokenizer *tok = make(v);
        int32_t *whole, *parts;
        size_t n = random_text(&rng, text, LONG_TEXT);
        tok->unit_bytes = SIZE_MAX / 4;
        size_t want = encode(tok, text, n, NULL, &whole);
        tok->unit_bytes = 6 << 10;
        for (int threads = 1; threads <= 4; threads += 1 + (threads == 2)) {
            tt_tokenizer_set_threads(tok, threads);
            assert_int_equal(encode(tok, text, n, NULL, &parts), want);
            assert_memory_equal(parts, whole, want * sizeof *whole);
            free(parts);
        }
        free(whole);
        tt_tokenizer_destroy(&tok);
    }
    free(text);
}

struct caller {
    pthread_t thread;
    const tt_tokenizer *tok;
    const char *text;
    size_t n, want;
    const int32_t *whole;
    bool same;
};

static void *call(void *arg)
{
    struct caller *c = arg;
    c->same = true;
    for (int i = 0; i < 3; i++) {
        int32_t *ids;
        size_t n = encode(c->tok, c->text, c->n, NULL, &ids);
        c->same = c->same && n == c->want && memcmp(ids, c->whole, n * sizeof *ids) == 0;
        free(ids);
    }
    return NULL;
}

static void several_callers(void **state)
{
    (void)state;
    struct caller callers[3];
    char *text = malloc(LONG_TEXT / 2);
    int32_t *whole;
    assert_non_null(text);
    tt_rng rng = tt_rng_make(79, 0);
    tt_tokenizer *tok = make(1);
    size_t n = random_text(&rng, text, LONG_TEXT / 2);
    tok->unit_bytes = 8 << 10;
    size_t want = encode(tok, text, n, NULL, &whole);
    tt_tokenizer_set_threads(tok, 3);
    for (int i = 0; i < 3; i++) {
        callers[i] =
            (struct caller){.tok = tok, .text = text, .n = n, .want = want, .whole = whole};
        assert_int_equal(pthread_create(&callers[i].thread, NULL, call, &callers[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(callers[i].thread, NULL);
        assert_true(callers[i].same);
    }
    free(whole);
    free(text);
    tt_tokenizer_destroy(&tok);
}

/* No thread can be made: the caller does all the work, and each of its allocations fails once. */
static void no_memory(void **state)
{
    (void)state;
    enum { N = 6000 };
    static char text[N];
    tt_rng rng = tt_rng_make(80, 0);
    for (int v = 0; v < N_VOCABS; v++) {
        tt_tokenizer *tok = make(v);
        size_t n = random_text(&rng, text, N), want, got = 0;
        int32_t *whole, *ids = NULL;
        tt_encode_options opt = {0};
        tt_code rc;
        tok->unit_bytes = 1500;
        assert_int_equal(tt_tokenizer_encode(tok, text, n, &opt, &whole, &want, NULL), TT_OK);
        tt_tokenizer_set_threads(tok, 2);
        no_more_threads = true;
        int refused = 0, survived = 0;
        bool failed = true;
        for (int i = 0; failed; i++) {
            tt_err err;
            fail_alloc_at(i);
            rc = tt_tokenizer_encode(tok, text, n, &opt, &ids, &got, &err);
            failed = fail_alloc_off();
            if (rc == TT_OK) { /* the cache alone can be done without */
                assert_int_equal(got, want);
                assert_memory_equal(ids, whole, want * sizeof *ids);
                free(ids);
                survived++;
            } else {
                assert_int_equal(rc, TT_E_NOMEM);
                refused++;
            }
        }
        no_more_threads = false;
        /* caches, the block and its shrinking, and the last run */
        assert_true(refused >= 3 && survived >= 3 && survived <= 5);
        free(whole);
        tt_tokenizer_destroy(&tok);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cut),
        cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(several_callers),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
