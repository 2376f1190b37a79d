/* rope_cuda.cu - what happens to q, k and v between projection and attention: bias, norm per head,
 * rotary embedding, the write into the pages; and the transpose for q. One warp a head of a row.
 * Thread: the owner of the stream; device code. Source: arXiv 2104.09864.
 *
 * There is no FP64 here. An angle of position p and frequency f is reduced to half turns as p f =
 * hi + lo exactly (fma) minus k 2 pi in two parts, each step exact while p < 2^24: the error of the
 * reduced angle is below 1e-6 at any position, where a plain product would be off by 1e-3 at
 * position 32,768. */
#include <assert.h>
#include <float.h>
#include <math.h>

#include "kernels/cuda/compat.cuh"
#include "kernels/cuda/launch_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

enum { ROPE_WARPS = 4, ROPE_MAX_DIM = 256 };

/* Argument structs have no padding: the stand-in looks at every word for pointers. */
struct rotation {
    const float *inv_freq;
    float mscale;
    int rot_dim;
    int step, to_partner; /* pair i is elements i step and i step + to_partner */
};

struct qk_rope_input {
    float *q, *q_pre;
    const float *k, *v, *bq, *bk, *bv, *q_norm, *k_norm;
    const int32_t *positions, *kv_slot;
    char *page_k, *page_v, *scale_k, *scale_v;
    int64_t page_stride;
    int n_heads, n_kv_heads, head_dim;
    int type; /* of the pages */
};

struct q_rope_bwd_input {
    float *dq;
    const float *q_pre, *q_norm;
    const int32_t *positions;
    int n_heads, head_dim;
};

/* mscale (cos, sin) of position * frequency. */
static __device__ __forceinline__ float2 turn(int32_t position, float frequency, float mscale)
{
    const float two_pi_high = 6.2831854820251465f, two_pi_low = -1.7484556e-7f;
    float p = (float)position, hi = p * frequency, lo = fmaf(p, frequency, -hi);
    float k = rintf(hi * 0.15915494309f);
    float angle = fmaf(-k, two_pi_low, fmaf(-k, two_pi_high, hi)) + lo;
    float s, c;
    sincospif(angle * 0.31830988618f, &s, &c);
    return make_float2(mscale * c, mscale * s);
}

/* Rotates a head in shared memory; sign -1 is the transpose. Lanes own pairs, so nobody else's
 * elements are touched; callers order this against what is before and after. */
static __device__ __forceinline__ void rotate(const rotation &rope, int32_t position, float sign,
                                              float *head)
{
    for (int i = (int)threadIdx.x % 32; i < rope.rot_dim / 2; i += 32) {
        int ia = i * rope.step, ib = ia + rope.to_partner;
        float2 t = turn(position, rope.inv_freq[i], rope.mscale);
        float a = head[ia], b = head[ib], s = sign * t.y;
        head[ia] = a * t.x - b * s;
        head[ib] = a * s + b * t.x;
    }
}

/* Loads a head, with its bias and norm, for rotate(). */
static __device__ __forceinline__ void load_head(const float *x, const float *bias, float *pre,
                                                 const float *norm, float eps, int n, float *head)
{
    float sum = 0;
    for (int i = (int)threadIdx.x % 32; i < n; i += 32) {
        float v = bias != nullptr ? x[i] + bias[i] : x[i];
        if (pre != nullptr) {
            pre[i] = v;
        }
        head[i] = v;
        sum += v * v;
    }
    if (norm != nullptr) {
        float scale = rsqrtf(warp_sum(sum) / (float)n + eps);
        for (int i = (int)threadIdx.x % 32; i < n; i += 32) {
            head[i] *= scale * norm[i];
        }
    }
    __syncwarp();
}

/* The scale of a head (tt_kv_layer). The largest magnitude is found in the bits, where NaN is
 * beyond infinity and that beyond all numbers. */
static __device__ __forceinline__ float scale_of(const float *head, int n)
{
    uint32_t most = 0;
    for (int i = (int)threadIdx.x % 32; i < n; i += 32) {
        most = max(most, __float_as_uint(head[i]) & 0x7fffffffu);
    }
    for (int b = 16; b > 0; b /= 2) {
        most = max(most, __shfl_xor_sync(0xffffffffu, most, b));
    }
    float scale = __uint_as_float(most) / 127.0f;
    scale = scale < FLT_MIN ? 0.0f : scale;
    return most < 0x7f800000u ? scale : __uint_as_float(0x7fc00000u);
}

