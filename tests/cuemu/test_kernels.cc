/* test_kernels.cc - the real kernels (kernels/cuda) against the reference table (kernels/ref): same
 * random inputs, other memory. Outputs begin as NaN; shapes are those where loops and warps end.
 * CUEMU_SMALL takes fewer of them, for builds with sanitizers. Thread: one. */
#include <cmath>
#include <cstdlib>
#include <kernels/cuda/launch_cuda.h>

#include "test_kit.h"

extern "C" {
#include "kernels/lane.h"
#include "kernels/quant.h"
#include "kernels/ref/ref.h"
}

static bool small_shapes;

/* The reference table with a lane; its memory is the host's. */
struct reference {
    tt_ops ops = {};
    tt_lane *lane = nullptr;
    reference()
    {
        tt_err err;
        tt_lane_options opt = {1};
        tt_ops_init_lane(&ops);
        tt_ops_init_ref(&ops);
        CHECK(ops.lane_create(&ops, &opt, &lane, &err) == TT_OK);
    }
    ~reference()
    {
        tt_err err;
        CHECK(ops.lane_sync(lane, &err) == TT_OK);
        ops.lane_destroy(&lane);
    }
    reference(const reference &) = delete;
};

/* The same contents twice: for the reference, and on the device. */
template <class T> struct twin {
    std::vector<T> host;
    kit_array<T> device;
    explicit twin(std::vector<T> v) : host(std::move(v)), device(host)
    {
    }
    tt_dev at_host()
    {
        return tt_addr(host.data());
    }
    tt_dev at_device()
    {
        return tt_addr(device.p);
    }
};

static std::vector<float> random_floats(kit_random *rnd, size_t n, float scale = 1)
{
    std::vector<float> v(n);
    for (float &x : v) {
        /* The residual stream of real models has outliers. */
        x = rnd->uniform() * scale * (rnd->below(97) == 0 ? 50.0f : 1.0f);
    }
    return v;
}

static std::vector<float> nothing(size_t n)
{
    return std::vector<float>(n, NAN);
}

/* Normalised squared error of what the device has; NaN in the one must be NaN in the other. usual:
 * an element's size by the making of the inputs, where terms may cancel. */
static double nmse(const std::vector<float> &got, const std::vector<float> &want, double usual = 0)
{
    double error = 0, size = 1e-30;
    for (size_t i = 0; i < want.size(); i++) {
        if (std::isnan(got[i]) != std::isnan(want[i])) {
            return INFINITY;
        }
        if (!std::isnan(want[i])) {
            double d = (double)got[i] - (double)want[i];
            error += d * d;
            size += (double)want[i] * (double)want[i];
        }
    }
    return error / fmax(size, usual * usual * (double)want.size());
}

static void check_close(const char *what, twin<float> *t, double limit = 1e-12, double usual = 0)
{
    double e = nmse(t->device.get(), t->host, usual);
    if (!(e <= limit)) {
        printf("%s: error %g, at most %g\n", what, e, limit);
        kit_check(false, what, cuemu::here());
    }
}

static void check_norm(int rows, int dim, bool add, bool in_place)
{
    kit_random rnd = {(uint64_t)(rows * 1000 + dim)};
    reference ref;
    kit_stream s;
    size_t n = (size_t)rows * (size_t)dim;
    twin<float> x(random_floats(&rnd, n)), w(random_floats(&rnd, (size_t)dim)),
        sum(random_floats(&rnd, n)), y(nothing(n));
    twin<float> *out = !in_place ? &y : add ? &sum : &x;
    tt_rmsnorm_args a = {x.at_host(), w.at_host(), add ? sum.at_host() : 0, out->at_host(), rows,
                         dim,         1e-5f};
    tt_rmsnorm_args d = {
        x.at_device(), w.at_device(), add ? sum.at_device() : 0, out->at_device(), rows,
        dim,           1e-5f};
    ref.ops.rmsnorm(ref.lane, &a);
    CHECK_OK(tt_cuda_rmsnorm(s.s, &d));
    s.sync();
    check_close("rmsnorm", out);
}

