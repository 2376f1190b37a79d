/* test_bench.c - the figures of `qttt bench` on a tiny model: which there are, that each share is
 * its value against its limit, contexts that are short, pools that are small. Not what they amount
 * to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/bench.h"
#include "small_engine.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#if !defined(UNDER_TSAN)
#define UNDER_TSAN 0
#endif

static char path[4300];
static char *folder;
static int n_told;
static tt_bench_part part = TT_BENCH_MODEL;
static int32_t depth;
static const char *loss_text;
static bool profile_points;

static void on_figure(void *arg, const tt_bench_figure *f)
{
    tt_bench_report *r = arg;
    assert_ptr_equal(f, &r->figure[n_told]); /* in order, each once */
    n_told++;
}

static int n_sections;
static char sections[8][64];

static void on_profile(void *arg, const tt_profile_section *s)
{
    assert_true(n_sections < 8 && s->n_rows > 5 && s->ops_seconds > 0 && s->runs > 0);
    assert_true(s->ops_seconds <= s->seconds && s->cpu_seconds > 0);
    for (int32_t i = 0; i < s->n_rows; i++) { /* rates were measured: what reads has a limit */
        assert_int_equal(s->row[i].work.bytes > 0, s->row[i].limit_s > 0);
    }
    snprintf(sections[n_sections++], sizeof sections[0], "%s", s->name);
}

static int n_points;
static tt_growth_point points[24];

static void on_growth(void *arg, const tt_growth_point *p)
{
    bool step = strcmp(p->series, "step") == 0, streams = strcmp(p->series, "streams") == 0;
    assert_true(n_points < 24 && p->seconds > 0 && p->attention_s > 0 && p->limit_s > 0);
    assert_true(p->attention_s + p->adapters_s <= p->seconds);
    assert_int_equal(p->adapters_s > 0, step || (strstr(p->series, "adapters") && p->x > 0));
    assert_int_equal(p->equal_cost_tokens > 128, step);
    assert_true(!streams || p->x >= 1);
    points[n_points++] = *p;
}

static tt_code run(int32_t max_context, size_t kv_bytes, tt_bench_report *r, tt_err *err)
{
    tt_engine_options engine = {.model_path = path,
                                .isa_mask = TT_ISA_ALL,
                                .n_threads = 1,
                                .max_context = max_context,
                                .kv_bytes = kv_bytes,
                                .kv_type = TT_BF16};
    n_told = n_sections = n_points = 0;
    *err = (tt_err){0};
    return tt_bench_run(&(tt_bench_options){.engine = &engine,
                                            .part = part,
                                            .repeat = 1,
                                            .depth = depth,
                                            .loss_text_path = loss_text,
                                            .profile_points = profile_points,
                                            .on_figure = on_figure,
                                            .on_profile = on_profile,
                                            .on_growth = on_growth,
                                            .arg = r},
                        r, err);
}

static const tt_bench_figure *find(const tt_bench_report *r, const char *name)
{
    for (int32_t i = 0; i < r->n; i++) {
        if (strcmp(r->figure[i].name, name) == 0) {
            return &r->figure[i];
        }
    }
    return NULL;
}

static void check_figures(const tt_bench_report *r)
{
    assert_int_equal(r->n, n_told);
    for (int32_t i = 0; i < r->n; i++) {
        const tt_bench_figure *f = &r->figure[i];
        assert_true(f->value > 0 && isfinite(f->value) && f->unit != NULL && f->name[0] != '\0');
        double share = f->kind == TT_LIMIT_NONE    ? 0
                       : strcmp(f->unit, "s") == 0 ? f->limit / f->value
                                                   : f->value / f->limit;
        assert_true(fabs(f->percent - 100 * share) < 1e-9 * (1 + 100 * share));
        assert_int_equal(f->kind == TT_LIMIT_NONE, f->limit == 0);
    }
}

/* 128 tokens of context: nothing is as deep as 512, decoding from the start is all there is. */
static void test_figures(void **state)
{
    tt_bench_report r;
    tt_err err;
    assert_int_equal(run(0, 0, &r, &err), TT_OK);
    check_figures(&r);
    assert_string_equal(r.model, "small");
    assert_int_equal(r.threads, 1);
    assert_true(r.isa[0] != '\0');
    assert_non_null(find(&r, "model ready (files cached)"));
    assert_int_equal(find(&r, "machine: matrix product")->kind, TT_LIMIT_NONE);
    assert_string_equal(find(&r, "machine: memory read")->unit, "GB/s");
    assert_int_equal(find(&r, "decode at depth 0")->kind, TT_LIMIT_BYTES);
    assert_string_equal(find(&r, "decode at depth 0")->unit, "tokens/s");
    assert_null(find(&r, "prefill 512"));
    assert_string_equal(find(&r, "tokenise, 1 thread")->unit, "MB/s");
    assert_int_equal(r.n, 5);
}

