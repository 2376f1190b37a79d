/* test_tokenizer_json.c - what a tokenizer.json becomes, and what is refused by name. That the
 * result encodes as Hugging Face's library does is tests/tools/compare_shapes.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/tokenizer.h"
#include "core/tokenizer_json.h"

/* Parts in the order of the file; a case replaces one of them. */
enum { ADDED, NORMALIZER, PRE, POST, DECODER, MODEL, N_PARTS };
static const char *const names[N_PARTS] = {"added_tokens",   "normalizer", "pre_tokenizer",
                                           "post_processor", "decoder",    "model"};

#define BYTE_LEVEL "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}"
static const char *const byte_level[N_PARTS] = {
    "[{\"id\": 5, \"content\": \"<s>\", \"special\": true}, {\"id\": 6, \"content\": \"[[\", "
    "\"special\": false}]",
    "null",
    BYTE_LEVEL,
    "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\"}}, "
    "{\"Sequence\": {\"id\": \"A\"}}],"
    " \"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [5]}}}",
    BYTE_LEVEL,
    "{\"type\": \"BPE\", \"vocab\": {\"h\": 0, \"i\": 1, \"hi\": 2, \"\\u0120\": 3, \"\\u0120hi\": "
    "4},"
    " \"merges\": [\"h i\", [\"\\u0120\", \"hi\"]]}",
};

#define MARK "\\u2581"
#define LLAMA_DECODER(strip)                                                                       \
    "{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "   \
    "\"" MARK "\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}" strip \
    "]}"
#define STRIP ", {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}"
#define REPLACE                                                                                    \
    "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"" MARK "\"}"
static const char *const marked[N_PARTS] = {
    "[{\"id\": 0, \"content\": \"<unk>\", \"special\": true}]",
    "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"" MARK
    "\"}, " REPLACE "]}",
    "null",
    "null",
    LLAMA_DECODER(STRIP),
    "{\"type\": \"BPE\", \"unk_token\": \"<unk>\", \"byte_fallback\": true, \"fuse_unk\": true, "
    "\"vocab\": {\"<unk>\": 0,"
    " \"" MARK "\": 1, \"a\": 2, \"" MARK "a\": 3, \"<0x41>\": 4}, \"merges\": [\"" MARK " a\"]}",
};

static size_t build(char *out, size_t cap, const char *const *base, int part, const char *text)
{
    size_t n = (size_t)snprintf(out, cap, "{\"version\": \"1.0\"");
    for (int i = 0; i < N_PARTS; i++) {
        n += (size_t)snprintf(out + n, cap - n, ", \"%s\": %s", names[i],
                              i == part ? text : base[i]);
    }
    n += (size_t)snprintf(out + n, cap - n, "}");
    assert_true(n < cap);
    return n;
}

static tt_code parse(const char *const *base, int part, const char *text, const char *config,
                     tt_tokenizer_json **ret, tt_err *err)
{
    char file[4096];
    size_t n = build(file, sizeof file, base, part, text);
    *ret = NULL;
    *err = (tt_err){.msg = ""};
    return tt_tokenizer_json_parse(file, n, config, config != NULL ? strlen(config) : 0, ret, err);
}

static void accept(const char *const *base, int part, const char *text, const char *config,
                   tt_tokenizer_json **ret)
{
    tt_err err;
    if (parse(base, part, text, config, ret, &err) != TT_OK) {
        fail_msg("%s", err.msg);
    }
}

static void refuse(const char *const *base, int part, const char *text, tt_code code,
                   const char *word)
{
    tt_tokenizer_json *j;
    tt_err err;
    tt_code rc = parse(base, part, text, NULL, &j, &err);
    if (rc != code || strstr(err.msg, word) == NULL) {
        fail_msg("%s: %d \"%s\", expected %d and \"%s\"", text, rc, err.msg, code, word);
    }
    assert_null(j);
}

