/* test_textout.c - generated text against a naive search, over random stop strings and random cuts
 * into tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/textout.h"

/* Tokens of one and more letters over a small alphabet, every byte, and a control token: any text
 * has many spellings. */
static const char *const words[] = {"a",         "b",        "ab",   "ba",  "aab",  "abba",
                                    "b\xc3\xa9", "\xc3\xa9", "\n\n", "c d", "<end>"};
enum { N_WORDS = sizeof words / sizeof words[0], CONTROL = N_WORDS - 1, N_TOKENS = N_WORDS + 256 };

struct fixture {
    tt_str tokens[N_TOKENS];
    float scores[N_TOKENS];
    uint8_t types[N_TOKENS];
    char names[256][8];
    tt_vocab vocab;
    tt_tokenizer *tok;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    for (int i = 0; i < N_WORDS; i++) {
        f->tokens[i] = (tt_str){words[i], (uint32_t)strlen(words[i])};
        f->types[i] = i == CONTROL ? TT_TOKEN_CONTROL : TT_TOKEN_NORMAL;
    }
    for (int b = 0; b < 256; b++) {
        snprintf(f->names[b], sizeof f->names[b], "<0x%02X>", (unsigned)b);
        f->tokens[N_WORDS + b] = (tt_str){f->names[b], 6};
        f->types[N_WORDS + b] = TT_TOKEN_BYTE;
    }
    f->vocab = (tt_vocab){.kind = TT_VOCAB_SPM,
                          .n_tokens = N_TOKENS,
                          .tokens = f->tokens,
                          .scores = f->scores,
                          .types = f->types,
                          .bos = -1,
                          .eos = CONTROL,
                          .eot = -1,
                          .unk = -1,
                          .pad = -1};
    assert_int_equal(tt_tokenizer_create(&f->vocab, &f->tok, NULL), TT_OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    tt_tokenizer_destroy(&f->tok);
    free(f);
    return 0;
}

static uint64_t seed = 0x5eed;

static unsigned below(unsigned n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % n;
}

/* The definition: the first place where some stop string ends; the longest that ends there. -1 =
 * none. */
static int naive_stop(const char *text, size_t n, const tt_str *stops, size_t n_stops,
                      size_t *ret_end)
{
    for (size_t end = 1; end <= n; end++) {
        int best = -1;
        for (size_t s = 0; s < n_stops; s++) {
            if (stops[s].n <= end && memcmp(text + end - stops[s].n, stops[s].p, stops[s].n) == 0 &&
                (best < 0 || stops[s].n > stops[best].n)) {
                best = (int)s;
            }
        }
        if (best >= 0) {
            *ret_end = end;
            return best;
        }
    }
    return -1;
}

/* Bytes at the end of the text that begin some stop string. */
static size_t naive_held(const char *text, size_t n, const tt_str *stops, size_t n_stops)
{
    for (size_t len = n; len > 0; len--) {
        for (size_t s = 0; s < n_stops; s++) {
            if (len <= stops[s].n && memcmp(text + n - len, stops[s].p, len) == 0) {
                return len;
            }
        }
    }
    return 0;
}

struct sink {
    char text[4096];
    size_t n;
};

static void drain(tt_textout *o, struct sink *s)
{
    size_t n;
    const char *p = tt_textout_take(o, &n);
    assert_true(s->n + n <= sizeof s->text);
    memcpy(s->text + s->n, p, n);
    s->n += n;
    (void)tt_textout_take(o, &n);
    assert_int_equal(n, 0);
}

static int32_t random_token(void)
{
    static const unsigned char bytes[] = {'a', 'b', 'c', ' ', 'd', '\n', 0xc3, 0xa9, 0xe2, 0x80};
    unsigned pick = below(16);
    return pick < 11 ? (int32_t)below(N_WORDS) : N_WORDS + bytes[below(sizeof bytes)];
}

static void one_random_case(struct fixture *f)
{
    static const char *const parts[] = {"a", "b", "\xc3\xa9", "\n", "c", " ", "d", "\xef\xbf\xbd"};
    char stop_text[4][32];
    tt_str stops[4];
    size_t n_stops = below(5);
    for (size_t s = 0; s < n_stops; s++) {
        stop_text[s][0] = '\0';
        for (unsigned k = 1 + below(4); k > 0; k--) {
            strcat(stop_text[s], parts[below(below(2) ? 2 : 8)]);
        }
        stops[s] = (tt_str){stop_text[s], (uint32_t)strlen(stop_text[s])};
    }
    int32_t ids[48];
    size_t n_ids = 1 + below(48);
    for (size_t i = 0; i < n_ids; i++) {
        ids[i] = random_token();
    }
    struct sink whole = {.n = 0}, shown = {.n = 0};
    tt_detok d = {0};
    tt_textout *o;
    tt_textout_options opt = {.stops = stops, .n_stops = n_stops};
    assert_int_equal(tt_textout_create(f->tok, &opt, &o, NULL), TT_OK);
    tt_code rc = TT_OK;
    for (size_t i = 0; i < n_ids && rc == TT_OK; i++) {
        size_t end;
        whole.n +=
            tt_detok_push(&d, f->tok, ids[i], whole.text + whole.n, sizeof whole.text - whole.n);
        rc = tt_textout_push(o, ids[i], NULL);
        int expected = naive_stop(whole.text, whole.n, stops, n_stops, &end);
        assert_int_equal(rc, expected < 0 ? TT_OK : TT_TEXTOUT_STOPPED);
        if (below(3) > 0 || rc == TT_TEXTOUT_STOPPED) { /* takers may be late */
            drain(o, &shown);
            size_t want = expected < 0 ? whole.n - naive_held(whole.text, whole.n, stops, n_stops)
                                       : end - stops[expected].n;
            assert_int_equal(shown.n, want);
            assert_memory_equal(shown.text, whole.text, want);
        }
    }
    if (rc == TT_OK) {
        size_t end;
        whole.n += tt_detok_flush(&d, whole.text + whole.n);
        rc = tt_textout_flush(o, NULL);
        drain(o, &shown);
        int expected = naive_stop(whole.text, whole.n, stops, n_stops, &end);
        assert_int_equal(rc, expected < 0 ? TT_OK : TT_TEXTOUT_STOPPED);
        whole.n = expected < 0 ? whole.n : end - stops[expected].n;
        assert_int_equal(shown.n, whole.n);
        assert_memory_equal(shown.text, whole.text, whole.n);
    }
    size_t end;
    int expected = naive_stop(whole.text, whole.n, stops, n_stops, &end);
    if (rc == TT_OK) {
        assert_int_equal(tt_textout_stop(o), -1);
        assert_int_equal(expected, -1);
    } else {
        assert_true(tt_textout_stop(o) >= 0);
        assert_int_equal(tt_textout_push(o, 0, NULL), TT_TEXTOUT_STOPPED);
        assert_int_equal(tt_textout_flush(o, NULL), TT_TEXTOUT_STOPPED);
        drain(o, &shown);
    }
    tt_textout_destroy(&o);
    assert_null(o);
}

static void random_against_naive(void **state)
{
    print_message("seed 0x%llx\n", (unsigned long long)seed);
    for (int i = 0; i < 20000; i++) {
        one_random_case(*state);
    }
}

static size_t run(struct fixture *f, const tt_textout_options *opt, const char *text, char *out,
                  int *stop)
{
    tt_textout *o;
    assert_int_equal(tt_textout_create(f->tok, opt, &o, NULL), TT_OK);
    size_t len = 0, n;
    for (const char *c = text; *c != '\0'; c++) {
        if (tt_textout_push(o, N_WORDS + (unsigned char)*c, NULL) != TT_OK) {
            break;
        }
    }
    (void)tt_textout_flush(o, NULL);
    const char *p = tt_textout_take(o, &n);
    memcpy(out, p, n);
    len = n;
    *stop = tt_textout_stop(o);
    tt_textout_destroy(&o);
    return len;
}

static void options(void **state)
{
    struct fixture *f = *state;
    char out[256];
    int stop;
    tt_str stops[] = {{"bcd", 3}, {"abcde", 5}, {"d", 1}};
    tt_textout_options opt = {.stops = stops, .n_stops = 2};
    assert_int_equal(run(f, &opt, "xabcdey", out, &stop), 2); /* "bcd" ends first */
    assert_int_equal(stop, 0);
    opt.n_stops = 3; /* "d" ends together with "bcd", which is longer */
    assert_int_equal(run(f, &opt, "xabcdey", out, &stop), 2);
    assert_int_equal(stop, 0);
    opt.include_stop = true;
    assert_int_equal(run(f, &opt, "xabcdey", out, &stop), 5);
    assert_memory_equal(out, "xabcd", 5);
    opt.include_stop = false;
    opt.min_tokens = 5; /* the match ends with the fifth token, one token too early */
    assert_int_equal(run(f, &opt, "xabcdabcd", out, &stop), 6);
    assert_memory_equal(out, "xabcda", 6);
    opt = (tt_textout_options){.special = true};
    tt_textout *o;
    size_t n;
    assert_int_equal(tt_textout_create(f->tok, &opt, &o, NULL), TT_OK);
    assert_int_equal(tt_textout_push(o, CONTROL, NULL), TT_OK);
    const char *p = tt_textout_take(o, &n);
    assert_int_equal(n, 5);
    assert_memory_equal(p, "<end>", 5);
    tt_textout_destroy(&o);
}

static void refuses(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *p;
        uint32_t n;
    } bad[] = {{"", 0}, {"\xc3", 1}, {"a\xff", 2}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        tt_str stop = {bad[i].p, bad[i].n};
        tt_textout_options opt = {.stops = &stop, .n_stops = 1};
        tt_textout *o = NULL;
        tt_err err;
        assert_int_equal(tt_textout_create(f->tok, &opt, &o, &err), TT_E_INVALID);
        assert_null(o);
    }
    tt_textout *none = NULL;
    tt_textout_destroy(&none);
}

