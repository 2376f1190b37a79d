/* table_cuda.cu - the ops of the table over launch_cuda.h and product_cuda.h: what an op needs of
 * the lane (working memory, cuBLAS), its launches, its failure. Thread: the lane's.
 *
 * While a failure is pending nothing is launched: what would be read was not written. */
#include "kernels/cuda/lane_cuda.h"

/* Ops that need a stream alone. */
template <class A, cudaError_t (*launch)(cudaStream_t, const A *)>
static void on_stream(tt_lane *lane, const A *a)
{
    if (lane_enter(lane, true)) {
        lane_check(lane, launch(lane->stream, a), "a launch");
    }
}

/* ---- products ---- */

static tt_cuda_products few_rows()
{
    tt_cuda_products p = {};
    p.pass_rows = TT_CUDA_LANE_PASS_ROWS;
    p.max_panel = 256; /* none */
    return p;
}

template <class T> static T larger(T a, T b)
{
    return a > b ? a : b;
}

/* Room for products with w, forward and transposed. */
static void add_weight(tt_cuda_products *p, const tt_weight *w, bool transposed)
{
    p->max_dim = larger(p->max_dim, (int32_t)w->cols);
    p->max_panel = larger(p->max_panel, tt_cuda_panel_bytes(w));
    if (transposed) {
        p->max_dim = larger(p->max_dim, (int32_t)w->rows);
    } else {
        p->max_out = larger(p->max_out, (int32_t)w->rows);
    }
}

/* Room for products with an adapter's matrices, both ways. */
static void add_adapter(tt_cuda_products *p, const tt_adapter_layer *l, int32_t h, int32_t nq)
{
    tt_weight d = {l->type, nq, h, l->d}, a = {l->type, l->rank, h, l->a},
              b = {l->type, nq, l->rank, l->b};
    if (l->kind == TT_ADAPTER_FULL) {
        add_weight(p, &d, true);
        return;
    }
    p->max_rank = larger(p->max_rank, l->rank);
    add_weight(p, &a, true);
    add_weight(p, &b, true);
}

/* Takes the workspace; false = a failure was recorded. */
static bool ready(tt_lane *lane, tt_cuda_products *p)
{
    p->blas = lane_blas(lane);
    p->workspace = p->blas != nullptr ? lane_scratch(lane, tt_cuda_products_bytes(p)) : 0;
    return p->workspace != 0;
}

static void table_matmul(tt_lane *lane, const tt_matmul_args *a)
{
    if (!lane_enter(lane, true) || a->n_rows == 0) {
        return;
    }
    tt_cuda_products p = few_rows();
    if (a->family == TT_PREFILL) {
        p.max_rows = a->n_rows;
        for (int i = 0; i < a->n_w; i++) {
            add_weight(&p, a->w[i], false);
        }
        if (!ready(lane, &p)) {
            return;
        }
    }
    lane_check(lane, tt_cuda_matmul(lane->stream, &p, a), "a product");
}

static void table_matmul_bwd(tt_lane *lane, const tt_matmul_bwd_args *a)
{
    if (!lane_enter(lane, true) || a->n_rows == 0) {
        return;
    }
    tt_cuda_products p = few_rows();
    p.max_rows = a->n_rows;
    for (int i = 0; i < a->n_w; i++) {
        add_weight(&p, a->w[i], true);
    }
    if (ready(lane, &p)) {
        lane_check(lane, tt_cuda_matmul_bwd(lane->stream, &p, a), "a backward product");
    }
}

static void table_adapter_fwd(tt_lane *lane, const tt_adapter_fwd_args *a)
{
    if (!lane_enter(lane, true)) {
        return;
    }
    tt_cuda_products p = few_rows();
    for (int32_t i = 0; i < a->n_groups; i++) {
        const tt_adapter_group *g = &a->groups[i];
        if (a->family == TT_PREFILL) {
            p.max_rows = larger(p.max_rows, g->n_rows); /* group after group */
            add_adapter(&p, &g->layer, a->h, a->nq);
        } else if (g->layer.kind == TT_ADAPTER_LORA) {
            p.max_rows += g->n_rows; /* all at once */
            p.max_rank = larger(p.max_rank, g->layer.rank);
        }
    }
    if (p.max_rows == 0 || ready(lane, &p)) {
        lane_check(lane, tt_cuda_adapter_fwd(lane->stream, &p, a), "an adapter");
    }
}

static void table_adapter_bwd(tt_lane *lane, const tt_adapter_bwd_args *a)
{
    if (!lane_enter(lane, true)) {
        return;
    }
    tt_cuda_products p = few_rows();
    p.max_rows = a->n_rows;
    add_adapter(&p, &a->layer, a->h, a->nq);
    if (ready(lane, &p)) {
        lane_check(lane, tt_cuda_adapter_bwd(lane->stream, &p, a), "an adapter's backward product");
    }
}

