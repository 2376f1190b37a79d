/* checkops.c - every op of every table against the reference, and the reference against formulas.
 * Thread: one, plus the tables' own.
 *
 * For each op and shape the reference runs first. Then, for the reference itself and for every
 * table whose pointer is not the table's below: the outputs (NMSE against ref), 1 thread against 2,
 * a second call, no memory for prepared weights, and every slice of the rows alone, the last four
 * bit for bit or to the tolerance as the contract in ops.h has it. */
#include "tests/checkops/driver.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const co_op *const op_lists[] = {
    co_embed_ops,     co_norm_ops, co_matmul_ops,  co_gated_ops, co_rope_ops,
    co_attention_ops, co_head_ops, co_adapter_ops, co_optim_ops, co_sample_ops,
};

static const struct {
    const char *name;
    unsigned isa; /* bit that the table adds */
    unsigned mask;
} tables[] = {
    {"ref", 0, 0},
    {"avx2", TT_ISA_AVX2, TT_ISA_AVX2},
    {"avx512", TT_ISA_AVX512, TT_ISA_AVX2 | TT_ISA_AVX512},
    {"avx512bf16", TT_ISA_AVX512BF16, TT_ISA_ALL},
};

#define N_TABLES (int)(sizeof tables / sizeof *tables)

/* What a crash handler may print: the test that ran. */
static char now_running[256];

static void on_crash(int sig)
{
    static const char text[] = "FAIL crashed: ";
    if (write(STDOUT_FILENO, text, sizeof text - 1) < 0 ||
        write(STDOUT_FILENO, now_running, strlen(now_running)) < 0 ||
        write(STDOUT_FILENO, "\n", 1) < 0) {
        _exit(2);
    }
    _exit(1);
}

void co_note_running(const co_test *t)
{
    co_describe(t, now_running, sizeof now_running);
}

static bool same_pointer(const tt_ops *a, const tt_ops *b, size_t fn)
{
    return memcmp((const char *)a + fn, (const char *)b + fn, sizeof(void (*)(void))) == 0;
}

static bool wanted(const char *list, const char *name)
{
    return list == NULL || strcmp(list, name) == 0;
}

int co_make_tables(co_table *ret, const char *only, int *n_skipped)
{
    int n = 0;
    unsigned have = tt_isa_detect();
    for (int i = 0; i < N_TABLES; i++) {
        if ((have & tables[i].isa) != tables[i].isa) {
            if (wanted(only, tables[i].name)) {
                printf("skip: table %s: this machine lacks the instruction set\n", tables[i].name);
                ++*n_skipped;
            }
            continue;
        }
        /* A table that is not asked for still stands below the others. */
        ret[n] = (co_table){.name = tables[i].name, .run = i == 0 || wanted(only, tables[i].name)};
        tt_ops_get(&ret[n++].ops, tables[i].mask);
    }
    return n;
}

static bool is_null(const tt_ops *ops, size_t fn)
{
    static const tt_ops none;
    return same_pointer(ops, &none, fn);
}

bool co_table_has(const co_table *all, int i, const co_op *op)
{
    return !is_null(&all[i].ops, op->fn) && all[i].run &&
           (i == 0 || !same_pointer(&all[i].ops, &all[i - 1].ops, op->fn));
}

/* ---- one shape ---- */

/* Runs a variant of `set` and hands it to the caller for comparison. */
static co_test *run_variant(const co_op *op, const co_shape *shape, const co_setting *set)
{
    co_test *t = co_test_create(op, shape, set);
    if (t == NULL) {
        exit(2);
    }
    co_note_running(t);
    co_test_run(t);
    return t;
}

static bool finish(co_test **t)
{
    bool failed = (*t)->failed;
    co_test_destroy(t);
    return failed;
}

static bool check_threads(const co_op *op, const co_shape *shape, co_setting set,
                          const co_test *base)
{
    set.n_threads = 1;
    co_test *t = run_variant(op, shape, &set);
    co_test_same_bits(t, base, "1 thread against 2");
    return finish(&t);
}

static bool check_again(co_test *t)
{
    co_test *copy = malloc(sizeof *copy);
    if (copy == NULL) {
        exit(2);
    }
    *copy = *t;
    bool failed = t->failed;
    int n = t->n_bufs;
    for (int i = 0; i < n; i++) {
        size_t bytes = t->bufs[i].n_bytes + 2 * CO_GUARD;
        copy->bufs[i].got = malloc(bytes);
        if (copy->bufs[i].got == NULL) {
            exit(2);
        }
        memcpy(copy->bufs[i].got, t->bufs[i].got, bytes);
    }
    co_test_upload(t);
    t->op->call(t);
    for (int i = 0; i < n; i++) {
        co_buf *b = &t->bufs[i];
        if (b->elem != CO_F64 || b->role != CO_OUT) { /* derived outputs come from the others */
            t->ops->download(t->lane, b->got, b->base, b->n_bytes + 2 * CO_GUARD);
        }
    }
    co_test_sync(t);
    co_test_same_bits(t, copy, "a second call");
    for (int i = 0; i < n; i++) {
        free(copy->bufs[i].got);
    }
    free(copy);
    return t->failed && !failed;
}