/* A long stop string that almost matches all the time, and 300 kB of text that nobody takes:
 * neither may be quadratic. */
static void long_stop_is_linear(void **state)
{
    struct fixture *f = *state;
    enum { STOP = 50000, TEXT = 300000 };
    char *long_stop = malloc(STOP);
    assert_non_null(long_stop);
    memset(long_stop, 'a', STOP);
    long_stop[STOP - 1] = 'b';
    tt_str stops[] = {{long_stop, STOP}, {"aac", 3}};
    tt_textout_options opt = {.stops = stops, .n_stops = 2};
    tt_textout *o;
    size_t n, shown = 0;
    assert_int_equal(tt_textout_create(f->tok, &opt, &o, NULL), TT_OK);
    for (int i = 0; i < TEXT; i++) {
        assert_int_equal(tt_textout_push(o, 0, NULL), TT_OK);
        if (i % 2 == 0) {
            (void)tt_textout_take(o, &n);
            shown += n;
        }
    }
    (void)tt_textout_take(o, &n);
    assert_int_equal(shown + n, TEXT - (STOP - 1));
    assert_int_equal(tt_textout_push(o, 1, NULL), TT_TEXTOUT_STOPPED);
    (void)tt_textout_take(o, &n);
    assert_int_equal(n, 0);
    tt_textout_destroy(&o);
    free(long_stop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_against_naive),
        cmocka_unit_test(options),
        cmocka_unit_test(refuses),
        cmocka_unit_test(long_stop_is_linear),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
