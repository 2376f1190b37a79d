/* test_diagnostics_json.c - the answer of the diagnostics endpoint, byte for byte: both sides, a
 * head without a needle, numbers that JSON does not have. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/diagnostics_json.h"

static const tt_head_diagnosis base[] = {
    {.n_keys = 9,
     .best = 4,
     .near_ties = 2,
     .needle_mass = 0.5,
     .sink_mass = 0.25,
     .margin = -1.5,
     .gap = 0.75,
     .required = 4.25},
    {.n_keys = 1,
     .best = -1,
     .needle_mass = 0,
     .sink_mass = 1,
     .margin = NAN,
     .gap = NAN,
     .required = -INFINITY},
};
static const tt_head_diagnosis adapted[] = {
    {.n_keys = 9,
     .best = 3,
     .near_ties = 0,
     .needle_mass = 1,
     .sink_mass = 0,
     .margin = INFINITY,
     .gap = 2,
     .required = 4.25},
    {.n_keys = 1, .best = 0, .needle_mass = 1, .sink_mass = 1, .margin = INFINITY, .gap = INFINITY},
};

static tt_diagnostics_answer both(void)
{
    return (tt_diagnostics_answer){
        .session_id = "ses_a",
        .model = "m\"",
        .context_tokens = 8,
        .prompt_tokens = 9,
        .asked = {.needle_start = 3, .needle_end = 5, .delta = 1, .epsilon = 0.125},
        .needle = "caf\xc3",
        .n_needle = 4,
        .occurrences = 2,
        .generation = 3,
        .adapter_id = 0xabc,
        .n_layers = 2,
        .n_heads = 1,
        .base = base,
        .adapted = adapted};
}

#define HEAD_0                                                                                     \
    "{\"layer\":0,\"head\":0,\"keys\":9,\"required_margin\":4.25,"                                 \
    "\"base\":{\"needle_mass\":0.5,\"sink_mass\":0.25,\"margin\":-1.5,\"gap\":0.75,"               \
    "\"near_ties\":2,\"position\":4},\"adapted\":"
#define HEAD_1                                                                                     \
    "{\"layer\":1,\"head\":0,\"keys\":1,\"required_margin\":null,"                                 \
    "\"base\":{\"needle_mass\":0,\"sink_mass\":1,\"margin\":null,\"gap\":null,"                    \
    "\"near_ties\":null,\"position\":null},\"adapted\":"

static void same_json(const tt_diagnostics_answer *a, const char *generation, const char *heads)
{
    tt_buf got = {0}, want = {0};
    tt_diagnostics_write_json(&got, a);
    tt_buf_printf(
        &want,
        "{\"object\":\"session.diagnostics\",\"session_id\":\"ses_a\",\"model\":\"m\\\"\","
        "\"context_tokens\":8,\"prompt_tokens\":9,\"needle\":{\"start\":3,\"end\":5,"
        "\"text\":\"caf\xef\xbf\xbd\",\"occurrences\":2},\"delta\":1,\"epsilon\":0.125,"
        "%s,\"n_layers\":2,\"n_heads\":1,\"heads\":[%s]}",
        generation, heads);
    tt_buf_putc(&got, '\0');
    tt_buf_putc(&want, '\0');
    assert_string_equal(got.p, want.p);
    tt_buf_finish(&got);
    tt_buf_finish(&want);
}

static void test_json(void **state)
{
    tt_diagnostics_answer a = both();
    same_json(&a, "\"generation\":3,\"adapter_id\":\"adp_0000000000000abc\"",
              HEAD_0 "{\"needle_mass\":1,\"sink_mass\":0,\"margin\":null,\"gap\":2,\"near_ties\":0,"
                     "\"position\":3}}," HEAD_1
                     "{\"needle_mass\":1,\"sink_mass\":1,\"margin\":null,\"gap\":null,"
                     "\"near_ties\":0,\"position\":0}}");
    a.generation = 0;
    a.adapter_id = 0;
    a.adapted = NULL;
    same_json(&a, "\"generation\":0,\"adapter_id\":null", HEAD_0 "null}," HEAD_1 "null}");
}

static void same_csv(const tt_diagnostics_answer *a, const char *line0, const char *line1)
{
    tt_buf got = {0}, want = {0};
    tt_diagnostics_write_csv(&got, a);
    tt_buf_printf(&want,
                  "layer,head,keys,required_margin,base_needle_mass,base_sink_mass,base_margin,"
                  "base_gap,base_near_ties,base_position,adapted_needle_mass,adapted_sink_mass,"
                  "adapted_margin,adapted_gap,adapted_near_ties,adapted_position\r\n%s\r\n%s\r\n",
                  line0, line1);
    tt_buf_putc(&got, '\0');
    tt_buf_putc(&want, '\0');
    assert_string_equal(got.p, want.p);
    tt_buf_finish(&got);
    tt_buf_finish(&want);
}

static void test_csv(void **state)
{
    tt_diagnostics_answer a = both();
    same_csv(&a, "0,0,9,4.25,0.5,0.25,-1.5,0.75,2,4,1,0,,2,0,3", "1,0,1,,0,1,,,,,1,1,,,0,0");
    a.adapted = NULL;
    same_csv(&a, "0,0,9,4.25,0.5,0.25,-1.5,0.75,2,4,,,,,,", "1,0,1,,0,1,,,,,,,,,,");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_json), cmocka_unit_test(test_csv)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
