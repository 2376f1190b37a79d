/* test_cmd_inspect.c - server/cmd_inspect.c: what it prints, as text and as JSON, and its exit
 * status for bad files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model_writer.h"
#include "server/cmd.h"

static char *folder;
static char model_path[4200];

static int set_up(void **state)
{
    (void)state;
    folder = mw_make_folder();
    mw_gguf w;
    size_t n;
    mw_gguf_init(&w);
    mw_kv_str(&w, "general.name", "Tiny Model");
    mw_kv_str(&w, "tokenizer.chat_template", "{{ x }}");
    mw_model_gguf(&w, &(mw_model){.arch = "gemma3", .layers = 7, .tied = true});
    uint8_t *p = mw_gguf_finish(&w, &n);
    mw_write_file(folder, "m.gguf", p, n);
    mw_write_file(folder, "cut.gguf", p, n - 1);
    free(p);
    snprintf(model_path, sizeof model_path, "%s/m.gguf", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    mw_remove_folder(folder);
    return 0;
}

static char *read_back(FILE *f)
{
    long n = ftell(f);
    char *s = calloc(1, (size_t)n + 1);
    assert_non_null(s);
    rewind(f);
    assert_int_equal(fread(s, 1, (size_t)n, f), n);
    fclose(f);
    return s;
}

/* Runs the command with stdout and stderr in files; both texts are the caller's to free. */
static int run(char *a, char *b, char *c, char **ret_out, char **ret_err)
{
    char name[] = "inspect", *argv[] = {name, a, b, c, NULL};
    int argc = a == NULL ? 1 : b == NULL ? 2 : c == NULL ? 3 : 4;
    FILE *files[2] = {tmpfile(), tmpfile()};
    assert_true(files[0] != NULL && files[1] != NULL);
    fflush(stdout);
    fflush(stderr);
    int kept[2] = {dup(1), dup(2)};
    dup2(fileno(files[0]), 1);
    dup2(fileno(files[1]), 2);
    int status = tt_cmd_inspect(argc, argv);
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 2; i++) {
        dup2(kept[i], i + 1);
        close(kept[i]);
        fseek(files[i], 0, SEEK_END);
    }
    *ret_out = read_back(files[0]);
    *ret_err = read_back(files[1]);
    return status;
}

static json_int_t number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v)) {
        fail_msg("no integer %s", key);
    }
    return json_integer_value(v);
}

static void test_json(void **state)
{
    (void)state;
    char json[] = "--json", tensors[] = "--tensors", *out, *err;
    assert_int_equal(run(model_path, json, tensors, &out, &err), 0);
    assert_string_equal(err, "");
    json_error_t e;
    json_t *o = json_loads(out, JSON_REJECT_DUPLICATES, &e);
    assert_non_null(o);
    assert_string_equal(json_string_value(json_object_get(o, "name")), "Tiny-Model");
    assert_string_equal(json_string_value(json_object_get(o, "architecture")), "gemma3");
    assert_int_equal(strlen(json_string_value(json_object_get(o, "fingerprint"))), 16);
    assert_int_equal(number(o, "layers"), 7);
    assert_int_equal(number(o, "context_length"), 128);
    assert_int_equal(number(o, "vocab_size"), 24);
    assert_int_equal(number(o, "sliding_layers"), 6);
    assert_int_equal(number(o, "sliding_window"), 16);
    assert_true(json_is_true(json_object_get(o, "chat_template")));
    assert_int_equal(json_array_size(json_object_get(o, "features")), 6);
    const json_t *memory = json_object_get(o, "memory");
    assert_int_equal(number(memory, "kv_bytes_per_token_bf16"), 7 * 2 * 16 * 2);
    assert_int_equal(number(memory, "kv_bytes_full_context_f32"), 7 * 2 * 16 * 4 * 128);
    assert_int_equal(number(memory, "weight_bytes"), 4 * number(o, "parameters"));
    const json_t *list = json_object_get(o, "tensors");
    assert_int_equal(json_array_size(list), 2 + 7 * 13);
    assert_int_equal(number(json_object_get(json_object_get(o, "types"), "F32"), "tensors"), 93);
    const json_t *t = json_array_get(list, 0);
    assert_string_equal(json_string_value(json_object_get(t, "name")), "token_embd.weight");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(t, "shape"), 0)), 24);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(t, "shape"), 1)), 32);
    assert_int_equal(number(t, "bytes"), 24 * 32 * 4);
    json_decref(o);
    free(out);
    free(err);
}

static void test_text(void **state)
{
    (void)state;
    char tensors[] = "--tensors", *out, *err;
    assert_int_equal(run(model_path, NULL, NULL, &out, &err), 0);
    assert_non_null(strstr(out, "Tiny-Model"));
    assert_non_null(strstr(out, "16 tokens in 6 of 7 layers"));
    assert_non_null(strstr(out, "93 tensors"));
    assert_null(strstr(out, "blk.0."));
    free(out);
    free(err);
    assert_int_equal(run(tensors, model_path, NULL, &out, &err), 0);
    assert_non_null(strstr(out, "[24, 32]"));
    assert_non_null(strstr(out, "blk.6.post_ffw_norm.weight"));
    free(out);
    free(err);
}

/* One sentence on stderr, nothing on stdout, status 2. */
static void test_refused(void **state)
{
    (void)state;
    char cut[4200], none[] = "/nonexistent.gguf", bad[] = "--nonsense", *out, *err;
    char memory[] = "--memory", much[] = "much", contexts[] = "--contexts", zero[] = "0";
    snprintf(cut, sizeof cut, "%s/cut.gguf", folder);
    const struct {
        char *a, *b;
        const char *text;
    } cases[] = {{cut, NULL, "cut.gguf: truncated: tensor output_norm.weight"},
                 {none, NULL, "nonexistent.gguf: cannot open the file"},
                 {NULL, NULL, "which model?"},
                 {bad, NULL, "unknown option --nonsense"},
                 {memory, much, "unknown option --memory, or a value"},
                 {contexts, zero, "unknown option --contexts, or a value"},
                 {model_path, cut, "one model at a time"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(run(cases[i].a, cases[i].b, NULL, &out, &err), 2);
        assert_string_equal(out, "");
        assert_non_null(strstr(err, cases[i].text));
        assert_ptr_equal(strchr(err, '\n'), err + strlen(err) - 1);
        free(out);
        free(err);
    }
}

static void test_help(void **state)
{
    (void)state;
    char help[] = "--help", *out, *err;
    assert_int_equal(run(help, NULL, NULL, &out, &err), 0);
    assert_non_null(strstr(out, "Usage: qttt inspect MODEL"));
    free(out);
    free(err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_help),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
