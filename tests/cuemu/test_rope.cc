/* test_rope.cc - RoPE with its biases, norms and pages against kernels/ref: the part of
 * cuemu_kernels that needs a rig of its own. Thread: one. */
#include "kernel_rig.h"

struct rope_shape {
    int rows, heads, kv_heads, dim, rot;
    bool bias, norm;
    tt_dtype type; /* of the pages */
    bool interleaved, stored;
    int first; /* position of the first row */
};

static const rope_shape rope_shapes[] = {
    {3, 3, 1, 64, 64, false, false, TT_BF16, false, true, 0},
    {2, 4, 2, 128, 128, true, true, TT_F32, false, true, 32760},
    {2, 1, 1, 80, 40, true, false, TT_BF16, true, true, 5},
    {2, 5, 2, 256, 256, false, true, TT_F32, true, true, 131000},
    {1, 2, 1, 2, 2, false, false, TT_F32, false, true, 16000000},
    {4, 6, 3, 96, 64, true, true, TT_BF16, false, false, 7},
    {1, 3, 1, 250, 250, true, false, TT_BF16, false, true,
     77}, /* tails of loops unrolled by four */
    {1, 2, 2, 250, 130, false, true, TT_F32, true, true, 4096},
    {2, 1, 1, 192, 192, false, false, TT_F32, false, true, 1},
    {3, 3, 1, 64, 64, false, true, TT_I8, false, true, 3},
    {4, 6, 3, 96, 64, true, false, TT_I8, true, false, 900},
    {2, 2, 2, 250, 250, true, false, TT_I8, false, true, 64},
};

static std::vector<float> frequencies(int rot)
{
    std::vector<float> f((size_t)(rot / 2));
    for (int i = 0; i < rot / 2; i++) {
        f[(size_t)i] = (float)pow(10000.0, -2.0 * i / rot);
    }
    return f;
}

/* Everything that a qk_rope needs, on both sides; q_pre too, for the way back. */
struct rope_rig {
    rope_shape z;
    kit_random rnd;
    twin<float> q, k, v, bq, bk, bv, q_norm, k_norm, q_pre, inv_freq;
    twin<int32_t> positions, slots;
    twin<uint8_t> pages; /* two, K, V and their scales in each */
    int64_t stride;

