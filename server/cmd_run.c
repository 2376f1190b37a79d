/* cmd_run.c - `qttt run`: one prompt, no server. The answer streams to stdout, everything else goes
 * to stderr. The prompt is put into the body of a chat request, so that what HTTP refuses is
 * refused here too, in the same words. Thread: main; the engine's thread only signals. */
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/cmd.h"
#include "server/engine_options.h"
#include "server/prepare.h"
#include "server/progress_line.h"

enum { MAX_PROMPT_BYTES = 256 << 20 };

typedef struct run_options {
    const char *prompt_file, *system, *question;
    bool adapt;
    json_t *body, *qttt; /* owned by the command; qttt is in body */
} run_options;

/* The engine's thread tells that there is something to look at. */
typedef struct signal_box {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool rung;
    tt_engine_state state;
    tt_err failure;
} signal_box;

static tt_job *volatile interrupted_job; /* for Ctrl-C */
static volatile sig_atomic_t interrupted;

static const char *const own_sections[] = {"model", "qttt", NULL};

static void print_usage(void)
{
    printf("Usage: qttt run --model PATH --prompt-file FILE [flags]\n"
           "\n"
           "Answers one prompt without a server: the answer on stdout, progress on stderr.\n"
           "\n"
           "  --prompt-file FILE               the document, or the whole prompt; - is stdin\n"
           "  --question TEXT                  asked after the document; with --qttt the document "
           "alone is\n"
           "                                   what the model adapts to\n"
           "  --system TEXT                    system message\n"
           "  --max-tokens N                   length of the answer at most [what the context "
           "leaves]\n"
           "  --temperature X                  0 is greedy [0]\n"
           "  --top-p X, --top-k N, --seed N   sampling\n"
           "  --qttt                           adapt before answering; implied by the flags below\n"
           "  --steps N                        optimiser steps [32]\n"
           "  --span-tokens N                  tokens of a step [128]\n"
           "  --learning-rate X                [auto]\n"
           "  --adapter full|lora              [full]\n"
           "  --rank N                         of a lora adapter [8]\n"
           "  --objective next_token|recall    [next_token]\n"
           "  --optimizer adamw|sgd            [adamw]\n"
           "  --weight-decay X                 [0.01]\n"
           "  --grad-clip X                    [1]\n"
           "  --qttt-seed N                    [0]\n"
           "  --no-guard                       keep the adapter whatever the recall probe says\n"
           "  --config FILE                    YAML file to read first\n");
    tt_settings_print_help(own_sections);
    printf("  --help                           this text\n");
}

/* A flag's text as JSON: a number where it is one, else a string. New reference. */
static json_t *value_of(const char *text)
{
    json_error_t e;
    json_t *v = json_loads(text, JSON_DECODE_ANY, &e);
    if (json_is_number(v)) {
        return v;
    }
    json_decref(v);
    return json_string(text);
}

/* Takes argv[*i]; false: not one of ours. Missing values are refused by the caller. */
static bool take_flag(run_options *o, char **argv, int *i)
{
    static const struct {
        const char *flag, *key;
        bool qttt;
    } fields[] = {{"--max-tokens", "max_tokens", false},
                  {"--temperature", "temperature", false},
                  {"--top-p", "top_p", false},
                  {"--top-k", "top_k", false},
                  {"--seed", "seed", false},
                  {"--steps", "steps", true},
                  {"--span-tokens", "span_tokens", true},
                  {"--learning-rate", "learning_rate", true},
                  {"--adapter", "adapter", true},
                  {"--rank", "rank", true},
                  {"--objective", "objective", true},
                  {"--optimizer", "optimizer", true},
                  {"--weight-decay", "weight_decay", true},
                  {"--grad-clip", "grad_clip", true},
                  {"--qttt-seed", "seed", true}};
    const char *arg = argv[*i];
    if (strcmp(arg, "--qttt") == 0) {
        o->adapt = true;
        return true;
    }
    if (strcmp(arg, "--no-guard") == 0) {
        o->adapt = true;
        return json_object_set_new(o->qttt, "guard", json_false()) == 0;
    }
    const char *value = argv[*i + 1];
    if (value == NULL) {
        return false;
    }
    ++*i;
    if (strcmp(arg, "--prompt-file") == 0) {
        o->prompt_file = value;
    } else if (strcmp(arg, "--system") == 0) {
        o->system = value;
    } else if (strcmp(arg, "--question") == 0) {
        o->question = value;
    } else {
        for (size_t k = 0; k < sizeof fields / sizeof *fields; k++) {
            if (strcmp(arg, fields[k].flag) == 0) {
                o->adapt = o->adapt || fields[k].qttt;
                return json_object_set_new(fields[k].qttt ? o->qttt : o->body, fields[k].key,
                                           value_of(value)) == 0;
            }
        }
        --*i;
        return false;
    }
    return true;
}

