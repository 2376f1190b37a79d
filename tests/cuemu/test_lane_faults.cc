/* test_lane_faults.cc - every call of the runtime fails once, for lack of memory or because the
 * device is lost: what comes out of the lane, that nothing is left over, and that after
 * TT_E_NOMEM the same lane works. Thread: one. */
#include "lane_rig.h"

/* A small task that goes through the whole host side: weights, staging of both kinds with full
 * rings, working memory that grows, cuBLAS, every op that takes some of either, memory that is
 * freed. The kernels themselves are other tests'. */
struct task {
    static constexpr int32_t N = 70, H = 64, V = 96;
    tt_ops ops = {};
    tt_lane *lane = nullptr;
    tt_err err = {};
    tt_weight w = {TT_F32, V, H, 0};
    std::vector<float> bytes, big;
    std::vector<float> y, loss, grad, few;
    std::vector<tt_dev> owned;
    tt_dev x = 0, dy = 0, dx = 0, targets = 0, weight = 0, state = 0, row_loss = 0, g = 0,
           train = 0, norms = 0, middle = 0;

    task() : bytes((size_t)(V * H)), big((size_t)(N * H)), y((size_t)(N * V))
    {
        for (size_t i = 0; i < bytes.size(); i++) {
            bytes[i] = (float)(i * 7 % 13) / 16 - 0.375f;
        }
        for (size_t i = 0; i < big.size(); i++) {
            big[i] = (float)(i * 5 % 11) / 8 - 0.5f;
        }
        loss.resize((size_t)N);
        grad.resize((size_t)(V * H));
        few.resize((size_t)(3 * V));
    }
    task(const task &) = delete;

