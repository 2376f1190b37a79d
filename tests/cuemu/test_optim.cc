/* test_optim.cc - gradient norm, AdamW, SGD and the norm of the delta against kernels/ref. The sums
 * are FP64 on both sides; the updates FP32 here, FP64 there. Thread: one. */
#include "train_rig.h"

/* One tensor on both sides. */
struct optim_tensor {
    twin<float> g, d, m, v;
    std::vector<uint8_t> w_bytes;
    kit_array<uint8_t> w_device;
    tt_weight wa, wd;
    bool has_w;
    optim_tensor(kit_random *rnd, int64_t rows, int64_t cols, tt_dtype type, bool decays,
                 float size)
        : g(random_floats(rnd, (size_t)(rows * cols), size)),
          d(even_floats(rnd, (size_t)(rows * cols), 0.1f)),
          m(even_floats(rnd, (size_t)(rows * cols), 0.01f)),
          v(even_floats(rnd, (size_t)(rows * cols), 0.01f)),
          w_bytes(random_weights(rnd, type, rows, cols, 1)), w_device(w_bytes), has_w(decays)
    {
        for (float &x : v.host) {
            x = fabsf(x);
        }
        CHECK_OK(cudaMemcpy(v.device.p, v.host.data(), v.host.size() * 4, cudaMemcpyHostToDevice));
        wa = {type, rows, cols, tt_addr(w_bytes.data())};
        wd = {type, rows, cols, tt_addr(w_device.p)};
    }
    optim_tensor(const optim_tensor &) = delete;
    void put_g(size_t i, float x)
    {
        g.host[i] = x;
        CHECK_OK(cudaMemcpy(g.device.p, g.host.data(), g.host.size() * 4, cudaMemcpyHostToDevice));
    }
    tt_optim_tensor at_host()
    {
        return {g.at_host(), d.at_host(),           m.at_host(),
                v.at_host(), has_w ? &wa : nullptr, (int64_t)g.host.size()};
    }
    tt_optim_tensor at_device()
    {
        return {g.at_device(), d.at_device(),         m.at_device(),
                v.at_device(), has_w ? &wd : nullptr, (int64_t)g.host.size()};
    }
};

/* The arguments of a step, and the memory behind them. */
struct optim_rig {
    kit_random rnd = {21};
    kit_stream s;
    reference ref;
    std::vector<tt_optim_tensor> host, device;
    twin<float> row_loss, row_weight;
    twin<tt_train_state> state;
    tt_optim_args a = {}, d = {};

    explicit optim_rig(int n_rows)
        : row_loss(even_floats(&rnd, (size_t)n_rows + 1, 4)),
          row_weight(even_floats(&rnd, (size_t)n_rows + 1, 1)),
          state(std::vector<tt_train_state>{{NAN, NAN, 7, 3}})
    {
        a.n_rows = n_rows;
        a.lr = 1e-2f;
        a.beta1 = 0.9f;
        a.beta2 = 0.999f;
        a.eps = 1e-8f;
        a.step = 1;
    }
    void add(optim_tensor *t)
    {
        host.push_back(t->at_host());
        device.push_back(t->at_device());
    }
    void begin()
    {
        a.t = host.data();
        a.n_tensors = (int32_t)host.size();
        d = a;
        d.t = device.data();
        a.state = state.at_host();
        a.row_loss = row_loss.at_host();
        a.row_weight = row_weight.at_host();
        d.state = state.at_device();
        d.row_loss = row_loss.at_device();
        d.row_weight = row_weight.at_device();
        size_t n_scratch = (size_t)tt_cuda_optim_scratch(&d) / sizeof(double);
        kit_array<double> scratch(n_scratch > 0 ? n_scratch : 1);
        ref.ops.optim_begin(ref.lane, &a);
        CHECK_OK(tt_cuda_optim_begin(s.s, tt_addr(scratch.p), &d));
        s.sync();
        tt_train_state got = state.device.get()[0], want = state.host[0];
        if (want.finite) {
            check_number("grad_sq", got.grad_sq, want.grad_sq, 1e-14);
            check_number("loss", got.loss, want.loss, 1e-13);
        }
        CHECK(got.finite == want.finite && got.n_dropped == want.n_dropped);
    }
    void step()
    {
        ref.ops.optim_step(ref.lane, &a);
        CHECK_OK(tt_cuda_optim_step(s.s, &d));
        s.sync();
        CHECK(state.device.get()[0].n_dropped == state.host[0].n_dropped);
        a.step++;
    }
};

