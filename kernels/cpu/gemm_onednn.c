/* gemm_onednn.c - matrix products by oneDNN 2.x (C API); the only file that includes it. Thread:
 * see gemm.h.
 *
 * oneDNN is used on one thread at a time: inside a parallel region of ours it starts none of its
 * own, and omp_set_num_threads(1) around the region makes that so for a region of one thread too
 * (tt_gemm_get sets it for the engine thread; our regions name their number of threads). Shapes and
 * strides are given at run time: one primitive per kind of product, at most eight in BF16 and eight
 * in f32, no cache to bound, nothing compiled per shape, no scratchpad (checked).
 *
 * Batch invariance. Measured with oneDNN 2.6.3, k up to 1,024: BF16 on AMX and on AVX-512 BF16
 * gives equal rows for every m >= 2 (m = 1 is another kernel); f32 treats the last rows of m
 * differently (6, 8 or 16 at a time) and changes its kernel with the size. So BF16 rows go in
 * multiples of 16, and f32 in blocks of exactly 48, the last one padded. */
#include "kernels/cpu/gemm.h"

#include <assert.h>
#include <oneapi/dnnl/dnnl.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>

struct tt_gemm {
    dnnl_engine_t engine;
    dnnl_stream_t *stream; /* [n_threads] */
    int n_threads;
    dnnl_primitive_t prim[2][2][2][2]; /* [bf16][trans_a][trans_b][accumulate] */
    atomic_int failed;                 /* a dnnl_status_t, the last one that was not success */
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

static dnnl_status_t make_primitive(dnnl_engine_t engine, bool bf16, bool trans_a, bool trans_b,
                                    bool accumulate, dnnl_primitive_t *ret)
{
    const int64_t any = DNNL_RUNTIME_DIM_VAL;
    dnnl_data_type_t type = bf16 ? dnnl_bf16 : dnnl_f32;
    dnnl_memory_desc_t a, b, c;
    dnnl_status_t st = describe(&a, type, trans_a, any, any, any);
    if (st == dnnl_success) {
        st = describe(&b, type, trans_b, any, any, any);
    }
    if (st == dnnl_success) {
        st = describe(&c, dnnl_f32, false, any, any, any);
    }
    dnnl_matmul_desc_t desc;
    if (st == dnnl_success) {
        st = dnnl_matmul_desc_init(&desc, &a, &b, NULL, &c);
    }
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    if (st == dnnl_success) {
        st = dnnl_primitive_attr_create(&attr);
    }
    if (st == dnnl_success) {
        st = set_attributes(attr, accumulate);
    }
    if (st == dnnl_success) {
        st = dnnl_primitive_desc_create(&pd, &desc, attr, engine, NULL);
    }
    if (st == dnnl_success && dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(
                                  pd, dnnl_query_scratchpad_md, 0)) > 0) {
        st = dnnl_unimplemented;
    }
    if (st == dnnl_success) {
        st = dnnl_primitive_create(ret, pd);
    }
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_attr_destroy(attr);
    return st;
}

static void gemm_destroy(void *gemm)
{
    tt_gemm *g = gemm;
    if (g == NULL) {
        return;
    }
    for (int i = 0; i < 16; i++) {
        dnnl_primitive_destroy(g->prim[i >> 3][i >> 2 & 1][i >> 1 & 1][i & 1]);
    }
    for (int i = 0; g->stream != NULL && i < g->n_threads; i++) {
        dnnl_stream_destroy(g->stream[i]);
    }
    free(g->stream);
    dnnl_engine_destroy(g->engine);
    free(g);
}

/* BF16 primitives are made only where a table uses them: elsewhere oneDNN may have none. */
static dnnl_status_t gemm_init(tt_gemm *g, bool bf16)
{
    dnnl_status_t st = dnnl_engine_create(&g->engine, dnnl_cpu, 0);
    for (int i = 0; st == dnnl_success && i < g->n_threads; i++) {
        st = dnnl_stream_create(&g->stream[i], g->engine, dnnl_stream_default_flags);
    }
    for (int i = 0; st == dnnl_success && i < (bf16 ? 16 : 8); i++) {
        bool ta = i >> 2 & 1, tb = i >> 1 & 1, acc = i & 1;
        st = make_primitive(g->engine, i >> 3, ta, tb, acc, &g->prim[i >> 3][ta][tb][acc]);
    }
    return st;
}

