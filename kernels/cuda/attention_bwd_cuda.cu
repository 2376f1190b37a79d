/* attention_bwd_cuda.cu - the gradient of the queries of attention over paged keys and values,
 * which are constants: the forward's tiles, scores recomputed from q and the kept log-sum-exp.
 * Thread: the owner of the stream; device code. Source: FlashAttention, arXiv 2205.14135, appendix
 * B.4, its dQ part.
 *
 * Per tile and block of keys: S = Q K^T, P = 2^(c S - lse), dP = dO V^T, dS = P (dP - rowsum(dO
 * O)), dQ += dS K. */
#include "kernels/cuda/attn_tile_cuda.cuh"
#include "kernels/cuda/key_feed_cuda.cuh"

/* Keys of a block: two products of a warp's rows with them stay in registers. */
template <int D> static constexpr int BWD_KEYS = D <= 128 ? 32 : 16;

template <int D, tt_dtype type> struct bwd_layout {
    static constexpr int SLOTS = left_operand<D>::IN_REGISTERS ? 1 : D / 16 * 32;
    key_store<D, BWD_KEYS<D>, type> keys;
    uint4 q[ATTN_WARPS][SLOTS], d_out[ATTN_WARPS][SLOTS];
};

/* What a lane knows of its two rows; lse in powers of two, along = rowsum(dO O). */
template <int D> struct bwd_rows {
    attn_row row[2];
    float lse[2], along[2];
    left_operand<D> q, d_out;
};

template <int D, tt_dtype type> using bwd_feed = key_feed<D, BWD_KEYS<D>, ATTN_THREADS, type>;

static __device__ __forceinline__ float rounded(float x)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}

/* dP is made of the rounded dO: so must its mean be, or the two do not cancel. */
template <int D>
static __device__ __forceinline__ void load_rows(const attn_input &in, const float *d_out,
                                                 bwd_rows<D> &own)
{
    float along[2] = {0, 0};
    for (int kk = 0; kk < D / 16; kk++) {
        float x[4], y[4], out_x[4], out_y[4];
        uint32_t a[4];
        load_columns<D>(in.q, own.row, kk, x, y);
        to_operand(x, y, a);
        own.q.put(kk, a);
        load_columns<D>(d_out, own.row, kk, x, y);
        to_operand(x, y, a);
        own.d_out.put(kk, a);
        load_columns<D>(in.out, own.row, kk, out_x, out_y);
        for (int i = 0; i < 4; i++) {
            along[i / 2] += rounded(x[i]) * out_x[i] + rounded(y[i]) * out_y[i];
        }
    }
    for (int r = 0; r < 2; r++) {
        own.along[r] = row_sum(along[r]);
        own.lse[r] = own.row[r].at >= 0 ? ATTN_LOG2E * in.lse[own.row[r].at] : 0.0f;
    }
}

/* dq += dS K for one block of keys. */
template <int D, tt_dtype type>
static __device__ __forceinline__ void meet_block(const bwd_rows<D> &own, int key0, float c,
                                                  int buf, const bwd_feed<D, type> &feed,
                                                  float (&dq)[D / 8][4])
{
    float p[BWD_KEYS<D> / 8][4] = {}, ds[BWD_KEYS<D> / 8][4] = {};
    for (int kk = 0; kk < D / 16; kk++) {
        uint32_t a[1][4];
        own.q.get(kk, a[0]);
        add_products<D, BWD_KEYS<D>>(a, kk, feed.k(buf), p);
        own.d_out.get(kk, a[0]);
        add_products<D, BWD_KEYS<D>>(a, kk, feed.v(buf), ds);
    }
    feed.scale_columns(p, false);
    feed.scale_columns(ds, true);
    for (int i = 0; i < BWD_KEYS<D> / 2; i++) {
        int r = i / 2 % 2, key = key0 + i / 4 * 8 + (int)threadIdx.x % 4 * 2 + i % 2;
        bool seen = key >= own.row[r].keys.first && key < own.row[r].keys.end;
        float weight = seen ? exp2f(c * p[i / 4][i % 4] - own.lse[r]) : 0.0f;
        ds[i / 4][i % 4] = weight * (ds[i / 4][i % 4] - own.along[r]);
    }
    feed.scale_columns(ds, false);
    for (int kk = 0; kk < BWD_KEYS<D> / 16; kk++) {
        uint32_t a[1][4];
        to_operand(ds[2 * kk], ds[2 * kk + 1], a[0]);
        add_weighted<D>(a, kk * 16, feed.k(buf), dq);
    }
}

