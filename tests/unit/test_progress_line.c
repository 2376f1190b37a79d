/* test_progress_line.c - the progress of `qttt run`: in a file one line a phase, on a terminal one
 * line that is written over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/progress_line.h"

static char got[8192];

static tt_event prefill(int done, int total, int cached, double seconds)
{
    return (tt_event){
        .type = TT_EV_PREFILL,
        .u.prefill = {.done = done, .total = total, .cached = cached, .seconds = seconds}};
}

static tt_event adapt(int step, int total)
{
    return (tt_event){.type = TT_EV_ADAPT,
                      .u.adapt = {.step = step, .total = total, .loss = 1.25, .seconds = 0.125}};
}

static tt_event adapted(void)
{
    return (tt_event){.type = TT_EV_ADAPTED,
                      .u.adapted = {.status = "succeeded",
                                    .kept = true,
                                    .delta_norm_relative = 1e-3,
                                    .adapt_seconds = 2.5,
                                    .have_recall = true,
                                    .recall_before = 2.5,
                                    .recall_after = 2.25,
                                    .recall_se = 0.125}};
}

static tt_event done_event(void)
{
    return (tt_event){.type = TT_EV_DONE,
                      .u.done = {.prompt_tokens = 100,
                                 .cached_tokens = 64,
                                 .completion_tokens = 50,
                                 .decode_seconds = 2}};
}

/* One answer's events. */
static void tell(tt_progress_line *l)
{
    const tt_event all[] = {{.type = TT_EV_STARTED},
                            prefill(64, 100, 64, 0),
                            prefill(100, 100, 64, 0.5),
                            adapt(1, 2),
                            adapt(2, 2),
                            adapted(),
                            {.type = TT_EV_TOKEN}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        tt_progress_line_event(l, &all[i]);
    }
    tt_event last = done_event();
    tt_progress_line_clear(l);
    tt_progress_line_done(l, &last);
}

static void test_a_file_has_a_line_a_phase(void **state)
{
    FILE *f = tmpfile();
    tt_progress_line l;
    assert_non_null(f);
    tt_progress_line_init(&l, f);
    assert_false(l.terminal);
    tell(&l);
    rewind(f);
    size_t n = fread(got, 1, sizeof got - 1, f);
    got[n] = '\0';
    fclose(f);
    assert_string_equal(
        got, "prefill  [########################] 100/100 tokens, 72/s\n" /* 36 of them new */
             "adapt    [########################] step 2/2, loss 1.2500, 0.12 s a step\n"
             "adapted  succeeded, kept, |D|/|W_Q| 1.0e-03, 2.5 s; recall loss 2.500 -> 2.250 nats "
             "(standard error 0.125)\n"
             "100 prompt tokens (64 cached), 50 tokens in 2.00 s, 25.0/s\n");
}

static void test_other_outcomes(void **state)
{
    static const struct {
        tt_qttt_result r;
        const char *want;
    } rows[] = {
        {{.status = "skipped", .reason = "context_too_short"},
         "adapted  skipped: context_too_short\n"},
        {{.status = "cancelled"}, "adapted  cancelled\n"},
        {{.status = "succeeded", .cached = true, .kept = true},
         "adapted  succeeded, kept (from the cache), |D|/|W_Q| 0.0e+00, 0.0 s\n"},
        {{.status = "failed",
          .reason = "diverged",
          .have_recall = true,
          .recall_before = 2,
          .recall_after = NAN}, /* not measured after a failure */
         "adapted  failed: diverged\n"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        FILE *f = tmpfile();
        tt_progress_line l;
        assert_non_null(f);
        tt_progress_line_init(&l, f);
        tt_event e = {.type = TT_EV_ADAPTED, .u.adapted = rows[i].r};
        tt_progress_line_event(&l, &e);
        rewind(f);
        size_t n = fread(got, 1, sizeof got - 1, f);
        got[n] = '\0';
        fclose(f);
        assert_string_equal(got, rows[i].want);
    }
}

/* Events of an engine that has nothing to do: no division by it. */
static void test_nothing_to_do(void **state)
{
    FILE *f = tmpfile();
    tt_progress_line l;
    assert_non_null(f);
    tt_progress_line_init(&l, f);
    tt_event e = prefill(0, 0, 0, 0);
    tt_progress_line_event(&l, &e);
    e = adapt(0, 0);
    tt_progress_line_event(&l, &e);
    e = prefill(7, 7, 7, 0);
    tt_progress_line_event(&l, &e);
    e = (tt_event){.type = TT_EV_DONE};
    tt_progress_line_done(&l, &e);
    rewind(f);
    size_t n = fread(got, 1, sizeof got - 1, f);
    got[n] = '\0';
    fclose(f);
    assert_string_equal(got, "prefill  [########################] 7/7 tokens, 0/s\n"
                             "0 prompt tokens (0 cached), 0 tokens in 0.00 s, 0.0/s\n");
}

static void test_a_terminal_is_written_over(void **state)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) {
        print_message("skip: no pseudo-terminal\n");
        skip();
    }
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    FILE *f = fdopen(slave, "w");
    tt_progress_line l;
    assert_non_null(f);
    tt_progress_line_init(&l, f);
    assert_true(l.terminal);
    tt_event e = prefill(64, 100, 0, 1);
    tt_progress_line_event(&l, &e);
    e = prefill(80, 100, 0, 1);
    tt_progress_line_event(&l, &e);
    tt_progress_line_clear(&l);
    tt_progress_line_clear(&l); /* nothing left to remove */
    fputs("answer", f);
    fflush(f);
    size_t n = 0;
    while (strstr(got, "answer") == NULL || n == 0) {
        ssize_t k = read(master, got + n, sizeof got - 1 - n);
        assert_true(k > 0);
        n += (size_t)k;
        got[n] = '\0';
    }
    fclose(f);
    close(master);
    assert_string_equal(got, "\r\033[Kprefill  [###############.........] 64/100 tokens, 64/s"
                             "\r\033[Kprefill  [###################.....] 80/100 tokens, 80/s"
                             "\r\033[Kanswer");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_file_has_a_line_a_phase),
        cmocka_unit_test(test_other_outcomes),
        cmocka_unit_test(test_nothing_to_do),
        cmocka_unit_test(test_a_terminal_is_written_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