/* Quotes and free text, by an engine with drafts and one without. */
static void test_drafts(void **state)
{
    char good[sizeof path];
    tt_bench_report r;
    tt_err err;
    size_t n;
    mw_gguf w;
    mw_gguf_init(&w);
    mw_kv_u32(&w, "llama.context_length", 6000);
    mw_model_gguf(&w, &(mw_model){.skip = "llama.context_length"});
    uint8_t *p = mw_gguf_finish(&w, &n);
    mw_write_file(folder, "drafts.gguf", p, n);
    free(p);
    memcpy(good, path, sizeof good);
    part = TT_BENCH_DRAFTS;
    assert_int_equal(run(0, 0, &r, &err), TT_OK);
    assert_int_equal(r.n, 1); /* 128 tokens of context hold no document */
    snprintf(path, sizeof path, "%s/drafts.gguf", folder);
    assert_int_equal(run(0, 0, &r, &err), TT_OK);
    memcpy(path, good, sizeof path);
    part = TT_BENCH_MODEL;
    assert_int_equal(r.n, 11);
    static const char *const rates[] = {"quote a section, no drafts", "quote a section, drafts",
                                        "free text, no drafts", "free text, drafts"};
    for (size_t i = 0; i < 4; i++) {
        assert_true(find(&r, rates[i])->value > 0);
    }
    const tt_bench_figure *f = find(&r, "  against none, quote");
    double ratio = find(&r, rates[1])->value / find(&r, rates[0])->value;
    assert_true(fabs(f->value - ratio) < 1e-9 * ratio); /* of one repetition */
    assert_true(find(&r, "  tokens that drafts had right, quote")->value >= 0);
    assert_true(find(&r, "  wrong rows a token, free text")->value >= 0);
}

/* Room for a training step at 2,048 tokens: figures in seconds, the better the smaller. */
static void test_a_longer_context(void **state)
{
    char good[sizeof path];
    tt_bench_report r;
    tt_err err;
    size_t n;
    mw_gguf w;
    mw_gguf_init(&w);
    mw_kv_u32(&w, "llama.context_length", 2100);
    mw_model_gguf(&w, &(mw_model){.skip = "llama.context_length"});
    uint8_t *p = mw_gguf_finish(&w, &n);
    mw_write_file(folder, "longer.gguf", p, n);
    free(p);
    memcpy(good, path, sizeof good);
    snprintf(path, sizeof path, "%s/longer.gguf", folder);
    assert_int_equal(run(0, 0, &r, &err), TT_OK);
    memcpy(path, good, sizeof path);
    check_figures(&r);
    assert_int_equal(find(&r, "prefill 512")->kind, TT_LIMIT_FLOPS);
    assert_string_equal(find(&r, "qTTT step k=128 at 2048")->unit, "s");
    assert_int_equal(find(&r, "qTTT step k=128 at 2048")->kind, TT_LIMIT_FLOPS);
    assert_non_null(find(&r, "qTTT step k=128 at 2048, LoRA r8"));
    assert_non_null(find(&r, "decode at depth 2048"));
    assert_null(find(&r, "prefill 4096"));
    assert_int_equal(r.n, 9);
}

/* Where the time goes, at a depth that was asked for and within what the context allows. */
static void test_a_profile(void **state)
{
    static const char *const names[] = {
        "prefill of 300 tokens", "qTTT step k=128 at 300", "qTTT step k=128 at 300, LoRA r8",
        "decode at depth 300, a token", "decode at depth 0, a token"};
    char good[sizeof path];
    tt_bench_report r;
    tt_err err;
    memcpy(good, path, sizeof good);
    snprintf(path, sizeof path, "%s/longer.gguf", folder);
    part = TT_BENCH_PROFILE;
    depth = 300;
    assert_int_equal(run(0, 0, &r, &err), TT_OK);
    check_figures(&r);
    assert_int_equal(n_sections, 5);
    for (int i = 0; i < 5; i++) {
        assert_string_equal(sections[i], names[i]);
    }
    assert_true(r.flops_rate > 0 && r.bytes_rate > 0);
    depth = 0;
    assert_int_equal(run(1016, 0, &r, &err), TT_OK);
    assert_int_equal(n_sections, 6);
    assert_string_equal(sections[1], "prefill of 512 tokens up to 1000");
    assert_string_equal(sections[4], "decode at depth 1000, a token");
    assert_int_equal(run(16, 0, &r, &err), TT_E_INVALID);
    part = TT_BENCH_MODEL;
    assert_int_equal(run(0, 0, &r, &err), TT_OK);
    assert_int_equal(n_sections, 0);
    memcpy(path, good, sizeof path);
}

