/* cmd_bench.c - `qttt bench`: the figures of core/bench.h as tables on stdout and as JSON. Thread:
 * main. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/bench.h"
#include "core/sysinfo.h"
#include "server/cmd.h"
#include "server/engine_options.h"

static const char *const own_sections[] = {"model", NULL};

static void print_usage(void)
{
    printf(
        "Usage: qttt bench --model PATH [flags]\n"
        "\n"
        "Measures prefill, decode and qTTT steps, each beside the limit of the machine measured in "
        "the same run,\nthen many users at once.\n"
        "\n"
        "  --json FILE                      also write the figures to FILE\n"
        "  --repeat N                       repetitions of which the median counts, 1 to 25 [5]\n"
        "  --part model|serve|tokenise|all  what to measure [all]\n"
        "                                   or drafts, growth, growth-context, growth-streams, "
        "growth-adapters:\n"
        "                                   what a step costs as these grow\n"
        "  --profile                        time, bytes and FLOPs by operation: of each kind of "
        "step, or\n"
        "                                   with growth of each of its points\n"
        "  --depth N                        tokens of context in a profile [2048]\n"
        "  --text FILE                      what to tokenise [text made up from the vocabulary]\n"
        "  --loss-text FILE                 also the loss on its first 2,048 tokens, with K/V in "
        "BF16 "
        "and in Q8\n"
        "  --config FILE                    YAML file to read first\n");
    tt_settings_print_help(own_sections);
    printf("  --help                           this text\n");
}

static void print_figure(void *arg, const tt_bench_figure *f)
{
    (void)arg;
    printf("%-32s %10.*f %-9s", f->name, strcmp(f->unit, "nats") == 0 ? 4 : 2, f->value, f->unit);
    if (f->kind != TT_LIMIT_NONE) {
        printf(" %10.2f %5.0f %%  %s", f->limit, f->percent,
               f->kind == TT_LIMIT_FLOPS ? "of the matrix product's rate" : "of the memory's rate");
    }
    printf("\n");
    fflush(stdout);
}

/* A row of a profile, and the part of the whole that it is. All is of one run. */
static void print_row(const tt_profile_section *s, const tt_profile_row *r)
{
    printf("  %-13s %-36s %7.1f %9.3f %5.1f %% %9.2f %9.3f %9.3f", r->op, r->detail,
           (double)r->calls / s->runs, 1e3 * r->seconds / s->runs, 100 * r->seconds / s->seconds,
           r->work.bytes / s->runs / 1e6, r->work.flops / s->runs / 1e9,
           1e3 * r->limit_s / s->runs);
    if (r->limit_s > 0 && r->seconds > 0) {
        printf(" %4.0f %%", 100 * r->limit_s / r->seconds);
    }
    printf("\n");
}

static json_t *row_json(const tt_profile_section *s, const tt_profile_row *r)
{
    return json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f}", "op", r->op, "detail", r->detail,
                     "calls", (double)r->calls / s->runs, "seconds", r->seconds / s->runs, "bytes",
                     r->work.bytes / s->runs, "flops", r->work.flops / s->runs, "limit_seconds",
                     r->limit_s / s->runs);
}

/* arg: of the callbacks. */
typedef struct output {
    json_t *profile, *growth; /* arrays, owned */
} output;

static void print_growth(void *arg, const tt_growth_point *p)
{
    printf("%-14s %6d %10.3f ms, of it attention %10.3f, adapters %8.3f; limit %10.3f ms",
           p->series, p->x, 1e3 * p->seconds, 1e3 * p->attention_s, 1e3 * p->adapters_s,
           1e3 * p->limit_s);
    if (p->equal_cost_tokens > 0) {
        printf("; FLOPs of decoding %.0f tokens", p->equal_cost_tokens);
    }
    printf("\n");
    fflush(stdout);
    json_array_append_new(((output *)arg)->growth,
                          json_pack("{s:s, s:i, s:f, s:f, s:f, s:f, s:f}", "series", p->series, "x",
                                    p->x, "seconds", p->seconds, "attention_seconds",
                                    p->attention_s, "adapters_seconds", p->adapters_s,
                                    "limit_seconds", p->limit_s, "equal_cost_tokens",
                                    p->equal_cost_tokens));
}

