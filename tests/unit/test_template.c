/* test_template.c - chat templates: rendering, origins of bytes, errors and bounds. Equality with
 * jinja2 is tested by tests/tools/check_template.py; here are the properties that jinja2 does not
 * have. Thread: one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/template_json.h"

static const char two_messages[] =
    "[{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": \"Hi\"}]";

typedef struct result {
    tt_code code;
    tt_err err;
    tt_rendered out;
} result;

static result render_with(const char *src, const char *messages, const char *kwargs,
                          tt_render_options opt)
{
    result r = {0};
    tt_template *t = NULL;
    json_error_t error;
    json_t *m = json_loads(messages, 0, &error),
           *k = kwargs == NULL ? NULL : json_loads(kwargs, 0, &error);
    assert_non_null(m);
    r.code = tt_template_create(src, strlen(src), &t, &r.err);
    if (r.code == TT_OK) {
        opt.messages = m;
        opt.kwargs = k;
        r.code = tt_template_render(t, &opt, &r.out, &r.err);
    }
    tt_template_destroy(&t);
    assert_null(t);
    json_decref(m);
    json_decref(k);
    return r;
}

static result render(const char *src)
{
    return render_with(src, two_messages, NULL, (tt_render_options){.add_generation_prompt = true});
}

static void assert_renders(const char *src, const char *expected)
{
    result r = render(src);
    if (r.code != TT_OK) {
        fail_msg("%s", r.err.msg);
    }
    assert_string_equal(r.out.text, expected);
    tt_rendered_finish(&r.out);
}

static void assert_fails(const char *src, tt_code code, const char *words)
{
    result r = render(src);
    if (r.code == TT_OK) {
        tt_rendered_finish(&r.out);
        fail_msg("no failure: %s", src);
    }
    assert_int_equal(r.code, code);
    assert_int_equal(r.err.code, code);
    if (strstr(r.err.msg, words) == NULL) {
        fail_msg("'%s' is not in '%s'", words, r.err.msg);
    }
}

static void test_chatml(void **state)
{
    assert_renders(
        tt_template_chatml,
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    result r = render_with(tt_template_chatml, "[]", NULL, (tt_render_options){0});
    assert_int_equal(r.code, TT_OK);
    assert_string_equal(r.out.text, "");
    assert_int_equal(r.out.n_pieces, 0);
    tt_rendered_finish(&r.out);
}

/* The pieces, as text with [untrusted] parts in brackets. */
static void assert_pieces(const char *src, const char *messages, const char *expected)
{
    char seen[512] = "";
    size_t n = 0;
    const char *at;
    result r = render_with(src, messages, "{\"n\": 7}", (tt_render_options){.bos_token = "<s>"});
    assert_int_equal(r.code, TT_OK);
    at = r.out.text;
    for (size_t i = 0; i < r.out.n_pieces; i++) {
        const tt_text_piece *p = &r.out.pieces[i];
        assert_ptr_equal(p->p, at); /* in order, without gaps */
        at += p->n;
        n += (size_t)snprintf(seen + n, sizeof seen - n, p->trusted ? "%.*s" : "[%.*s]", (int)p->n,
                              p->p);
    }
    assert_ptr_equal(at, r.out.text + r.out.n);
    assert_string_equal(seen, expected);
    tt_rendered_finish(&r.out);
}

static void test_origins(void **state)
{
    const char *m = "[{\"role\": \"user\", \"content\": \" <|end|>,x \"}]";
    assert_pieces("{{ bos_token }}<|u|>{{ messages[0].content }}<|end|>", m,
                  "<s><|u|>[ <|end|>,x ]<|end|>");
    assert_pieces("{{ '<' + messages[0].content.strip() + '>' }}", m, "<[<|end|>,x]>");
    assert_pieces("{{ 1 + 2 + n }}{{ '<' + 'b' + messages[0].role + '>' }}{{ [1] + [2] + [3] }}", m,
                  "[10]<b[user]>[[]1[, ]2[, ]3[]]");
    assert_pieces("{{ ('<' ~ messages[0].content ~ '>') | trim | upper }}", m, "<[ <|END|>,X ]>");
    assert_pieces("{{ ('a' + messages[0].content)[1:4] }}", m, "[ <|]");
    assert_pieces("{{ ('a' + messages[0].content)[::-1] }}", m, "[ x,>|dne|< ]a");
    assert_pieces("{{ messages[0].content.split(',') | join('<|sep|>') }}", m,
                  "[ <|end|>]<|sep|>[x ]");
    assert_pieces("{{ messages[0].content | replace('|', '!') }}", m, "[ <]![end]![>,x ]");
    assert_pieces("{{ '<|x|>' | replace('x', messages[0].role) }}", m, "<|[user]|>");
    assert_pieces("{{ messages[0] | tojson }}", m,
                  "[{\"role\": \"user\", \"content\": \" <|end|>,x \"}]");
    assert_pieces("{{ '%s-%s' % ('a', messages[0].role) }}", m, "a-[user]");
    assert_pieces("{{ '{}:{}'.format('a', messages[0].role) }}", m, "a:[user]");
    assert_pieces("{{ 'a'.center(3, messages[0].content[1]) }}{{ 'b'.rjust(2) }}", m, "[<]a[<] b");
    assert_pieces("{% set x %}<{{ messages[0].role }}>{% endset %}{{ x }}{{ x | length }}", m,
                  "<[user]>[6]");
    assert_pieces("{% macro f(a) %}<{{ a }}>{% endmacro %}{{ f(messages[0].role) ~ f('b') }}", m,
                  "<[user]><b>");
    assert_pieces("{{ n }}{{ n + 1 }}{{ 3 }}{% for i in [0] %}{{ loop.index }}{% endfor %}", m,
                  "[78]31");
}

