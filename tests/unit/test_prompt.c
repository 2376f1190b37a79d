/* test_prompt.c - messages to ids over the fake engine's byte vocabulary and ChatML, and the rule
 * that chooses the context. A byte is a token there, so lengths can be counted by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake_engine.h"
#include "server/prompt.h"

static tt_engine *engine;
static tt_served *served;

static int setup(void **state)
{
    tt_err err;
    assert_int_equal(tt_engine_create(&(tt_engine_options){.max_queue = 1}, &engine, &err), TT_OK);
    while (tt_engine_get_state(engine, &err) == TT_ENGINE_LOADING) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_int_equal(tt_served_create(engine, "", true, &served, &err), TT_OK);
    return 0;
}

static int teardown(void **state)
{
    tt_served_destroy(&served);
    tt_engine_destroy(&engine);
    return 0;
}

static json_t *message(const char *role, size_t n)
{
    char *text = malloc(n + 1);
    assert_non_null(text);
    memset(text, 'x', n);
    text[n] = '\0';
    json_t *m = json_pack("{s:s,s:s}", "role", role, "content", text);
    free(text);
    return m;
}

/* "<|im_start|>" ROLE "\n" TEXT "<|im_end|>" "\n": the two marks are one token each. */
static size_t cost(const char *role, size_t n)
{
    return 1 + strlen(role) + 1 + n + 1 + 1;
}

static int32_t context(const json_t *messages, tt_qttt_request q, size_t *ret_n, tt_code want)
{
    tt_chat_prompt chat = {.messages = messages, .add_generation_prompt = true};
    int32_t *ids = NULL, tokens = -1;
    tt_err err = {0};
    assert_int_equal(tt_prompt_chat(served, &chat, &ids, ret_n, &err), TT_OK);
    tt_code rc = tt_prompt_context(served, &chat, ids, *ret_n, &q, &tokens, &err);
    assert_int_equal(rc, want);
    assert_int_equal(rc == TT_OK, err.msg[0] == '\0');
    free(ids);
    return tokens;
}

static void names(void **state)
{
    assert_string_equal(served->name, "fake");
    assert_string_equal(served->alias, "fake-qttt");
    assert_true(served->template_fallback);
    assert_true(served->template_report[0] != '\0');
}

static void user_text_is_never_special(void **state)
{
    json_t *list = json_pack("[{s:s,s:s}]", "role", "user", "content", "<|im_end|>");
    tt_chat_prompt chat = {.messages = list};
    int32_t *ids;
    size_t n;
    tt_err err;
    assert_int_equal(tt_prompt_chat(served, &chat, &ids, &n, &err), TT_OK);
    assert_int_equal(n, cost("user", 10));
    free(ids);
    json_decref(list);
}

/* What comes before the last user turn, when it is long enough. The template itself may put text
 * before it. */
/* The operator may trust the clients: then the spelling is the token, in chat and in plain text. */
static void an_operator_may_allow_special_tokens(void **state)
{
    json_t *list = json_pack("[{s:s,s:s}]", "role", "user", "content", "<|im_end|>");
    tt_chat_prompt chat = {.messages = list};
    int32_t *ids;
    size_t n, plain;
    tt_err err;
    assert_int_equal(tt_prompt_chat(served, &chat, &ids, &plain, &err), TT_OK);
    free(ids);
    served->parse_special = true;
    assert_int_equal(tt_prompt_chat(served, &chat, &ids, &n, &err), TT_OK);
    assert_int_equal(n, plain - strlen("<|im_end|>") + 1);
    free(ids);
    assert_int_equal(tt_prompt_text(served, "<|im_end|>", 10, false, false, &ids, &n, &err), TT_OK);
    assert_int_equal(n, 1);
    free(ids);
    served->parse_special = false;
    assert_int_equal(tt_prompt_text(served, "<|im_end|>", 10, false, false, &ids, &n, &err), TT_OK);
    assert_int_equal(n, 10);
    free(ids);
    json_decref(list);
}

static void the_rule(void **state)
{
    size_t n;
    tt_qttt_request q = {0};
    tt_qttt_defaults(&q.params);
    json_t *list = json_array();
    json_array_append_new(list, message("system", 600));
    json_array_append_new(list, message("user", 300));
    json_array_append_new(list, message("assistant", 10));
    json_array_append_new(list, message("user", 20));
    size_t before = cost("system", 600) + cost("user", 300) + cost("assistant", 10);
    /* The next turn begins with the mark and "user": the shorter rendering ends where it ends. */
    assert_int_equal(context(list, q, &n, TT_OK), before);
    assert_int_equal(n, before + cost("user", 20) + 1 + strlen("assistant\n"));
    q.params.span_tokens =
        500; /* 2k = 1,000 is more than that prefix: all but the last 256 tokens */
    int32_t tokens = context(list, q, &n, TT_OK);
    assert_int_equal(tokens, n - 256);
    q.params.span_tokens = 0; /* the default */
    q.context = TT_CONTEXT_MESSAGES;
    q.context_n = 1;
    assert_int_equal(context(list, q, &n, TT_OK), cost("system", 600));
    q.context_n = 5;
    context(list, q, &n, TT_E_INVALID);
    q.context = TT_CONTEXT_TOKENS;
    assert_int_equal(context(list, q, &n, TT_OK), 5);
    q.context_n = 100000;
    context(list, q, &n, TT_E_INVALID);
    json_decref(list);
}

static void short_prompts_have_none(void **state)
{
    size_t n;
    tt_qttt_request q = {0};
    tt_qttt_defaults(&q.params);
    json_t *list = json_array();
    json_array_append_new(list, message("user", 100));
    assert_int_equal(context(list, q, &n, TT_OK), 0);
    json_array_set_new(list, 0, message("user", 1000));
    int32_t tokens = context(list, q, &n, TT_OK);
    assert_int_equal(tokens, n - 256);
    json_decref(list);
}

static void completions(void **state)
{
    int32_t ids[2000] = {0}, tokens;
    tt_err err;
    tt_qttt_request q = {0};
    tt_qttt_defaults(&q.params);
    assert_int_equal(tt_prompt_context(served, NULL, ids, 2000, &q, &tokens, &err), TT_OK);
    assert_int_equal(tokens, 1744);
    assert_int_equal(tt_prompt_context(served, NULL, ids, 256, &q, &tokens, &err), TT_OK);
    assert_int_equal(tokens, 0);
    q.context = TT_CONTEXT_MESSAGES;
    q.context_n = 1;
    assert_int_equal(tt_prompt_context(served, NULL, ids, 2000, &q, &tokens, &err), TT_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(names),
                                       cmocka_unit_test(user_text_is_never_special),
                                       cmocka_unit_test(an_operator_may_allow_special_tokens),
                                       cmocka_unit_test(the_rule),
                                       cmocka_unit_test(short_prompts_have_none),
                                       cmocka_unit_test(completions)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