/* Sizes about those of a block of squares (8192), of threads and of warps. */
void test_optim_begin()
{
    for (int64_t n : {1, 31, 255, 257, 8191, 8192, 8193, 20000}) {
        optim_rig rig((int)(n % 600));
        optim_tensor t(&rig.rnd, 1, n, TT_F32, false, 3), other(&rig.rnd, 1, 70, TT_F32, false, 1);
        rig.add(&t);
        rig.add(&other);
        rig.begin();
        CHECK(rig.state.host[0].finite == 1);
    }
    optim_rig none(2);
    none.begin();
    CHECK(none.state.device.get()[0].grad_sq == 0);
    /* Squares beyond FP32, in both directions. */
    for (float size : {1e30f, 1e-30f}) {
        optim_rig rig(1);
        optim_tensor t(&rig.rnd, 1, 300, TT_F32, false, size);
        rig.add(&t);
        rig.begin();
        CHECK(rig.state.device.get()[0].finite == 1);
    }
}

static void check_steps(tt_optim_kind kind, tt_dtype type, bool decays, float clip, float decay)
{
    optim_rig rig(4);
    int64_t cols = tt_dtypes[type].block_elems > 32 ? 256 : 96;
    optim_tensor t(&rig.rnd, 11, cols, type, decays, 1), other(&rig.rnd, 1, 33, TT_F32, false, 1);
    rig.a.kind = kind;
    rig.a.clip = clip;
    rig.a.weight_decay = decay;
    rig.add(&t);
    rig.add(&other);
    if (kind == TT_SGD) {
        for (auto *tensors : {&rig.host, &rig.device}) {
            for (tt_optim_tensor &x : *tensors) {
                x.m = x.v = 0;
            }
        }
    }
    for (int k = 0; k < 3; k++) {
        rig.begin();
        rig.step();
        check_close("d", &t.d);
        check_close("d of the other", &other.d);
        check_close("m", &t.m);
        check_close("v", &t.v);
    }
}

void test_optim_step()
{
    for (tt_dtype type : all_types) {
        check_steps(TT_ADAMW, type, true, 1.0f, 0.1f);
        check_steps(TT_SGD, type, true, 0.0f, 0.1f);
    }
    for (tt_optim_kind kind : {TT_ADAMW, TT_SGD}) {
        check_steps(kind, TT_F32, false, 0.0f, 0.0f);
        check_steps(kind, TT_F32, false, 0.5f, 0.2f);
        check_steps(kind, TT_F32, false, 1e9f, 0.2f); /* nothing to clip */
    }
}

/* More partial sums than threads: rows, blocks of squares, elements of a Gram matrix. Tier A has
 * them a few a thread as well, so this is for the loops that nvcc unrolls by four. */
#ifndef CUEMU
void test_optim_unrolled()
{
    optim_rig rig(1100);
    optim_tensor t(&rig.rnd, 1, 3, TT_F32, false, 1);
    for (size_t i = 0; i < 3; i++) {
        t.put_g(i, 0.5f * (float)i + 1.5f); /* squares with exact sums */
    }
    for (int i = 0; i < 1100; i++) {
        rig.add(&t);
    }
    rig.begin();
    CHECK(rig.state.host[0].finite == 1);
}
#endif

/* A step with a gradient or a loss that is no finite number counts and changes nothing else. */
void test_optim_dropped()
{
    for (float bad : {NAN, INFINITY, -INFINITY}) {
        for (bool in_loss : {false, true}) {
            optim_rig rig(5);
            optim_tensor t(&rig.rnd, 3, 1000, TT_F32, true, 1);
            rig.add(&t);
            if (in_loss) {
                rig.row_loss.host[4] = bad;
                CHECK_OK(cudaMemcpy(rig.row_loss.device.p, rig.row_loss.host.data(), 5 * 4,
                                    cudaMemcpyHostToDevice));
            } else {
                t.put_g(2999, bad);
            }
            rig.begin();
            rig.step();
            CHECK(rig.state.host[0].finite == 0 && rig.state.device.get()[0].n_dropped == 4);
            CHECK(t.d.device.get() == t.d.host && t.m.device.get() == t.m.host);
            CHECK(t.v.device.get() == t.v.host);
        }
    }
    optim_rig none(1);
    none.row_loss.host[0] = NAN;
    CHECK_OK(
        cudaMemcpy(none.row_loss.device.p, none.row_loss.host.data(), 4, cudaMemcpyHostToDevice));
    none.begin();
    none.step();
    CHECK(none.state.device.get()[0].n_dropped == 4);
}

