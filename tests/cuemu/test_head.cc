/* test_head.cc - the output head's loss and gradient against kernels/ref. Thread: one.
 *
 * But for F32 weights the kernels round x, the weights and the gradient of the logits to BF16. The
 * reference is given rounded inputs where only the kernels' logic is in question, and those of the
 * file where it is how much the rounding costs. */
#include "train_rig.h"

struct head_shape {
    int rows, vocab, h, block;
    tt_dtype type;
    float scale; /* of x: logits are about scale sqrt(h) / 3 */
};

static std::vector<float> rounded(std::vector<float> v)
{
    for (float &x : v) {
        x = tt_bf16_to_f32(tt_f32_to_bf16(x));
    }
    return v;
}

/* Targets at both ends of blocks, none in every fourth row. */
static std::vector<int32_t> targets_of(const head_shape &z, kit_random *rnd)
{
    std::vector<int32_t> t((size_t)z.rows);
    for (int r = 0; r < z.rows; r++) {
        int end = z.block < z.vocab ? z.block : z.vocab;
        t[(size_t)r] = r % 4 == 3   ? -1
                       : r == 0     ? z.vocab - 1
                       : r == 1     ? 0
                       : r == 2     ? end - 1
                       : r % 4 == 0 ? end % z.vocab
                                    : rnd->below(z.vocab);
    }
    return t;
}

/* Everything that a step of the head needs. */
struct head_rig {
    head_shape z;
    kit_random rnd;
    kit_stream s;
    cublasHandle_t blas = nullptr;
    std::vector<uint8_t> w_bytes;
    twin<float> x, row_weight, state, row_loss, dx;
    twin<int32_t> targets;
    kit_array<uint8_t> w_device;
    std::vector<float> w_host; /* the reference has F32 */
    tt_weight wa, wd;
    tt_head_args a, d;
    kit_array<uint8_t> scratch;

    static int64_t scratch_bytes(const head_shape &z)
    {
        tt_weight w = {z.type, z.vocab, z.h, 0};
        tt_head_args a = {};
        a.w = &w;
        a.n_rows = z.rows;
        a.n_cols = z.block < z.vocab ? z.block : z.vocab;
        return tt_cuda_head_scratch(&a);
    }
    explicit head_rig(const head_shape &shape, bool round_inputs)
        : z(shape), rnd{(uint64_t)(z.vocab + z.h * 7 + z.type)},
          w_bytes(random_weights(&rnd, z.type, z.vocab, z.h, 1)),
          x(even_floats(&rnd, (size_t)(z.rows * z.h), z.scale)),
          row_weight(even_floats(&rnd, (size_t)z.rows, 0.5f)), state(nothing((size_t)z.rows * 4)),
          row_loss(nothing((size_t)z.rows)), dx(nothing((size_t)(z.rows * z.h))),
          targets(targets_of(z, &rnd)), w_device(w_bytes),
          w_host(values_of(z.type, w_bytes, z.vocab, z.h)), scratch((size_t)scratch_bytes(z))
    {
        CHECK(cublasCreate(&blas) == CUBLAS_STATUS_SUCCESS);
        CHECK(cublasSetStream(blas, s.s) == CUBLAS_STATUS_SUCCESS);
        if (round_inputs) {
            x.host = rounded(x.host);
            w_host = rounded(w_host);
        }
        wa = {TT_F32, z.vocab, z.h, tt_addr(w_host.data())};
        wd = {z.type, z.vocab, z.h, tt_addr(w_device.p)};
        a = {x.at_host(),
             &wa,
             targets.at_host(),
             row_weight.at_host(),
             state.at_host(),
             row_loss.at_host(),
             dx.at_host(),
             z.rows,
             0,
             0};
        d = {x.at_device(),
             &wd,
             targets.at_device(),
             row_weight.at_device(),
             state.at_device(),
             row_loss.at_device(),
             dx.at_device(),
             z.rows,
             0,
             0};
    }
    ~head_rig()
    {
        CHECK(cublasDestroy(blas) == CUBLAS_STATUS_SUCCESS);
    }
    /* Calls op with the blocks of columns in turn. */
    template <class F> void blocks(tt_head_args *args, F op)
    {
        for (args->col0 = 0; args->col0 < z.vocab; args->col0 += args->n_cols) {
            int left = z.vocab - args->col0;
            args->n_cols = left < z.block ? left : z.block;
            op(args);
        }
    }
    void run_device()
    {
        tt_dev at = tt_addr(scratch.p);
        blocks(&d, [&](tt_head_args *b) { CHECK_OK(tt_cuda_head_fwd(s.s, blas, at, b)); });
        CHECK_OK(tt_cuda_head_finish(s.s, &d));
        blocks(&d, [&](tt_head_args *b) { CHECK_OK(tt_cuda_head_bwd(s.s, blas, at, b)); });
        s.sync();
    }
    void run_reference()
    {
        reference ref;
        blocks(&a, [&](tt_head_args *b) { ref.ops.head_fwd(ref.lane, b); });
        ref.ops.head_finish(ref.lane, &a);
        blocks(&a, [&](tt_head_args *b) { ref.ops.head_bwd(ref.lane, b); });
    }
    /* log-sum-exp and the target's logit, which are what a state means. */
    static std::vector<float> meaning(const std::vector<float> &state)
    {
        std::vector<float> v;
        for (size_t i = 0; i < state.size(); i += 4) {
            v.push_back(state[i] + logf(state[i + 1]));
            v.push_back(state[i + 2]);
        }
        return v;
    }
    void check(double state_limit, double dx_limit)
    {
        double e = nmse(meaning(state.device.get()), meaning(state.host), 0.1);
        if (!(e <= state_limit)) {
            printf("type %d, vocab %d: %g\n", (int)z.type, z.vocab, e);
            kit_check(false, "state", cuemu::here());
        }
        check_close("row_loss", &row_loss, state_limit, 0.1);
        check_close("dx", &dx, dx_limit, 0.01); /* a sure row's is 0 but for rounding */
    }
};

