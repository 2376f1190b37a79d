/* test_metrics.c - histograms and the text format: buckets add up, names are unique, every sample
 * has a type. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/metrics.h"

static long value_of(const char *page, const char *sample)
{
    char line[128]; /* a sample begins its line; HELP and TYPE lines name it too */
    snprintf(line, sizeof line, "\n%s", sample);
    const char *p = strstr(page, line);
    if (p == NULL) {
        fail_msg("no %s", sample);
        return -1;
    }
    return (long)strtod(p + strlen(line), NULL); /* 2490368 may be written 2.490368e+06 */
}

/* More of each kind than there is room for. */
static void count(tt_metrics *m)
{
    static char names[TT_METRICS_REASONS + 6][8];
    tt_histogram_add(&m->queue, 0);
    tt_histogram_add(&m->queue, 0.001); /* a bound belongs to its bucket */
    tt_histogram_add(&m->queue, 0.7);
    tt_histogram_add(&m->queue, 1e6);
    for (int i = 0; i < 40; i++) {
        tt_metrics_request(m, 200 + i, true);
        tt_metrics_request(m, 200, i % 2 == 0);
    }
    tt_metrics_rejected(m, 400, NULL);
    tt_metrics_rejected(m, 429, "queue_full");
    tt_metrics_rejected(m, 429, "queue_full");
    for (int i = 0; i < TT_METRICS_REASONS + 6; i++) {
        snprintf(names[i], sizeof names[i], "r%d", i);
        tt_metrics_rejected(m, 500, names[i]);
    }
    tt_metrics_qttt(m, "succeeded");
}

static void page(void **state)
{
    tt_metrics m = {0};
    tt_buf b = {0};
    count(&m);
    tt_metrics_write(&b, &m,
                     &(tt_engine_stats){.queued = 3,
                                        .running = 1,
                                        .queued_jobs = 5,
                                        .running_jobs = 2,
                                        .preemptions = 11,
                                        .decode_steps = 12,
                                        .decode_rows = 13,
                                        .drafted_tokens = 14,
                                        .accepted_tokens = 8,
                                        .kv_pages_total = 10,
                                        .kv_pages_used = 6,
                                        .kv_pages_cached = 1},
                     &(tt_metrics_page){.model_name = "m",
                                        .ready = true,
                                        .stalled_seconds = 7,
                                        .stalls = 2,
                                        .max_requests = 9});
    tt_buf_putc(&b, '\0');
    assert_false(b.failed);
    assert_int_equal(value_of(b.p, "qttt_queue_seconds_bucket{le=\"0.001\"} "), 2);
    assert_int_equal(value_of(b.p, "qttt_queue_seconds_bucket{le=\"0.5\"} "), 2);
    assert_int_equal(value_of(b.p, "qttt_queue_seconds_bucket{le=\"1\"} "), 3);
    assert_int_equal(value_of(b.p, "qttt_queue_seconds_bucket{le=\"300\"} "), 3);
    assert_int_equal(value_of(b.p, "qttt_queue_seconds_bucket{le=\"+Inf\"} "), 4);
    assert_int_equal(value_of(b.p, "qttt_queue_seconds_count "), 4);
    assert_int_equal(value_of(b.p, "qttt_http_requests_total{status=\"200\"} "), 41);
    assert_int_equal(value_of(b.p, "qttt_http_requests_total{status=\"230\"} "), 1);
    assert_int_equal(value_of(b.p, "qttt_http_requests_total{status=\"other\"} "), 9);
    assert_int_equal(value_of(b.p, "qttt_clients_left_total "), 20);
    assert_int_equal(value_of(b.p, "qttt_rejections_total{reason=\"queue_full\"} "), 2);
    assert_int_equal(value_of(b.p, "qttt_rejections_total{reason=\"invalid_request\"} "), 1);
    /* One place is for all that found none, two had names before. */
    assert_int_equal(value_of(b.p, "qttt_rejections_total{reason=\"other\"} "), 9);
    assert_int_equal(value_of(b.p, "qttt_ready "), 1);
    assert_int_equal(value_of(b.p, "qttt_live "), 0);
    assert_int_equal(value_of(b.p, "qttt_stalled_seconds "), 7);
    assert_int_equal(value_of(b.p, "qttt_stalls_total "), 2);
    assert_int_equal(value_of(b.p, "qttt_requests_waiting_limit "), 9);
    assert_in_range(value_of(b.p, "process_resident_memory_bytes "), 1 << 16, 1L << 40);
    assert_int_equal(value_of(b.p, "qttt_jobs_total{outcome=\"succeeded\"} "), 1);
    assert_int_equal(value_of(b.p, "qttt_jobs_queued "), 5);
    assert_int_equal(value_of(b.p, "qttt_jobs_running "), 2);
    assert_int_equal(value_of(b.p, "qttt_preemptions_total "), 11);
    assert_int_equal(value_of(b.p, "qttt_decode_steps_total "), 12);
    assert_int_equal(value_of(b.p, "qttt_decode_rows_total "), 13);
    assert_int_equal(value_of(b.p, "qttt_drafted_tokens_total "), 14);
    assert_int_equal(value_of(b.p, "qttt_accepted_tokens_total "), 8);
    assert_int_equal(value_of(b.p, "vllm:num_requests_running{model_name=\"m\"} "), 1);
    assert_int_equal(value_of(b.p, "vllm:num_requests_waiting{model_name=\"m\"} "), 3);
    assert_non_null(strstr(b.p, "vllm:kv_cache_usage_perc{model_name=\"m\"} 0.6\n"));
    assert_int_equal(value_of(b.p, "qttt_kv_pages_used "), 7);
    assert_int_equal(value_of(b.p, "qttt_kv_pages_cached "), 1);
    tt_buf_finish(&b);
}

/* A model's name may be anything; in a label it is escaped. */
static void labels(void **state)
{
    tt_metrics m = {0};
    tt_buf b = {0};
    tt_metrics_write(&b, &m, &(tt_engine_stats){0}, &(tt_metrics_page){.model_name = "a\"b\\c\nd"});
    tt_buf_putc(&b, '\0');
    assert_false(b.failed);
    assert_non_null(strstr(b.p, "model=\"a\\\"b\\\\c\\nd\"} 1\n"));
    assert_non_null(strstr(b.p, "\nvllm:num_requests_waiting{model_name=\"a\\\"b\\\\c\\nd\"} 0\n"));
    tt_buf_finish(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(page), cmocka_unit_test(labels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
