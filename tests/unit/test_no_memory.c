/* test_no_memory.c - whole jobs of the loaders, the tokenizers, templates and request bodies in
 * which every allocation fails once: each time the caller hears of it, nothing is lost (sanitizers
 * look) and nothing is half made. Modules with a sweep of their own have it in their file. Shared
 * libraries are left out: jansson 2.14 reads through null pointers where its own memory fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/adapter_cache.h"
#include "core/job.h"
#include "core/model.h"
#include "core/sampler.h"
#include "core/template_json.h"
#include "core/textout.h"
#include "core/tokenizer_json.h"
#include "fail_alloc.h"
#include "model_writer.h"
#include "server/api_request.h"
#include "server/settings.h"
#include "small_vocab.h"

static char *folder, hf_folder[4096], gguf_path[4200];
static small_vocab vocab;

/* Does the whole job and undoes it; returns the first failure. */
typedef tt_code (*job)(tt_err *err);

static void sweep(job f, int at_least)
{
    for (int n = 0, refused = 1; refused != 0; n++) {
        tt_err err = {0};
        fail_alloc_at(n);
        tt_code rc = f(&err);
        refused = fail_alloc_off();
        if (refused && (rc != TT_E_NOMEM || err.code != rc || err.msg[0] == '\0')) {
            fail_msg("allocation %d: %d %s", n, rc, err.msg);
        }
        assert_true(refused || (rc == TT_OK && n >= at_least)); /* the gate was there */
    }
}

/* ---- files ---- */

static const char tokenizer_json[] =
    "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 3, \"content\": \"<e>\", \"single_word\": "
    "false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}], "
    "\"normalizer\": null, \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": "
    "[{\"type\": \"Digits\", \"individual_digits\": true}, {\"type\": \"ByteLevel\", "
    "\"add_prefix_space\": false, \"trim_offsets\": false, \"use_regex\": true}]}, "
    "\"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
    "\"trim_offsets\": true, \"use_regex\": true}, \"model\": {\"type\": \"BPE\", \"dropout\": "
    "null, \"unk_token\": null, \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, "
    "\"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false, \"vocab\": {\"a\": "
    "0, "
    "\"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}}";

static tt_code open_model(const char *path, tt_err *err)
{
    tt_model *m = NULL;
    tt_code rc = tt_model_open(path, &m, err);
    assert_int_equal(rc == TT_OK, m != NULL);
    tt_model_close(&m);
    return rc;
}

static tt_code open_gguf(tt_err *err)
{
    return open_model(gguf_path, err);
}

static tt_code open_hf(tt_err *err)
{
    return open_model(hf_folder, err);
}

static void test_models(void **state)
{
    sweep(open_gguf, 10);
    sweep(open_hf, 15);
}

/* ---- text ---- */

static tt_code through_tokenizer(tt_err *err)
{
    static const char text[] = "ab \xc3\xa9\xcc\x81 words<|im_end|>[[ 123 aaaa\xff";
    tt_tokenizer *t = NULL;
    int32_t *ids = NULL;
    char *back = NULL;
    size_t n = 0, n_back;
    tt_code rc = tt_tokenizer_create(&vocab.v, &t, err);
    if (rc == TT_OK) {
        rc = tt_tokenizer_encode(t, text, sizeof text - 1, &(tt_encode_options){true, true}, &ids,
                                 &n, err);
    }
    if (rc == TT_OK) {
        rc = tt_tokenizer_decode(t, ids, n, true, &back, &n_back, err);
    }
    free(ids);
    free(back);
    tt_tokenizer_destroy(&t);
    return rc;
}

static void test_tokenizers(void **state)
{
    small_vocab_bpe(&vocab, "qwen2");
    sweep(through_tokenizer, 15);
    small_vocab_spm(&vocab, TT_VOCAB_SPM);
    sweep(through_tokenizer, 15);
    small_vocab_spm(&vocab, TT_VOCAB_UNIGRAM);
    sweep(through_tokenizer, 15);
}

static tt_tokenizer *tokenizer; /* of the two tests below */

static tt_code through_textout(tt_err *err)
{
    static const tt_str stops[] = {{"stop", 4}, {"\n\n", 2}, {"sto", 3}};
    tt_textout *out = NULL;
    tt_code rc = tt_textout_create(tokenizer, &(tt_textout_options){.stops = stops, .n_stops = 3},
                                   &out, err);
    for (int i = 0; rc == TT_OK && i < 600; i++) {
        size_t n;
        rc = tt_textout_push(out, 3 + (i * 7 + 'a') % 256, err);
        rc = rc == (tt_code)TT_TEXTOUT_STOPPED ? TT_OK : rc;
        tt_textout_take(out, &n);
    }
    tt_textout_destroy(&out);
    return rc;
}