static bool check_slice(const co_op *op, const co_shape *shape, co_setting set, const co_test *base,
                        int32_t row0, int32_t n_rows)
{
    set.row0 = row0;
    set.n_rows = n_rows;
    co_test *t = run_variant(op, shape, &set);
    co_test_same_bits(t, base, "rows alone against the same rows among others");
    return finish(&t);
}

static int check_slices(const co_op *op, const co_shape *shape, co_setting set, const co_test *base)
{
    static const int32_t sizes[] = {1, 2, 7, 16, 64, 512};
    int failed = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && failed == 0; i++) {
        int32_t m = sizes[i], last = shape->rows - m;
        if (last < 1) {
            break;
        }
        int32_t starts[] = {last, last / 2, 0};
        bool one = (shape->flags & CO_SLOW) != 0 || set.ops->memory != NULL;
        int n = one ? 1 : last == 1 ? 2 : 3;
        for (int k = 0; k < n; k++) {
            failed += check_slice(op, shape, set, base, starts[k == 1 && last == 1 ? 2 : k], m);
        }
    }
    return failed;
}

/* Allocations fail one after the other: a sticky error comes out, nothing is written beyond the
 * buffers, and the same lane then does its work. */
static bool check_no_memory(const co_op *op, const co_shape *shape, co_setting set,
                            const co_test *ref)
{
    bool failed = false;
    int step = set.ops->memory != NULL ? 3 : 1; /* tests/cuemu lets each call of a device fail */
    for (int allowed = 0; allowed < 6 && !failed; allowed += step) {
        co_test *t = co_test_create(op, shape, &set);
        if (t == NULL) {
            exit(2);
        }
        co_note_running(t);
        if (!co_starve(t, allowed)) {
            allowed = 6; /* it needed no more than that */
        }
        co_test_run(t);
        co_test_compare(t, ref);
        failed = finish(&t);
    }
    return failed;
}

/* A seed of its own for every shape of every op, whichever ops are asked for. */
static uint64_t shape_seed(uint64_t seed, const char *op, int32_t i)
{
    co_rng r = {seed + (uint64_t)i};
    for (; *op != '\0'; op++) {
        r.s = co_next(&r) ^ (uint64_t)(unsigned char)*op;
    }
    return co_next(&r);
}

static co_count run_shape(const co_run *run, const co_op *op, const co_shape *shape, uint64_t seed,
                          double *worst)
{
    co_count c = {0};
    if (run->tables[run->n_tables - 1].device && !co_device_takes(op, shape)) {
        return c;
    }
    co_setting set = {.ops = &run->tables[0].ops, .n_threads = 2, .seed = seed};
    co_test *ref = run_variant(op, shape, &set);
    bool slow = shape->flags & CO_SLOW;
    for (int i = 0; i < run->n_tables; i++) {
        if (!co_table_has(run->tables, i, op)) {
            continue;
        }
        set.ops = &run->tables[i].ops;
        co_test *t = run_variant(op, shape, &set);
        if (i == 0 && op->formula != NULL && !slow) {
            op->formula(t);
        }
        double nmse = co_test_compare(t, ref);
        worst[i] = nmse > worst[i] ? nmse : worst[i];
        int failed = run->tables[i].device ? 0 : check_threads(op, shape, set, t);
        failed += check_again(t);
        failed += op->by_row && shape->rows > 1 ? check_slices(op, shape, set, t) : 0;
        failed += !slow && co_can_starve(t) && check_no_memory(op, shape, set, ref);
        failed += finish(&t);
        c.n_failed += failed > 0;
        c.n_passed += failed == 0;
        c.per_table[i]++;
    }
    co_test_destroy(&ref);
    return c;
}

/* ---- one op ---- */

static void run_op(const co_run *run, const co_op *op, co_count *total)
{
    double worst[CO_MAX_TABLES] = {0};
    co_count sum = {0};
    int32_t n = 0;
    for (co_shape s; co_instance(op, n, &s) != NULL; n++) {
        co_count c = run_shape(run, op, &s, shape_seed(run->seed, op->name, n), worst);
        sum.n_passed += c.n_passed;
        sum.n_failed += c.n_failed;
        for (int i = 0; i < run->n_tables; i++) {
            sum.per_table[i] += c.per_table[i];
        }
    }
    for (int i = 0; i < run->n_tables; i++) {
        if (sum.per_table[i] > 0) {
            printf("%-14s %-11s %4d shapes, worst NMSE %.2g, at most %.2g\n", op->name,
                   run->tables[i].name, sum.per_table[i], worst[i], op->max_nmse);
        }
    }
    total->n_passed += sum.n_passed;
    total->n_failed += sum.n_failed;
}