static void check_norm_bwd(int rows, int dim, bool accumulate, bool in_place)
{
    kit_random rnd = {(uint64_t)(rows * 1000 + dim)};
    reference ref;
    kit_stream s;
    size_t n = (size_t)rows * (size_t)dim;
    twin<float> x(random_floats(&rnd, n)), w(random_floats(&rnd, (size_t)dim)),
        dy(random_floats(&rnd, n)), dx(accumulate ? random_floats(&rnd, n) : nothing(n));
    twin<float> *out = in_place ? &dy : &dx;
    tt_rmsnorm_bwd_args a = {x.at_host(), w.at_host(), dy.at_host(), out->at_host(),
                             rows,        dim,         1e-5f,        accumulate};
    tt_rmsnorm_bwd_args d = {x.at_device(), w.at_device(), dy.at_device(), out->at_device(),
                             rows,          dim,           1e-5f,          accumulate};
    ref.ops.rmsnorm_bwd(ref.lane, &a);
    CHECK_OK(tt_cuda_rmsnorm_bwd(s.s, &d));
    s.sync();
    check_close("rmsnorm_bwd", out, 1e-11, 0.1);
}

static void test_norm()
{
    const int dims[] = {1, 31, 33, 257, 640, 2048};
    for (int dim : dims) {
        if (dim > 640 && small_shapes) {
            continue;
        }
        for (int variant = 0; variant < 4; variant++) {
            check_norm(3, dim, (variant & 1) != 0, (variant & 2) != 0);
        }
        check_norm_bwd(3, dim, false, false);
        check_norm_bwd(3, dim, true, false);
        check_norm_bwd(2, dim, false, true);
    }
    check_norm(0, 8, false, false);
    check_norm_bwd(0, 8, false, false);
}

static void check_gated(int rows, int dim, tt_act act, int in_place)
{
    kit_random rnd = {(uint64_t)(rows * 1000 + dim + in_place)};
    reference ref;
    kit_stream s;
    size_t n = (size_t)rows * (size_t)dim;
    twin<float> gate(random_floats(&rnd, n, 3)), up(random_floats(&rnd, n)), y(nothing(n)),
        dy(random_floats(&rnd, n)), d_gate(nothing(n)), d_up(nothing(n));
    twin<float> *dg = in_place == 1 ? &dy : &d_gate, *du = in_place == 2 ? &dy : &d_up;
    tt_gated_bwd_args ab = {gate.at_host(), up.at_host(), dy.at_host(), dg->at_host(),
                            du->at_host(),  rows,         dim,          act};
    tt_gated_bwd_args db = {gate.at_device(),
                            up.at_device(),
                            dy.at_device(),
                            dg->at_device(),
                            du->at_device(),
                            rows,
                            dim,
                            act};
    ref.ops.gated_bwd(ref.lane, &ab);
    CHECK_OK(tt_cuda_gated_bwd(s.s, &db));
    s.sync();
    check_close("gated_bwd, gate", dg);
    check_close("gated_bwd, up", du);
    twin<float> *out = in_place == 1 ? &gate : in_place == 2 ? &up : &y;
    tt_gated_args a = {gate.at_host(), up.at_host(), out->at_host(), rows, dim, act};
    tt_gated_args d = {gate.at_device(), up.at_device(), out->at_device(), rows, dim, act};
    ref.ops.gated(ref.lane, &a);
    CHECK_OK(tt_cuda_gated(s.s, &d));
    s.sync();
    check_close("gated", out);
}

static void test_gated()
{
    for (int in_place = 0; in_place < 3; in_place++) {
        check_gated(1, 1, TT_ACT_SILU, in_place);
        check_gated(5, 51, TT_ACT_SILU, in_place); /* 255 */
        check_gated(2, 128, TT_ACT_GELU_TANH, in_place);
        check_gated(1, 257, TT_ACT_GELU_TANH, in_place);
        check_gated(0, 16, TT_ACT_SILU, in_place);
    }
}