/* BF16 has 8 bits: a rounding is off by 2^-9 at most, by a third of its square on average. */
static const double ROUNDING = 0x1p-18;

static void check_head(const head_shape &z, double f32_limit = 1e-11)
{
    head_rig rig(z, z.type != TT_F32);
    rig.run_reference();
    rig.run_device();
    rig.check(1e-11, z.type == TT_F32 ? f32_limit : ROUNDING);
}

void test_head()
{
    for (tt_dtype type : all_types) {
        check_head({5, 131, 256, 64, type, 0.3f});
    }
    /* Sizes about those of warps, blocks and tiles; a block of one column. */
    for (int vocab : {1, 63, 64, 65, 127, 128, 129, 257, 513}) {
        check_head({3, vocab, 33, 256, TT_F32, 0.5f});
        check_head({3, vocab, 32, 128, TT_BF16, 0.5f});
    }
    check_head({2, 5, 32, 1, TT_Q8_0, 0.5f});
    /* More than four columns a thread: nvcc unrolls by four. */
    check_head({5, 1500, 32, 1400, TT_F32, 0.5f});
    check_head({5, 1500, 32, 1400, TT_BF16, 0.5f});
    /* exp() of these logits overflows, and underflows under the maximum. They are hundreds with an
     * error of 1e-5, and p's relative error is their absolute one. */
    check_head({4, 200, 64, 77, TT_F32, 100.0f}, 1e-8);
}

/* What BF16 inputs cost, for logits of a model's size: they are sums of h products, each off by two
 * roundings, so logits of size 2 are off by about 2 * 2^-9 * sqrt(2/3), and p by as much of itself.
 */
void test_head_precision()
{
    for (tt_dtype type : all_types) {
        head_rig rig({5, 300, 256, 128, type, 0.4f}, false);
        rig.run_reference();
        rig.run_device();
        rig.check(type == TT_F32 ? 1e-11 : 4 * ROUNDING, type == TT_F32 ? 1e-11 : 16 * ROUNDING);
    }
}

static void put(kit_array<float> *to, size_t i, float v)
{
    std::vector<float> all = to->get();
    all[i] = v;
    CHECK_OK(cudaMemcpy(to->p, all.data(), all.size() * 4, cudaMemcpyHostToDevice));
}

/* What is not a number stays in its row, and out of rows without a target whatever their weight. */
void test_head_rows()
{
    for (tt_dtype type : {TT_F32, TT_Q4_0}) {
        head_rig rig({5, 90, 64, 40, type, 0.5f}, type != TT_F32);
        rig.x.host[2 * 64 + 5] = NAN;
        put(&rig.x.device, 2 * 64 + 5, NAN);
        rig.row_weight.host[3] = INFINITY;
        put(&rig.row_weight.device, 3, INFINITY);
        rig.run_reference();
        rig.run_device();
        rig.check(1e-11, type == TT_F32 ? 1e-11 : ROUNDING);
        std::vector<float> loss = rig.row_loss.device.get(), dx = rig.dx.device.get();
        CHECK(std::isnan(loss[2]) && std::isfinite(loss[1]) && loss[3] == 0);
        for (size_t i = 0; i < 64; i++) {
            CHECK(std::isnan(dx[2 * 64 + i]) && dx[3 * 64 + i] == 0);
        }
        rig.d.n_rows = 0;
        rig.run_device();
        CHECK(rig.row_loss.device.get()[1] == loss[1]);
    }
    /* head_finish has two blocks. */
    check_head({257, 3, 32, 3, TT_F32, 0.5f});
}

#ifdef CUEMU
/* A failing call comes back as it is. */
void test_head_faults()
{
    head_rig rig({2, 8, 32, 8, TT_Q8_0, 1}, true), plain({2, 8, 32, 8, TT_F32, 1}, false);
    rig.d.n_cols = plain.d.n_cols = 8;
    tt_dev at = tt_addr(rig.scratch.p), plain_at = tt_addr(plain.scratch.p);
    const cudaError_t blas = cudaErrorUnknown;
    CHECK(check_faults(
              &rig.s, [&] { return tt_cuda_head_fwd(rig.s.s, rig.blas, at, &rig.d); }, blas) == 4);
    CHECK(check_faults(&rig.s, [&] { return tt_cuda_head_finish(rig.s.s, &rig.d); }) == 1);
    CHECK(check_faults(
              &rig.s, [&] { return tt_cuda_head_bwd(rig.s.s, rig.blas, at, &rig.d); }, blas) == 5);
    CHECK(check_faults(
              &plain.s, [&] { return tt_cuda_head_bwd(plain.s.s, plain.blas, plain_at, &plain.d); },
              blas) == 3);
}
#endif