static bool equal(tt_str s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

static void a_byte_level_file(void **state)
{
    (void)state;
    tt_tokenizer_json *j;
    accept(byte_level, -1, NULL, NULL, &j);
    const tt_vocab *v = tt_tokenizer_json_vocab(j);
    assert_int_equal(v->kind, TT_VOCAB_BPE);
    assert_true(equal(v->pre, "gpt-2"));
    assert_int_equal(v->n_tokens, 7);
    assert_int_equal(v->n_merges, 2);
    assert_true(equal(v->merges[1], "\xc4\xa0 hi") && equal(v->tokens[5], "<s>"));
    assert_int_equal(v->types[5], TT_TOKEN_CONTROL);
    assert_int_equal(v->types[6], TT_TOKEN_USER_DEFINED);
    assert_int_equal(v->bos, 5);
    assert_int_equal(v->eos, -1);
    assert_true(v->add_bos && !v->add_eos);
    assert_int_equal(v->nfc, TT_FLAG_OFF);
    tt_tokenizer_json_destroy(&j);
    assert_null(j);
    accept(
        byte_level, NORMALIZER, "{\"type\": \"NFC\"}",
        "{\"add_bos_token\": false, \"eos_token\": {\"content\": \"hi\"}, \"pad_token\": \"<s>\"}",
        &j);
    v = tt_tokenizer_json_vocab(j);
    assert_int_equal(v->nfc, TT_FLAG_ON);
    assert_int_equal(v->eos, 2);
    assert_int_equal(v->pad, 5);
    assert_false(v->add_bos);
    tt_tokenizer_json_destroy(&j);
    tt_tokenizer_json_destroy(&j);
}

static void a_marked_file(void **state)
{
    (void)state;
    tt_tokenizer_json *j;
    accept(marked, -1, NULL, NULL, &j);
    const tt_vocab *v = tt_tokenizer_json_vocab(j);
    assert_int_equal(v->kind, TT_VOCAB_SPM);
    assert_true(v->add_space_prefix && !v->space_prefix_once && !v->space_prefix_lazy &&
                !v->split_at_spaces);
    assert_int_equal(v->types[4], TT_TOKEN_BYTE);
    assert_int_equal(v->types[0], TT_TOKEN_UNKNOWN);
    assert_int_equal(v->unk, 0);
    tt_tokenizer_json_destroy(&j);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        int part;
        const char *text;
        tt_code code;
        const char *word;
    } byte_cases[] = {
        {NORMALIZER, "{\"type\": \"Lowercase\"}", TT_E_UNSUPPORTED, "Lowercase"},
        {NORMALIZER,
         "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"Strip\"}]}",
         TT_E_UNSUPPORTED, "NFC"},
        {NORMALIZER, "3", TT_E_UNSUPPORTED, "normalizer"},
        {PRE, "{\"type\": \"Whitespace\"}", TT_E_UNSUPPORTED, "Whitespace"},
        {PRE, "null", TT_E_UNSUPPORTED, "pre_tokenizer"},
        {PRE, "{\"type\": \"ByteLevel\", \"add_prefix_space\": true}", TT_E_UNSUPPORTED,
         "ByteLevel"},
        {PRE,
         "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": "
         "{\"Regex\": \"\\\\d+\"}, \"behavior\":"
         " \"Isolated\", \"invert\": false}, {\"type\": \"ByteLevel\", \"add_prefix_space\": "
         "false, \"use_regex\": false}]}",
         TT_E_UNSUPPORTED, "\\d+"},
        {PRE, "{\"type\": \"Sequence\", \"pretokenizers\": []}", TT_E_UNSUPPORTED, "pre_tokenizer"},
        {DECODER, "{\"type\": \"WordPiece\"}", TT_E_UNSUPPORTED, "WordPiece"},
        {DECODER, "null", TT_E_UNSUPPORTED, "decoder"},
        {POST, "{\"type\": \"BertProcessing\"}", TT_E_UNSUPPORTED, "BertProcessing"},
        {POST,
         "{\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": {}}, {\"SpecialToken\": "
         "{\"id\": \"x\"}}], \"special_tokens\": {}}",
         TT_E_UNSUPPORTED, "TemplateProcessing"},
        {POST,
         "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"x\"}}, "
         "{\"Sequence\": {}}],"
         " \"special_tokens\": {\"x\": {\"ids\": [7]}}}",
         TT_E_MODEL, "post_processor"},
        {MODEL, "{\"type\": \"WordPiece\", \"vocab\": {}}", TT_E_UNSUPPORTED, "WordPiece"},
        {MODEL, "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}}", TT_E_MODEL, "merges"},
        {MODEL, "{\"type\": \"BPE\", \"vocab\": [], \"merges\": []}", TT_E_MODEL, "vocabulary"},
        {MODEL, "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}", TT_E_MODEL,
         "two tokens"},
        {MODEL, "{\"type\": \"BPE\", \"vocab\": {\"a\": -1}, \"merges\": []}", TT_E_MODEL, "\"a\""},
        {MODEL, "{\"type\": \"BPE\", \"vocab\": {\"a\": 9999999}, \"merges\": []}", TT_E_MODEL,
         "9999999"},
        {MODEL, "{\"type\": \"BPE\", \"vocab\": {\"a\": 99999999999999}, \"merges\": []}",
         TT_E_MODEL, "99999999999999"},
        {MODEL, "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}", TT_E_MODEL,
         "merge 0"},
        {MODEL, "{\"type\": \"BPE\", \"dropout\": 0.1, \"vocab\": {\"a\": 0}, \"merges\": []}",
         TT_E_UNSUPPORTED, "dropout"},
        {MODEL,
         "{\"type\": \"BPE\", \"end_of_word_suffix\": \"w\", \"vocab\": {\"a\": 0}, \"merges\": "
         "[]}",
         TT_E_UNSUPPORTED, "end_of_word_suffix"},
        {MODEL, "{\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]]}", TT_E_UNSUPPORTED, "Unigram"},
        {MODEL, "null", TT_E_MODEL, "model"},
        {ADDED, "[{\"id\": 7, \"content\": \"x\", \"lstrip\": true}]", TT_E_UNSUPPORTED, "lstrip"},
        {ADDED, "[{\"id\": -1, \"content\": \"x\"}]", TT_E_MODEL, "added token 0"},
        {ADDED, "[{\"id\": 7, \"content\": \"\"}]", TT_E_MODEL, "added token 0"},
    };
    for (size_t i = 0; i < sizeof byte_cases / sizeof byte_cases[0]; i++) {
        refuse(byte_level, byte_cases[i].part, byte_cases[i].text, byte_cases[i].code,
               byte_cases[i].word);
    }
    refuse(marked, DECODER, LLAMA_DECODER(""), TT_E_UNSUPPORTED,
           "decoder"); /* keeps the space that the normalizer adds */
    refuse(marked, NORMALIZER, "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"\"}",
           TT_E_UNSUPPORTED, "Precompiled");
    refuse(marked, NORMALIZER, "{\"type\": \"Prepend\", \"prepend\": \"" MARK "\"}",
           TT_E_UNSUPPORTED, "prepend");
    refuse(marked, PRE, "{\"type\": \"Metaspace\", \"replacement\": \"_\"}", TT_E_UNSUPPORTED,
           "Metaspace");
    refuse(marked, MODEL, "{\"type\": \"Unigram\", \"unk_id\": 5, \"vocab\": [[\"a\", 0]]}",
           TT_E_MODEL, "unk_id");
    refuse(marked, MODEL, "{\"type\": \"Unigram\", \"vocab\": [[\"a\"]]}", TT_E_MODEL, "entry 0");
}

