/* attn_tile_cuda.cuh - what the attention kernels share: the cut of a step into tiles, softmax with
 * a running maximum; keys and values are key_feed_cuda.cuh's. Thread: device code, whole warps;
 * attn_input_of() the owner of the stream. Source: FlashAttention, arXiv 2205.14135.
 *
 * A tile is some consecutive matrix rows of one segment and one K/V head. Matrix row i is step row
 * i / group, query head i % group of that K/V head: keys are loaded once for the group, and a tile
 * may begin and end inside a step row. Keys are met in blocks aligned to absolute positions, in
 * rising order. A block that a row does not see changes no bit of its sums (factor 1, plus 0), so a
 * row's bits depend on its position, not on its tile, its segment or the step.
 *
 * Scores are kept in powers of two: c q.k, c = scale / ln 2. Lane l of a warp, g = l / 4, t = l %
 * 4, owns rows g and g + 8 of the warp's 16 at columns 2t, 2t + 1 of every group of 8: the layout
 * of mma.m16n8k16. */
#ifndef TT_ATTN_TILE_CUDA_CUH
#define TT_ATTN_TILE_CUDA_CUH

#include <assert.h>
#include <math.h>

#include "kernels/cuda/compat.cuh"
#include "kernels/cuda/launch_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

enum {
    ATTN_WARPS = 4,
    ATTN_THREADS = 32 * ATTN_WARPS,
    ATTN_ROWS = 16 * ATTN_WARPS, /* matrix rows of a prefill tile */
    ATTN_PAD = 8 /* elements behind a row in shared memory: ldmatrix meets no bank twice */
};

#define ATTN_LOG2E 1.44269504f
#define ATTN_LN2 0.693147181f

/* tt_attention_args for the device, without padding. */
struct attn_input {
    const float *q;
    float *out, *lse;
    const tt_seg *segs;
    const int32_t *page_table;
    const char *k, *v, *k_scale, *v_scale;
    int64_t page_stride;
    float *parts; /* decode's scratch */
    int n_segs, n_heads, n_kv_heads, window;
    float c;   /* scale / ln 2 */
    int group; /* query heads of a K/V head */
};

/* Which part of the step a block does. before: what comes before its segment in a second count. */
struct attn_place {
    tt_seg seg;
    int within;
    int64_t before;
};

/* The segment that task number `task` falls into, tasks_of(seg) being how many a segment has;
 * `before` counts counted(seg) of the segments in front. Each warp looks for itself. */
template <class Tasks, class Counted>
static __device__ __forceinline__ attn_place find_place(const attn_input &in, int task,
                                                        Tasks tasks_of, Counted counted)
{
    const unsigned all = 0xffffffffu;
    int lane = (int)threadIdx.x % 32;
    attn_place place = {{0, 0, 0, 0}, task, 0};
    bool found = false;
    for (int s0 = 0; s0 < in.n_segs && !found; s0 += 32) {
        int own_tasks = 0, own_count = 0;
        if (s0 + lane < in.n_segs) {
            own_tasks = tasks_of(in.segs[s0 + lane]);
            own_count = counted(in.segs[s0 + lane]);
        }
        int tasks = own_tasks, count = own_count;
        for (int b = 1; b < 32; b *= 2) {
            int other_tasks = __shfl_up_sync(all, tasks, (unsigned)b);
            int other_count = __shfl_up_sync(all, count, (unsigned)b);
            tasks += lane >= b ? other_tasks : 0;
            count += lane >= b ? other_count : 0;
        }
        unsigned reached = __ballot_sync(all, place.within < tasks);
        found = reached != 0;
        int last = found ? __ffs((int)reached) - 1 : 31;
        if (found) {
            place.seg = in.segs[s0 + last];
            tasks -= own_tasks;
            count -= own_count;
        }
        place.within -= __shfl_sync(all, tasks, last);
        place.before += __shfl_sync(all, count, last);
    }
    return place;
}

/* Keys [first, end) that a row at position pos sees. */
struct key_range {
    int first, end;
};

static __host__ __device__ __forceinline__ key_range keys_of(int window, int pos)
{
    key_range r = {window > 0 && pos >= window ? pos - window + 1 : 0, pos + 1};
    return r;
}

/* Rows [begin, begin + n) of a segment's matrix, n <= the tile's size. */
struct attn_tile {
    tt_seg seg;
    const int32_t *pages;
    int kv_head, begin, n;
    key_range keys; /* all that some row of it sees */
};

static __device__ __forceinline__ attn_tile tile_at(const attn_input &in, const tt_seg &seg,
                                                    int kv_head, int begin, int most)
{
    attn_tile t;
    t.seg = seg;
    t.pages = in.page_table + seg.page0;
    t.kv_head = kv_head;
    t.begin = begin;
    t.n = min(most, seg.n_rows * in.group - begin);
    t.keys.first = keys_of(in.window, seg.pos0 + begin / in.group).first;
    t.keys.end = keys_of(in.window, seg.pos0 + (begin + t.n - 1) / in.group).end;
    return t;
}