/* Writes a head at its slot of K or V. */
static __device__ __forceinline__ void store_head(const qk_rope_input &in, bool is_k, int32_t slot,
                                                  int kv_head, const float *head)
{
    int64_t at = slot / TT_PAGE_TOKENS * in.page_stride;
    char *page = (is_k ? in.page_k : in.page_v) + at;
    size_t row = (size_t)kv_head * TT_PAGE_TOKENS + (size_t)(slot % TT_PAGE_TOKENS);
    size_t first = row * (size_t)in.head_dim;
    float scale = in.type == TT_I8 ? scale_of(head, in.head_dim) : 0.0f;
    if (in.type == TT_I8 && threadIdx.x % 32 == 0) {
        reinterpret_cast<float *>((is_k ? in.scale_k : in.scale_v) + at)[row] = scale;
    }
    for (int i = (int)threadIdx.x % 32; i < in.head_dim; i += 32) {
        if (in.type == TT_I8) {
            int q = scale > 0.0f ? (int)rintf(head[i] / scale) : 0;
            reinterpret_cast<int8_t *>(page)[first + i] = (int8_t)q;
        } else if (in.type == TT_F32) {
            reinterpret_cast<float *>(page)[first + i] = head[i];
        } else {
            reinterpret_cast<__nv_bfloat16 *>(page)[first + i] = __float2bfloat16_rn(head[i]);
        }
    }
}

/* Heads of a row in the order q, k, v. */
static __global__ void __launch_bounds__(32 * ROPE_WARPS)
    qk_rope_kernel(qk_rope_input in, rotation rope, float norm_eps)
{
    CU_SHARED(float[ROPE_WARPS][ROPE_MAX_DIM], heads);
    float *head = heads[threadIdx.x / 32];
    int h = (int)blockIdx.y * ROPE_WARPS + (int)threadIdx.x / 32, d = in.head_dim;
    size_t row = blockIdx.x;
    int32_t position = in.positions[row], slot = in.kv_slot[row];
    if (h < in.n_heads) {
        size_t at = (row * (size_t)in.n_heads + (size_t)h) * (size_t)d;
        load_head(in.q + at, in.bq != nullptr ? in.bq + h * d : nullptr,
                  in.q_pre != nullptr ? in.q_pre + at : nullptr, in.q_norm, norm_eps, d, head);
        rotate(rope, position, 1.0f, head);
        __syncwarp();
        for (int i = (int)threadIdx.x % 32; i < d; i += 32) {
            in.q[at + i] = head[i];
        }
    } else if (h < in.n_heads + 2 * in.n_kv_heads && slot >= 0) {
        bool is_k = h < in.n_heads + in.n_kv_heads;
        int kv_head = (h - in.n_heads) % in.n_kv_heads;
        size_t at = (row * (size_t)in.n_kv_heads + (size_t)kv_head) * (size_t)d;
        const float *bias = is_k ? in.bk : in.bv;
        load_head((is_k ? in.k : in.v) + at, bias != nullptr ? bias + kv_head * d : nullptr,
                  nullptr, is_k ? in.k_norm : nullptr, norm_eps, d, head);
        if (is_k) {
            rotate(rope, position, 1.0f, head);
            __syncwarp();
        }
        store_head(in, is_k, slot, kv_head, head);
    }
}