static void table_adapter_grad(tt_lane *lane, const tt_adapter_grad_args *a)
{
    if (!lane_enter(lane, true)) {
        return;
    }
    tt_cuda_products p = few_rows();
    p.max_rows = a->n_rows;
    p.max_dim = larger(a->h, a->nq);
    add_adapter(&p, &a->layer, a->h, a->nq);
    if (ready(lane, &p)) {
        lane_check(lane, tt_cuda_adapter_grad(lane->stream, &p, a), "an adapter's gradient");
    }
}

/* ---- others that need memory to work in ---- */

static void table_attention(tt_lane *lane, const tt_attention_args *a)
{
    if (!lane_enter(lane, true)) {
        return;
    }
    size_t n_bytes = tt_cuda_attention_scratch(a);
    tt_dev scratch = n_bytes > 0 ? lane_scratch(lane, n_bytes) : 0;
    if (n_bytes == 0 || scratch != 0) {
        lane_check(lane, tt_cuda_attention(lane->stream, a, scratch), "attention");
    }
}

template <cudaError_t (*launch)(cudaStream_t, cublasHandle_t, tt_dev, const tt_head_args *)>
static void table_head(tt_lane *lane, const tt_head_args *a)
{
    if (!lane_enter(lane, true) || a->n_rows == 0) {
        return;
    }
    cublasHandle_t blas = lane_blas(lane);
    tt_dev scratch = blas != nullptr ? lane_scratch(lane, (size_t)tt_cuda_head_scratch(a)) : 0;
    if (scratch != 0) {
        lane_check(lane, launch(lane->stream, blas, scratch, a), "the head");
    }
}

static void table_optim_begin(tt_lane *lane, const tt_optim_args *a)
{
    if (!lane_enter(lane, true)) {
        return;
    }
    tt_dev scratch = lane_scratch(lane, (size_t)tt_cuda_optim_scratch(a));
    if (scratch != 0) {
        lane_check(lane, tt_cuda_optim_begin(lane->stream, scratch, a), "the gradient's norm");
    }
}

static void table_delta_norm(tt_lane *lane, const tt_delta_norm_args *a)
{
    if (!lane_enter(lane, true)) {
        return;
    }
    tt_dev scratch = lane_scratch(lane, (size_t)tt_cuda_delta_norm_scratch(a));
    if (scratch != 0) {
        lane_check(lane, tt_cuda_delta_norm(lane->stream, scratch, a), "an adapter's norm");
    }
}

static void table_to_bf16(tt_lane *lane, tt_dev src_f32, tt_dev dst_bf16, int64_t n)
{
    if (lane_enter(lane, true)) {
        lane_check(lane, tt_cuda_to_bf16(lane->stream, src_f32, dst_bf16, n), "a launch");
    }
}

void table_init_ops(tt_ops *ops)
{
    ops->embed = on_stream<tt_embed_args, tt_cuda_embed>;
    ops->rmsnorm = on_stream<tt_rmsnorm_args, tt_cuda_rmsnorm>;
    ops->matmul = table_matmul;
    ops->adapter_fwd = table_adapter_fwd;
    ops->qk_rope = on_stream<tt_qk_rope_args, tt_cuda_qk_rope>;
    ops->attention = table_attention;
    ops->gated = on_stream<tt_gated_args, tt_cuda_gated>;
    ops->gather = on_stream<tt_gather_args, tt_cuda_gather>;
    ops->head_fwd = table_head<tt_cuda_head_fwd>;
    ops->head_finish = on_stream<tt_head_args, tt_cuda_head_finish>;
    ops->sample = on_stream<tt_sample_args, tt_cuda_sample>;
    ops->head_bwd = table_head<tt_cuda_head_bwd>;
    ops->rmsnorm_bwd = on_stream<tt_rmsnorm_bwd_args, tt_cuda_rmsnorm_bwd>;
    ops->matmul_bwd = table_matmul_bwd;
    ops->gated_bwd = on_stream<tt_gated_bwd_args, tt_cuda_gated_bwd>;
    ops->attention_bwd = on_stream<tt_attention_bwd_args, tt_cuda_attention_bwd>;
    ops->q_rope_bwd = on_stream<tt_q_rope_bwd_args, tt_cuda_q_rope_bwd>;
    ops->adapter_bwd = table_adapter_bwd;
    ops->adapter_grad = table_adapter_grad;
    ops->optim_begin = table_optim_begin;
    ops->optim_step = on_stream<tt_optim_args, tt_cuda_optim_step>;
    ops->delta_norm = table_delta_norm;
    ops->to_bf16 = table_to_bf16;
    ops->checksum = on_stream<tt_checksum_args, tt_cuda_checksum>;
}
