/* attn_decode_cuda.cu - attention of single rows over long caches of paged keys and values, bound
 * by reading them. Thread: the owner of the stream; device code. Source: FlashAttention, arXiv
 * 2205.14135, its sums cut along the keys.
 *
 * The keys of a segment are cut into splits of DECODE_SPLIT positions, aligned to absolute
 * positions. A block does one split of one tile: the query heads of a K/V head, 16 at most. Its
 * warps share the keys, 16 of every page each, and never wait for each other but at both ends.
 * Each block leaves (maximum, sum, weighted values) of its rows in the scratch; a second kernel
 * joins them. So every cut depends on a row's position alone.
 *
 * There is time to spare while keys are read: queries and weights enter the products as the sum of
 * two BF16, which leaves an error of 2^-17. */
#include "kernels/cuda/attn_tile_cuda.cuh"
#include "kernels/cuda/key_feed_cuda.cuh"

enum { DECODE_SPLIT = 256, DECODE_ROWS = 16, DECODE_KEYS = TT_PAGE_TOKENS / ATTN_WARPS };

template <int D, tt_dtype type> struct decode_layout {
    union {
        key_store<D, DECODE_KEYS, type> keys[ATTN_WARPS];
        float o[ATTN_WARPS][DECODE_ROWS][D]; /* once all keys are done */
    };
    uint4 q[2][D / 16][32]; /* both parts, each lane's registers */
    float top[ATTN_WARPS][DECODE_ROWS], sum[ATTN_WARPS][DECODE_ROWS];
};

/* Splits that some row of a segment looks into: [first, first + n). */
struct split_range {
    int first, n;
};

static __host__ __device__ __forceinline__ split_range splits_of(int window, const tt_seg &seg)
{
    int first = keys_of(window, seg.pos0).first / DECODE_SPLIT;
    split_range r = {first, (seg.pos0 + seg.n_rows - 1) / DECODE_SPLIT - first + 1};
    return r;
}

/* What a head of a row left for a split: maximum, sum, weighted values [D]. before: rows times
 * splits of the segments in front; row and split: counted within the segment. */
template <int D>
static __device__ __forceinline__ float *part_at(const attn_input &in, const split_range &splits,
                                                 int64_t before, int row, int split, int head)
{
    int64_t i = (before + (int64_t)row * splits.n + split) * in.n_heads + head;
    return in.parts + i * (D + 2);
}

template <int D, tt_dtype type> using decode_feed = key_feed<D, DECODE_KEYS, 32, type>;

/* Every warp needs the same 16 rows: each makes a part of them. */
template <int D, tt_dtype type>
static __device__ __forceinline__ void share_queries(const attn_input &in, const attn_row (&row)[2],
                                                     decode_layout<D, type> *s)
{
    int lane = (int)threadIdx.x % 32;
    CU_ROLLED
    for (int kk = (int)threadIdx.x / 32; kk < D / 16; kk += ATTN_WARPS) {
        float x[4], y[4];
        uint32_t a[2][4];
        load_columns<D>(in.q, row, kk, x, y);
        to_operands(x, y, a);
        for (int i = 0; i < 2; i++) {
            s->q[i][kk][lane] = make_uint4(a[i][0], a[i][1], a[i][2], a[i][3]);
        }
    }
    __syncthreads();
}

/* The warp's keys of one page against the rows. */
template <int D, tt_dtype type>
static __device__ __forceinline__ void meet_keys(const attn_row (&row)[2], int key0, float c,
                                                 int buf, const decode_layout<D, type> *s,
                                                 const decode_feed<D, type> &feed, running<D> &run)
{
    int lane = (int)threadIdx.x % 32;
    float p[DECODE_KEYS / 8][4] = {};
    uint32_t a[2][4];
    for (int kk = 0; kk < D / 16; kk++) {
        for (int i = 0; i < 2; i++) {
            uint4 v = s->q[i][kk][lane];
            a[i][0] = v.x;
            a[i][1] = v.y;
            a[i][2] = v.z;
            a[i][3] = v.w;
        }
        add_products<D, DECODE_KEYS>(a, kk, feed.k(buf), p);
    }
    feed.scale_columns(p, false);
    run.soften(p, key0, c, row);
    feed.scale_columns(p, true);
    to_operands(p[0], p[1], a);
    add_weighted<D>(a, 0, feed.v(buf), run.o);
}