static tt_code parse_flags(run_options *o, tt_settings *settings, int argc, char **argv,
                           tt_err *reterr)
{
    tt_code rc = tt_settings_parse_flags(settings, &argc, argv, reterr);
    for (int i = 1; rc == TT_OK && i < argc; i++) {
        if (!take_flag(o, argv, &i)) {
            rc =
                tt_fail(reterr, TT_E_INVALID,
                        "unknown argument or missing value: '%.80s'; see qttt run --help", argv[i]);
        }
    }
    if (rc == TT_OK && o->prompt_file == NULL) {
        rc = tt_fail(reterr, TT_E_INVALID, "no prompt: give --prompt-file FILE, or - for stdin");
    }
    return rc;
}

static tt_code read_prompt(const char *path, tt_buf *text, tt_err *reterr)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    tt_code rc = TT_OK;
    if (f == NULL) {
        return tt_fail(reterr, TT_E_INVALID, "%s: %s", path, strerror(errno));
    }
    tt_buf_init(text, MAX_PROMPT_BYTES);
    for (size_t n = 1; n > 0 && tt_buf_reserve(text, 65536); text->n += n) {
        n = fread(text->p + text->n, 1, 65536, f);
    }
    if (text->failed) {
        rc = tt_fail(reterr, TT_E_INVALID, "%s: larger than 256 MiB", path);
    } else if (ferror(f)) {
        rc = tt_fail(reterr, TT_E_INVALID, "%s: %s", path, strerror(errno));
    }
    if (f != stdin) {
        fclose(f);
    }
    return rc;
}

/* [system?, user]; text that is not UTF-8 gets replacement characters. New reference or NULL. */
static json_t *make_messages(const run_options *o, const tt_buf *document, bool with_question)
{
    tt_buf user = {0}, quoted = {0};
    json_error_t e;
    tt_buf_put(&user, document->p, document->n);
    if (with_question && o->question != NULL) {
        tt_buf_puts(&user, "\n\n");
        tt_buf_puts(&user, o->question);
    }
    tt_buf_puts(&quoted, "[");
    if (o->system != NULL) {
        tt_buf_puts(&quoted, "{\"role\":\"system\",\"content\":");
        tt_buf_puts_json(&quoted, o->system);
        tt_buf_puts(&quoted, "},");
    }
    tt_buf_puts(&quoted, "{\"role\":\"user\",\"content\":");
    tt_buf_put_json(&quoted, user.n > 0 ? user.p : "", user.n);
    tt_buf_puts(&quoted, "}]");
    json_t *list =
        user.failed || quoted.failed ? NULL : json_loadb(quoted.p, quoted.n, JSON_ALLOW_NUL, &e);
    tt_buf_finish(&user);
    tt_buf_finish(&quoted);
    return list;
}

static void ring(signal_box *box)
{
    pthread_mutex_lock(&box->mutex);
    box->rung = true;
    pthread_cond_signal(&box->cond);
    pthread_mutex_unlock(&box->mutex);
}

static void on_wake(void *arg)
{
    ring(arg);
}

static void on_state(void *arg, tt_engine_state state, const tt_err *err)
{
    signal_box *box = arg;
    pthread_mutex_lock(&box->mutex);
    box->state = state;
    if (err != NULL) {
        box->failure = *err;
    }
    box->rung = true;
    pthread_cond_signal(&box->cond);
    pthread_mutex_unlock(&box->mutex);
}

