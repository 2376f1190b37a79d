/* metrics.c - see metrics.h. Text format of Prometheus, version 0.0.4. */
#include "server/metrics.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "core/sysinfo.h"

#include "server/log_writer.h"

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
    int i = 0;
    m->clients_left += !complete;
    while (i < TT_METRICS_STATUSES - 1 && m->by_status[i].n > 0 &&
           m->by_status[i].status != status) {
        i++;
    }
    m->by_status[i].status = i < TT_METRICS_STATUSES - 1 ? status : 0;
    m->by_status[i].n++;
}

static void count_reason(tt_metrics_reason *list, int n, const char *reason)
{
    int i = 0;
    while (i < n - 1 && list[i].reason != NULL && strcmp(list[i].reason, reason) != 0) {
        i++;
    }
    list[i].reason = i < n - 1 ? reason : "other";
    list[i].n++;
}

void tt_metrics_rejected(tt_metrics *m, int status, const char *reason)
{
    if (reason == NULL) {
        reason = status == 400   ? "invalid_request"
                 : status == 404 ? "not_found"
                 : status == 405 ? "method"
                 : status == 413 ? "too_large"
                 : status == 415 ? "media_type"
                 : status == 429 ? "busy"
                                 : "unnamed";
    }
    count_reason(m->rejected, TT_METRICS_REASONS, reason);
}

