/* test_kernels.cc - the real kernels (kernels/cuda) against the reference table (kernels/ref): same
 * random inputs, other memory. Outputs begin as NaN; shapes are those where loops and warps end.
 * Thread: one. */
#include "kernel_rig.h"

extern "C" {
#include "kernels/quant.h"
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
    const int64_t rows = 7, cols = 2304; /* nine turns of a loop that nvcc unrolls by four */
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
        if (type != TT_I8) { /* no weight has it */
            check_embed((tt_dtype)type);
        }
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
    twin<float> x(random_floats(&rnd, 5 * 1300)), y(nothing(3 * 1300));
    twin<int32_t> idx({4, 0, 4});
    tt_gather_args a = {x.at_host(), idx.at_host(), y.at_host(), 3, 1300};
    tt_gather_args d = {x.at_device(), idx.at_device(), y.at_device(), 3, 1300};
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

#ifdef CUEMU
/* A failing launch comes back as it is and nothing is left behind. */
static void test_faults()
{
    kit_stream s;
    kit_array<float> x(std::vector<float>(64, 1.0f));
    kit_array<int32_t> ids(std::vector<int32_t>(8, 0));
    tt_dev p = tt_addr(x.p);
    tt_weight w = {TT_F32, 1, 8, p};
    tt_kv_layer kv = {p, p, 0, TT_F32, 1, 8, 0, 0};
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
#endif

static const kit_test tests[] = {
    {"norm", test_norm},
    {"gated", test_gated},
    {"embed", test_embed},
    {"unknown_id", test_unknown_id},
    {"gather", test_gather},
    {"to_bf16", test_to_bf16},
    {"rope", test_rope},
    {"rope_q_alone", test_rope_q_alone},
    {"rope_bytes", test_rope_bytes},
#ifdef CUEMU
    {"faults", test_faults},
#endif
};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
