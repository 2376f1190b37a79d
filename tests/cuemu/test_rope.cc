/* test_rope.cc - RoPE with its biases, norms and pages against kernels/ref: the part of
 * cuemu_kernels that needs a rig of its own. Thread: one. */
#include "kernel_rig.h"

struct rope_shape {
    int rows, heads, kv_heads, dim, rot;
    bool bias, norm, f32_pages, interleaved, stored;
    int first; /* position of the first row */
};

static const rope_shape rope_shapes[] = {
    {3, 3, 1, 64, 64, false, false, false, false, true, 0},
    {2, 4, 2, 128, 128, true, true, true, false, true, 32760},
    {2, 1, 1, 80, 40, true, false, false, true, true, 5},
    {2, 5, 2, 256, 256, false, true, true, true, true, 131000},
    {1, 2, 1, 2, 2, false, false, true, false, true, 16000000},
    {4, 6, 3, 96, 64, true, true, false, false, false, 7},
    {1, 3, 1, 250, 250, true, false, false, false, true, 77}, /* tails of loops unrolled by four */
    {1, 2, 2, 250, 130, false, true, true, true, true, 4096},
    {2, 1, 1, 192, 192, false, false, true, false, true, 1},
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
    twin<uint8_t> pages; /* two, K then V in each */
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
        return (size_t)TT_PAGE_TOKENS * (size_t)(s.kv_heads * s.dim) * (s.f32_pages ? 4 : 2);
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
          pages(std::vector<uint8_t>(4 * half_page(s), 0xee)), stride((int64_t)(2 * half_page(s)))
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
        tt_dev base = device ? pages.at_device() : pages.at_host();
        return {
            base, base + half_page(z), stride, z.f32_pages ? TT_F32 : TT_BF16, z.kv_heads, z.dim, 0,
            0};
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
    /* The pages as floats; what was not written is the same odd value on both sides. */
    std::vector<float> values(const std::vector<uint8_t> &bytes)
    {
        std::vector<float> f(bytes.size() / (z.f32_pages ? 4 : 2));
        for (size_t i = 0; i < f.size(); i++) {
            uint16_t h;
            if (z.f32_pages) {
                memcpy(&f[i], bytes.data() + 4 * i, 4);
            } else {
                memcpy(&h, bytes.data() + 2 * i, 2);
                f[i] = tt_bf16_to_f32(h);
            }
            f[i] = fabsf(f[i]) > 1e20f ? 1.0f : f[i];
        }
        return f;
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
    CHECK(nmse(got, want) <= (shape.f32_pages ? 1e-11 : 1e-6)); /* BF16: a rounding may differ */

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