/* Waits for the next ring; the engine's state then. */
static tt_engine_state wait_ring(signal_box *box)
{
    pthread_mutex_lock(&box->mutex);
    while (!box->rung) {
        pthread_cond_wait(&box->cond, &box->mutex);
    }
    box->rung = false;
    tt_engine_state state = box->state;
    pthread_mutex_unlock(&box->mutex);
    return state;
}

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
    if (interrupted_job != NULL) {
        tt_job_cancel(interrupted_job, false); /* an atomic store */
    }
}

/* Prints events until the last; TT_OK or the job's error. */
static tt_code follow(tt_job *job, signal_box *box, tt_err *reterr)
{
    tt_progress_line line;
    tt_progress_line_init(&line, stderr);
    for (;;) {
        tt_event *ev = tt_job_next(job);
        if (ev == NULL) {
            wait_ring(box);
            continue;
        }
        bool last = ev->type == TT_EV_DONE || ev->type == TT_EV_ERROR;
        tt_code rc = TT_OK;
        if (ev->type == TT_EV_TOKEN) {
            tt_progress_line_clear(&line);
            fwrite(ev->u.token.text, 1, ev->u.token.n_text, stdout);
            fflush(stdout);
        } else if (ev->type == TT_EV_DONE) {
            tt_progress_line_clear(&line);
            fwrite(ev->u.done.text, 1, ev->u.done.n_text, stdout);
            fputc('\n', stdout);
            fflush(stdout);
            tt_progress_line_done(&line, ev);
        } else if (ev->type == TT_EV_ERROR) {
            tt_progress_line_clear(&line);
            *reterr = ev->u.error;
            rc = ev->u.error.code;
        } else {
            tt_progress_line_event(&line, ev);
        }
        tt_event_free(ev);
        if (last) {
            return rc;
        }
    }
}

/* Ids, limits and context of the prompt; fills *params. */
static tt_code prepare(const tt_served *sv, const run_options *o, const tt_buf *document,
                       const tt_request *r, int32_t **ids, tt_job_params *params, tt_err *reterr)
{
    size_t n = 0;
    tt_chat_prompt chat = {.messages = r->messages, .add_generation_prompt = true};
    tt_code rc = tt_prompt_chat(sv, &chat, ids, &n, reterr);
    if (rc < 0) {
        return rc;
    }
    *params = r->job;
    params->prompt = *ids;
    params->n_prompt = (int32_t)n;
    params->qttt = r->qttt.params;
    if ((int64_t)n + (r->job.max_tokens > 0 ? r->job.max_tokens : 1) > sv->max_context) {
        return tt_fail(reterr, TT_E_CONTEXT_LENGTH,
                       "this model's context is %d tokens; the prompt has %zu and the answer may "
                       "have %d",
                       (int)sv->max_context, n, r->job.max_tokens > 0 ? (int)r->job.max_tokens : 1);
    }
    if (r->qttt.params.mode != TT_QTTT_OFF && o->question != NULL) {
        json_t *alone = make_messages(o, document, false);
        tt_chat_prompt part = {.messages = alone};
        int64_t same = alone != NULL ? tt_prompt_common(sv, &part, *ids, n) : TT_E_NOMEM;
        json_decref(alone);
        if (same < 0) {
            return tt_fail(reterr, TT_E_NOMEM, "out of memory");
        }
        params->qttt.context_tokens = (int32_t)same;
        return TT_OK;
    }
    return tt_prompt_context(sv, &chat, *ids, n, &r->qttt, &params->qttt.context_tokens, reterr);
}

static tt_code answer(tt_engine *engine, signal_box *box, const tt_job_params *params,
                      tt_err *reterr)
{
    tt_job *job = NULL;
    tt_code rc = tt_job_create(params, on_wake, box, &job, reterr);
    if (rc == TT_OK) {
        rc = tt_engine_submit(engine, job, reterr);
    }
    if (rc == TT_OK) {
        interrupted_job = job;
        if (interrupted) {
            tt_job_cancel(job, false);
        }
        rc = follow(job, box, reterr);
        interrupted_job = NULL;
    }
    tt_job_unref(&job);
    return rc;
}

