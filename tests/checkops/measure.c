/* measure.c - how long each op takes in each table; see driver.h. Medians, because the machine may
 * be shared. */
#include "tests/checkops/driver.h"

#include <stdlib.h>
#include <time.h>

#define MIN_RUNS 5
#define MAX_RUNS 200
#define MIN_SECONDS 0.1

static double now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return 1e9 * (double)ts.tv_sec + (double)ts.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median time of one call; the first (preparing weights, growing scratch) does not count. */
static double median_ns(const co_op *op, const co_shape *shape, const co_setting *set)
{
    double times[MAX_RUNS], total = 0;
    int n = 0;
    co_test *t = co_test_create(op, shape, set);
    if (t == NULL) {
        exit(2);
    }
    co_note_running(t);
    co_test_upload(t);
    op->call(t);
    co_test_sync(t);
    while (n < MAX_RUNS && (n < MIN_RUNS || total < 1e9 * MIN_SECONDS)) {
        double start = now_ns();
        op->call(t);
        co_test_sync(t);
        times[n] = now_ns() - start;
        total += times[n++];
    }
    co_test_destroy(&t);
    qsort(times, (size_t)n, sizeof *times, by_value);
    return times[n / 2];
}

static void print_one(FILE *json, bool first, const char *what, const char *table, double ns,
                      double factor)
{
    printf("%-64s %-11s %12.0f ns %8.2fx\n", what, table, ns, factor);
    if (json != NULL) {
        fprintf(json, "%s\n  {\"op\": \"%s\", \"table\": \"%s\", \"ns\": %.0f, \"factor\": %.3f}",
                first ? "" : ",", what, table, ns, factor);
    }
}

/* "matmul rows=512 ..." without the table's name, which has a column of its own. */
static void describe(const co_op *op, const co_shape *s, char *text, size_t n)
{
    co_test t = {.op = op, .shape = *s, .n_rows = s->rows, .n_threads = 2};
    co_describe(&t, text, n);
}

int co_bench(const co_run *run, const char *function, const char *json_path)
{
    FILE *json = json_path == NULL ? NULL : fopen(json_path, "w");
    bool first = true;
    if (json_path != NULL && json == NULL) {
        fprintf(stderr, "checkops: cannot write %s\n", json_path);
        return 2;
    }
    if (json != NULL) {
        fprintf(json, "[");
    }
    for (int i = 0; co_op_at(i) != NULL; i++) {
        const co_op *op = co_op_at(i);
        co_shape s;
        for (int32_t k = 0; co_instance(op, k, &s) != NULL; k++) {
            if (!(s.flags & CO_BENCH) || (function != NULL && strcmp(function, op->name) != 0)) {
                continue;
            }
            char what[256];
            describe(op, &s, what, sizeof what);
            double ref_ns = 0;
            for (int t = 0; t < run->n_tables; t++) {
                co_setting set = {.ops = &run->tables[t].ops, .n_threads = 2, .seed = run->seed};
                if (co_table_has(run->tables, t, op)) {
                    double ns = median_ns(op, &s, &set);
                    ref_ns = t == 0 ? ns : ref_ns;
                    print_one(json, first, what, run->tables[t].name, ns, ref_ns / ns);
                    first = false;
                }
            }
        }
    }
    if (json != NULL && (fprintf(json, "\n]\n") < 0 || fclose(json) != 0)) {
        fprintf(stderr, "checkops: cannot write %s\n", json_path);
        return 2;
    }
    return 0;
}
