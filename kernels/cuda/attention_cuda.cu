/* attention_cuda.cu - attention of prompt and span rows over paged keys and values: tiles of
 * 64 matrix rows, a quarter for each warp, against blocks of keys that are fetched while the block
 * before is worked on. Queries and weights are rounded to BF16, sums are FP32. Thread: the owner of
 * the stream; device code. Source: FlashAttention-2, arXiv 2307.08691; the parts are in
 * attn_tile_cuda.cuh and key_feed_cuda.cuh. Decoded rows: attn_decode_cuda.cu. */
#include "kernels/cuda/attn_tile_cuda.cuh"
#include "kernels/cuda/key_feed_cuda.cuh"

/* Keys of a block: what shared memory and registers have room for. */
template <int D> static constexpr int PREFILL_KEYS = D <= 128 ? 64 : 32;

template <int D, tt_dtype type> struct prefill_layout {
    key_store<D, PREFILL_KEYS<D>, type> keys;
    uint4 q[ATTN_WARPS][left_operand<D>::IN_REGISTERS ? 1 : D / 16 * 32];
};

template <int D, tt_dtype type>
using prefill_feed = key_feed<D, PREFILL_KEYS<D>, ATTN_THREADS, type>;

/* One block of keys against the warp's rows. */
template <int D, tt_dtype type>
static __device__ __forceinline__ void
meet_block(const left_operand<D> &q, const attn_row (&row)[2], int key0, float c, int buf,
           const prefill_feed<D, type> &feed, running<D> &run)
{
    float p[PREFILL_KEYS<D> / 8][4] = {};
    for (int kk = 0; kk < D / 16; kk++) {
        uint32_t a[1][4];
        q.get(kk, a[0]);
        add_products<D, PREFILL_KEYS<D>>(a, kk, feed.k(buf), p);
    }
    feed.scale_columns(p, false);
    run.soften(p, key0, c, row);
    feed.scale_columns(p, true);
    for (int kk = 0; kk < PREFILL_KEYS<D> / 16; kk++) {
        uint32_t a[1][4];
        to_operand(p[2 * kk], p[2 * kk + 1], a[0]);
        add_weighted<D>(a, kk * 16, feed.v(buf), run.o);
    }
}

template <int D>
static __device__ __forceinline__ void finish(const attn_input &in, const attn_row (&row)[2],
                                              const running<D> &run)
{
    for (int r = 0; r < 2; r++) {
        float sum = row_sum(run.sum[r]);
        store_row<D>(in.out, row[r], run.o, r, 1.0f / sum);
        if (row[r].at >= 0 && in.lse != nullptr && threadIdx.x % 4 == 0) {
            in.lse[row[r].at] = ATTN_LN2 * run.top[r] + logf(sum);
        }
    }
}

template <int D, tt_dtype type>
static __global__ void __launch_bounds__(ATTN_THREADS) attention_kernel(attn_input in)
{
    using layout = prefill_layout<D, type>;
    CU_DYN_SHARED(layout, s);
    const int keys = PREFILL_KEYS<D>;
    attn_tile t = prefill_tile(in);
    int key0 = t.keys.first / keys * keys, warp = (int)threadIdx.x / 32;
    prefill_feed<D, type> feed = {&s->keys, (int)threadIdx.x, 0};
    feed.fetch(in, t, key0, 0);

    int own = warp * 16 + (int)threadIdx.x % 32 / 4;
    attn_row row[2] = {row_at(in, t, own), row_at(in, t, own + 8)};
    left_operand<D> q;
    q.slots = s->q[warp];
    for (int kk = 0; kk < D / 16; kk++) {
        float x[4], y[4];
        uint32_t a[4];
        load_columns<D>(in.q, row, kk, x, y);
        to_operand(x, y, a);
        q.put(kk, a);
    }
    running<D> run;
    run.begin();
    for (int buf = 0; key0 < t.keys.end; key0 += keys, buf ^= 1) {
        feed.arrive();
        if (key0 + keys < t.keys.end) {
            feed.fetch(in, t, key0 + keys, buf ^ 1);
        }
        meet_block<D, type>(q, row, key0, in.c, buf, feed, run);
    }
    finish<D>(in, row, run);
}

template <int D, tt_dtype type>
static cudaError_t launch_prefill(cudaStream_t stream, const tt_attention_args *a, int n_tiles)
{
    size_t n_bytes = sizeof(prefill_layout<D, type>);
    cudaError_t err = cudaFuncSetAttribute(
        attention_kernel<D, type>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes);
    if (err != cudaSuccess) {
        return err;
    }
    dim3 grid((unsigned)n_tiles, (unsigned)a->kv->n_kv_heads);
    return gpu_launch(grid, dim3(ATTN_THREADS), n_bytes, stream, attention_kernel<D, type>,
                      attn_input_of(a));
}

template <tt_dtype type>
static cudaError_t prefill_of(cudaStream_t stream, const tt_attention_args *a, int n_tiles)
{
    switch (a->kv->head_dim) {
#define CASE_OF(D)                                                                                 \
    case D:                                                                                        \
        return launch_prefill<D, type>(stream, a, n_tiles);
        TT_CUDA_HEAD_DIMS(CASE_OF)
#undef CASE_OF
    }
    return cudaErrorInvalidValue;
}

cudaError_t tt_cuda_attention(cudaStream_t stream, const tt_attention_args *a, tt_dev scratch)
{
    if (a->family == TT_DECODE) {
        return tt_cuda_attn_decode(stream, a, scratch);
    }
    int n_tiles = prefill_tiles(a);
    if (n_tiles == 0) {
        return cudaSuccess;
    }
    return a->kv->type == TT_I8 ? prefill_of<TT_I8>(stream, a, n_tiles)
                                : prefill_of<TT_BF16>(stream, a, n_tiles);
}
