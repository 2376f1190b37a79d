/* key_feed_cuda.cuh - blocks of keys and values on their way from the pages to tensor cores.
 * Thread: device code, a warp or a block of threads together.
 *
 * Pages of BF16 are fetched into one of two buffers while the other is worked on. Pages of TT_I8
 * are fetched as they lie, beside one buffer of BF16: once there they are widened into it, and the
 * next block is fetched over them while the products run. BF16 holds the whole numbers exactly;
 * scales are factors of the columns of what is made with them (scale_columns), so nothing is
 * rounded that BF16 pages would not round. */
#ifndef TT_KEY_FEED_CUDA_CUH
#define TT_KEY_FEED_CUDA_CUH

#include "kernels/cuda/attn_tile_cuda.cuh"

/* Shared memory of n keys and values. */
template <int D, int n, tt_dtype type> struct key_store {
    __nv_bfloat16 k[2][n][D + ATTN_PAD], v[2][n][D + ATTN_PAD];
};

template <int D, int n> struct key_store<D, n, TT_I8> {
    __nv_bfloat16 k[1][n][D + ATTN_PAD], v[1][n][D + ATTN_PAD];
    alignas(16) int8_t bytes[2][n][D]; /* K, V */
    alignas(16) float scale[2][n];
};

/* Fetches keys and values [key0, key0 + n), of one page, into rows of shared memory, by `threads`
 * threads of which this is number `me`. Keys that no row of the tile sees become zeros: the cache
 * behind the last one may never have been written. */
template <int D, int n, int threads, class Element, int width>
static __device__ __forceinline__ void fetch_keys(const attn_input &in, const attn_tile &t,
                                                  int key0, int me, Element (*k)[width],
                                                  Element (*v)[width])
{
    constexpr int AT_ONCE = 16 / (int)sizeof(Element), PIECES = n * (D / AT_ONCE);
    int64_t page = t.pages[key0 / TT_PAGE_TOKENS] * in.page_stride;
    int first = (t.kv_head * TT_PAGE_TOKENS + key0 % TT_PAGE_TOKENS) * D;
    const Element *from_k = reinterpret_cast<const Element *>(in.k + page) + first;
    const Element *from_v = reinterpret_cast<const Element *>(in.v + page) + first;
    CU_ROLLED
    for (int i = me; i < PIECES; i += threads) {
        int row = i / (D / AT_ONCE), col = i % (D / AT_ONCE) * AT_ONCE, key = key0 + row;
        bool seen = key >= t.keys.first && key < t.keys.end;
        cp_async16(&k[row][col], from_k + row * D + col, seen);
        cp_async16(&v[row][col], from_v + row * D + col, seen);
    }
}

/* Bytes 2 i, 2 i + 1 of w, which are signed bytes plus 128, as two BF16: 2^23 + byte is a float
 * with the byte as its last bits, and the difference has no more than the bits that BF16 keeps. */
static __device__ __forceinline__ uint32_t widen_pair(uint32_t w, int i)
{
    float low = __uint_as_float(0x4b000000u | (w >> (16 * i) & 0xffu)) - 8388736.0f;
    float high = __uint_as_float(0x4b000000u | (w >> (16 * i + 8) & 0xffu)) - 8388736.0f;
    return __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xffff0000u);
}