void tt_metrics_session_miss(tt_metrics *m, const char *reason)
{
    count_reason(m->session_misses, TT_METRICS_MISSES, reason);
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

/* The value of a label: a model may have any name. */
static void put_label(tt_buf *b, const char *v)
{
    for (; v != NULL && *v != '\0'; v++) {
        if (*v == '\n') {
            tt_buf_puts(b, "\\n");
            continue;
        }
        if (*v == '\\' || *v == '"') {
            tt_buf_putc(b, '\\');
        }
        tt_buf_putc(b, *v);
    }
}

static void labelled(tt_buf *b, const char *name, const char *label, const char *value, uint64_t v)
{
    tt_buf_printf(b, "%s{%s=\"", name, label);
    put_label(b, value);
    tt_buf_printf(b, "\"} %llu\n", (unsigned long long)v);
}

static void write_reasons(tt_buf *b, const char *name, const char *help,
                          const tt_metrics_reason *list, int n)
{
    head(b, name, "counter", help);
    for (int i = 0; i < n; i++) {
        if (list[i].reason != NULL) {
            labelled(b, name, "reason", list[i].reason, list[i].n);
        }
    }
}

static void write_process(tt_buf *b, const tt_metrics_page *page)
{
    struct rusage used = {0};
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                 (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
    head(b, "qttt_build_info", "gauge", "Version of the server and name of its model; always 1.");
    tt_buf_printf(b, "qttt_build_info{version=\"%s\",model=\"", TT_VERSION);
    put_label(b, page->model_name);
    tt_buf_puts(b, "\"} 1\n");
    gauge(b, "qttt_uptime_seconds", "Since the process began to serve.", page->uptime_seconds);
    gauge(b, "process_start_time_seconds", "When the process began, since 1970.",
          page->started_unix);
    head(b, "process_cpu_seconds_total", "counter", "Time of processors, user and system.");
    tt_buf_puts(b, "process_cpu_seconds_total ");
    tt_buf_put_double(b, cpu);
    tt_buf_putc(b, '\n');
    gauge(b, "process_resident_memory_bytes", "Resident memory, mapped weights included.",
          (double)tt_sys_resident_bytes());
    gauge(b, "qttt_free_memory_bytes", "What the machine and the control group still give.",
          (double)tt_sys_free_bytes());
}

/* The label's value, then what follows it. */
static void put_labelled(tt_buf *b, const char *name, const char *value)
{
    tt_buf_printf(b, "%s=\"", name);
    put_label(b, value);
    tt_buf_putc(b, '"');
}

static void write_device(tt_buf *b, const tt_engine_stats *st, const tt_metrics_page *page)
{
    const tt_cuda_info *g = &page->gpu;
    head(b, "qttt_device_info", "gauge",
         "What the model runs on; of a GPU its name, compute capability and CUDA versions; "
         "always 1.");
    tt_buf_puts(b, "qttt_device_info{");
    put_labelled(b, "device", page->device);
    tt_buf_putc(b, ',');
    put_labelled(b, "kernels", page->kernels);
    if (g->name[0] != '\0') {
        tt_buf_putc(b, ',');
        put_labelled(b, "name", g->name);
        tt_buf_printf(b, ",compute=\"%d.%d\",driver=\"%d.%d\",runtime=\"%d.%d\"", (int)(g->sm / 10),
                      (int)(g->sm % 10), (int)(g->driver / 1000), (int)(g->driver % 1000 / 10),
                      (int)(g->runtime / 1000), (int)(g->runtime % 1000 / 10));
    }
    tt_buf_puts(b, "} 1\n");
    gauge(b, "qttt_device_memory_bytes", "Memory of the GPU; 0 on the CPU.",
          (double)st->device_total_bytes);
    gauge(b, "qttt_device_free_memory_bytes", "Of it, what nobody has.",
          (double)st->device_free_bytes);
    counter(b, "qttt_device_reclaims_total",
            "Times that something kept for later was given up for lack of device memory.",
            st->device_reclaims);
}

static void write_health(tt_buf *b, const tt_metrics_page *page)
{
    gauge(b, "qttt_ready", "1 when /readyz says 200.", page->ready);
    gauge(b, "qttt_draining", "1 since the signal to stop.", page->draining);
    gauge(b, "qttt_live", "1 when /livez says 200.", page->alive);
    gauge(b, "qttt_stalled_seconds", "How long nothing has moved though work is pending.",
          page->stalled_seconds);
    counter(b, "qttt_stalls_total", "Times that /livez began to say 503.", page->stalls);
    gauge(b, "qttt_open_requests", "HTTP requests in progress.", page->open_requests);
    gauge(b, "qttt_max_context_tokens", "Context of one sequence.", page->max_context);
}

static void write_requests(tt_buf *b, const tt_metrics *m)
{
    head(b, "qttt_http_requests_total", "counter", "HTTP requests answered, by status.");
    for (int i = 0; i < TT_METRICS_STATUSES; i++) {
        char status[16];
        snprintf(status, sizeof status, "%d", m->by_status[i].status);
        if (m->by_status[i].n > 0) {
            labelled(b, "qttt_http_requests_total", "status",
                     m->by_status[i].status == 0 ? "other" : status, m->by_status[i].n);
        }
    }
    write_reasons(b, "qttt_rejections_total", "Requests answered with an error, by its code.",
                  m->rejected, TT_METRICS_REASONS);
    head(b, "qttt_connections_closed_total", "counter",
         "Connections closed early: their request took too long to come (late), or room was needed "
         "(shed).");
    labelled(b, "qttt_connections_closed_total", "reason", "late", m->connections_late);
    labelled(b, "qttt_connections_closed_total", "reason", "shed", m->connections_shed);
    head(b, "qttt_generations_total", "counter", "Generations ended, by outcome.");
    labelled(b, "qttt_generations_total", "outcome", "succeeded", m->succeeded);
    labelled(b, "qttt_generations_total", "outcome", "failed", m->failed);
    labelled(b, "qttt_generations_total", "outcome", "cancelled", m->cancelled);
    counter(b, "qttt_clients_left_total", "Requests whose client left before the answer ended.",
            m->clients_left);
    head(b, "qttt_reloads_total", "counter", "Settings and keys read again, by outcome.");
    tt_buf_printf(b, "qttt_reloads_total{outcome=\"succeeded\"} %llu\n",
                  (unsigned long long)m->reloads);
    tt_buf_printf(b, "qttt_reloads_total{outcome=\"failed\"} %llu\n",
                  (unsigned long long)m->reloads_failed);
    counter(b, "qttt_log_dropped_total", "Log records that nobody read fast enough.",
            tt_log_writer_dropped());
}

static void write_times(tt_buf *b, const tt_metrics *m)
{
    histogram(b, "qttt_time_to_first_token_seconds", "From the request to its first token.",
              &m->first_token);
    histogram(b, "qttt_inter_token_seconds", "Between two tokens of an answer.", &m->inter_token);
    histogram(b, "qttt_queue_seconds", "Waiting for the engine.", &m->queue);
    histogram(b, "qttt_prefill_seconds", "Reading the prompt.", &m->prefill);
    histogram(b, "qttt_decode_seconds", "Writing the answer.", &m->decode);
    histogram(b, "qttt_request_seconds", "Generation requests, end to end.", &m->end_to_end);
    histogram(b, "qttt_step_seconds", "One optimiser step.", &m->qttt_step);
}

static void write_engine(tt_buf *b, const tt_engine_stats *st, const tt_metrics_page *page)
{
    gauge(b, "qttt_requests_waiting", "Answers that wait for the engine.", (double)st->queued);
    gauge(b, "qttt_requests_waiting_limit", "Setting limits.max_requests.",
          (double)page->max_requests);
    gauge(b, "qttt_requests_running", "Answers that are being read for or written.",
          (double)st->running);
    counter(b, "qttt_prompt_tokens_total", "Prompt tokens of finished jobs.", st->prompt_tokens);
    counter(b, "qttt_cached_tokens_total", "Prompt tokens found in the K/V cache.",
            st->cached_tokens);
    counter(b, "qttt_generated_tokens_total", "Generated tokens.", st->generated_tokens);
    counter(b, "qttt_preemptions_total",
            "Answers that gave their K/V pages back and were read again.", st->preemptions);
    counter(b, "qttt_decode_steps_total", "Decode steps, one for all rows of a batch.",
            st->decode_steps);
    counter(b, "qttt_decode_rows_total",
            "Rows of decode steps without drafts; divided by the steps, the mean batch.",
            st->decode_rows);
    counter(b, "qttt_drafted_tokens_total", "Tokens of drafts that were run.", st->drafted_tokens);
    counter(b, "qttt_accepted_tokens_total",
            "Of these, tokens that answers have: each saved a decode step.", st->accepted_tokens);
    gauge(b, "qttt_kv_bytes", "Memory of the K/V pool.", (double)st->kv_bytes_total);
    gauge(b, "qttt_kv_pages", "Pages of the K/V pool.", (double)st->kv_pages_total);
    gauge(b, "qttt_kv_pages_used", "Pages with content.",
          (double)(st->kv_pages_used + st->kv_pages_cached));
    gauge(b, "qttt_kv_pages_cached", "Of these, pages that nobody holds: they can be evicted.",
          (double)st->kv_pages_cached);
}

static void write_pages(tt_buf *b, const tt_engine_stats *st)
{
    gauge(b, "qttt_page_runs", "Runs of K/V pages on disk, 1,024 tokens at most each.",
          (double)st->page_runs);
    gauge(b, "qttt_page_file_bytes", "Size of their files.", (double)st->page_run_bytes);
    counter(b, "qttt_pages_written_bytes_total", "K/V of contexts written to disk.",
            st->pages_written_bytes);
    counter(b, "qttt_pages_read_bytes_total", "K/V of contexts read from disk.",
            st->pages_read_bytes);
    counter(b, "qttt_restored_tokens_total", "Prompt tokens whose K/V came from disk.",
            st->restored_tokens);
    counter(b, "qttt_page_runs_corrupt_total",
            "Runs that were damaged (removed) or could not be read: recomputed.",
            st->page_runs_corrupt);
    counter(b, "qttt_page_runs_evicted_total", "Runs removed for state.max_bytes.",
            st->page_runs_evicted);
    counter(b, "qttt_page_write_failures_total", "Runs that could not be written.",
            st->page_write_failures);
}

static void write_sessions(tt_buf *b, const tt_metrics *m, const tt_metrics_page *page)
{
    gauge(b, "qttt_sessions", "Sessions.", (double)page->sessions);
    gauge(b, "qttt_sessions_limit", "Setting sessions.max.", (double)page->max_sessions);
    gauge(b, "qttt_session_bytes", "Memory of their tokens and messages.",
          (double)page->session_bytes);
    write_reasons(b, "qttt_session_misses_total",
                  "Prompts that did not go on from what their session has, by reason.",
                  m->session_misses, TT_METRICS_MISSES);
}

static void write_state(tt_buf *b, const tt_metrics_page *page)
{
    const tt_state_counts *n = &page->state;
    gauge(b, "qttt_state_on", "1 when sessions and jobs outlive the process (state.dir).",
          page->state_on);
    gauge(b, "qttt_state_degraded", "1 while the disk fails: the server goes on in memory only.",
          page->state_degraded);
    counter(b, "qttt_state_commits_total", "Groups of changes written to disk, an fsync each.",
            (uint64_t)n->commits);
    counter(b, "qttt_state_transactions_total", "Changes in them.", (uint64_t)n->transactions);
    counter(b, "qttt_state_failures_total", "Changes that could not be written.",
            (uint64_t)n->failures);
    gauge(b, "qttt_state_waiting", "Changes that wait to be written.", (double)n->waiting);
    gauge(b, "qttt_state_file_bytes", "Size of the database.", (double)n->file_bytes);
}

static void write_qttt(tt_buf *b, const tt_metrics *m, const tt_engine_stats *st,
                       const tt_metrics_page *page)
{
    head(b, "qttt_jobs_total", "counter", "Adaptations ended, by outcome.");
    labelled(b, "qttt_jobs_total", "outcome", "succeeded", m->qttt_succeeded);
    labelled(b, "qttt_jobs_total", "outcome", "skipped", m->qttt_skipped);
    labelled(b, "qttt_jobs_total", "outcome", "failed", m->qttt_failed);
    labelled(b, "qttt_jobs_total", "outcome", "cancelled", m->qttt_cancelled);
    gauge(b, "qttt_jobs_queued", "Adaptation jobs that wait.", (double)st->queued_jobs);
    gauge(b, "qttt_jobs_queued_limit", "Setting qttt.max_queued_jobs.",
          (double)page->max_queued_jobs);
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
    gauge(b, "qttt_adapter_pinned_bytes", "Of these, adapters that sessions keep.",
          (double)st->adapter_pinned_bytes);
    gauge(b, "qttt_adapter_bytes_limit", "Setting qttt.adapter_cache.",
          (double)page->adapter_bytes_limit);
}

static void alias(tt_buf *b, const char *name, const char *help, const char *model, double v)
{
    head(b, name, "gauge", help);
    tt_buf_printf(b, "%s{model_name=\"", name);
    put_label(b, model);
    tt_buf_puts(b, "\"} ");
    tt_buf_put_double(b, v);
    tt_buf_putc(b, '\n');
}

/* The names that the Kubernetes Gateway inference extension reads. */
static void write_aliases(tt_buf *b, const tt_engine_stats *st, const tt_metrics_page *page)
{
    int64_t held = st->kv_pages_used, total = st->kv_pages_total;
    alias(b, "vllm:num_requests_waiting", "Requests that wait for the engine.", page->model_name,
          (double)st->queued);
    alias(b, "vllm:num_requests_running", "Requests that run.", page->model_name,
          (double)st->running);
    alias(b, "vllm:kv_cache_usage_perc", "Share of K/V pages in use, 0 to 1.", page->model_name,
          total > 0 ? (double)held / (double)total : 0);
    head(b, "vllm:cache_config_info", "gauge", "K/V cache: page size and number of pages.");
    tt_buf_printf(b, "vllm:cache_config_info{block_size=\"64\",num_gpu_blocks=\"%lld\"} 1\n",
                  (long long)total);
}

void tt_metrics_write(tt_buf *b, const tt_metrics *m, const tt_engine_stats *st,
                      const tt_metrics_page *page)
{
    write_process(b, page);
    write_device(b, st, page);
    write_health(b, page);
    write_requests(b, m);
    write_times(b, m);
    write_engine(b, st, page);
    write_sessions(b, m, page);
    write_state(b, page);
    write_pages(b, st);
    write_qttt(b, m, st, page);
    write_aliases(b, st, page);
}