static void check_series(const char *name, const int32_t *xs, int n)
{
    int found = 0;
    for (int i = 0; i < n_points; i++) {
        if (strcmp(points[i].series, name) == 0) {
            assert_true(found < n && points[i].x == xs[found]);
            found++;
        }
    }
    assert_int_equal(found, n);
}

/* Curves: every part by itself and all of them. A limit is a sum over work, so it grows with it. */
static void test_growth(void **state)
{
    static const int32_t contexts[] = {1024, 2048}, streams[] = {1, 2, 4, 8, 16},
                         adapted[] = {0, 1, 2, 4, 8};
    char good[sizeof path];
    tt_bench_report r;
    tt_err err;
    memcpy(good, path, sizeof good);
    snprintf(path, sizeof path, "%s/longer.gguf", folder);
    for (int p = TT_BENCH_GROWTH; p < TT_BENCH_PARTS; p++) {
        bool all = p == TT_BENCH_GROWTH;
        part = (tt_bench_part)p;
        assert_int_equal(run(0, 0, &r, &err), TT_OK);
        bool c = all || p == TT_BENCH_GROWTH_CONTEXT, a = all || p == TT_BENCH_GROWTH_ADAPTERS;
        check_series("prefill", contexts, c ? 2 : 0);
        check_series("decode", contexts, c ? 2 : 0);
        check_series("step", contexts, c ? 2 : 0);
        check_series("streams", streams, all || p == TT_BENCH_GROWTH_STREAMS ? 5 : 0);
        check_series("LoRA adapters", adapted, a ? 5 : 0);
        check_series("full adapters", adapted, a ? 5 : 0);
        for (int i = 1; i < n_points; i++) {
            bool same = strcmp(points[i].series, points[i - 1].series) == 0;
            assert_true(!same || points[i].limit_s > points[i - 1].limit_s);
        }
    }
    assert_int_equal(n_sections, 0);
    part = TT_BENCH_GROWTH_STREAMS;
    profile_points = true;
    assert_int_equal(run(0, 0, &r, &err), TT_OK);
    profile_points = false;
    assert_int_equal(n_sections, 5);
    assert_string_equal(sections[4], "streams at 16");
    part = TT_BENCH_GROWTH;
    assert_int_equal(run(1000, 0, &r, &err), TT_E_INVALID);
    part = TT_BENCH_MODEL;
    memcpy(path, good, sizeof path);
}

/* Many users at once, on the same model. */
static void test_serving(void **state)
{
    char good[sizeof path];
    tt_bench_report r;
    tt_err err = {0};
    memcpy(good, path, sizeof good);
    snprintf(path, sizeof path, "%s/longer.gguf", folder);
    part = TT_BENCH_ALL;
    tt_code rc = run(0, 0, &r, &err);
    part = TT_BENCH_MODEL;
    memcpy(path, good, sizeof path);
    assert_string_equal(err.msg, "");
    assert_int_equal(rc, TT_OK);
    check_figures(&r);
    assert_int_equal(find(&r, "1 stream")->kind, TT_LIMIT_BYTES);
    assert_non_null(find(&r, "8 streams"));
    assert_non_null(find(&r, "8 streams, 8 LoRA adapters"));
    assert_non_null(find(&r, "8 streams, 8 full adapters"));
    double one = find(&r, "K/V of one context")->value;
    double eight = find(&r, "K/V of 8 adapted sessions on it")->value;
    assert_true(eight >= one && eight < 3 * one);             /* shared, not copied */
    assert_null(find(&r, "gap beside prefill and job, p99")); /* the context is too short */
}

