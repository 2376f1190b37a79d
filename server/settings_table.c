/* settings_table.c - every setting: key, flag, kind, range, default, and the line that --help
 * prints. config/qttt.yaml holds the same keys with longer comments; test_settings compares the
 * two. Thread: none, constant data. */
#include "server/settings.h"

static const char *const kv_types[] = {"bf16", "f32", NULL};
static const char *const append_conflicts[] = {"wait", "409", NULL};
static const char *const log_levels[] = {"error", "warn", "info", "debug", NULL};
static const char *const log_formats[] = {"text", "json", NULL};

#define AT(member) offsetof(tt_settings, member)
#define GIB (1024.0 * 1024.0 * 1024.0)

const tt_setting tt_setting_table[] = {
    {"model.path", "model", TT_SET_STRING, AT(model_path), 0, 0, "", NULL,
     "GGUF file or Hugging Face folder"},
    {"model.name", "model-name", TT_SET_STRING, AT(model_name), 0, 0, "", NULL,
     "name in the API; empty: the file's own"},
    {"model.isa", "isa", TT_SET_STRING, AT(isa), 0, 0, "auto", NULL,
     "kernels: auto, ref, avx2, avx512, avx512bf16"},
    {"model.threads", "threads", TT_SET_INT, AT(threads), 0, 1024, "0", NULL,
     "compute threads; 0: what the machine gives"},
    {"model.max_context", "max-context", TT_SET_INT, AT(max_context), 0, 1 << 24, "0", NULL,
     "tokens of one sequence; 0: the model's"},
    {"model.kv_type", "kv-type", TT_SET_CHOICE, AT(kv_type), 0, 0, "bf16", kv_types,
     "type of keys and values"},
    {"model.kv_size", "kv-size", TT_SET_SIZE, AT(kv_size), 0, 4096 * GIB, "0", NULL,
     "memory for keys and values; 0: two full contexts"},
    {"model.prefill_chunk", "prefill-chunk", TT_SET_INT, AT(prefill_chunk), 0, 8192, "0", NULL,
     "prompt rows per step; 0: 512"},

    {"server.host", "host", TT_SET_STRING, AT(host), 0, 0, "127.0.0.1", NULL,
     "address to listen on"},
    {"server.port", "port", TT_SET_INT, AT(port), 0, 65535, "8080", NULL,
     "TCP port; 0: a free one, printed"},
    {"server.unix_socket", "unix-socket", TT_SET_STRING, AT(unix_socket), 0, 0, "", NULL,
     "listen on this path instead of TCP"},
    {"server.port_file", "port-file", TT_SET_STRING, AT(port_file), 0, 0, "", NULL,
     "write the port here once listening"},
    {"server.allow_public", "allow-public", TT_SET_BOOL, AT(allow_public), 0, 0, "false", NULL,
     "listen beyond loopback without API keys"},
    {"server.api_keys", "api-key", TT_SET_LIST, AT(api_keys), 0, 0, "", NULL,
     "accepted bearer keys; none: no authentication"},
    {"server.max_connections", "max-connections", TT_SET_INT, AT(max_connections), 1, 100000, "512",
     NULL, "open connections at most"},
    {"server.idle_seconds", "idle-seconds", TT_SET_FLOAT, AT(idle_seconds), 1, 86400, "75", NULL,
     "close a connection without traffic after"},
    {"server.max_body", "max-body", TT_SET_SIZE, AT(max_body), 1024, GIB, "32MiB", NULL,
     "largest request body"},
    {"server.max_bodies", "max-bodies", TT_SET_SIZE, AT(max_bodies), 1024, 1024 * GIB, "256MiB",
     NULL, "all request bodies in memory together"},
    {"server.workers", "workers", TT_SET_INT, AT(workers), 1, 64, "2", NULL,
     "requests parsed and tokenised at a time"},
    {"server.max_samples", "max-samples", TT_SET_INT, AT(max_samples), 1, 1000, "16", NULL,
     "largest n of a request"},
    {"server.cors_origins", "cors-origin", TT_SET_LIST, AT(cors_origins), 0, 0, "*", NULL,
     "origins that browsers may call from"},
    {"server.strict", "strict", TT_SET_BOOL, AT(strict), 0, 0, "false", NULL,
     "refuse unknown request parameters"},
    {"server.parse_special", "parse-special", TT_SET_BOOL, AT(parse_special), 0, 0, "false", NULL,
     "special tokens spelt out in prompts become their ids"},

    {"stream.heartbeat_seconds", "heartbeat-seconds", TT_SET_FLOAT, AT(heartbeat_seconds), 0.05,
     3600, "10", NULL, "comment line after this much silence"},
    {"stream.backlog", "stream-backlog", TT_SET_SIZE, AT(backlog), 1024, GIB, "256KiB", NULL,
     "unread bytes of a stream before text coalesces"},

    {"limits.max_requests", "max-requests", TT_SET_INT, AT(max_requests), 1, 100000, "256", NULL,
     "answers that wait for the engine, n of each prompt"},
    {"limits.max_prompts", "max-prompts", TT_SET_INT, AT(max_prompts), 1, 100000, "256", NULL,
     "prompts of one completions request"},
    {"limits.json_memory", "json-memory", TT_SET_SIZE, AT(json_memory), 1 << 16, 64 * GIB, "64MiB",
     NULL, "values of one request body, without text"},

    {"qttt.alias", "qttt-alias", TT_SET_BOOL, AT(qttt_alias), 0, 0, "true", NULL,
     "serve the model NAME-qttt, which adapts"},
    {"qttt.max_steps", "qttt-max-steps", TT_SET_INT, AT(qttt_max_steps), 1, 65536, "256", NULL,
     "largest steps of a request"},
    {"qttt.max_span_tokens", "qttt-max-span-tokens", TT_SET_INT, AT(qttt_max_span_tokens), 16,
     65536, "1024", NULL, "largest span_tokens"},
    {"qttt.max_rank", "qttt-max-rank", TT_SET_INT, AT(qttt_max_rank), 1, 1024, "64", NULL,
     "largest rank of a lora adapter"},
    {"qttt.max_learning_rate", "qttt-max-learning-rate", TT_SET_FLOAT, AT(qttt_max_learning_rate),
     1e-9, 1, "1e-3", NULL, "largest learning_rate"},
    {"qttt.max_delta_norm", "qttt-max-delta-norm", TT_SET_FLOAT, AT(qttt_max_delta_norm), 1e-6, 1,
     "0.05", NULL, "largest change of W_Q, relative, per layer"},
    {"qttt.adapter_cache", "adapter-cache", TT_SET_SIZE, AT(adapter_cache), 0, 1024 * GIB, "256MiB",
     NULL, "memory for finished adapters"},

    {"jobs.max_events", "jobs-max-events", TT_SET_INT, AT(jobs_max_events), 16, 1000000, "512",
     NULL, "events kept of one qTTT job"},
    {"jobs.retention_seconds", "jobs-retention", TT_SET_FLOAT, AT(jobs_retention), 1, 1e8, "86400",
     NULL, "a finished job can be read this long"},
    {"jobs.max_finished", "jobs-max-finished", TT_SET_INT, AT(jobs_max_finished), 1, 1000000, "500",
     NULL, "finished jobs kept for one API key"},

    {"idempotency.ttl_seconds", "idempotency-ttl", TT_SET_FLOAT, AT(idempotency_ttl), 1, 1e7,
     "86400", NULL, "an Idempotency-Key is remembered this long"},
    {"idempotency.max_entries", "idempotency-max-entries", TT_SET_INT, AT(idempotency_entries), 1,
     10000000, "4096", NULL, "keys that are remembered"},
    {"idempotency.max_size", "idempotency-max-size", TT_SET_SIZE, AT(idempotency_bytes), 1 << 16,
     64 * GIB, "16MiB", NULL, "memory for keys and answers"},

    {"sessions.max", "max-sessions", TT_SET_INT, AT(max_sessions), 1, 1000000, "1000", NULL,
     "sessions at a time"},
    {"sessions.memory", "session-memory", TT_SET_SIZE, AT(session_memory), 1 << 16, 1024 * GIB,
     "256MiB", NULL, "memory for their tokens and messages"},
    {"sessions.ttl_seconds", "session-ttl", TT_SET_FLOAT, AT(session_ttl), 0, 1e8, "3600", NULL,
     "delete a session after this much idle time; 0: never"},
    {"sessions.implicit", "implicit-sessions", TT_SET_BOOL, AT(sessions_implicit), 0, 0, "true",
     NULL, "a chat request with an unknown session header creates it"},
    {"sessions.header", "session-header", TT_SET_STRING, AT(session_header), 0, 0, "x-session-id",
     NULL, "header with a session's key"},
    {"sessions.append_conflict", "append-conflict", TT_SET_CHOICE, AT(append_conflict), 0, 0,
     "wait", append_conflicts, "a second append to a session: wait or 409"},
    {"adapters.max_generations", "max-generations", TT_SET_INT, AT(max_generations), 1, 1000, "4",
     NULL, "adapters that a session keeps"},

    {"drain.delay_seconds", "drain-delay", TT_SET_FLOAT, AT(drain_delay), 0, 3600, "0", NULL,
     "after SIGTERM, accept work for this long"},
    {"drain.timeout_seconds", "drain-timeout", TT_SET_FLOAT, AT(drain_timeout), 0, 86400, "30",
     NULL, "then let running answers finish for this long"},

    {"watchdog.seconds", "watchdog-seconds", TT_SET_FLOAT, AT(watchdog_seconds), 1, 86400, "120",
     NULL, "/livez fails when work stands still this long"},

    {"log.level", "log-level", TT_SET_CHOICE, AT(log_level), 0, 0, "info", log_levels,
     "least important record"},
    {"log.format", "log-format", TT_SET_CHOICE, AT(log_format), 0, 0, "text", log_formats,
     "form of a record"},
};

const int tt_n_settings = (int)(sizeof tt_setting_table / sizeof *tt_setting_table);