/* One thread's view of a store that `threads` threads fill and read: a warp or a whole block. */
template <int D, int n, int threads, tt_dtype type> struct key_feed {
    static constexpr bool SCALED = type == TT_I8;
    key_store<D, n, type> *s;
    int me;
    float scale; /* SCALED: of key me or value me - n of the block on its way */

    __device__ __forceinline__ void sync() const
    {
        if constexpr (threads == 32) {
            __syncwarp();
        } else {
            __syncthreads();
        }
    }
    /* Sends for keys [key0, key0 + n); buf is 0 and 1 in turn. */
    __device__ __forceinline__ void fetch(const attn_input &in, const attn_tile &t, int key0,
                                          int buf)
    {
        if constexpr (SCALED) {
            static_assert(2 * n <= threads, "a thread has one scale");
            fetch_keys<D, n, threads>(in, t, key0, me, s->bytes[0], s->bytes[1]);
            int key = key0 + me % n;
            const float *page =
                reinterpret_cast<const float *>((me < n ? in.k_scale : in.v_scale) +
                                                t.pages[key0 / TT_PAGE_TOKENS] * in.page_stride);
            bool seen = me < 2 * n && key >= t.keys.first && key < t.keys.end;
            scale = seen ? page[t.kv_head * TT_PAGE_TOKENS + key % TT_PAGE_TOKENS] : 0.0f;
        } else {
            fetch_keys<D, n, threads>(in, t, key0, me, s->k[buf], s->v[buf]);
        }
        cp_async_commit();
    }
    __device__ __forceinline__ void widen_piece(int part, int row, int col) const
    {
        uint4 b = *reinterpret_cast<const uint4 *>(&s->bytes[part][row][col]);
        uint32_t w[4] = {b.x, b.y, b.z, b.w};
        uint4 *to = reinterpret_cast<uint4 *>(part == 0 ? &s->k[0][row][col] : &s->v[0][row][col]);
        for (int j = 0; j < 2; j++) {
            uint32_t x = w[2 * j] ^ 0x80808080u, y = w[2 * j + 1] ^ 0x80808080u;
            to[j] =
                make_uint4(widen_pair(x, 0), widen_pair(x, 1), widen_pair(y, 0), widen_pair(y, 1));
        }
    }
    __device__ __forceinline__ void widen() const
    {
        constexpr int PIECES = n * (D / 16);
        for (int j = 0; j < 2 * PIECES; j += threads) {
            int i = j + me;
            if (2 * PIECES % threads == 0 || i < 2 * PIECES) {
                widen_piece(i / PIECES, i / (D / 16) % n, i % (D / 16) * 16);
            }
        }
        if (me < 2 * n) {
            s->scale[me / n][me % n] = scale;
        }
    }
    /* The block that was sent for is there, in k(buf) and v(buf); all before it is no longer read.
     * The next one may be sent for. */
    __device__ __forceinline__ void arrive() const
    {
        cp_async_wait<0>();
        sync();
        if constexpr (SCALED) {
            widen();
            sync(); /* widened for all, and the bytes are free */
        }
    }
    __device__ __forceinline__ const __nv_bfloat16 (*k(int buf) const)[D + ATTN_PAD]
    {
        return s->k[SCALED ? 0 : buf];
    }
    __device__ __forceinline__ const __nv_bfloat16 (*v(int buf) const)[D + ATTN_PAD]
    {
        return s->v[SCALED ? 0 : buf];
    }
    /* Columns of x, an accumulator over the n keys, times their keys' (values') scales. */
    __device__ __forceinline__ void scale_columns(float (&x)[n / 8][4], bool values) const
    {
        if constexpr (SCALED) {
            for (int g = 0; g < n / 8; g++) {
                float2 f = *reinterpret_cast<const float2 *>(
                    &s->scale[values][g * 8 + (int)threadIdx.x % 4 * 2]);
                x[g][0] *= f.x;
                x[g][1] *= f.y;
                x[g][2] *= f.x;
                x[g][3] *= f.y;
            }
        }
    }
};

/* s[16, n_keys] += A K^T over columns [16 kk, 16 kk + 16); A is the sum of its parts, K are rows of
 * shared memory. */
template <int D, int n_keys, int parts>
static __device__ __forceinline__ void add_products(const uint32_t (&a)[parts][4], int kk,
                                                    const __nv_bfloat16 (*rows)[D + ATTN_PAD],
                                                    float (&s)[n_keys / 8][4])
{
    int lane = (int)threadIdx.x % 32, matrix = lane / 8;
    for (int n = 0; n < n_keys / 8; n += 2) {
        uint32_t b[4];
        ldmatrix_x4<false>(b, &rows[n * 8 + matrix / 2 * 8 + lane % 8][kk * 16 + matrix % 2 * 8]);
        for (int i = 0; i < parts; i++) {
            mma_bf16(s[n], a[i], b[0], b[1]);
            mma_bf16(s[n + 1], a[i], b[2], b[3]);
        }
    }
}

/* o[16, D] += P V over 16 keys from row `key` on; P is the sum of its parts, V are rows of shared
 * memory. */
template <int D, int parts>
static __device__ __forceinline__ void add_weighted(const uint32_t (&p)[parts][4], int key,
                                                    const __nv_bfloat16 (*rows)[D + ATTN_PAD],
                                                    float (&o)[D / 8][4])
{
    int lane = (int)threadIdx.x % 32, matrix = lane / 8;
    for (int n = 0; n < D / 8; n += 2) {
        uint32_t b[4];
        ldmatrix_x4<true>(b, &rows[key + matrix % 2 * 8 + lane % 8][(n + matrix / 2) * 8]);
        for (int i = 0; i < parts; i++) {
            mma_bf16(o[n], p[i], b[0], b[1]);
            mma_bf16(o[n + 1], p[i], b[2], b[3]);
        }
    }
}

#endif
