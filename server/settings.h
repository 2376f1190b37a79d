/* settings.h - what the operator decides: config/qttt.yaml, overridden by flags. Every key exists
 * once, in settings_table.c; the YAML schema, the flags, --help and the range checks all come from
 * that table. Thread: immutable once loaded, but for those of which
 * tt_setting_reloads() is true: the loop thread alone reads and changes them (reload.h). */
#ifndef TT_SETTINGS_H
#define TT_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"
#include "kernels/err.h"

typedef struct tt_string_list {
    char **v;
    int32_t n;
} tt_string_list;

/* Strings are never NULL; "" = not set. Sizes in bytes, times in seconds. */
typedef struct tt_settings {
    char *model_path, *model_name, *device, *cuda_module, *isa;
    bool pin_threads;
    int64_t threads, max_context, kv_type, kv_size, prefill_chunk;

    char *host, *unix_socket, *port_file, *api_keys_file;
    int64_t port, max_connections, max_body, max_bodies, workers, max_samples;
    bool allow_public, open_metrics, strict, parse_special;
    tt_string_list api_keys, cors_origins;
    double idle_seconds, head_seconds, body_seconds;

    double request_timeout;

    int64_t max_running, speculation, draft_tokens;
    double target_gap_ms;

    double heartbeat_seconds;
    int64_t backlog;
    int64_t max_requests, max_prompts, json_memory;

    bool qttt_alias;
    int64_t qttt_max_steps, qttt_max_span_tokens, qttt_max_rank, adapter_cache;
    double qttt_max_learning_rate, qttt_max_delta_norm, qttt_share;
    int64_t qttt_max_jobs, qttt_max_queued_jobs;
    int64_t auto_min_tokens, auto_max_load;
    double auto_min_recall;

    int64_t jobs_max_events, jobs_max_finished;
    double jobs_retention;

    double idempotency_ttl;
    int64_t idempotency_entries, idempotency_bytes;

    char *session_header;
    bool sessions_implicit;
    int64_t max_sessions, session_memory, append_conflict, max_generations;
    double session_ttl;

    char *state_dir;
    int64_t state_max_bytes;

    double drain_delay, drain_timeout, watchdog_seconds;
    int64_t log_level, log_format;
    bool log_prompts;

    int argc;    /* the command line that they came from, to read them again */
    char **argv; /* borrowed: [argc]; NULL = there was none */

    tt_arena arena; /* owns the strings */
} tt_settings;

typedef enum tt_setting_kind {
    TT_SET_STRING,
    TT_SET_LIST, /* of strings; on the command line the flag may be repeated */
    TT_SET_BOOL,
    TT_SET_INT,
    TT_SET_FLOAT,
    TT_SET_SIZE,  /* bytes, with SI or binary suffix: 64MB, 8GiB */
    TT_SET_CHOICE /* one of `choices`; the value is its index */
} tt_setting_kind;

typedef struct tt_setting {
    const char *key;  /* "section.name" */
    const char *flag; /* without the dashes */
    tt_setting_kind kind;
    size_t offset;   /* in tt_settings */
    double min, max; /* INT, FLOAT, SIZE */
    const char *def;
    const char *const *choices; /* NULL-terminated */
    const char *help;
} tt_setting;

extern const tt_setting tt_setting_table[];
extern const int tt_n_settings;

/* Defaults. TT_E_NOMEM. */
tt_code tt_settings_init(tt_settings *s, tt_err *reterr);
void tt_settings_finish(tt_settings *s);

/* Reads a YAML file over the present values. TT_E_IO; TT_E_INVALID: "FILE:LINE:COLUMN: what is
 * wrong; expected what". */
tt_code tt_settings_load(tt_settings *s, const char *path, tt_err *reterr);
/* The same for text in memory; `name` stands for the file in messages. */
tt_code tt_settings_load_text(tt_settings *s, const char *name, const char *text, size_t n,
                              tt_err *reterr);

/* Sets one value from text. origin: what the message calls the place ("--port", "file.yaml:3:5"). A
 * list grows. */
tt_code tt_settings_set(tt_settings *s, const tt_setting *row, const char *value,
                        const char *origin, tt_err *reterr);

/* The value as text ("8080", "true", "a, b"), into ret[cap], cut when it is longer. */
void tt_settings_text(const tt_settings *s, const tt_setting *row, char *ret, size_t cap);
/* Whether a new value takes effect on SIGHUP; the others need a restart. */
bool tt_setting_reloads(const tt_setting *row);
/* Whether a value must not be shown: keys. */
bool tt_setting_secret(const tt_setting *row);
bool tt_settings_same(const tt_settings *a, const tt_settings *b, const tt_setting *row);
/* The value becomes another's; what it points to stays the other's. */
void tt_settings_take(tt_settings *to, const tt_settings *from, const tt_setting *row);

/* Takes the flags that are settings out of argv ("--port 1", "--port=1", "--strict", "--no-strict")
 * and reads --config first. What is left (other flags and operands) is compacted to argv[1..*argc).
 */
tt_code tt_settings_parse_flags(tt_settings *s, int *argc, char **argv, tt_err *reterr);

/* There are API keys, or at least a file for them: who has none is refused. */
bool tt_settings_keyed(const tt_settings *s);

/* Checks across keys: an address that is not loopback needs keys or server.allow_public. */
tt_code tt_settings_check(const tt_settings *s, tt_err *reterr);

/* The lines of --help: flag, what it is, default. NULL sections = all, else the names before the
 * dot, NULL-terminated. */
void tt_settings_print_help(const char *const *sections);

/* "8GiB", "64 MB", "512", "1.5k"; suffixes k M G T (powers of 1,000), Ki Mi Gi Ti (of 1,024), each
 * with or without B. */
bool tt_size_parse(const char *text, int64_t *ret_bytes);

#endif
