/* driver.h - the tables under test and the list of ops, shared by the driver and the benchmark.
 * Thread: one. */
#ifndef TT_CHECKOPS_DRIVER_H
#define TT_CHECKOPS_DRIVER_H

#include "tests/checkops/checkops.h"

#define CO_MAX_TABLES 4

typedef struct co_table {
    const char *name;
    tt_ops ops;
    bool run; /* asked for */
} co_table;

typedef struct co_run {
    co_table tables[CO_MAX_TABLES]; /* rising, the first is ref */
    int n_tables;
    uint64_t seed;
} co_run;

typedef struct co_count {
    int n_passed, n_failed;
    int per_table[CO_MAX_TABLES];
} co_count;

/* The tables that this machine can run; those it cannot are printed and counted. `only` NULL = all.
 */
int co_make_tables(co_table *ret, const char *only, int *n_skipped);
/* Table i is asked for and its op is not the one of the table below. */
bool co_table_has(const co_table *all, int i, const co_op *op);

/* The i-th op; NULL beyond the last. */
const co_op *co_op_at(int i);
/* The i-th instance of an op's shapes (types and families spread out) into *ret; returns the row it
 * came from, or NULL. */
const co_shape *co_instance(const co_op *op, int32_t i, co_shape *ret);

/* What a crash will name. */
void co_note_running(const co_test *t);

/* Runs the op once with only `allowed` further allocations of the lane. Returns false when it
 * needed no more; else checks that the sticky TT_E_NOMEM comes out and is forgotten. Afterwards the
 * lane has all it wants. */
bool co_starve(co_test *t, int allowed);

/* Median time of every op and table on the shapes marked CO_BENCH; text on stdout, JSON into
 * json_path if not NULL. Returns the exit status. */
int co_bench(const co_run *run, const char *function, const char *json_path);

#endif