static void print_profile(void *arg, const tt_profile_section *s)
{
    json_t *rows = json_array();
    double none = s->seconds - s->ops_seconds;
    tt_profile_row all = {.op = "all", .seconds = s->seconds};
    printf("\n%s: %.3f ms, %.3f ms of processors\n", s->name, 1e3 * s->seconds / s->runs,
           1e3 * s->cpu_seconds / s->runs);
    printf("  %-13s %-36s %7s %9s %7s %9s %9s %9s %6s\n", "operation", "shapes", "calls", "ms",
           "of all", "MB", "GFLOP", "limit ms", "share");
    for (int32_t i = 0; i < s->n_rows; i++) {
        const tt_profile_row *r = &s->row[i];
        all.limit_s += r->limit_s;
        all.calls += r->calls;
        all.work.bytes += r->work.bytes;
        all.work.flops += r->work.flops;
        print_row(s, r);
        json_array_append_new(rows, row_json(s, r));
    }
    printf("  %-13s %-36s %7s %9.3f %5.1f %%\n", "(host)", "in no operation", "",
           1e3 * none / s->runs, 100 * none / s->seconds);
    print_row(s, &all);
    fflush(stdout);
    json_array_append_new(((output *)arg)->profile,
                          json_pack("{s:s, s:f, s:f, s:f, s:f, s:o}", "name", s->name, "seconds",
                                    s->seconds / s->runs, "cpu_seconds", s->cpu_seconds / s->runs,
                                    "host_seconds", none / s->runs, "limit_seconds",
                                    all.limit_s / s->runs, "operations", rows));
}

/* "model name" of /proc/cpuinfo; "unknown" without one. */
static void cpu_name(char *buf, size_t cap)
{
    char line[256];
    snprintf(buf, cap, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            colon[strcspn(colon, "\n")] = '\0';
            snprintf(buf, cap, "%s", colon + 2);
            break;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
}

static json_t *to_json(const tt_bench_report *r, const char *cpu, const output *out)
{
    static const char *const limits[] = {"none", "flops", "bytes"};
    json_t *figures = json_array();
    for (int32_t i = 0; i < r->n; i++) {
        const tt_bench_figure *f = &r->figure[i];
        json_array_append_new(figures,
                              json_pack("{s:s, s:f, s:s, s:s, s:f, s:f}", "name", f->name, "value",
                                        f->value, "unit", f->unit, "limited_by", limits[f->kind],
                                        "limit", f->limit, "percent", f->percent));
    }
    json_t *limits_of = json_pack("{s:f, s:f}", "flops_per_second", r->flops_rate,
                                  "bytes_per_second", r->bytes_rate);
    return json_pack("{s:s, s:s, s:s, s:i, s:s, s:i, s:o, s:o, s:O, s:O}", "version", TT_VERSION,
                     "model", r->model, "cpu", cpu, "processors", tt_sys_cpus(), "isa", r->isa,
                     "threads", r->threads, "limits", limits_of, "figures", figures, "profile",
                     out->profile, "growth", out->growth);
}

static tt_code write_json(const tt_bench_report *r, const char *cpu, const output *out,
                          const char *path, tt_err *reterr)
{
    json_t *j = to_json(r, cpu, out);
    bool ok = j != NULL && json_dump_file(j, path, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) == 0;
    json_decref(j);
    return ok ? TT_OK : tt_fail(reterr, TT_E_IO, "cannot write %s", path);
}

static bool part_of(const char *name, tt_bench_part *ret)
{
    static const char *const names[TT_BENCH_PARTS] = {
        [TT_BENCH_ALL] = "all",
        [TT_BENCH_MODEL] = "model",
        [TT_BENCH_SERVE] = "serve",
        [TT_BENCH_TOKENISE] = "tokenise",
        [TT_BENCH_PROFILE] = "profile",
        [TT_BENCH_DRAFTS] = "drafts",
        [TT_BENCH_GROWTH] = "growth",
        [TT_BENCH_GROWTH_CONTEXT] = "growth-context",
        [TT_BENCH_GROWTH_STREAMS] = "growth-streams",
        [TT_BENCH_GROWTH_ADAPTERS] = "growth-adapters",
    };
    for (int i = 0; i < TT_BENCH_PARTS; i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = (tt_bench_part)i;
            return true;
        }
    }
    return false;
}