static tt_code through_sampler(tt_err *err)
{
    int32_t prompt[3] = {1, 2, 23};
    tt_sampler s = {0};
    tt_sampling opt = {.temperature = 1, .top_p = 1, .repetition_penalty = 1.1f};
    tt_code rc = tt_sampler_init(&s, &opt, 24, prompt, 3, err);
    if (rc == TT_OK) {
        tt_sampler_accept(&s, 22);
    }
    tt_sampler_finish(&s);
    return rc;
}

static void test_generations(void **state)
{
    small_vocab_spm(&vocab, TT_VOCAB_SPM);
    assert_int_equal(tt_tokenizer_create(&vocab.v, &tokenizer, NULL), TT_OK);
    sweep(through_textout, 3);
    sweep(through_sampler, 3);
    tt_tokenizer_destroy(&tokenizer);
}

/* ---- JSON ---- */

static tt_code through_template(tt_err *err)
{
    static const char source[] =
        "{%- macro turn(m) -%}<{{ m.role|upper }}>{{ m.content|trim|replace('a', 'bb') }}\n"
        "{%- endmacro -%}{% for m in messages if m.role != 'x' %}{{ turn(m) }}{{ loop.index }}"
        "{% endfor %}{% set ns = namespace(n=0) %}{{ messages|tojson }}{{ {'a': [1, 2.5]}|string }}"
        "{{ 'a,b,c'.split(',')|join('-') }}{% if add_generation_prompt %}<A>{% endif %}";
    json_t *messages = json_loads("[{\"role\": \"user\", \"content\": \" a cat \"}, {\"role\": "
                                  "\"assistant\", \"content\": \"b\"}]",
                                  0, NULL);
    tt_template *t = NULL;
    tt_rendered r = {0};
    if (messages == NULL) {
        return tt_fail(err, TT_E_NOMEM, "the test's own messages");
    }
    tt_code rc = tt_template_create(source, strlen(source), &t, err);
    if (rc == TT_OK) {
        rc = tt_template_render(
            t, &(tt_render_options){.messages = messages, .add_generation_prompt = true}, &r, err);
    }
    assert_int_equal(rc == TT_OK, r.text != NULL);
    tt_rendered_finish(&r);
    tt_template_destroy(&t);
    json_decref(messages);
    return rc;
}

static tt_code through_tokenizer_json(tt_err *err)
{
    static const char config[] = "{\"eos_token\": \"<e>\", \"add_bos_token\": false}";
    tt_tokenizer_json *j = NULL;
    tt_code rc = tt_tokenizer_json_parse(tokenizer_json, sizeof tokenizer_json - 1, config,
                                         sizeof config - 1, &j, err);
    assert_int_equal(rc == TT_OK, j != NULL);
    tt_tokenizer_json_destroy(&j);
    return rc;
}

static void test_json(void **state)
{
    sweep(through_template, 3);
    sweep(through_tokenizer_json, 2);
}

/* ---- requests and settings ---- */

static tt_code parse_request(tt_api api, const char *body, tt_err *err)
{
    static const tt_request_limits limits = {.json_memory = 1 << 20,
                                             .max_prompts = 8,
                                             .max_samples = 8,
                                             .max_jobs = 8,
                                             .n_vocab = 100,
                                             .n_layers = 4,
                                             .caps = {256, 1024, 64, 1e-3, 0.05},
                                             .model_name = "m"};
    tt_arena arena;
    tt_request r = {0};
    tt_http_error e = {0};
    tt_arena_init(&arena, 1 << 24);
    bool ok = tt_request_parse(body, strlen(body), api, &limits, &arena, &r, &e);
    bool lost = r.ignored.failed; /* names for a header: the answer goes on without them */
    tt_request_finish(&r);
    tt_arena_finish(&arena);
    if (ok && !lost) {
        return TT_OK;
    }
    assert_true(lost || e.status == 429); /* try again: not the client's fault */
    return tt_fail(err, TT_E_NOMEM, "%s", lost ? "names" : e.message);
}

static tt_code parse_chat(tt_err *err)
{
    return parse_request(
        TT_API_CHAT,
        "{\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
        "{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"user\",\"content\":\"hi\"}],"
        "\"stop\":[\"x\",\"yy\"],\"logit_bias\":{\"3\":-1,\"5\":2},\"stop_token_ids\":[1,2],"
        "\"qttt\":{\"mode\":\"on\",\"layers\":[1]},\"unknown\":1}",
        err);
}

static tt_code parse_completion(tt_err *err)
{
    return parse_request(TT_API_COMPLETIONS,
                         "{\"prompt\":[\"one\",\"two\"],\"stop\":\"x\",\"max_tokens\":3}", err);
}