    static std::vector<int32_t> counted(int n, int first, int step)
    {
        std::vector<int32_t> v((size_t)n);
        for (int i = 0; i < n; i++) {
            v[(size_t)i] = first + i * step;
        }
        return v;
    }
    static size_t half_page(const rope_shape &s)
    {
        return (size_t)TT_PAGE_TOKENS * (size_t)(s.kv_heads * s.dim) *
               (size_t)tt_dtypes[s.type].block_bytes;
    }
    static size_t scales(const rope_shape &s)
    {
        return s.type == TT_I8 ? (size_t)(TT_PAGE_TOKENS * s.kv_heads) * sizeof(float) : 0;
    }
    static size_t page_bytes(const rope_shape &s)
    {
        return 2 * half_page(s) + 2 * scales(s);
    }
    std::vector<float> fill(int n)
    {
        return random_floats(&rnd, (size_t)n, 0.5f);
    }
    explicit rope_rig(const rope_shape &s)
        : z(s), rnd{(uint64_t)(s.dim + s.heads)}, q(fill(s.rows * s.heads * s.dim)),
          k(fill(s.rows * s.kv_heads * s.dim)), v(fill(s.rows * s.kv_heads * s.dim)),
          bq(fill(s.heads * s.dim)), bk(fill(s.kv_heads * s.dim)), bv(fill(s.kv_heads * s.dim)),
          q_norm(fill(s.dim)), k_norm(fill(s.dim)),
          q_pre(nothing((size_t)(s.rows * s.heads * s.dim))), inv_freq(frequencies(s.rot)),
          positions(counted(s.rows, s.first, 1)), slots(counted(s.rows, s.stored ? 1 : -9, 63)),
          pages(std::vector<uint8_t>(2 * page_bytes(s), 0xee)), stride((int64_t)page_bytes(s))
    {
        for (int32_t &slot : slots.host) { /* 1, 64, 127; or one stored row of some that are not */
            slot = z.stored ? slot : slot + 9 == 63 ? 70 : -1;
        }
        cudaMemcpy(slots.device.p, slots.host.data(), slots.host.size() * 4,
                   cudaMemcpyHostToDevice);
    }
    tt_rope rope(bool device)
    {
        return {z.interleaved ? TT_ROPE_INTERLEAVED : TT_ROPE_HALF, z.rot,
                device ? inv_freq.at_device() : inv_freq.at_host(), 1.25f};
    }
    tt_kv_layer layer(bool device)
    {
        tt_dev base = device ? pages.at_device() : pages.at_host(), half = half_page(z);
        tt_dev end = z.type == TT_I8 ? base + 2 * half : 0;
        return {base, base + half, stride, z.type, z.kv_heads, z.dim, end, end + scales(z)};
    }
    tt_qk_rope_args args(bool device, const tt_kv_layer *kv)
    {
        auto at = [device](auto &t) { return device ? t.at_device() : t.at_host(); };
        tt_qk_rope_args a = {};
        a.q = at(q);
        a.k = at(k);
        a.v = at(v);
        a.bq = z.bias ? at(bq) : 0;
        a.bk = z.bias ? at(bk) : 0;
        a.bv = z.bias ? at(bv) : 0;
        a.q_norm = z.norm ? at(q_norm) : 0;
        a.k_norm = z.norm ? at(k_norm) : 0;
        a.q_pre = at(q_pre);
        a.positions = at(positions);
        a.kv_slot = at(slots);
        a.kv = kv;
        a.rope = rope(device);
        a.n_rows = z.rows;
        a.n_heads = z.heads;
        a.norm_eps = 1e-6f;
        return a;
    }
    /* Vector `row` of K or V (half 1) of a page, as floats. */
    std::vector<float> vector_at(const uint8_t *page, size_t half, size_t row) const
    {
        std::vector<float> f((size_t)z.dim);
        const uint8_t *from =
            page + half * half_page(z) + row * half_page(z) / (size_t)(TT_PAGE_TOKENS * z.kv_heads);
        float scale = 0;
        if (z.type == TT_I8) {
            memcpy(&scale, page + 2 * half_page(z) + half * scales(z) + 4 * row, sizeof scale);
        }
        for (size_t i = 0; i < f.size(); i++) {
            uint16_t h;
            memcpy(&f[i], from + 4 * i, z.type == TT_F32 ? 4 : 0);
            memcpy(&h, from + 2 * i, z.type == TT_BF16 ? 2 : 0);
            f[i] = z.type == TT_BF16 ? tt_bf16_to_f32(h)
                   : z.type == TT_I8 ? scale * (float)(int8_t)from[i]
                                     : f[i];
        }
        return f;
    }
    /* The pages as floats; what was not written is the same odd value on both sides. */
    std::vector<float> values(const std::vector<uint8_t> &bytes)
    {
        std::vector<float> all;
        size_t n = (size_t)(TT_PAGE_TOKENS * z.kv_heads);
        for (size_t i = 0; i < 4 * n; i++) {
            for (float x : vector_at(&bytes[i / (2 * n) * page_bytes(z)], i / n % 2, i % n)) {
                all.push_back(fabsf(x) > 1e20f ? 1.0f : x);
            }
        }
        return all;
    }
};

static void check_rope(const rope_shape &shape)
{
    rope_rig rig(shape);
    reference ref;
    kit_stream s;
    tt_kv_layer kv_host = rig.layer(false), kv_device = rig.layer(true);
    tt_qk_rope_args a = rig.args(false, &kv_host), d = rig.args(true, &kv_device);
    ref.ops.qk_rope(ref.lane, &a);
    CHECK_OK(tt_cuda_qk_rope(s.s, &d));
    s.sync();
    check_close("qk_rope, q", &rig.q, 1e-11);
    check_close("qk_rope, q_pre", &rig.q_pre);
    std::vector<float> got = rig.values(rig.pages.device.get()), want = rig.values(rig.pages.host);
    /* Roundings to BF16 or whole numbers may differ. */
    double limit = shape.type == TT_F32 ? 1e-11 : shape.type == TT_I8 ? 1e-5 : 1e-6;
    CHECK(nmse(got, want) <= limit);

    /* The way back, over the rotated q as a gradient. */
    tt_q_rope_bwd_args ab = {rig.q.at_host(),
                             rig.q_pre.at_host(),
                             shape.norm ? rig.q_norm.at_host() : 0,
                             rig.positions.at_host(),
                             rig.rope(false),
                             shape.rows,
                             shape.heads,
                             shape.dim,
                             1e-6f};
    tt_q_rope_bwd_args db = ab;
    db.dq = rig.q.at_device();
    db.q_pre = rig.q_pre.at_device();
    db.q_norm = shape.norm ? rig.q_norm.at_device() : 0;
    db.positions = rig.positions.at_device();
    db.rope = rig.rope(true);
    ref.ops.q_rope_bwd(ref.lane, &ab);
    CHECK_OK(tt_cuda_q_rope_bwd(s.s, &db));
    s.sync();
    check_close("q_rope_bwd", &rig.q, 1e-10);
}