/* A table of random contents in a type: real ones where there is a quantiser, else random bytes
 * with small halves in the places of the scales. */
static std::vector<uint8_t> random_table(kit_random *rnd, tt_dtype type, int64_t rows, int64_t cols)
{
    int64_t row_bytes = tt_row_bytes(type, cols);
    std::vector<uint8_t> bytes((size_t)(rows * row_bytes));
    std::vector<float> x((size_t)cols);
    for (int64_t r = 0; r < rows; r++) {
        for (float &v : x) {
            v = rnd->uniform();
        }
        uint8_t *row = bytes.data() + r * row_bytes;
        if (tt_quant_row(type, x.data(), row, cols) == 0) {
            continue;
        }
        for (int64_t i = 0; i < row_bytes; i++) {
            row[i] = (uint8_t)rnd->next();
        }
        for (int64_t b = 0; b < row_bytes; b += tt_dtypes[type].block_bytes) {
            uint16_t scale = tt_f32_to_f16(0.01f * (1.5f + rnd->uniform()));
            uint16_t least = tt_f32_to_f16(0.01f * rnd->uniform());
            memcpy(row + b + (type == TT_Q6_K ? 208 : 0), &scale, 2);
            if (type != TT_Q6_K) {
                memcpy(row + b + 2, &least, 2);
            }
        }
    }
    return bytes;
}

static void check_embed(tt_dtype type)
{
    const int64_t rows = 7, cols = 512;
    kit_random rnd = {(uint64_t)type + 1};
    reference ref;
    kit_stream s;
    twin<uint8_t> table(random_table(&rnd, type, rows, cols));
    twin<int32_t> ids({6, 0, 3, 3});
    twin<float> x(nothing((size_t)(4 * cols)));
    tt_weight wa = {type, rows, cols, table.at_host()}, wd = {type, rows, cols, table.at_device()};
    tt_embed_args a = {ids.at_host(), &wa, x.at_host(), 4, 1.5f};
    tt_embed_args d = {ids.at_device(), &wd, x.at_device(), 4, 1.5f};
    ref.ops.embed(ref.lane, &a);
    CHECK_OK(tt_cuda_embed(s.s, &d));
    s.sync();
    check_close(tt_dtypes[type].name, &x, 1e-14);
}

static void test_embed()
{
    for (int type = 0; type < TT_DTYPE_COUNT; type++) {
        check_embed((tt_dtype)type);
    }
}

/* No id reads outside the table. */
static void test_unknown_id()
{
    kit_stream s;
    kit_array<float> table(std::vector<float>(2 * 40, 1.0f)), x(4 * 40);
    kit_array<int32_t> ids(std::vector<int32_t>{1, 2, -1, 0});
    tt_weight w = {TT_F32, 2, 40, tt_addr(table.p)};
    tt_embed_args a = {tt_addr(ids.p), &w, tt_addr(x.p), 4, 2.0f};
    CHECK_OK(tt_cuda_embed(s.s, &a));
    a.n_rows = 0;
    CHECK_OK(tt_cuda_embed(s.s, &a));
    s.sync();
    std::vector<float> got = x.get();
    for (size_t i = 0; i < got.size(); i++) {
        CHECK(i / 40 == 0 || i / 40 == 3 ? got[i] == 2.0f : std::isnan(got[i]));
    }
}

static void test_gather()
{
    kit_random rnd = {11};
    reference ref;
    kit_stream s;
    twin<float> x(random_floats(&rnd, 5 * 300)), y(nothing(3 * 300));
    twin<int32_t> idx({4, 0, 4});
    tt_gather_args a = {x.at_host(), idx.at_host(), y.at_host(), 3, 300};
    tt_gather_args d = {x.at_device(), idx.at_device(), y.at_device(), 3, 300};
    ref.ops.gather(ref.lane, &a);
    CHECK_OK(tt_cuda_gather(s.s, &d));
    d.n_rows = 0;
    CHECK_OK(tt_cuda_gather(s.s, &d));
    s.sync();
    CHECK(y.device.get() == y.host);
}

