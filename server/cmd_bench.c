/* cmd_bench.c - `qttt bench`: the figures of core/bench.h as a table on stdout and as JSON. Thread:
 * main. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/bench.h"
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
        "  --part model|serve|all           what to measure [all]\n"
        "  --config FILE                    YAML file to read first\n");
    tt_settings_print_help(own_sections);
    printf("  --help                           this text\n");
}

static void print_figure(void *arg, const tt_bench_figure *f)
{
    printf("%-32s %10.2f %-9s", f->name, f->value, f->unit);
    if (f->kind != TT_LIMIT_NONE) {
        printf(" %10.2f %5.0f %%  %s", f->limit, f->percent,
               f->kind == TT_LIMIT_FLOPS ? "of the matrix product's rate" : "of the memory's rate");
    }
    printf("\n");
    fflush(stdout);
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

static json_t *to_json(const tt_bench_report *r, const char *cpu)
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
    return json_pack("{s:s, s:s, s:s, s:s, s:i, s:o}", "version", TT_VERSION, "model", r->model,
                     "cpu", cpu, "isa", r->isa, "threads", r->threads, "figures", figures);
}

static tt_code write_json(const tt_bench_report *r, const char *cpu, const char *path,
                          tt_err *reterr)
{
    json_t *j = to_json(r, cpu);
    bool ok = j != NULL && json_dump_file(j, path, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) == 0;
    json_decref(j);
    return ok ? TT_OK : tt_fail(reterr, TT_E_IO, "cannot write %s", path);
}

static bool part_of(const char *name, tt_bench_part *ret)
{
    static const char *const names[] = {
        [TT_BENCH_ALL] = "all", [TT_BENCH_MODEL] = "model", [TT_BENCH_SERVE] = "serve"};
    for (int i = 0; i < 3; i++) {
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
        if (value != NULL && strcmp(argv[i], "--json") == 0) {
            *ret_json = value;
        } else if (value != NULL && strcmp(argv[i], "--repeat") == 0 && atoi(value) >= 1 &&
                   atoi(value) <= 25) {
            ret_options->repeat = atoi(value);
        } else if (value != NULL && strcmp(argv[i], "--part") == 0 &&
                   part_of(value, &ret_options->part)) {
            continue;
        } else {
            rc = tt_fail(reterr, TT_E_INVALID,
                         "unknown argument or bad value: '%.80s'; see qttt bench --help", argv[i]);
        }
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
    tt_bench_options options = {.engine = &engine, .on_figure = print_figure};
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
        rc = json_path != NULL ? write_json(&report, cpu, json_path, &err) : TT_OK;
        status = rc == TT_OK ? 0 : TT_EXIT_FAILED;
    }
    if (rc != TT_OK) {
        fprintf(stderr, "qttt: %s\n", err.msg);
    }
    tt_settings_finish(&settings);
    return status;
}