/* The tiny model with letters for a vocabulary, so that there is a text. */
static void write_letters(void)
{
    enum { VOCAB = 24 };
    static char letters[VOCAB][2];
    const char *tokens[VOCAB] = {"<unk>", "<s>", "</s>"};
    float scores[VOCAB] = {0};
    int32_t types[VOCAB] = {2, 3, 3};
    size_t n;
    mw_gguf w;
    for (int i = 3; i < VOCAB; i++) {
        letters[i][0] = (char)('a' + i - 3);
        tokens[i] = letters[i];
        types[i] = 1;
    }
    mw_gguf_init(&w);
    mw_kv_str(&w, "tokenizer.ggml.model", "llama");
    mw_kv_strs(&w, "tokenizer.ggml.tokens", tokens, VOCAB);
    mw_kv_array(&w, "tokenizer.ggml.scores", 6, scores, VOCAB, sizeof scores[0]);
    mw_kv_array(&w, "tokenizer.ggml.token_type", 5, types, VOCAB, sizeof types[0]);
    mw_model_gguf(&w, &(mw_model){.skip = "tokenizer"});
    uint8_t *p = mw_gguf_finish(&w, &n);
    mw_write_file(folder, "letters.gguf", p, n);
    free(p);
}

/* What losses are measured on: a text, its beginning when it is longer than the context, nothing.
 */
static void test_losses(void **state)
{
    char good[sizeof path], text[4300], words[500];
    tt_bench_report r;
    tt_err err;
    for (size_t i = 0; i < sizeof words; i++) {
        words[i] = (char)('a' + i * i % 17);
    }
    write_letters();
    mw_write_file(folder, "text", words, sizeof words);
    mw_write_file(folder, "nothing", words, 0);
    memcpy(good, path, sizeof good);
    snprintf(path, sizeof path, "%s/letters.gguf", folder);
    snprintf(text, sizeof text, "%s/text", folder);
    loss_text = text;
    tt_code rc = run(100, 0, &r, &err);
    assert_string_equal(err.msg, "");
    assert_int_equal(rc, TT_OK);
    check_figures(&r);
    double plain = find(&r, "loss with K/V in BF16")->value;
    double q8 = find(&r, "loss with K/V in Q8")->value;
    assert_true(plain > 1 && plain < 10); /* nats over 24 tokens of a random model: about ln 24 */
    assert_true(q8 != plain && fabs(q8 - plain) < 0.05); /* another type, nearly the same */
    assert_true(fabs(find(&r, "  perplexity against BF16")->value - 100 * exp(q8 - plain)) < 1e-9);
    part = TT_BENCH_SERVE;
    assert_int_equal(run(16, 0, &r, &err), TT_OK);
    assert_null(find(&r, "loss with K/V in BF16"));
    part = TT_BENCH_MODEL;
    snprintf(text, sizeof text, "%s/nothing", folder);
    assert_true(run(100, 0, &r, &err) < TT_OK && err.msg[0] != '\0');
    snprintf(text, sizeof text, "%s/missing", folder);
    assert_int_equal(run(100, 0, &r, &err), TT_E_IO);
    loss_text = NULL;
    memcpy(path, good, sizeof path);
}

static void test_short_contexts(void **state)
{
    static const int32_t contexts[] = {1, 16};
    for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++) {
        tt_bench_report r;
        tt_err err;
        assert_int_equal(run(contexts[i], 0, &r, &err), TT_OK);
        check_figures(&r);
        assert_int_equal(find(&r, "decode at depth 0") != NULL, contexts[i] >= 16);
    }
}

static void test_failures(void **state)
{
    tt_bench_report r;
    tt_err err;
    assert_int_equal(run(0, 1, &r, &err), TT_E_CAPACITY);
    assert_true(err.msg[0] != '\0');
    char good[sizeof path];
    memcpy(good, path, sizeof good);
    path[strlen(path) - 1] = '\0';
    assert_int_equal(run(0, 0, &r, &err), TT_E_IO);
    assert_int_equal(r.n, 0);
    memcpy(path, good, sizeof good);
}

int main(void)
{
    if (UNDER_TSAN) { /* measures with all threads of the OpenMP runtime, which is not instrumented
                       */
        printf("skip: the machine's read rate is not for ThreadSanitizer\n");
        return 77;
    }
    tt_model *m = small_model(&(mw_model){0}, &folder);
    tt_model_close(&m);
    snprintf(path, sizeof path, "%s/small.gguf", folder);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures),          cmocka_unit_test(test_drafts),
        cmocka_unit_test(test_a_longer_context), cmocka_unit_test(test_a_profile),
        cmocka_unit_test(test_growth),           cmocka_unit_test(test_serving),
        cmocka_unit_test(test_losses),           cmocka_unit_test(test_short_contexts),
        cmocka_unit_test(test_failures),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mw_remove_folder(folder);
    return failed;
}