static void test_to_bf16()
{
    kit_random rnd = {12};
    reference ref;
    kit_stream s;
    for (size_t n : {(size_t)1, (size_t)255, (size_t)257}) {
        twin<float> x(random_floats(&rnd, n));
        twin<uint16_t> y(std::vector<uint16_t>(n, 0x7fff));
        ref.ops.to_bf16(ref.lane, x.at_host(), y.at_host(), (int64_t)n);
        CHECK_OK(tt_cuda_to_bf16(s.s, x.at_device(), y.at_device(), (int64_t)n));
        s.sync();
        CHECK(y.device.get() == y.host);
    }
    CHECK_OK(tt_cuda_to_bf16(s.s, 0, 0, 0));
}

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
        return {base, base + half_page(z), stride, z.f32_pages ? TT_F32 : TT_BF16, z.kv_heads,
                z.dim};
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

static void test_rope()
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
static void test_rope_q_alone()
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

/* A failing launch comes back as it is and nothing is left behind. */
static void test_faults()
{
    kit_stream s;
    kit_array<float> x(std::vector<float>(64, 1.0f));
    kit_array<int32_t> ids(std::vector<int32_t>(8, 0));
    tt_dev p = tt_addr(x.p);
    tt_weight w = {TT_F32, 1, 8, p};
    tt_kv_layer kv = {p, p, 0, TT_F32, 1, 8};
    tt_rope rope = {TT_ROPE_HALF, 8, p, 1};
    tt_embed_args embed = {tt_addr(ids.p), &w, p, 1, 1};
    tt_gather_args gather = {p, tt_addr(ids.p), p, 1, 8};
    tt_rmsnorm_args norm = {p, p, 0, p, 1, 8, 1};
    tt_rmsnorm_bwd_args norm_bwd = {p, p, p, p, 1, 8, 1, false};
    tt_gated_args gated = {p, p, p, 1, 8, TT_ACT_SILU};
    tt_gated_bwd_args gated_bwd = {p, p, p, p, p, 1, 8, TT_ACT_SILU};
    tt_qk_rope_args qk = {};
    qk.q = qk.positions = qk.kv_slot = p;
    qk.kv = &kv;
    qk.rope = rope;
    qk.n_rows = qk.n_heads = 1;
    tt_q_rope_bwd_args q_bwd = {p, 0, 0, p, rope, 1, 1, 8, 1};
    const std::function<cudaError_t()> launches[] = {
        [&] { return tt_cuda_embed(s.s, &embed); },
        [&] { return tt_cuda_gather(s.s, &gather); },
        [&] { return tt_cuda_to_bf16(s.s, p, p, 8); },
        [&] { return tt_cuda_rmsnorm(s.s, &norm); },
        [&] { return tt_cuda_rmsnorm_bwd(s.s, &norm_bwd); },
        [&] { return tt_cuda_gated(s.s, &gated); },
        [&] { return tt_cuda_gated_bwd(s.s, &gated_bwd); },
        [&] { return tt_cuda_qk_rope(s.s, &qk); },
        [&] { return tt_cuda_q_rope_bwd(s.s, &q_bwd); },
    };
    for (const auto &launch : launches) {
        cuemu_fail_after(0, cudaErrorLaunchFailure);
        CHECK(launch() == cudaErrorLaunchFailure);
        cuemu_fail_after(-1, cudaSuccess);
        CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
    }
}

static const kit_test tests[] = {
    {"norm", test_norm},     {"gated", test_gated},
    {"embed", test_embed},   {"unknown_id", test_unknown_id},
    {"gather", test_gather}, {"to_bf16", test_to_bf16},
    {"rope", test_rope},     {"rope_q_alone", test_rope_q_alone},
    {"faults", test_faults},
};

int main(int argc, char **argv)
{
    small_shapes = getenv("CUEMU_SMALL") != nullptr;
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
