/* driver.h - the tables under test and the list of ops, shared by the driver and the benchmark.
 * Thread: one. */
#ifndef TT_CHECKOPS_DRIVER_H
#define TT_CHECKOPS_DRIVER_H

#include "tests/checkops/checkops.h"
#include "tests/cuemu/module_hooks.h"

#define CO_MAX_TABLES 5

typedef struct co_table {
    const char *name;
    tt_ops ops;
    bool run;    /* asked for */
    bool device; /* a CUDA module's (kernels/cuda_module.h) */
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
/* The reference, not itself under test, and a module's table of device 0. False: it cannot be had;
 * the reason was printed, *ret_status is the exit status. */
bool co_make_device(co_run *run, const char *module_path, int *ret_status);
/* What a device has no kernels for, or what takes too long on an emulated one. */
bool co_device_takes(const co_op *op, const co_shape *s);
/* Table i is asked for and its op is not the one of the table below. */
bool co_table_has(const co_table *all, int i, const co_op *op);

/* The i-th op; NULL beyond the last. */
const co_op *co_op_at(int i);
/* The i-th instance of an op's shapes (types and families spread out) into *ret; returns the row it
 * came from, or NULL. */
const co_shape *co_instance(const co_op *op, int32_t i, co_shape *ret);

/* What a crash will name. */
void co_note_running(const co_test *t);

/* Runs the op once with only `allowed` further allocations of the lane (on the emulated device:
 * calls of the runtime). Returns false when it needed no more; else checks that the sticky
 * TT_E_NOMEM comes out and is forgotten. Afterwards the lane has all it wants. */
bool co_starve(co_test *t, int allowed);
/* False on a device that is no emulated one. */
bool co_can_starve(const co_test *t);
/* Which table is a device's; hooks: of an emulated one, else NULL. */
void co_starve_device(const tt_ops *ops, const cuemu_hooks *hooks);

/* Median time of every op and table on the shapes marked CO_BENCH; text on stdout, JSON into
 * json_path if not NULL. Returns the exit status. */
int co_bench(const co_run *run, const char *function, const char *json_path);

#endif