static void test_requests(void **state)
{
    sweep(parse_chat, 2);
    sweep(parse_completion, 1);
}

static tt_code through_settings(tt_err *err)
{
    static const char text[] = "model:\n  path: some/model.gguf\nserver:\n  port: 8080\n"
                               "  api_keys: [one, two, three]\n";
    tt_settings s = {0};
    tt_code rc = tt_settings_init(&s, err);
    if (rc == TT_OK) {
        rc = tt_settings_load_text(&s, "x.yaml", text, sizeof text - 1, err);
    }
    tt_settings_finish(&s);
    return rc;
}

static void test_settings(void **state)
{
    sweep(through_settings, 2);
}

/* ---- pages and caches ---- */

static tt_device d;

static tt_code through_pages(tt_err *err)
{
    tt_kv_pool *kv = NULL;
    tt_code rc = tt_kv_create(&d, &(tt_kv_options){TT_F32, 4}, &kv, err);
    assert_int_equal(rc == TT_OK, kv != NULL);
    if (rc == TT_OK) {
        uint64_t sum;
        rc = tt_kv_checksum(kv, tt_kv_take(kv), 64, &sum, err);
    }
    tt_kv_destroy(&kv);
    return rc;
}

/* A cache that could not remember says so, and is as it was. */
static tt_code through_adapter_cache(tt_err *err)
{
    tt_adapter_cache *c = NULL;
    tt_adapter *a = NULL;
    tt_qttt_params p = {.steps = 1, .rank = 1};
    tt_adapter_key key;
    tt_adapter_key_make(&key, (const int32_t[]){1, 2}, 2, "", &p);
    tt_code rc = tt_adapter_cache_create(&d, 1 << 20, &c, err);
    if (rc == TT_OK) {
        rc = tt_adapter_create(&d, &(tt_adapter_shape){.kind = TT_ADAPTER_FULL, .type = TT_BF16},
                               &a, err);
    }
    if (rc == TT_OK) {
        tt_qttt_result result = {.status = "succeeded", .kept = true}, found;
        tt_adapter *got = NULL;
        bool put = tt_adapter_cache_put(c, &key, &result, a, false);
        int64_t bytes, n;
        tt_adapter_cache_stats(c, &bytes, &n);
        assert_int_equal(n, put);
        assert_int_equal(tt_adapter_cache_find(c, &key, &found, &got), put);
        assert_ptr_equal(got, put ? a : NULL);
        tt_adapter_unref(&d, &got);
        assert_int_equal(a->refs, put ? 2 : 1);
        rc = put ? TT_OK : tt_fail(err, TT_E_NOMEM, "not remembered");
    }
    tt_adapter_unref(&d, &a);
    tt_adapter_cache_destroy(&c);
    return rc;
}

static void test_pages_and_adapters(void **state)
{
    static tt_model model = {
        .n_layers = 2, .hidden = 4, .n_heads = 1, .n_kv_heads = 1, .head_dim = 4};
    tt_err err;
    d.model = &model;
    tt_ops_get(&d.ops, 0);
    assert_int_equal(d.ops.lane_create(&d.ops, &(tt_lane_options){.n_threads = 1}, &d.lane, &err),
                     TT_OK);
    sweep(through_pages, 4);
    sweep(through_adapter_cache, 4);
    d.ops.lane_destroy(&d.lane);
}

static int set_up(void **state)
{
    size_t n;
    mw_gguf w;
    folder = mw_make_folder();
    mw_gguf_init(&w);
    mw_kv_str(&w, "tokenizer.chat_template", "{{ messages }}");
    mw_model_gguf(&w, &(mw_model){.arch = "gemma3", .rope_freqs = false});
    uint8_t *p = mw_gguf_finish(&w, &n);
    mw_write_file(folder, "m.gguf", p, n);
    free(p);
    snprintf(gguf_path, sizeof gguf_path, "%s/m.gguf", folder);
    char *hf = mw_make_folder();
    snprintf(hf_folder, sizeof hf_folder, "%s", hf);
    mw_model_hf(hf, &(mw_model){.arch = "qwen2", .misalign = 1}, 2, NULL);
    mw_write_file(hf, "tokenizer.json", tokenizer_json, sizeof tokenizer_json - 1);
    static const char config[] = "{\"eos_token\": \"<e>\", \"chat_template\": \"{{ messages }}\"}";
    mw_write_file(hf, "tokenizer_config.json", config, sizeof config - 1);
    *state = hf;
    return 0;
}

static int tear_down(void **state)
{
    mw_remove_folder(*state);
    mw_remove_folder(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_tokenizers),
        cmocka_unit_test(test_generations),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_pages_and_adapters),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