tt_gemm *tt_gemm_get(tt_lane *lane)
{
    if (lane->err.code != TT_OK) {
        return NULL;
    }
    omp_set_num_threads(1);
    if (lane->gemm != NULL) {
        return lane->gemm;
    }
    tt_gemm *g = calloc(1, sizeof *g);
    if (g != NULL) {
        g->n_threads = lane->n_threads;
        g->stream = calloc((size_t)g->n_threads, sizeof(dnnl_stream_t));
    }
    if (g == NULL || g->stream == NULL) {
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

void tt_gemm_run(tt_gemm *g, int thread, const tt_gemm_call *call)
{
    assert(call->m > 0 && call->n > 0 && call->k > 0);
    dnnl_data_type_t type = call->bf16 ? dnnl_bf16 : dnnl_f32;
    dnnl_memory_desc_t md[3];
    dnnl_memory_t mem[3] = {NULL, NULL, NULL};
    void *at[3] = {(void *)(uintptr_t)call->a, (void *)(uintptr_t)call->b, call->c};
    dnnl_status_t st = describe(&md[0], type, call->trans_a, call->m, call->k, call->lda);
    if (st == dnnl_success) {
        st = describe(&md[1], type, call->trans_b, call->k, call->n, call->ldb);
    }
    if (st == dnnl_success) {
        st = describe(&md[2], dnnl_f32, false, call->m, call->n, call->ldc);
    }
    for (int i = 0; st == dnnl_success && i < 3; i++) {
        st = dnnl_memory_create(&mem[i], &md[i], g->engine, at[i]);
    }
    if (st == dnnl_success) {
        dnnl_exec_arg_t args[3] = {
            {DNNL_ARG_SRC, mem[0]}, {DNNL_ARG_WEIGHTS, mem[1]}, {DNNL_ARG_DST, mem[2]}};
        dnnl_primitive_t prim = g->prim[call->bf16][call->trans_a][call->trans_b][call->accumulate];
        st = dnnl_primitive_execute(prim, g->stream[thread], 3, args);
    }
    for (int i = 0; i < 3; i++) {
        dnnl_memory_destroy(mem[i]);
    }
    if (st != dnnl_success) {
        atomic_store(&g->failed, (int)st);
    }
}

/* One padded block: into `tail`, then its m rows into C. */
static void run_padded(tt_gemm *g, int thread, const tt_gemm_call *call, int64_t unit, float *tail)
{
    tt_gemm_call padded = *call;
    padded.m = unit;
    padded.c = tail;
    padded.ldc = call->n;
    padded.accumulate = false;
    if (call->accumulate) { /* the same order of sums as in a full block: start from C */
        for (int64_t r = 0; r < unit; r++) {
            for (int64_t i = 0; i < call->n; i++) {
                tail[r * call->n + i] = r < call->m ? call->c[r * call->ldc + i] : 0.0f;
            }
        }
        padded.accumulate = true;
    }
    tt_gemm_run(g, thread, &padded);
    for (int64_t r = 0; r < call->m; r++) {
        memcpy(call->c + r * call->ldc, tail + r * call->n, (size_t)call->n * sizeof(float));
    }
}

void tt_gemm_rows(tt_gemm *g, int thread, const tt_gemm_call *call, float *tail)
{
    assert(!call->trans_a);
    int64_t unit = tt_gemm_unit(call->bf16);
    int64_t step = call->bf16 ? call->m / unit * unit : unit;
    size_t elem = call->bf16 ? sizeof(uint16_t) : sizeof(float);
    int64_t row = 0;
    while (row < call->m) {
        tt_gemm_call part = *call;
        part.a = (const char *)call->a + (size_t)(row * call->lda) * elem;
        part.c = call->c + row * call->ldc;
        part.m = call->m - row;
        if (part.m < unit) {
            run_padded(g, thread, &part, unit, tail);
            break;
        }
        part.m = step;
        tt_gemm_run(g, thread, &part);
        row += step;
    }
}