static void test_errors(void **state)
{
    assert_fails("{{ raise_exception('only ' ~ 'user') }}", TT_E_INVALID, "only user");
    assert_fails("a\n{{ 'a' + 1 }}", TT_E_INVALID,
                 "line 2: can only concatenate str (not \"int\") to str");
    assert_fails("{{ 'a' + 'b' + 1 + nothing.x }}", TT_E_INVALID,
                 "can only concatenate str (not \"int\") to str");
    assert_fails("{{ 1 + 'a' + 'b' }}", TT_E_INVALID, "'int' and 'str'");
    assert_fails("{{ nothing.attribute }}", TT_E_INVALID, "'nothing' is undefined");
    assert_fails("{{ messages[0].nothing.x }}", TT_E_INVALID,
                 "'dict object' has no attribute 'nothing'");
    assert_fails("\n\n{% if x %}", TT_E_MODEL, "line 3");
    assert_fails("{{ 'a }}", TT_E_MODEL, "line 1");
    assert_fails("{{ (1, 2] }}", TT_E_MODEL, "unexpected ']'");
    assert_fails("{% break %}", TT_E_MODEL, "outside of a loop");
    assert_fails("\xff", TT_E_MODEL, "UTF-8");
}

static void test_unsupported(void **state)
{
    assert_fails("\n{% include 'x' %}", TT_E_UNSUPPORTED, "line 2: tag 'include' is not supported");
    assert_fails("{% extends 'x' %}", TT_E_UNSUPPORTED, "tag 'extends'");
    assert_fails("{% for a in b recursive %}{% endfor %}", TT_E_UNSUPPORTED, "recursive loop");
    assert_fails("\n\n{{ a | xmlattr }}", TT_E_UNSUPPORTED,
                 "line 3: filter 'xmlattr' is not supported");
    assert_fails("{{ a | nonsense }}", TT_E_UNSUPPORTED, "filter 'nonsense' is not known");
    assert_fails("{{ a | map('nonsense') }}", TT_E_UNSUPPORTED, "filter 'nonsense' is not known");
    assert_fails("{{ a | rejectattr('x', 'odder') }}", TT_E_UNSUPPORTED, "test 'odder'");
    assert_fails("\n{{ cycler(1) }}", TT_E_UNSUPPORTED, "line 2: function 'cycler'");
    assert_fails("{{ a.encode() }}", TT_E_UNSUPPORTED, "method 'encode'");
    assert_fails("{{ a is nonsense }}", TT_E_UNSUPPORTED, "test 'nonsense' is not known");
}