/* Block (x, y): tile x of the step, K/V head y, in the forward's order. */
template <int D, tt_dtype type>
static __global__ void __launch_bounds__(ATTN_THREADS)
    attention_bwd_kernel(attn_input in, const float *d_out, float *to)
{
    using layout = bwd_layout<D, type>;
    CU_DYN_SHARED(layout, s);
    attn_tile t = prefill_tile(in);
    int key0 = t.keys.first / BWD_KEYS<D> * BWD_KEYS<D>, lane = (int)threadIdx.x % 32,
        warp = (int)threadIdx.x / 32;
    bwd_feed<D, type> feed = {&s->keys, (int)threadIdx.x, 0};
    feed.fetch(in, t, key0, 0);

    bwd_rows<D> own;
    own.row[0] = row_at(in, t, warp * 16 + lane / 4);
    own.row[1] = row_at(in, t, warp * 16 + lane / 4 + 8);
    own.q.slots = s->q[warp];
    own.d_out.slots = s->d_out[warp];
    load_rows<D>(in, d_out, own);
    float dq[D / 8][4] = {};
    for (int buf = 0; key0 < t.keys.end; key0 += BWD_KEYS<D>, buf ^= 1) {
        feed.arrive();
        if (key0 + BWD_KEYS<D> < t.keys.end) {
            feed.fetch(in, t, key0 + BWD_KEYS<D>, buf ^ 1);
        }
        meet_block<D, type>(own, key0, in.c, buf, feed, dq);
    }
    for (int r = 0; r < 2; r++) { /* rows counted anew: kept, they would spill at head_dim 256 */
        store_row<D>(to, row_at(in, t, warp * 16 + lane / 4 + 8 * r), dq, r, ATTN_LN2 * in.c);
    }
}

template <int D, tt_dtype type>
static cudaError_t launch_bwd(cudaStream_t stream, const tt_attention_bwd_args *a, int n_tiles)
{
    size_t n_bytes = sizeof(bwd_layout<D, type>);
    cudaError_t err = cudaFuncSetAttribute(
        attention_bwd_kernel<D, type>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes);
    if (err != cudaSuccess) {
        return err;
    }
    dim3 grid((unsigned)n_tiles, (unsigned)a->fwd.kv->n_kv_heads);
    return gpu_launch(grid, dim3(ATTN_THREADS), n_bytes, stream, attention_bwd_kernel<D, type>,
                      attn_input_of(&a->fwd), dev_ptr<const float>(a->d_out),
                      dev_ptr<float>(a->dq));
}

template <tt_dtype type>
static cudaError_t bwd_of(cudaStream_t stream, const tt_attention_bwd_args *a, int n_tiles)
{
    switch (a->fwd.kv->head_dim) {
#define CASE_OF(D)                                                                                 \
    case D:                                                                                        \
        return launch_bwd<D, type>(stream, a, n_tiles);
        TT_CUDA_HEAD_DIMS(CASE_OF)
#undef CASE_OF
    }
    return cudaErrorInvalidValue;
}

cudaError_t tt_cuda_attention_bwd(cudaStream_t stream, const tt_attention_bwd_args *a)
{
    assert(a->fwd.lse != 0);
    int n_tiles = prefill_tiles(&a->fwd);
    if (n_tiles == 0) {
        return cudaSuccess;
    }
    return a->fwd.kv->type == TT_I8 ? bwd_of<TT_I8>(stream, a, n_tiles)
                                    : bwd_of<TT_BF16>(stream, a, n_tiles);
}