static void not_json(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "[", "[]", "{\"a\": \"\xff\"}", "{} x", "null"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        tt_tokenizer_json *j = NULL;
        tt_err err = {.msg = ""};
        assert_int_equal(tt_tokenizer_json_parse(texts[i], strlen(texts[i]), NULL, 0, &j, &err),
                         TT_E_MODEL);
        assert_null(j);
        assert_non_null(strstr(err.msg, "tokenizer.json"));
    }
    tt_tokenizer_json *j = NULL;
    tt_err err;
    assert_int_equal(parse(byte_level, -1, NULL, "{", &j, &err), TT_E_MODEL);
    assert_non_null(strstr(err.msg, "tokenizer_config.json"));
}

static void a_folder(void **state)
{
    (void)state;
    char folder[] = "test_tokenizer_json.XXXXXX", path[64], text[4096];
    assert_non_null(mkdtemp(folder));
    tt_tokenizer_json *j = NULL;
    tt_err err;
    assert_int_equal(tt_tokenizer_json_read(folder, &j, &err), TT_E_IO);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    size_t n = build(text, sizeof text, byte_level, -1, NULL);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
    assert_int_equal(tt_tokenizer_json_read(folder, &j, &err), TT_OK);
    tt_tokenizer *tok;
    assert_int_equal(tt_tokenizer_create(tt_tokenizer_json_vocab(j), &tok, &err), TT_OK);
    int32_t *ids;
    tt_encode_options opt = {.add_special = true};
    assert_int_equal(tt_tokenizer_encode(tok, "hi hi", 5, &opt, &ids, &n, &err), TT_OK);
    assert_int_equal(n, 3);
    assert_true(ids[0] == 5 && ids[1] == 2 && ids[2] == 4);
    free(ids);
    tt_tokenizer_destroy(&tok);
    tt_tokenizer_json_destroy(&j);
    unlink(path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_byte_level_file), cmocka_unit_test(a_marked_file),
        cmocka_unit_test(refusals),          cmocka_unit_test(not_json),
        cmocka_unit_test(a_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