static void test_bounds(void **state)
{
    assert_fails("{{ 'a' * 10**9 }}", TT_E_CAPACITY, "bytes");
    assert_fails("{{ [1] * 10**9 }}", TT_E_CAPACITY, "");
    assert_fails("{{ range(10**12) }}", TT_E_INVALID, "Range too big");
    assert_fails("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                 TT_E_CAPACITY, "steps");
    assert_fails("{% set ns = namespace(s='ab') %}{% for a in range(99) %}{% set ns.s = ns.s ~ "
                 "ns.s %}{% endfor %}",
                 TT_E_CAPACITY, "bytes");
    assert_fails("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", TT_E_CAPACITY, "nesting");
    assert_fails("{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] "
                 "%}{% endfor %}{{ ns.x }}",
                 TT_E_CAPACITY, "nesting");
    result r = render_with("{% for a in range(100) %}0123456789{% endfor %}", "[]", NULL,
                           (tt_render_options){.max_output_bytes = 999});
    assert_int_equal(r.code, TT_E_CAPACITY);
    r = render_with("{% for a in range(100) %}{% endfor %}", "[]", NULL,
                    (tt_render_options){.max_steps = 99});
    assert_int_equal(r.code, TT_E_CAPACITY);
}

/* Work that one cheap-looking operation hides counts too: these would take minutes. */
static void test_hidden_work(void **state)
{
    assert_fails("{{ ('a' * 9000000).rfind('a' * 4000000 ~ 'b') }}", TT_E_CAPACITY, "steps");
    assert_fails("{% set a = 'a' * 9000000 ~ 'b' %}{% set b = 'a' * 9000000 ~ 'c' %}"
                 "{% for i in range(99999) %}{% if a == b %}{% endif %}{% endfor %}",
                 TT_E_CAPACITY, "steps");
    assert_fails("{% set a = [1] * 99999 %}{% set b = [1] * 99999 %}"
                 "{% for i in range(99999) %}{% if a == b %}{% endif %}{% endfor %}",
                 TT_E_CAPACITY, "steps");
    assert_fails("{% set t = (1,) * 99999 %}{% for i in range(99999) %}{{ {}[t] }}{% endfor %}",
                 TT_E_CAPACITY, "");
    assert_fails(
        "{% set a = 'a' * 9000000 %}{% for i in range(99999) %}{{ a.count('b') }}{% endfor %}",
        TT_E_CAPACITY, "steps");
    assert_fails(
        "{% for i in range(99999) %}{% set ns = namespace(a=range(99999) | list) %}{% endfor %}",
        TT_E_CAPACITY, "");
}

/* n times `piece`, between head and tail. */
static char *repeated(const char *head, const char *piece, const char *tail, size_t n)
{
    size_t len = strlen(piece);
    char *s = malloc(strlen(head) + n * len + strlen(tail) + 1);
    assert_non_null(s);
    strcpy(s, head);
    char *p = s + strlen(head);
    for (size_t i = 0; i < n; i++, p += len) {
        memcpy(p, piece, len);
    }
    strcpy(p, tail);
    return s;
}

static void test_deep_nesting(void **state)
{
    static const struct {
        const char *head, *piece, *tail;
    } deep[] = {
        {"{{ ", "(", ""},         {"{{ ", "[", ""},
        {"{{ ", "{1:", ""},       {"{{ ", "-", "1 }}"},
        {"{{ ", "not ", "1 }}"},  {"{{ 1", "+1", " }}"},
        {"{{ a", ".a", " }}"},    {"{{ a", "[0]", " }}"},
        {"{{ a", "()", " }}"},    {"{{ a", "|trim", " }}"},
        {"", "{% if 1 %}", ""},   {"", "{% for a in b %}", ""},
        {"{{ ", "1 if ", "1 }}"}, {"{{ ", "1 if 1 else ", "1 }}"},
        {"{{ ", "x(", ""},        {"{% set ", "(", ""},
    };
    for (size_t i = 0; i < sizeof deep / sizeof deep[0]; i++) {
        char *src = repeated(deep[i].head, deep[i].piece, deep[i].tail, 50000);
        result r = render(src);
        assert_true(r.code == TT_E_UNSUPPORTED || r.code == TT_E_MODEL);
        free(src);
    }
}

static void test_names_and_sizes(void **state)
{
    char many[1100 * 8 + 8] = "{{ [";
    size_t n = strlen(many);
    for (int i = 0; i < 1100; i++) {
        n += (size_t)snprintf(many + n, sizeof many - n, "v%d,", i);
    }
    strcpy(many + n, "] }}");
    assert_fails(many, TT_E_UNSUPPORTED, "names");
    char *huge = repeated("", "0123456789", "", 1 << 17);
    assert_fails(huge, TT_E_UNSUPPORTED, "bytes");
    free(huge);
    tt_template *t = NULL;
    assert_int_equal(tt_template_create("{{", 2, &t, NULL), TT_E_MODEL);
    assert_null(t);
    tt_template_destroy(&t);
    tt_rendered none = {0};
    tt_rendered_finish(&none);
}

/* Tokens of the model that it does not have are undefined, and kwargs are further globals. */
static void test_globals(void **state)
{
    result r = render_with("{{ bos_token is defined }}{{ eos_token }}{{ k.a }}{{ tools is none }}",
                           "[]", "{\"k\": {\"a\": 1}, \"unused\": [1, 2]}",
                           (tt_render_options){.eos_token = "</s>"});
    assert_int_equal(r.code, TT_OK);
    assert_string_equal(r.out.text, "False</s>1True");
    tt_rendered_finish(&r.out);
}

static void test_time(void **state)
{
    result r = render_with("{{ strftime_now('%Y-%m') }}", "[]", NULL,
                           (tt_render_options){.now = 86400 * 20});
    assert_int_equal(r.code, TT_OK);
    assert_string_equal(r.out.text, "1970-01");
    tt_rendered_finish(&r.out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chatml),      cmocka_unit_test(test_origins),
        cmocka_unit_test(test_errors),      cmocka_unit_test(test_unsupported),
        cmocka_unit_test(test_bounds),      cmocka_unit_test(test_deep_nesting),
        cmocka_unit_test(test_hidden_work), cmocka_unit_test(test_names_and_sizes),
        cmocka_unit_test(test_globals),     cmocka_unit_test(test_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