/* Floats in the adapter's type. */
static std::vector<uint8_t> in_type(tt_dtype type, const std::vector<float> &x)
{
    std::vector<uint8_t> bytes(x.size() * (size_t)tt_dtypes[type].block_bytes);
    CHECK(tt_quant_row(type, x.data(), bytes.data(), (int64_t)x.size()) == 0);
    return bytes;
}

/* rank 0: a full delta. size 0: B is 0. */
static void check_delta(tt_dtype w_type, tt_dtype type, int64_t nq, int64_t h, int rank, float size)
{
    kit_random rnd = {(uint64_t)(nq + h + rank)};
    reference ref;
    kit_stream s;
    size_t r = (size_t)rank;
    twin<uint8_t> w(random_weights(&rnd, w_type, nq, h, 1)),
        d(in_type(type, even_floats(&rnd, (size_t)(nq * h), 0.1f))),
        a(in_type(type, even_floats(&rnd, r * (size_t)h + 1, 1))),
        b(in_type(type, even_floats(&rnd, r * (size_t)nq + 1, size)));
    twin<double> out(std::vector<double>{NAN, NAN});
    tt_weight wa = {w_type, nq, h, w.at_host()}, wd = {w_type, nq, h, w.at_device()};
    tt_adapter_kind kind = rank == 0 ? TT_ADAPTER_FULL : TT_ADAPTER_LORA;
    tt_delta_norm_args ha = {
        {kind, type, d.at_host(), a.at_host(), b.at_host(), rank, 0.7f}, &wa, out.at_host()};
    tt_delta_norm_args da = {{kind, type, d.at_device(), a.at_device(), b.at_device(), rank, 0.7f},
                             &wd,
                             out.at_device()};
    kit_array<double> scratch((size_t)tt_cuda_delta_norm_scratch(&da) / sizeof(double));
    ref.ops.delta_norm(ref.lane, &ha);
    CHECK_OK(tt_cuda_delta_norm(s.s, tt_addr(scratch.p), &da));
    s.sync();
    std::vector<double> got = out.device.get();
    check_number("delta", got[0], out.host[0], 1e-12);
    check_number("w", got[1], out.host[1], 1e-13);
    CHECK(size != 0 || rank == 0 || got[0] == 0);
}

void test_delta_norm()
{
    for (tt_dtype type : all_types) {
        check_delta(type, TT_F32, 5, 256, 0, 0);
    }
    for (tt_dtype type : {TT_F32, TT_BF16}) {
        check_delta(TT_F32, type, 9, 1024, 0, 0);
        check_delta(TT_F32, type, 70, 130, 0, 0);
        check_delta(TT_F32, type, 33, 300, 1, 1);
        check_delta(TT_Q8_0, type, 257, 64, 8, 1e-3f);
        check_delta(TT_F32, type, 31, 31, 5, 0);
        check_delta(TT_F32, type, 1300, 1300, 2, 1); /* five a thread: nvcc unrolls by four */
    }
    check_delta(TT_F32, TT_F32, 40, 40, 33, 1);
}

#ifdef CUEMU
/* A failing call comes back as it is. */
void test_optim_faults()
{
    optim_rig rig(1);
    optim_tensor t(&rig.rnd, 1, 8, TT_F32, false, 1), u(&rig.rnd, 1, 8, TT_F32, false, 1);
    rig.add(&t);
    rig.add(&u);
    rig.begin();
    kit_array<double> scratch(2), out(2);
    tt_dev at = tt_addr(scratch.p);
    CHECK(check_faults(&rig.s, [&] { return tt_cuda_optim_begin(rig.s.s, at, &rig.d); }) == 3);
    CHECK(check_faults(&rig.s, [&] { return tt_cuda_optim_step(rig.s.s, &rig.d); }) == 3);
    tt_delta_norm_args a = {
        {TT_ADAPTER_FULL, TT_F32, t.d.at_device(), 0, 0, 0, 1}, &t.wd, tt_addr(out.p)};
    CHECK(check_faults(&rig.s, [&] { return tt_cuda_delta_norm(rig.s.s, at, &a); }) == 3);
}
#endif