/* Hands the warp's sums to the block; other warps may still read their keys before. */
template <int D, tt_dtype type>
static __device__ __forceinline__ void share_sums(const running<D> &run, decode_layout<D, type> *s)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    __syncthreads();
    for (int r = 0; r < 2; r++) {
        int i = lane / 4 + 8 * r;
        float sum = row_sum(run.sum[r]);
        if (lane % 4 == 0) {
            s->top[warp][i] = run.top[r];
            s->sum[warp][i] = sum;
        }
        for (int n = 0; n < D / 8; n++) {
            s->o[warp][i][n * 8 + lane % 4 * 2] = run.o[n][2 * r];
            s->o[warp][i][n * 8 + lane % 4 * 2 + 1] = run.o[n][2 * r + 1];
        }
    }
    __syncthreads();
}

/* Joins the warps' sums of row i at column d into `part`. */
template <int D, tt_dtype type>
static __device__ __forceinline__ void join_warps(const decode_layout<D, type> *s, int i, int d,
                                                  float *part)
{
    float top = s->top[0][i], sum = 0, o = 0;
    for (int w = 1; w < ATTN_WARPS; w++) {
        top = fmaxf(top, s->top[w][i]);
    }
    for (int w = 0; w < ATTN_WARPS; w++) {
        float fix = exp2f(s->top[w][i] - top);
        sum += fix * s->sum[w][i];
        o += fix * s->o[w][i][d];
    }
    part[2 + d] = o;
    if (d == 0) {
        part[0] = top;
        part[1] = sum;
    }
}

/* Block (x, y): x counts tiles times splits of the step, y is the K/V head. */
template <int D, tt_dtype type>
static __global__ void __launch_bounds__(ATTN_THREADS) attn_decode_kernel(attn_input in)
{
    using layout = decode_layout<D, type>;
    CU_DYN_SHARED(layout, s);
    attn_place place = find_place(
        in, (int)blockIdx.x,
        [&in](const tt_seg &seg) {
            return tiles_of(seg, in.group, DECODE_ROWS) * splits_of(in.window, seg).n;
        },
        [&in](const tt_seg &seg) { return seg.n_rows * splits_of(in.window, seg).n; });
    split_range splits = splits_of(in.window, place.seg);
    int split = splits.first + place.within % splits.n;
    attn_tile t =
        tile_at(in, place.seg, (int)blockIdx.y, place.within / splits.n * DECODE_ROWS, DECODE_ROWS);
    t.keys.first = max(t.keys.first, split * DECODE_SPLIT);
    t.keys.end = min(t.keys.end, (split + 1) * DECODE_SPLIT);

    int lane = (int)threadIdx.x % 32;
    int key0 = t.keys.first / TT_PAGE_TOKENS * TT_PAGE_TOKENS;
    int skip = (int)threadIdx.x / 32 * DECODE_KEYS; /* the warp's part of a page */
    attn_row row[2] = {row_at(in, t, lane / 4), row_at(in, t, lane / 4 + 8)};
    decode_feed<D, type> feed = {&s->keys[threadIdx.x / 32], lane, 0};
    if (key0 < t.keys.end) {
        feed.fetch(in, t, key0 + skip, 0);
    }
    share_queries<D, type>(in, row, s);
    running<D> run;
    run.begin();
    for (int buf = 0; key0 < t.keys.end; key0 += TT_PAGE_TOKENS, buf ^= 1) {
        feed.arrive();
        if (key0 + TT_PAGE_TOKENS < t.keys.end) {
            feed.fetch(in, t, key0 + TT_PAGE_TOKENS + skip, buf ^ 1);
        }
        meet_keys<D, type>(row, key0 + skip, in.c, buf, s, feed, run);
    }
    share_sums<D, type>(run, s);
    CU_ROLLED
    for (int e = (int)threadIdx.x; e < t.n * D; e += ATTN_THREADS) {
        int at = t.begin + e / D, pos = place.seg.pos0 + at / in.group;
        key_range keys = keys_of(in.window, pos);
        if (keys.first < (split + 1) * DECODE_SPLIT && keys.end > split * DECODE_SPLIT) {
            join_warps<D, type>(s, e / D, e % D,
                                part_at<D>(in, splits, place.before, at / in.group,
                                           split - splits.first,
                                           t.kv_head * in.group + at % in.group));
        }
    }
}

