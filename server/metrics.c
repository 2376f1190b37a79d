/* metrics.c - see metrics.h. Text format of Prometheus, version 0.0.4. */
#include "server/metrics.h"

#include <string.h>

/* Upper bounds in seconds: from one token on a fast machine to a long prefill on a slow one. */
static const double bounds[TT_HISTOGRAM_BUCKETS - 1] = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300};

void tt_histogram_add(tt_histogram *h, double seconds)
{
    int i = 0;
    while (i < TT_HISTOGRAM_BUCKETS - 1 && !(seconds <= bounds[i])) {
        i++;
    }
    h->count[i]++;
    h->sum += seconds;
}

void tt_metrics_request(tt_metrics *m, int status, bool complete)
{
    m->clients_left += !complete;
    for (int i = 0; i < TT_METRICS_STATUSES; i++) {
        if (m->by_status[i].n == 0 || m->by_status[i].status == status) {
            m->by_status[i].status = status;
            m->by_status[i].n++;
            return;
        }
    }
}

void tt_metrics_rejected(tt_metrics *m, int status, const char *reason)
{
    if (reason == NULL) {
        reason = status == 400   ? "invalid_request"
                 : status == 404 ? "not_found"
                 : status == 413 ? "too_large"
                 : status == 415 ? "media_type"
                                 : "other";
    }
    for (int i = 0; i < TT_METRICS_REASONS; i++) {
        if (m->rejected[i].reason == NULL || strcmp(m->rejected[i].reason, reason) == 0) {
            m->rejected[i].reason = reason;
            m->rejected[i].n++;
            return;
        }
    }
}

void tt_metrics_session_miss(tt_metrics *m, const char *reason)
{
    int i = 0;
    while (i < TT_METRICS_MISSES - 1 && m->session_misses[i].reason != NULL &&
           strcmp(m->session_misses[i].reason, reason) != 0) {
        i++;
    }
    m->session_misses[i].reason = reason;
    m->session_misses[i].n++;
}

void tt_metrics_qttt(tt_metrics *m, const char *status)
{
    m->qttt_succeeded += strcmp(status, "succeeded") == 0;
    m->qttt_skipped += strcmp(status, "skipped") == 0;
    m->qttt_failed += strcmp(status, "failed") == 0;
    m->qttt_cancelled += strcmp(status, "cancelled") == 0;
}