    tt_code open()
    {
        tt_code rc = tt_cuda_module_get()->ops(0, &ops, &err);
        tt_lane_options opt = {};
        return rc == TT_OK ? ops.lane_create(&ops, &opt, &lane, &err) : rc;
    }
    tt_code take(size_t n_floats, tt_dev *ret)
    {
        tt_code rc = ops.alloc(lane, n_floats * 4, ret, &err);
        if (rc == TT_OK) {
            owned.push_back(*ret);
        }
        return rc;
    }
    /* Buffers and weights. */
    tt_code prepare()
    {
        tt_code rc = ops.weight_load(lane, &w, bytes.data(), &err);
        const struct {
            tt_dev *p;
            size_t n;
        } all[] = {{&x, N * H},  {&dy, N * V},    {&dx, N * H},    {&targets, N},
                   {&weight, N}, {&state, 4 * N}, {&row_loss, N},  {&g, V * H},
                   {&train, 8},  {&norms, 4},     {&middle, N * H}};
        for (size_t i = 0; i < sizeof all / sizeof *all && rc == TT_OK; i++) {
            rc = take(all[i].n, all[i].p);
        }
        return rc;
    }
    void products(tt_family family, int32_t n)
    {
        tt_matmul_args a = {};
        a.x = x;
        a.n_rows = n;
        a.n_w = 1;
        a.w[0] = &w;
        a.y[0] = dy;
        a.family = family;
        ops.matmul(lane, &a);
    }
    void adapters()
    {
        tt_adapter_layer l = {TT_ADAPTER_FULL, TT_F32, g, 0, 0, 0, 1};
        tt_adapter_grad_args grads = {x, dy, g, 0, N, H, V, l};
        ops.adapter_grad(lane, &grads);
        tt_adapter_group group = {0, N, l};
        tt_adapter_fwd_args fwd = {x, dy, H, V, &group, 1, TT_PREFILL};
        ops.adapter_fwd(lane, &fwd);
        tt_adapter_bwd_args bwd = {dy, dx, N, H, V, l};
        ops.adapter_bwd(lane, &bwd);
        tt_delta_norm_args norm = {l, &w, norms};
        ops.delta_norm(lane, &norm);
        /* Low rank in the DECODE family: its middle lies in working memory. A [4, H], B [V, 4]. */
        tt_adapter_layer low = {TT_ADAPTER_LORA, TT_F32, 0, g, g, 4, 0.5f};
        group = {0, 3, low};
        tt_adapter_fwd_args decode = {x, dy, H, V, &group, 1, TT_DECODE};
        ops.adapter_fwd(lane, &decode);
    }
    void head()
    {
        tt_head_args a = {};
        a.x = x;
        a.w = &w;
        a.targets = targets;
        a.row_weight = weight;
        a.state = state;
        a.row_loss = row_loss;
        a.dx = dx;
        a.n_rows = N;
        a.n_cols = V;
        ops.head_fwd(lane, &a);
        ops.head_finish(lane, &a);
        ops.head_bwd(lane, &a);
        tt_optim_tensor t = {g, middle, 0, 0, nullptr, N * H};
        tt_optim_args o = {};
        o.state = train;
        o.t = &t;
        o.n_tensors = 1;
        o.row_loss = row_loss;
        o.row_weight = weight;
        o.n_rows = N;
        o.kind = TT_SGD;
        o.step = 1;
        o.lr = 0.25f;
        ops.optim_begin(lane, &o);
        ops.optim_step(lane, &o);
    }
    /* One step: the results are in y, loss, grad and few. */
    tt_code run()
    {
        std::vector<int32_t> ids((size_t)N);
        for (int32_t i = 0; i < N; i++) {
            ids[(size_t)i] = i * 3 % V;
        }
        std::vector<float> weights((size_t)N, 1.0f / N);
        for (int i = 0; i < 6; i++) { /* around the ring */
            ops.upload(lane, x, big.data(), big.size() * 4);
        }
        ops.upload(lane, targets, ids.data(), ids.size() * 4);
        ops.upload(lane, weight, weights.data(), weights.size() * 4);
        ops.zero(lane, train, 32);
        ops.zero(lane, middle, N * H * 4);
        ops.zero(lane, g, V * H * 4); /* the optimiser looks at it before adapters() do */
        products(TT_DECODE, 3);
        ops.download(lane, few.data(), dy, few.size() * 4);
        products(TT_PREFILL, 5); /* then more */
        products(TT_PREFILL, N);
        ops.download(lane, y.data(), dy, y.size() * 4);
        head();
        adapters();
        ops.copy(lane, middle, dx, N * H * 4);
        ops.to_bf16(lane, middle, dx, N);
        ops.download(lane, loss.data(), row_loss, loss.size() * 4);
        ops.download(lane, grad.data(), g, grad.size() * 4);
        return ops.lane_sync(lane, &err);
    }
    void close()
    {
        if (lane == nullptr) {
            return;
        }
        for (tt_dev p : owned) {
            ops.free(lane, p);
        }
        ops.lane_destroy(&lane);
    }
    bool same(const task &o) const
    {
        return y == o.y && loss == o.loss && grad == o.grad && few == o.few;
    }
};

/* The task with the n-th call failing, then once more without. False: it was over before. */
static bool fails_at(long n, cudaError_t with, const task &good)
{
    bool no_memory = with == cudaErrorMemoryAllocation;
    tt_code want = no_memory ? TT_E_NOMEM : TT_E_DEVICE;
    long live = cuemu_live(), before = cuemu_calls();
    task t;
    cuemu_fail_after(n, with);
    tt_code rc = t.open();
    rc = rc == TT_OK ? t.prepare() : rc;
    rc = rc == TT_OK ? t.run() : rc;
    cuemu_fail_after(-1, cudaSuccess);
    bool reached = cuemu_calls() - before > n;
    if (t.lane != nullptr && !no_memory && reached) { /* it stays lost */
        CHECK(t.ops.lane_sync(t.lane, &t.err) == TT_E_DEVICE);
    }
    if (t.lane != nullptr && no_memory) {
        CHECK(t.ops.lane_sync(t.lane, &t.err) == TT_OK || rc != TT_OK);
        tt_dev p = 0;
        CHECK(t.ops.alloc(t.lane, 64, &p, &t.err) == TT_OK);
        t.ops.free(t.lane, p);
        if (t.middle != 0) { /* all buffers are there: what failed works now */
            t.ops.upload(t.lane, t.w.data, t.bytes.data(), t.bytes.size() * 4);
            CHECK(t.run() == TT_OK && t.same(good));
        }
    }
    t.close();
    cudaGetLastError();
    /* What a failure does not concern (the last error asked for, the device chosen) may go well. */
    CHECK(!reached || rc == want || (rc == TT_OK && t.same(good)) || (rc == TT_E_DEVICE && n < 3));
    CHECK(cuemu_live() == live);
    return reached;
}