/* The transpose of the rotation, then of the norm at q_pre. */
static __global__ void __launch_bounds__(32 * ROPE_WARPS)
    q_rope_bwd_kernel(q_rope_bwd_input in, rotation rope, float norm_eps)
{
    CU_SHARED(float[ROPE_WARPS][ROPE_MAX_DIM], heads);
    float *g = heads[threadIdx.x / 32];
    int h = (int)blockIdx.y * ROPE_WARPS + (int)threadIdx.x / 32, d = in.head_dim;
    size_t row = blockIdx.x;
    if (h < in.n_heads) {
        size_t at = (row * (size_t)in.n_heads + (size_t)h) * (size_t)d;
        load_head(in.dq + at, nullptr, nullptr, nullptr, 0.0f, d, g);
        rotate(rope, in.positions[row], -1.0f, g);
        __syncwarp();
        float square = 0, dot = 0, s = 1, k = 0;
        if (in.q_norm != nullptr) {
            for (int i = (int)threadIdx.x % 32; i < d; i += 32) {
                float x = in.q_pre[at + i];
                square += x * x;
                dot += in.q_norm[i] * g[i] * x;
            }
            s = rsqrtf(warp_sum(square) / (float)d + norm_eps);
            k = s * s * s / (float)d * warp_sum(dot);
        }
        for (int i = (int)threadIdx.x % 32; i < d; i += 32) {
            in.dq[at + i] =
                in.q_norm != nullptr ? s * in.q_norm[i] * g[i] - k * in.q_pre[at + i] : g[i];
        }
    }
}

static rotation rotation_of(const tt_rope *rope, int head_dim)
{
    assert(rope->rot_dim % 2 == 0 && rope->rot_dim <= head_dim && head_dim <= ROPE_MAX_DIM);
    bool interleaved = rope->kind == TT_ROPE_INTERLEAVED;
    rotation r = {dev_ptr<const float>(rope->inv_freq), rope->mscale, rope->rot_dim,
                  interleaved ? 2 : 1, interleaved ? 1 : rope->rot_dim / 2};
    return r;
}

static dim3 grid_of(int n_rows, int n_heads)
{
    return dim3((unsigned)n_rows, (unsigned)((n_heads + ROPE_WARPS - 1) / ROPE_WARPS));
}

cudaError_t tt_cuda_qk_rope(cudaStream_t stream, const tt_qk_rope_args *a)
{
    const tt_kv_layer *kv = a->kv;
    assert(kv->type == TT_F32 || kv->type == TT_BF16 || kv->type == TT_I8);
    if (a->n_rows == 0) {
        return cudaSuccess;
    }
    qk_rope_input in = {};
    in.q = dev_ptr<float>(a->q);
    in.q_pre = dev_ptr<float>(a->q_pre);
    in.k = dev_ptr<const float>(a->k);
    in.v = dev_ptr<const float>(a->v);
    in.bq = dev_ptr<const float>(a->bq);
    in.bk = dev_ptr<const float>(a->bk);
    in.bv = dev_ptr<const float>(a->bv);
    in.q_norm = dev_ptr<const float>(a->q_norm);
    in.k_norm = dev_ptr<const float>(a->k_norm);
    in.positions = dev_ptr<const int32_t>(a->positions);
    in.kv_slot = dev_ptr<const int32_t>(a->kv_slot);
    in.page_k = dev_ptr<char>(kv->k);
    in.page_v = dev_ptr<char>(kv->v);
    in.scale_k = dev_ptr<char>(kv->k_scale);
    in.scale_v = dev_ptr<char>(kv->v_scale);
    in.page_stride = kv->page_stride;
    in.n_heads = a->n_heads;
    in.n_kv_heads = kv->n_kv_heads;
    in.head_dim = kv->head_dim;
    in.type = kv->type;
    int n_heads = a->n_heads + (a->k != 0 ? 2 * kv->n_kv_heads : 0);
    return gpu_launch(grid_of(a->n_rows, n_heads), dim3(32 * ROPE_WARPS), 0, stream, qk_rope_kernel,
                      in, rotation_of(&a->rope, kv->head_dim), a->norm_eps);
}

cudaError_t tt_cuda_q_rope_bwd(cudaStream_t stream, const tt_q_rope_bwd_args *a)
{
    assert(a->q_norm == 0 || a->q_pre != 0);
    if (a->n_rows == 0) {
        return cudaSuccess;
    }
    q_rope_bwd_input in = {dev_ptr<float>(a->dq),
                           dev_ptr<const float>(a->q_pre),
                           dev_ptr<const float>(a->q_norm),
                           dev_ptr<const int32_t>(a->positions),
                           a->n_heads,
                           a->head_dim};
    return gpu_launch(grid_of(a->n_rows, a->n_heads), dim3(32 * ROPE_WARPS), 0, stream,
                      q_rope_bwd_kernel, in, rotation_of(&a->rope, a->head_dim), a->norm_eps);
}