/* Block (x, y): row x of the rows in segments, head y. The warps share the splits. */
template <int D>
static __global__ void __launch_bounds__(ATTN_THREADS) attn_join_kernel(attn_input in)
{
    CU_SHARED(float[ATTN_WARPS][D], part_o);
    CU_SHARED(float[ATTN_WARPS], part_sum);
    attn_place place = find_place(
        in, (int)blockIdx.x, [](const tt_seg &seg) { return seg.n_rows; },
        [&in](const tt_seg &seg) { return seg.n_rows * splits_of(in.window, seg).n; });
    split_range splits = splits_of(in.window, place.seg);
    key_range keys = keys_of(in.window, place.seg.pos0 + place.within);
    int head = (int)blockIdx.y, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int first = keys.first / DECODE_SPLIT, n = (keys.end - 1) / DECODE_SPLIT - first + 1;
    const float *part =
        part_at<D>(in, splits, place.before, place.within, first - splits.first, head);
    int64_t stride = (int64_t)in.n_heads * (D + 2);

    float top = -INFINITY;
    CU_ROLLED
    for (int s = lane; s < n; s += 32) {
        top = fmaxf(top, part[s * stride]);
    }
    top = warp_max(top);
    float sum = 0, o[(D + 31) / 32] = {};
    for (int s = warp; s < n; s += ATTN_WARPS) {
        const float *from = part + s * stride;
        float fix = exp2f(from[0] - top);
        sum += fix * from[1];
        for (int i = 0; i < (D + 31) / 32; i++) {
            o[i] += i * 32 + lane < D ? fix * from[2 + i * 32 + lane] : 0.0f;
        }
    }
    for (int i = 0; i < (D + 31) / 32; i++) {
        if (i * 32 + lane < D) {
            part_o[warp][i * 32 + lane] = o[i];
        }
    }
    if (lane == 0) {
        part_sum[warp] = sum;
    }
    __syncthreads();
    int64_t at = (int64_t)(place.seg.row0 + place.within) * in.n_heads + head;
    sum = part_sum[0];
    for (int w = 1; w < ATTN_WARPS; w++) {
        sum += part_sum[w];
    }
    CU_ROLLED
    for (int d = (int)threadIdx.x; d < D; d += ATTN_THREADS) {
        float total = part_o[0][d];
        for (int w = 1; w < ATTN_WARPS; w++) {
            total += part_o[w][d];
        }
        in.out[at * D + d] = total / sum;
    }
    if (threadIdx.x == 0 && in.lse != nullptr) {
        in.lse[at] = ATTN_LN2 * top + logf(sum);
    }
}

/* Sums over the segments of a step. */
struct decode_size {
    int rows, tasks;
    size_t parts;
};

static decode_size decode_size_of(const tt_attention_args *a)
{
    decode_size z = {};
    int group = a->n_heads / a->kv->n_kv_heads;
    for (int i = 0; i < a->n_segs; i++) {
        const tt_seg &seg = a->segs_host[i];
        int n_splits = splits_of(a->window, seg).n;
        z.rows += seg.n_rows;
        z.tasks += tiles_of(seg, group, DECODE_ROWS) * n_splits;
        z.parts += (size_t)seg.n_rows * (size_t)n_splits;
    }
    return z;
}

size_t tt_cuda_attention_scratch(const tt_attention_args *a)
{
    if (a->family != TT_DECODE) {
        return 0;
    }
    size_t part = ((size_t)a->kv->head_dim + 2) * sizeof(float);
    return decode_size_of(a).parts * (size_t)a->n_heads * part;
}

template <int D, tt_dtype type>
static cudaError_t launch_decode(cudaStream_t stream, const tt_attention_args *a, tt_dev scratch,
                                 decode_size z)
{
    size_t n_bytes = sizeof(decode_layout<D, type>);
    attn_input in = attn_input_of(a);
    in.parts = dev_ptr<float>(scratch);
    cudaError_t err = cudaFuncSetAttribute(
        attn_decode_kernel<D, type>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes);
    if (err != cudaSuccess) {
        return err;
    }
    dim3 grid((unsigned)z.tasks, (unsigned)a->kv->n_kv_heads);
    err = gpu_launch(grid, dim3(ATTN_THREADS), n_bytes, stream, attn_decode_kernel<D, type>, in);
    if (err != cudaSuccess) {
        return err;
    }
    dim3 rows((unsigned)z.rows, (unsigned)a->n_heads);
    return gpu_launch(rows, dim3(ATTN_THREADS), 0, stream, attn_join_kernel<D>, in);
}

template <tt_dtype type>
static cudaError_t decode_of(cudaStream_t stream, const tt_attention_args *a, tt_dev scratch,
                             decode_size z)
{
    switch (a->kv->head_dim) {
#define CASE_OF(D)                                                                                 \
    case D:                                                                                        \
        return launch_decode<D, type>(stream, a, scratch, z);
        TT_CUDA_HEAD_DIMS(CASE_OF)
#undef CASE_OF
    }
    return cudaErrorInvalidValue;
}

cudaError_t tt_cuda_attn_decode(cudaStream_t stream, const tt_attention_args *a, tt_dev scratch)
{
    decode_size z = decode_size_of(a);
    if (z.rows == 0) {
        return cudaSuccess;
    }
    return a->kv->type == TT_I8 ? decode_of<TT_I8>(stream, a, scratch, z)
                                : decode_of<TT_BF16>(stream, a, scratch, z);
}