/* Tiles of `most` matrix rows that a segment has. */
static __host__ __device__ __forceinline__ int tiles_of(const tt_seg &seg, int group, int most)
{
    return (seg.n_rows * group + most - 1) / most;
}

/* The tile of block (x, y): number x of the step, K/V head y. The tiles with the most keys of a
 * segment come first. */
static __device__ __forceinline__ attn_tile prefill_tile(const attn_input &in)
{
    auto tiles = [&in](const tt_seg &seg) { return tiles_of(seg, in.group, ATTN_ROWS); };
    attn_place place = find_place(in, (int)blockIdx.x, tiles, [](const tt_seg &) { return 0; });
    int tile = tiles(place.seg) - 1 - place.within;
    return tile_at(in, place.seg, (int)blockIdx.y, tile * ATTN_ROWS, ATTN_ROWS);
}

/* Row i of a tile: where it lies in q, out (times head_dim) and lse, and what it sees. Behind the
 * tile's end: at -1, no key. */
struct attn_row {
    int64_t at;
    key_range keys;
};

static __device__ __forceinline__ attn_row row_at(const attn_input &in, const attn_tile &t, int i)
{
    attn_row r = {-1, {0, 0}};
    if (i < t.n) {
        int row = (t.begin + i) / in.group, head = (t.begin + i) % in.group;
        r.at = (int64_t)(t.seg.row0 + row) * in.n_heads + t.kv_head * in.group + head;
        r.keys = keys_of(in.window, t.seg.pos0 + row);
    }
    return r;
}

static __device__ __forceinline__ uint32_t bf16_pair(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

/* What bf16_pair() lost. */
static __device__ __forceinline__ uint32_t bf16_rest(float low, float high, uint32_t bits)
{
    return bf16_pair(low - __uint_as_float(bits << 16), high - __uint_as_float(bits & 0xffff0000u));
}

/* Elements 16 kk + 2t and the next, then those 8 further, of two rows, in an accumulator's order
 * (x: the first ones of both rows); zeros without a row. */
template <int D>
static __device__ __forceinline__ void load_columns(const float *from, const attn_row (&row)[2],
                                                    int kk, float x[4], float y[4])
{
    for (int r = 0; r < 2; r++) {
        float2 a = make_float2(0, 0), b = a;
        if (row[r].at >= 0) {
            const float *p = from + row[r].at * D + kk * 16 + (int)threadIdx.x % 4 * 2;
            a = *reinterpret_cast<const float2 *>(p);
            b = *reinterpret_cast<const float2 *>(p + 8);
        }
        x[2 * r] = a.x;
        x[2 * r + 1] = a.y;
        y[2 * r] = b.x;
        y[2 * r + 1] = b.y;
    }
}

/* The left operand of a product, 16 rows of D for each warp. Small heads stay in registers; large
 * ones lie in shared memory, each lane's part where only that lane looks. */
template <int D> struct left_operand {
    static constexpr bool IN_REGISTERS = D <= 128;
    uint32_t own[IN_REGISTERS ? D / 16 : 1][4];
    uint4 *slots; /* [D / 16][32] of the warp */

    __device__ __forceinline__ void put(int kk, const uint32_t a[4])
    {
        if constexpr (IN_REGISTERS) {
            for (int i = 0; i < 4; i++) {
                own[kk][i] = a[i];
            }
        } else {
            slots[kk * 32 + (int)threadIdx.x % 32] = make_uint4(a[0], a[1], a[2], a[3]);
        }
    }
    __device__ __forceinline__ void get(int kk, uint32_t a[4]) const
    {
        if constexpr (IN_REGISTERS) {
            for (int i = 0; i < 4; i++) {
                a[i] = own[kk][i];
            }
        } else {
            uint4 v = slots[kk * 32 + (int)threadIdx.x % 32];
            a[0] = v.x;
            a[1] = v.y;
            a[2] = v.z;
            a[3] = v.w;
        }
    }
};

/* 16 columns of an accumulator, two groups of 8, as the left operand of a product. */
static __device__ __forceinline__ void to_operand(const float x[4], const float y[4], uint32_t a[4])
{
    a[0] = bf16_pair(x[0], x[1]);
    a[1] = bf16_pair(x[2], x[3]);
    a[2] = bf16_pair(y[0], y[1]);
    a[3] = bf16_pair(y[2], y[3]);
}

/* The same as the sum of two, which keeps 16 bits of each number. */
static __device__ __forceinline__ void to_operands(const float x[4], const float y[4],
                                                   uint32_t (&a)[2][4])
{
    to_operand(x, y, a[0]);
    a[1][0] = bf16_rest(x[0], x[1], a[0][0]);
    a[1][1] = bf16_rest(x[2], x[3], a[0][1]);
    a[1][2] = bf16_rest(y[0], y[1], a[0][2]);
    a[1][3] = bf16_rest(y[2], y[3], a[0][3]);
}

/* The sum (maximum) over the four lanes that share a row. */
static __device__ __forceinline__ float row_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

static __device__ __forceinline__ float row_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

static __device__ __forceinline__ float warp_max(float v)
{
    for (int bits = 16; bits > 0; bits /= 2) {
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, bits));
    }
    return v;
}

