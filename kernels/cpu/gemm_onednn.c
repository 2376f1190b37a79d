/* gemm_onednn.c - matrix products by oneDNN 2.x (C API); the only file that includes it. Thread:
 * see gemm.h.
 *
 * oneDNN is used on one thread at a time: inside a parallel region of ours it starts none of its
 * own, and omp_set_num_threads(1) makes that so for a region of one thread too (tt_gemm_get sets it
 * for the engine thread; our regions name their number of threads).
 *
 * Two kinds of primitives. Shapes given at run time: one primitive per kind of product, no
 * scratchpad (checked). Shapes given when it is made ("fixed"): with AMX 1.5 to 2.4 times as fast
 * (measured), without it no faster, so they are used with AMX only. A fixed one costs about 0.4 ms
 * and 100 KB to make; they are kept in a table, which is emptied when it holds FIXED_MAX.
 *
 * Batch invariance. Measured with oneDNN 2.6.3, one thread, k up to 1,024: run-time BF16 on AMX and
 * on AVX-512 BF16 gives equal rows for every m >= 2 (m = 1 is another kernel); fixed BF16 on AMX
 * gives equal rows for every multiple of 16 when n >= 32; f32 treats the last rows of m differently
 * (6, 8 or 16 at a time) and changes its kernel with the size. So BF16 rows go in multiples of 16
 * and f32 rows in blocks of exactly 48. */
#include "kernels/cpu/gemm.h"

#include <assert.h>
#include <oneapi/dnnl/dnnl.h>
#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum {
    FIXED_MAX = 192,   /* fixed primitives kept */
    FIXED_SLOTS = 512, /* of the table; one op adds far fewer than FIXED_SLOTS - FIXED_MAX */
    FIXED_MIN_N = 32,  /* columns: see above */
    OPERANDS = 4       /* A, B, C, scratchpad */
};

/* What a primitive is executed with. To make these anew for each call took some six percent of a
 * training step, so each thread keeps them for each fixed primitive and only moves them. */
typedef struct operands {
    dnnl_memory_t mem[OPERANDS]; /* owned */
} operands;

typedef struct fixed_key {
    int64_t m, n, k, lda, ldb;
    int64_t flags; /* trans_b + 2 * accumulate; an int64_t, so that the key has no padding */
} fixed_key;

typedef struct fixed_prim {
    fixed_key key;
    dnnl_primitive_t prim; /* owned; NULL = the slot is free */
    size_t n_scratch;
    int slot; /* in the table; < 0: of shapes given at run time */
} fixed_prim;

struct tt_gemm {
    dnnl_engine_t engine;
    struct gemm_thread {
        dnnl_stream_t stream;
        void *scratch; /* owned, grown by the thread itself */
        size_t n_scratch;
        operands *of; /* owned [FIXED_SLOTS]: of the fixed primitives, made on first use */
    } * thread;       /* [n_threads] */
    int n_threads;
    dnnl_primitive_t prim[2][2][2][2]; /* [bf16][trans_a][trans_b][accumulate] */
    bool amx;
    pthread_mutex_t lock; /* of fixed and n_fixed; nothing else is taken under it */
    fixed_prim fixed[FIXED_SLOTS];
    int n_fixed;
    atomic_int failed; /* a dnnl_status_t, the last one that was not success */
};

static dnnl_status_t describe(dnnl_memory_desc_t *md, dnnl_data_type_t type, bool trans,
                              int64_t rows, int64_t cols, int64_t ld)
{
    dnnl_dims_t dims = {rows, cols};
    dnnl_dims_t strides = {trans ? 1 : ld, trans ? ld : 1};
    return dnnl_memory_desc_init_by_strides(md, 2, dims, type, strides);
}

static dnnl_status_t set_attributes(dnnl_primitive_attr_t attr, bool accumulate)
{
    dnnl_status_t st = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (st != dnnl_success || !accumulate) {
        return st;
    }
    dnnl_post_ops_t ops = NULL;
    st = dnnl_post_ops_create(&ops);
    if (st == dnnl_success) {
        st = dnnl_post_ops_append_sum(ops, 1.0f);
    }
    if (st == dnnl_success) {
        st = dnnl_primitive_attr_set_post_ops(attr, ops);
    }
    dnnl_post_ops_destroy(ops);
    return st;
}