void test_every_call_fails()
{
    const kit_share share = kit_share_asked();
    task good;
    long before = cuemu_calls();
    CHECK(good.open() == TT_OK && good.prepare() == TT_OK && good.run() == TT_OK);
    CHECK(good.y[1] != 0 && good.loss[0] > 0 && good.grad[5] != 0);
    long n_calls = cuemu_calls() - before;
    good.close();
    for (cudaError_t with : {cudaErrorMemoryAllocation, cudaErrorIllegalAddress}) {
        long n = share.first;
        while (fails_at(n, with, good)) {
            n += share.step;
        }
        CHECK(n >= n_calls);
    }
}

/* Nothing is launched any more, nothing written; memory can be given back. */
void test_device_lost()
{
    task t;
    CHECK(t.open() == TT_OK && t.prepare() == TT_OK && t.run() == TT_OK);
    cuemu_fail_sticky_after(0, cudaErrorIllegalAddress);
    t.ops.zero(t.lane, t.x, 4);
    long launches = cuemu_launches();
    float kept = 7;
    tt_dev p = 0;
    size_t left, total;
    t.ops.download(t.lane, &kept, t.x, 4);
    t.products(TT_PREFILL, 5);
    t.adapters();
    t.head();
    CHECK(cuemu_launches() == launches);
    CHECK(t.ops.alloc(t.lane, 64, &p, &t.err) == TT_E_DEVICE && p == 0);
    CHECK(t.ops.weight_load(t.lane, &t.w, t.bytes.data(), &t.err) == TT_E_DEVICE);
    CHECK(t.ops.memory(t.lane, &left, &total, &t.err) == TT_E_DEVICE);
    for (int i = 0; i < 2; i++) {
        t.err = {};
        CHECK(t.ops.lane_sync(t.lane, &t.err) == TT_E_DEVICE);
        CHECK(strstr(t.err.msg, "cudaErrorIllegalAddress") != nullptr);
    }
    CHECK(kept == 7);
    cuemu_fail_after(-1, cudaSuccess); /* only so is anything given back */
    t.close();
    cudaGetLastError();
}

/* What a module says when a call of its own fails. */
void test_module_faults()
{
    const tt_cuda_module *m = tt_cuda_module_get();
    tt_cuda_info info;
    tt_ops ops;
    tt_err err = {};
    for (cudaError_t with : {cudaErrorNoDevice, cudaErrorInsufficientDriver}) {
        cuemu_fail_after(0, with);
        CHECK(m->count(&err) == 0 && strstr(err.msg, "no CUDA device") != nullptr);
    }
    for (long n = 0; n < 2; n++) {
        cuemu_fail_after(n, cudaErrorUnknown);
        CHECK(m->ops(0, &ops, &err) == TT_E_DEVICE);
    }
    long before = cuemu_calls(), n_calls;
    CHECK(m->info(0, &info, &err) == TT_OK);
    n_calls = cuemu_calls() - before;
    for (long n = 0; n < n_calls; n++) {
        cuemu_fail_after(n, cudaErrorUnknown);
        CHECK(m->info(0, &info, &err) == TT_E_DEVICE);
    }
    cuemu_fail_after(-1, cudaSuccess);
    cudaGetLastError();
}