void test_rope()
{
    for (const rope_shape &shape : rope_shapes) {
        check_rope(shape);
    }
    rope_rig rig(rope_shapes[0]);
    tt_kv_layer kv = rig.layer(true);
    tt_qk_rope_args none = rig.args(true, &kv);
    none.n_rows = 0;
    tt_q_rope_bwd_args none_bwd = {};
    CHECK_OK(tt_cuda_qk_rope(nullptr, &none));
    CHECK_OK(tt_cuda_q_rope_bwd(nullptr, &none_bwd));
}

/* Values of one byte that are no ordinary numbers, bit for bit: a row each of zeros, of ties, with
 * an infinity, a NaN, with a scale below the smallest normal number, at it, and near the largest.
 */
void test_rope_bytes()
{
    const rope_shape shape = {7, 1, 1, 64, 64, false, false, TT_I8, false, true, 0};
    rope_rig rig(shape);
    std::vector<float> &v = rig.v.host;
    v.assign(v.size(), 0.0f);
    for (int i = 0; i < 64; i++) {
        v[(size_t)(64 + i)] = i == 0 ? 127.0f : (float)i - 31.5f;
        v[(size_t)(4 * 64 + i)] = ldexpf((float)(i + 1), -126);
        v[(size_t)(5 * 64 + i)] = ldexpf(i == 9 ? -127.0f : (float)i, -126);
        v[(size_t)(6 * 64 + i)] = i == 63 ? -3.4e38f : 1e38f;
    }
    v[2 * 64 + 40] = -INFINITY;
    v[3 * 64 + 63] = NAN;
    for (int i = 0; i < 7; i++) {
        rig.slots.host[(size_t)i] = 64 + 9 * i;
    }
    cudaMemcpy(rig.v.device.p, v.data(), v.size() * 4, cudaMemcpyHostToDevice);
    cudaMemcpy(rig.slots.device.p, rig.slots.host.data(), 7 * 4, cudaMemcpyHostToDevice);
    reference ref;
    kit_stream s;
    tt_kv_layer kv_host = rig.layer(false), kv_device = rig.layer(true);
    tt_qk_rope_args a = rig.args(false, &kv_host), d = rig.args(true, &kv_device);
    ref.ops.qk_rope(ref.lane, &a);
    CHECK_OK(tt_cuda_qk_rope(s.s, &d));
    s.sync();
    std::vector<uint8_t> got = rig.pages.device.get();
    const std::vector<uint8_t> &want = rig.pages.host;
    size_t half = rig.half_page(shape), page = (size_t)rig.stride;
    CHECK(memcmp(&got[page + half], &want[page + half], half) == 0);
    for (size_t i = 0; i < TT_PAGE_TOKENS; i++) {
        float x, y;
        memcpy(&x, &got[page + 2 * half + rig.scales(shape) + 4 * i], 4);
        memcpy(&y, &want[page + 2 * half + rig.scales(shape) + 4 * i], 4);
        CHECK(memcmp(&x, &y, 4) == 0 || (std::isnan(x) && std::isnan(y)));
    }
}

/* A step without a row to store may come without k and v. */
void test_rope_q_alone()
{
    rope_shape shape = rope_shapes[5];
    rope_rig rig(shape);
    rig.slots.host.assign(rig.slots.host.size(), -1);
    cudaMemcpy(rig.slots.device.p, rig.slots.host.data(), rig.slots.host.size() * 4,
               cudaMemcpyHostToDevice);
    reference ref;
    kit_stream s;
    tt_kv_layer kv_host = rig.layer(false), kv_device = rig.layer(true);
    tt_qk_rope_args a = rig.args(false, &kv_host), d = rig.args(true, &kv_device);
    a.k = a.v = d.k = d.v = a.q_pre = d.q_pre = 0;
    ref.ops.qk_rope(ref.lane, &a);
    CHECK_OK(tt_cuda_qk_rope(s.s, &d));
    s.sync();
    check_close("qk_rope, q alone", &rig.q, 1e-11);
    CHECK(rig.pages.device.get() == rig.pages.host);
}