/* The three operands of a call. */
static dnnl_status_t describe_call(dnnl_memory_desc_t md[3], const tt_gemm_call *call)
{
    dnnl_data_type_t type = call->bf16 ? dnnl_bf16 : dnnl_f32;
    dnnl_status_t st = describe(&md[0], type, call->trans_a, call->m, call->k, call->lda);
    if (st == dnnl_success) {
        st = describe(&md[1], type, call->trans_b, call->k, call->n, call->ldb);
    }
    if (st == dnnl_success) {
        st = describe(&md[2], dnnl_f32, false, call->m, call->n, call->ldc);
    }
    return st;
}

/* ret_scratch: bytes of scratchpad that an execution needs. */
static dnnl_status_t make_primitive(dnnl_engine_t engine, const tt_gemm_call *shape,
                                    dnnl_primitive_t *ret, size_t *ret_scratch)
{
    dnnl_memory_desc_t md[3];
    dnnl_matmul_desc_t desc;
    dnnl_status_t st = describe_call(md, shape);
    if (st == dnnl_success) {
        st = dnnl_matmul_desc_init(&desc, &md[0], &md[1], NULL, &md[2]);
    }
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    if (st == dnnl_success) {
        st = dnnl_primitive_attr_create(&attr);
    }
    if (st == dnnl_success) {
        st = set_attributes(attr, shape->accumulate);
    }
    if (st == dnnl_success) {
        st = dnnl_primitive_desc_create(&pd, &desc, attr, engine, NULL);
    }
    if (st == dnnl_success) {
        *ret_scratch = dnnl_memory_desc_get_size(
            dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
    }
    if (st == dnnl_success) {
        st = dnnl_primitive_create(ret, pd);
    }
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_attr_destroy(attr);
    return st;
}

static void drop_operands(operands *o)
{
    for (int i = 0; i < OPERANDS; i++) {
        dnnl_memory_destroy(o->mem[i]);
        o->mem[i] = NULL;
    }
}

static void drop_fixed(tt_gemm *g)
{
    for (int i = 0; i < FIXED_SLOTS; i++) {
        for (int t = 0; g->thread != NULL && t < g->n_threads; t++) {
            if (g->thread[t].of != NULL) {
                drop_operands(&g->thread[t].of[i]);
            }
        }
        dnnl_primitive_destroy(g->fixed[i].prim);
        g->fixed[i].prim = NULL;
    }
    g->n_fixed = 0;
}

static void gemm_destroy(void *gemm)
{
    tt_gemm *g = gemm;
    if (g == NULL) {
        return;
    }
    drop_fixed(g);
    for (int i = 0; i < 16; i++) {
        dnnl_primitive_destroy(g->prim[i >> 3][i >> 2 & 1][i >> 1 & 1][i & 1]);
    }
    for (int i = 0; g->thread != NULL && i < g->n_threads; i++) {
        dnnl_stream_destroy(g->thread[i].stream);
        free(g->thread[i].scratch);
        free(g->thread[i].of);
    }
    free(g->thread);
    dnnl_engine_destroy(g->engine);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

/* BF16 primitives are made only where a table uses them: elsewhere oneDNN may have none. */
static dnnl_status_t gemm_init(tt_gemm *g, bool bf16)
{
    const int64_t any = DNNL_RUNTIME_DIM_VAL;
    dnnl_status_t st = dnnl_set_primitive_cache_capacity(0); /* ours is enough */
    if (st == dnnl_success) {
        st = dnnl_engine_create(&g->engine, dnnl_cpu, 0);
    }
    for (int i = 0; st == dnnl_success && i < g->n_threads; i++) {
        st = dnnl_stream_create(&g->thread[i].stream, g->engine, dnnl_stream_default_flags);
    }
    for (int i = 0; st == dnnl_success && i < (bf16 ? 16 : 8); i++) {
        bool ta = i >> 2 & 1, tb = i >> 1 & 1, acc = i & 1;
        size_t scratch = 0;
        tt_gemm_call shape = {.m = any, .n = any, .k = any, .lda = any, .ldb = any, .ldc = any};
        shape.bf16 = i >> 3;
        shape.trans_a = ta;
        shape.trans_b = tb;
        shape.accumulate = acc;
        st = make_primitive(g->engine, &shape, &g->prim[i >> 3][ta][tb][acc], &scratch);
        if (st == dnnl_success && scratch > 0) {
            st = dnnl_unimplemented;
        }
    }
    g->amx = bf16 && dnnl_get_effective_cpu_isa() >= dnnl_cpu_isa_avx512_core_amx;
    return st;
}

tt_gemm *tt_gemm_get(tt_lane *lane)
{
    if (lane->err.code != TT_OK) {
        return NULL;
    }
    omp_set_num_threads(1);
    tt_gemm *g = lane->gemm;
    if (g != NULL) {
        if (g->n_fixed > FIXED_MAX) {
            drop_fixed(g); /* no region is running, so nobody is executing one */
        }
        return g;
    }
    g = calloc(1, sizeof *g);
    if (g != NULL) {
        pthread_mutex_init(&g->lock, NULL);
        g->n_threads = lane->n_threads;
        g->thread = calloc((size_t)g->n_threads, sizeof *g->thread);
    }
    if (g == NULL || g->thread == NULL) {
        gemm_destroy(g);
        tt_lane_fail(lane, TT_E_NOMEM, "out of memory for matrix products");
        return NULL;
    }
    dnnl_status_t st = gemm_init(g, strcmp(lane->ops->isa, "avx512bf16") == 0);
    if (st != dnnl_success) {
        gemm_destroy(g);
        tt_lane_fail(lane, st == dnnl_out_of_memory ? TT_E_NOMEM : TT_E_DEVICE,
                     "oneDNN cannot make a matrix product");
        return NULL;
    }
    lane->gemm = g;
    lane->gemm_destroy = gemm_destroy;
    return g;
}

void tt_gemm_check(tt_lane *lane)
{
    tt_gemm *g = lane->gemm;
    int st = g == NULL ? 0 : atomic_exchange(&g->failed, 0);
    if (st != dnnl_success) {
        tt_lane_fail(lane, st == dnnl_out_of_memory ? TT_E_NOMEM : TT_E_DEVICE,
                     "a matrix product failed in oneDNN");
    }
}

static uint64_t hash_key(const fixed_key *key)
{
    const int64_t part[] = {key->m, key->n, key->k, key->lda, key->ldb, key->flags};
    uint64_t h = 0;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        h = (h ^ (uint64_t)part[i]) * 0x9E3779B97F4A7C15u;
        h ^= h >> 32;
    }
    return h;
}

/* The fixed primitive of a call, made when it is not there. Entries do not move or go while a
 * region runs, so the copy stays valid. */
static dnnl_status_t find_fixed(tt_gemm *g, const tt_gemm_call *call, fixed_prim *ret)
{
    fixed_key key = {call->m,   call->n,   call->k,
                     call->lda, call->ldb, call->trans_b + 2 * call->accumulate};
    dnnl_status_t st = dnnl_success;
    pthread_mutex_lock(&g->lock);
    size_t i = hash_key(&key) % FIXED_SLOTS;
    while (g->fixed[i].prim != NULL && memcmp(&g->fixed[i].key, &key, sizeof key) != 0) {
        i = (i + 1) % FIXED_SLOTS;
    }
    if (g->fixed[i].prim == NULL) {
        if (g->n_fixed < FIXED_SLOTS - 1) { /* one slot stays free, for the search to end */
            st = make_primitive(g->engine, call, &g->fixed[i].prim, &g->fixed[i].n_scratch);
        } else {
            st = dnnl_out_of_memory;
        }
        if (st == dnnl_success) {
            g->fixed[i].key = key;
            g->fixed[i].slot = (int)i;
            g->n_fixed++;
        }
    }
    *ret = g->fixed[i];
    pthread_mutex_unlock(&g->lock);
    return st;
}

static dnnl_status_t reserve_scratch(struct gemm_thread *t, size_t n_bytes)
{
    if (n_bytes <= t->n_scratch) {
        return dnnl_success;
    }
    free(t->scratch);
    t->n_scratch = 0;
    t->scratch = aligned_alloc(4096, (n_bytes + 4095) / 4096 * 4096);
    if (t->scratch == NULL) {
        return dnnl_out_of_memory;
    }
    t->n_scratch = n_bytes;
    return dnnl_success;
}

/* The primitive for a call, and its scratchpad ready in the thread's buffer. */
static dnnl_status_t choose(tt_gemm *g, int thread, const tt_gemm_call *call, fixed_prim *ret)
{
    bool fixed = g->amx && call->bf16 && !call->trans_a && call->ldc == call->n &&
                 call->n >= FIXED_MIN_N && call->m % 16 == 0;
    if (!fixed) {
        *ret = (fixed_prim){.prim =
                                g->prim[call->bf16][call->trans_a][call->trans_b][call->accumulate],
                            .slot = -1};
        return dnnl_success;
    }
    dnnl_status_t st = find_fixed(g, call, ret);
    struct gemm_thread *t = &g->thread[thread];
    if (st == dnnl_success && t->of == NULL) {
        t->of = calloc(FIXED_SLOTS, sizeof *t->of);
        st = t->of == NULL ? dnnl_out_of_memory : dnnl_success;
    }
    return st == dnnl_success ? reserve_scratch(t, ret->n_scratch) : st;
}

/* n operands of a call. */
static dnnl_status_t make_operands(tt_gemm *g, const tt_gemm_call *call, size_t n_scratch,
                                   void *const at[OPERANDS], int n, operands *o)
{
    dnnl_memory_desc_t md[OPERANDS];
    dnnl_status_t st = describe_call(md, call);
    if (st == dnnl_success && n == OPERANDS) {
        dnnl_dims_t dims = {(int64_t)n_scratch};
        st = dnnl_memory_desc_init_by_tag(&md[OPERANDS - 1], 1, dims, dnnl_u8, dnnl_a);
    }
    for (int i = 0; st == dnnl_success && i < n; i++) {
        st = dnnl_memory_create(&o->mem[i], &md[i], g->engine, at[i]);
    }
    if (st != dnnl_success) {
        drop_operands(o);
    }
    return st;
}

static dnnl_status_t run_primitive(struct gemm_thread *t, dnnl_primitive_t prim, const operands *o,
                                   int n)
{
    dnnl_exec_arg_t args[OPERANDS] = {{DNNL_ARG_SRC, o->mem[0]},
                                      {DNNL_ARG_WEIGHTS, o->mem[1]},
                                      {DNNL_ARG_DST, o->mem[2]},
                                      {DNNL_ARG_SCRATCHPAD, o->mem[3]}};
    return dnnl_primitive_execute(prim, t->stream, n, args);
}

static dnnl_status_t execute(tt_gemm *g, int thread, const tt_gemm_call *call, const fixed_prim *p)
{
    struct gemm_thread *t = &g->thread[thread];
    void *const at[OPERANDS] = {(void *)(uintptr_t)call->a, (void *)(uintptr_t)call->b, call->c,
                                t->scratch};
    int n = p->n_scratch > 0 ? OPERANDS : OPERANDS - 1;
    operands once = {{NULL}}, *o = p->slot < 0 ? &once : &t->of[p->slot];
    dnnl_status_t st = dnnl_success;
    if (o->mem[0] == NULL) {
        st = make_operands(g, call, p->n_scratch, at, n, o);
    } else {
        for (int i = 0; st == dnnl_success && i < n; i++) {
            st = dnnl_memory_set_data_handle(o->mem[i], at[i]);
        }
    }
    if (st == dnnl_success) {
        st = run_primitive(t, p->prim, o, n);
    }
    drop_operands(&once);
    return st;
}

void tt_gemm_run(tt_gemm *g, int thread, const tt_gemm_call *call)
{
    assert(call->m > 0 && call->n > 0 && call->k > 0);
    fixed_prim p;
    dnnl_status_t st = choose(g, thread, call, &p);
    if (st == dnnl_success) {
        st = execute(g, thread, call, &p);
    }
    if (st != dnnl_success) {
        atomic_store(&g->failed, (int)st);
    }
}

/* Rows of the next piece: f32 always 48; BF16 with fixed shapes 256, 192, 128, 64, 32 or 16, so
 * that few shapes occur. */
static int64_t piece_of(const tt_gemm *g, const tt_gemm_call *call)
{
    if (!call->bf16) {
        return tt_gemm_unit(false);
    }
    if (!g->amx) {
        return call->m;
    }
    if (call->m >= 64) {
        return call->m >= 256 ? 256 : call->m / 64 * 64;
    }
    return call->m >= 32 ? 32 : 16;
}

void tt_gemm_rows(tt_gemm *g, int thread, const tt_gemm_call *call)
{
    assert(!call->trans_a && call->m % tt_gemm_unit(call->bf16) == 0);
    size_t elem = call->bf16 ? sizeof(uint16_t) : sizeof(float);
    tt_gemm_call left = *call;
    while (left.m > 0) {
        tt_gemm_call part = left;
        part.m = piece_of(g, &left);
        tt_gemm_run(g, thread, &part);
        left.a = (const char *)left.a + (size_t)(part.m * left.lda) * elem;
        left.c += part.m * left.ldc;
        left.m -= part.m;
    }
}