/* With a loaded model: the request through the server's own validation, then the engine. */
static tt_code run_loaded(tt_engine *engine, const tt_settings *settings, run_options *o,
                          const tt_buf *document, signal_box *box, tt_err *reterr)
{
    tt_served *sv = NULL;
    tt_request request = {0};
    tt_http_error e = {0};
    tt_job_params params;
    tt_arena arena;
    int32_t *ids = NULL;
    char *body = NULL;
    tt_arena_init(&arena, 0);
    tt_code rc = tt_served_create(engine, settings->model_name, false, &sv, reterr);
    if (rc < 0) {
        goto out;
    }
    if (sv->template_report[0] != '\0') {
        fprintf(stderr, "qttt: %s\n", sv->template_report);
    }
    json_t *messages = make_messages(o, document, true);
    body = messages != NULL && json_object_set_new(o->body, "messages", messages) == 0
               ? json_dumps(o->body, JSON_COMPACT)
               : NULL;
    if (body == NULL) {
        rc = tt_fail(reterr, TT_E_NOMEM, "out of memory");
        goto out;
    }
    tt_request_limits limits = tt_limits_of(settings, sv);
    if (!tt_request_parse(body, strlen(body), TT_API_CHAT, &limits, &arena, &request, &e)) {
        rc = tt_fail(reterr, TT_E_INVALID, "%s", e.message);
        goto out;
    }
    rc = prepare(sv, o, document, &request, &ids, &params, reterr);
    if (rc == TT_OK) {
        rc = answer(engine, box, &params, reterr);
    }
out:
    free(ids);
    free(body);
    tt_request_finish(&request);
    tt_arena_finish(&arena);
    tt_served_destroy(&sv);
    return rc;
}

static tt_code run_all(const tt_settings *settings, run_options *o, tt_err *reterr)
{
    signal_box box = {.state = TT_ENGINE_LOADING};
    tt_engine_options options;
    tt_device_found device;
    tt_engine *engine = NULL;
    tt_buf document = {0};
    pthread_mutex_init(&box.mutex, NULL);
    pthread_cond_init(&box.cond, NULL);
    tt_code rc = tt_engine_options_from(settings, &options, &device, reterr);
    if (rc == TT_OK && (device.choice.cuda != NULL || device.wanted)) {
        fprintf(stderr, "%s\n", device.why);
    }
    if (rc == TT_OK) {
        rc = read_prompt(o->prompt_file, &document, reterr);
    }
    if (rc == TT_OK) {
        options.on_state = on_state;
        options.on_state_arg = &box;
        rc = tt_engine_create(&options, &engine, reterr);
    }
    if (rc == TT_OK) {
        tt_engine_state state;
        do {
            state = wait_ring(&box);
        } while (state == TT_ENGINE_LOADING);
        if (state == TT_ENGINE_FAILED) {
            *reterr = box.failure;
            rc = box.failure.code == TT_E_CAPACITY ? TT_E_INVALID : box.failure.code;
        } else {
            rc = run_loaded(engine, settings, o, &document, &box, reterr);
        }
    }
    tt_engine_destroy(&engine);
    tt_buf_finish(&document);
    pthread_cond_destroy(&box.cond);
    pthread_mutex_destroy(&box.mutex);
    return rc;
}

int tt_cmd_run(int argc, char **argv)
{
    tt_settings settings;
    tt_err err = {0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            print_usage();
            return 0;
        }
    }
    run_options o = {.body = json_object(), .qttt = json_object()};
    tt_code rc = tt_settings_init(&settings, &err);
    if (rc == TT_OK && (o.body == NULL || o.qttt == NULL)) {
        rc = tt_fail(&err, TT_E_NOMEM, "out of memory");
    }
    if (rc == TT_OK) {
        json_object_set_new(o.body, "temperature", json_integer(0));
        rc = parse_flags(&o, &settings, argc, argv, &err);
    }
    if (rc == TT_OK && o.adapt) {
        json_object_set_new(o.qttt, "mode", json_string("on"));
        json_object_set(o.body, "qttt", o.qttt);
    }
    if (rc == TT_OK) {
        signal(SIGINT, on_interrupt);
        signal(SIGPIPE, SIG_IGN);
        rc = run_all(&settings, &o, &err);
    }
    if (rc < 0) {
        fprintf(stderr, "qttt: %s\n", err.msg[0] != '\0' ? err.msg : tt_code_text(rc));
    }
    json_decref(o.qttt);
    json_decref(o.body);
    tt_settings_finish(&settings);
    return rc >= 0 ? 0 : tt_exit_status(rc);
}