/* What a lane knows of its two rows. */
template <int D> struct running {
    float top[2]; /* maximum so far, of all lanes of the row */
    float sum[2]; /* of this lane's columns */
    float o[D / 8][4];

    __device__ __forceinline__ void begin()
    {
        top[0] = top[1] = -INFINITY;
        sum[0] = sum[1] = 0;
        for (int n = 0; n < D / 8; n++) {
            for (int i = 0; i < 4; i++) {
                o[n][i] = 0;
            }
        }
    }

    /* s, products of keys from key0 on, becomes 2^(c s - top); the sums so far are corrected. */
    template <int n_groups>
    __device__ __forceinline__ void soften(float (&s)[n_groups][4], int key0, float c,
                                           const attn_row (&row)[2])
    {
        for (int r = 0; r < 2; r++) {
            float most = -INFINITY;
            for (int i = 0; i < 2 * n_groups; i++) {
                int key = key0 + i / 2 * 8 + (int)threadIdx.x % 4 * 2 + i % 2;
                float &x = s[i / 2][2 * r + i % 2];
                x = key >= row[r].keys.first && key < row[r].keys.end ? c * x : -INFINITY;
                most = fmaxf(most, x);
            }
            most = fmaxf(top[r], row_max(most));
            /* Nothing seen yet: any finite number makes the powers 0. */
            float base = most == -INFINITY ? 0.0f : most, fix = exp2f(top[r] - base);
            top[r] = most;
            sum[r] *= fix;
            for (int i = 0; i < 2 * n_groups; i++) {
                float &x = s[i / 2][2 * r + i % 2];
                x = exp2f(x - base);
                sum[r] += x;
            }
            for (int n = 0; n < D / 8; n++) {
                o[n][2 * r] *= fix;
                o[n][2 * r + 1] *= fix;
            }
        }
    }
};

/* x[., D] at the row = factor times row r (0, 1) of an accumulator; nothing without a row. */
template <int D>
static __device__ __forceinline__ void store_row(float *x, const attn_row &row,
                                                 const float (&o)[D / 8][4], int r, float factor)
{
    if (row.at >= 0) {
        float2 *to = reinterpret_cast<float2 *>(x + row.at * D) + (int)threadIdx.x % 4;
        for (int n = 0; n < D / 8; n++) {
            to[n * 4] = make_float2(o[n][2 * r] * factor, o[n][2 * r + 1] * factor);
        }
    }
}

static inline attn_input attn_input_of(const tt_attention_args *a)
{
    const tt_kv_layer *kv = a->kv;
    assert(kv->type == TT_BF16 || kv->type == TT_I8);
    assert(a->n_heads % kv->n_kv_heads == 0 && a->scale > 0);
    assert((kv->k | kv->v | (uint64_t)kv->page_stride) % 16 == 0);
    assert((kv->k_scale | kv->v_scale) % sizeof(float) == 0);
    attn_input in = {};
    in.q = dev_ptr<const float>(a->q);
    in.out = dev_ptr<float>(a->out);
    in.lse = dev_ptr<float>(a->lse);
    in.segs = dev_ptr<const tt_seg>(a->segs);
    in.page_table = dev_ptr<const int32_t>(a->page_table);
    in.k = dev_ptr<const char>(kv->k);
    in.v = dev_ptr<const char>(kv->v);
    in.k_scale = dev_ptr<const char>(kv->k_scale);
    in.v_scale = dev_ptr<const char>(kv->v_scale);
    in.page_stride = kv->page_stride;
    in.n_segs = a->n_segs;
    in.n_heads = a->n_heads;
    in.n_kv_heads = kv->n_kv_heads;
    in.window = a->window;
    in.c = a->scale * ATTN_LOG2E;
    in.group = a->n_heads / kv->n_kv_heads;
    return in;
}

/* attn_decode_cuda.cu: the decoded rows' part of tt_cuda_attention(). */
cudaError_t tt_cuda_attn_decode(cudaStream_t stream, const tt_attention_args *a, tt_dev scratch);

/* Prefill tiles of a step. */
static inline int prefill_tiles(const tt_attention_args *a)
{
    int n = 0;
    for (int i = 0; i < a->n_segs; i++) {
        n += tiles_of(a->segs_host[i], a->n_heads / a->kv->n_kv_heads, ATTN_ROWS);
    }
    return n;
}

#endif