static void head(tt_buf *b, const char *name, const char *type, const char *help)
{
    tt_buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void counter(tt_buf *b, const char *name, const char *help, uint64_t v)
{
    head(b, name, "counter", help);
    tt_buf_printf(b, "%s %llu\n", name, (unsigned long long)v);
}

static void gauge(tt_buf *b, const char *name, const char *help, double v)
{
    head(b, name, "gauge", help);
    tt_buf_printf(b, "%s ", name);
    tt_buf_put_double(b, v);
    tt_buf_putc(b, '\n');
}

static void histogram(tt_buf *b, const char *name, const char *help, const tt_histogram *h)
{
    uint64_t total = 0;
    head(b, name, "histogram", help);
    for (int i = 0; i < TT_HISTOGRAM_BUCKETS; i++) {
        total += h->count[i];
        if (i < TT_HISTOGRAM_BUCKETS - 1) {
            tt_buf_printf(b, "%s_bucket{le=\"%g\"} %llu\n", name, bounds[i],
                          (unsigned long long)total);
        }
    }
    tt_buf_printf(b, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum ", name, (unsigned long long)total, name);
    tt_buf_put_double(b, h->sum);
    tt_buf_printf(b, "\n%s_count %llu\n", name, (unsigned long long)total);
}

static void write_requests(tt_buf *b, const tt_metrics *m)
{
    head(b, "qttt_http_requests_total", "counter", "HTTP requests answered, by status.");
    for (int i = 0; i < TT_METRICS_STATUSES && m->by_status[i].n > 0; i++) {
        tt_buf_printf(b, "qttt_http_requests_total{status=\"%d\"} %llu\n", m->by_status[i].status,
                      (unsigned long long)m->by_status[i].n);
    }
    head(b, "qttt_rejections_total", "counter", "Requests refused, by reason.");
    for (int i = 0; i < TT_METRICS_REASONS && m->rejected[i].reason != NULL; i++) {
        tt_buf_printf(b, "qttt_rejections_total{reason=\"%s\"} %llu\n", m->rejected[i].reason,
                      (unsigned long long)m->rejected[i].n);
    }
    head(b, "qttt_generations_total", "counter", "Generations ended, by outcome.");
    tt_buf_printf(b, "qttt_generations_total{outcome=\"succeeded\"} %llu\n",
                  (unsigned long long)m->succeeded);
    tt_buf_printf(b, "qttt_generations_total{outcome=\"failed\"} %llu\n",
                  (unsigned long long)m->failed);
    tt_buf_printf(b, "qttt_generations_total{outcome=\"cancelled\"} %llu\n",
                  (unsigned long long)m->cancelled);
    counter(b, "qttt_clients_left_total", "Requests whose client left before the answer ended.",
            m->clients_left);
}

static void write_sessions(tt_buf *b, const tt_metrics *m, const tt_metrics_page *page)
{
    gauge(b, "qttt_sessions", "Sessions.", (double)page->sessions);
    gauge(b, "qttt_session_bytes", "Memory of their tokens and messages.",
          (double)page->session_bytes);
    head(b, "qttt_session_misses_total", "counter",
         "Prompts that did not go on from what their session has, by reason.");
    for (int i = 0; i < TT_METRICS_MISSES && m->session_misses[i].reason != NULL; i++) {
        tt_buf_printf(b, "qttt_session_misses_total{reason=\"%s\"} %llu\n",
                      m->session_misses[i].reason, (unsigned long long)m->session_misses[i].n);
    }
}

static void write_qttt(tt_buf *b, const tt_metrics *m, const tt_engine_stats *st)
{
    head(b, "qttt_jobs_total", "counter", "Adaptations ended, by outcome.");
    tt_buf_printf(b, "qttt_jobs_total{outcome=\"succeeded\"} %llu\n",
                  (unsigned long long)m->qttt_succeeded);
    tt_buf_printf(b, "qttt_jobs_total{outcome=\"skipped\"} %llu\n",
                  (unsigned long long)m->qttt_skipped);
    tt_buf_printf(b, "qttt_jobs_total{outcome=\"failed\"} %llu\n",
                  (unsigned long long)m->qttt_failed);
    tt_buf_printf(b, "qttt_jobs_total{outcome=\"cancelled\"} %llu\n",
                  (unsigned long long)m->qttt_cancelled);
    gauge(b, "qttt_jobs_queued", "Adaptation jobs that wait.", (double)st->queued_jobs);
    gauge(b, "qttt_jobs_running", "Adaptation jobs that run.", (double)st->running_jobs);
    counter(b, "qttt_adapters_kept_total", "Adapters that the guard kept.", st->qttt_kept);
    counter(b, "qttt_adapters_discarded_total", "Adapters that the guard discarded.",
            st->qttt_discarded);
    counter(b, "qttt_adapter_cache_hits_total", "Adaptations answered from the adapter cache.",
            st->qttt_cached);
    counter(b, "qttt_steps_total", "Optimiser steps.", st->qttt_steps);
    counter(b, "qttt_trained_tokens_total", "Tokens that steps were trained on.",
            st->trained_tokens);
    gauge(b, "qttt_adapters", "Adapters in memory.", (double)st->adapters);
    gauge(b, "qttt_adapter_bytes", "Memory of adapters.", (double)st->adapter_bytes);
}

/* The names that the Kubernetes Gateway inference extension reads. */
static void write_aliases(tt_buf *b, const tt_engine_stats *st, const tt_metrics_page *page)
{
    const char *name = page->model_name != NULL ? page->model_name : "";
    double used = st->kv_pages_total > 0 ? (double)(st->kv_pages_used - st->kv_pages_cached) /
                                               (double)st->kv_pages_total
                                         : 0;
    head(b, "vllm:num_requests_waiting", "gauge", "Requests that wait for the engine.");
    tt_buf_printf(b, "vllm:num_requests_waiting{model_name=\"%s\"} %d\n", name, (int)st->queued);
    head(b, "vllm:num_requests_running", "gauge", "Requests that run.");
    tt_buf_printf(b, "vllm:num_requests_running{model_name=\"%s\"} %d\n", name, (int)st->running);
    head(b, "vllm:kv_cache_usage_perc", "gauge", "Share of K/V pages in use, 0 to 1.");
    tt_buf_printf(b, "vllm:kv_cache_usage_perc{model_name=\"%s\"} ", name);
    tt_buf_put_double(b, used > 0 ? used : 0);
    tt_buf_puts(b, "\n");
    head(b, "vllm:cache_config_info", "gauge", "K/V cache: page size and number of pages.");
    tt_buf_printf(b, "vllm:cache_config_info{block_size=\"64\",num_gpu_blocks=\"%lld\"} 1\n",
                  (long long)st->kv_pages_total);
}

void tt_metrics_write(tt_buf *b, const tt_metrics *m, const tt_engine_stats *st,
                      const tt_metrics_page *page)
{
    head(b, "qttt_build_info", "gauge", "Version of the server.");
    tt_buf_printf(b, "qttt_build_info{version=\"%s\",model=\"%s\"} 1\n", TT_VERSION,
                  page->model_name != NULL ? page->model_name : "");
    gauge(b, "qttt_uptime_seconds", "Seconds since the process began to serve.",
          page->uptime_seconds);
    gauge(b, "qttt_ready", "1 when the model is loaded.", page->model_name != NULL);
    gauge(b, "qttt_open_requests", "HTTP requests in progress.", page->open_requests);
    gauge(b, "qttt_max_context_tokens", "Context of one sequence.", page->max_context);
    write_requests(b, m);
    histogram(b, "qttt_time_to_first_token_seconds", "From the request to its first token.",
              &m->first_token);
    histogram(b, "qttt_inter_token_seconds", "Between two tokens of an answer.", &m->inter_token);
    histogram(b, "qttt_queue_seconds", "Waiting for the engine.", &m->queue);
    histogram(b, "qttt_prefill_seconds", "Reading the prompt.", &m->prefill);
    histogram(b, "qttt_decode_seconds", "Writing the answer.", &m->decode);
    histogram(b, "qttt_request_seconds", "Generation requests, end to end.", &m->end_to_end);
    histogram(b, "qttt_step_seconds", "One optimiser step.", &m->qttt_step);
    counter(b, "qttt_prompt_tokens_total", "Prompt tokens of finished jobs.", st->prompt_tokens);
    counter(b, "qttt_cached_tokens_total", "Prompt tokens found in the K/V cache.",
            st->cached_tokens);
    counter(b, "qttt_generated_tokens_total", "Generated tokens.", st->generated_tokens);
    counter(b, "qttt_preemptions_total",
            "Answers that gave their K/V pages back and were read again.", st->preemptions);
    counter(b, "qttt_decode_steps_total", "Decode steps, one for all rows of a batch.",
            st->decode_steps);
    counter(b, "qttt_decode_rows_total",
            "Rows of decode steps; divided by the steps, the mean batch.", st->decode_rows);
    gauge(b, "qttt_kv_bytes", "Memory of the K/V pool.", (double)st->kv_bytes_total);
    gauge(b, "qttt_kv_pages_used", "Pages with content.", (double)st->kv_pages_used);
    write_sessions(b, m, page);
    write_qttt(b, m, st);
    write_aliases(b, st, page);
}