const co_op *co_op_at(int i)
{
    for (size_t l = 0; l < sizeof op_lists / sizeof *op_lists; l++) {
        for (const co_op *op = op_lists[l]; op->name != NULL; op++) {
            if (i-- == 0) {
                return op;
            }
        }
    }
    return NULL;
}

const co_shape *co_instance(const co_op *op, int32_t i, co_shape *ret)
{
    for (int k = 0; k < op->n_shapes; k++) {
        const co_shape *s = &op->shapes[k];
        unsigned types = s->types == 0 ? CO_BIT(TT_F32) : s->types;
        unsigned families = s->families == 0 ? CO_BIT(TT_PREFILL) : s->families;
        for (unsigned type = 0; type < TT_DTYPE_COUNT; type++) {
            for (unsigned family = 0; family < 2; family++) {
                if ((types & CO_BIT(type)) == 0 || (families & CO_BIT(family)) == 0 || i-- > 0) {
                    continue;
                }
                *ret = *s;
                ret->type = (tt_dtype)type;
                ret->family = (tt_family)family;
                return s;
            }
        }
    }
    return NULL;
}

/* ---- program ---- */

typedef struct options {
    const char *function, *isa, *json, *vectors, *device, *module;
    bool grad, bench, list;
    uint64_t seed;
} options;

static int usage(void)
{
    printf(
        "usage: checkops [--list] [--function=OP] [--isa=ref|avx2|avx512|avx512bf16] [--seed=N]\n"
        "                [--quant=FILE] [--grad] [--bench [--json=FILE]]\n"
        "                [--device=cuda [--module=PATH]]\n");
    return 2;
}

static bool parse(int argc, char **argv, options *o)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *eq = strchr(a, '=');
        const char *v = eq == NULL ? "" : eq + 1;
        if (strncmp(a, "--function=", 11) == 0) {
            o->function = v;
        } else if (strncmp(a, "--isa=", 6) == 0) {
            o->isa = v;
        } else if (strncmp(a, "--json=", 7) == 0) {
            o->json = v;
        } else if (strncmp(a, "--quant=", 8) == 0) {
            o->vectors = v;
        } else if (strncmp(a, "--device=", 9) == 0) {
            o->device = v;
        } else if (strncmp(a, "--module=", 9) == 0) {
            o->module = v;
        } else if (strncmp(a, "--seed=", 7) == 0) {
            o->seed = strtoull(v, NULL, 0);
        } else if (strcmp(a, "--grad") == 0) {
            o->grad = true;
        } else if (strcmp(a, "--bench") == 0) {
            o->bench = true;
        } else if (strcmp(a, "--list") == 0) {
            o->list = true;
        } else {
            return false;
        }
    }
    return o->device == NULL || strcmp(o->device, "cuda") == 0;
}

static int list_ops(void)
{
    for (int i = 0; co_op_at(i) != NULL; i++) {
        co_shape s;
        int n = 0;
        while (co_instance(co_op_at(i), n, &s) != NULL) {
            n++;
        }
        printf("%-14s %4d shapes\n", co_op_at(i)->name, n);
    }
    return 0;
}

int main(int argc, char **argv)
{
    options o = {.seed = 20251122};
    co_run run = {0};
    co_count total = {0};
    int n_skipped = 0, n_matched = 0;
    if (!parse(argc, argv, &o)) {
        return usage();
    }
    if (o.list) {
        return list_ops();
    }
    run.seed = o.seed;
    signal(SIGILL, on_crash);
    signal(SIGSEGV, on_crash);
    signal(SIGBUS, on_crash);
    signal(SIGFPE, on_crash);
    printf("seed %llu\n", (unsigned long long)o.seed);
    int status = 0;
    if (o.device == NULL) {
        run.n_tables = co_make_tables(run.tables, o.isa, &n_skipped);
    } else if (!co_make_device(&run, o.module, &status)) {
        return status;
    }
    if (o.bench) {
        return co_bench(&run, o.function, o.json);
    }
    if (o.grad) {
        total.n_failed += co_check_gradients(o.function, o.seed, &total.n_passed);
    } else {
        for (int i = 0; co_op_at(i) != NULL; i++) {
            if (wanted(o.function, co_op_at(i)->name)) {
                n_matched++;
                run_op(&run, co_op_at(i), &total);
            }
        }
        if (n_matched == 0) {
            fprintf(stderr, "checkops: no operation is called %s; --list names them\n", o.function);
            return 2;
        }
        if (o.vectors != NULL) {
            total.n_failed += co_check_quant(o.vectors, &total.n_passed);
        }
    }
    printf("%d passed, %d failed, %d skipped\n", total.n_passed, total.n_failed, n_skipped);
    return total.n_failed > 0 ? 1 : 0;
}