static tt_code parse(tt_settings *s, int argc, char **argv, const char **ret_json,
                     tt_bench_options *ret_options, tt_err *reterr)
{
    tt_code rc = tt_settings_parse_flags(s, &argc, argv, reterr);
    for (int i = 1; rc == TT_OK && i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--profile") == 0) {
            ret_options->profile_points = true;
            i--; /* it has no value */
        } else if (value != NULL && strcmp(argv[i], "--depth") == 0 && atoi(value) >= 1) {
            ret_options->depth = atoi(value);
        } else if (value != NULL && strcmp(argv[i], "--loss-text") == 0) {
            ret_options->loss_text_path = value;
        } else if (value != NULL && strcmp(argv[i], "--json") == 0) {
            *ret_json = value;
        } else if (value != NULL && strcmp(argv[i], "--repeat") == 0 && atoi(value) >= 1 &&
                   atoi(value) <= 25) {
            ret_options->repeat = atoi(value);
        } else if (value != NULL && strcmp(argv[i], "--part") == 0 &&
                   part_of(value, &ret_options->part)) {
            continue;
        } else if (value != NULL && strcmp(argv[i], "--text") == 0) {
            ret_options->text_path = value;
        } else {
            rc = tt_fail(reterr, TT_E_INVALID,
                         "unknown argument or bad value: '%.80s'; see qttt bench --help", argv[i]);
        }
    }
    if (ret_options->profile_points && ret_options->part < TT_BENCH_GROWTH) {
        ret_options->part = TT_BENCH_PROFILE;
    }
    return rc;
}

int tt_cmd_bench(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        print_usage();
        return 0;
    }
    tt_settings settings;
    tt_engine_options engine;
    tt_device_found device;
    tt_bench_report report;
    tt_err err = {0};
    const char *json_path = NULL;
    char cpu[128];
    output out = {.profile = json_array(), .growth = json_array()};
    tt_bench_options options = {.engine = &engine,
                                .on_figure = print_figure,
                                .on_profile = print_profile,
                                .on_growth = print_growth,
                                .arg = &out};
    tt_code rc = tt_settings_init(&settings, &err);
    rc = rc == TT_OK ? parse(&settings, argc, argv, &json_path, &options, &err) : rc;
    rc = rc == TT_OK ? tt_engine_options_from(&settings, &engine, &device, &err) : rc;
    int status = rc == TT_OK ? 0 : tt_exit_status(rc);
    if (rc == TT_OK) {
        fprintf(stderr, "%s\n", device.why);
        cpu_name(cpu, sizeof cpu);
        printf("%s\n%-32s %10s %-9s %10s\n", cpu, "figure", "median", "", "limit");
        rc = tt_bench_run(&options, &report, &err);
        status = rc == TT_OK ? 0 : tt_exit_status(rc);
    }
    if (rc == TT_OK) {
        printf("model %s, kernels %s, %d threads\n", report.model, report.isa, report.threads);
        rc = json_path != NULL ? write_json(&report, cpu, &out, json_path, &err) : TT_OK;
        status = rc == TT_OK ? 0 : TT_EXIT_FAILED;
    }
    if (rc != TT_OK) {
        fprintf(stderr, "qttt: %s\n", err.msg);
    }
    json_decref(out.profile);
    json_decref(out.growth);
    tt_settings_finish(&settings);
    return status;
}
