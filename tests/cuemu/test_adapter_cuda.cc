/* test_adapter_cuda.cc - adapters grouped by row, their transposes and gradients (adapter_cuda.cu)
 * against kernels/ref. With elements of -1, 0 and 1 every sum, the low-rank middle among them, is a
 * whole number that BF16 and FP32 hold: there the results are equal bit for bit. Thread: one. */
#include "product_rig.h"

static std::vector<float> signs(kit_random *rnd, size_t n)
{
    std::vector<float> v(n);
    for (float &x : v) {
        x = (float)(rnd->below(3) - 1);
    }
    return v;
}

typedef std::vector<float> (*filler)(kit_random *rnd, size_t n);

static std::vector<float> floats(kit_random *rnd, size_t n)
{
    return random_floats(rnd, n);
}

/* A matrix of an adapter in its type, `lead` bytes behind an aligned address. */
struct adapter_matrix {
    twin<uint8_t> bytes;
    size_t lead;

    static std::vector<uint8_t> encode(const std::vector<float> &v, tt_dtype type, size_t lead)
    {
        std::vector<uint8_t> out(lead + v.size() * (type == TT_F32 ? 4 : 2));
        tt_quant_row(type, v.data(), out.data() + lead, (int64_t)v.size());
        return out;
    }
    adapter_matrix(const std::vector<float> &v, tt_dtype type, size_t lead_bytes)
        : bytes(encode(v, type, lead_bytes)), lead(lead_bytes)
    {
    }
    tt_dev at(bool device)
    {
        return (device ? bytes.at_device() : bytes.at_host()) + lead;
    }
};

struct adapter_shape {
    tt_adapter_kind kind;
    tt_dtype type;
    int rank, h, nq;
    size_t lead;
};

struct test_adapter {
    adapter_shape z;
    adapter_matrix d, a, b;

    test_adapter(kit_random *rnd, const adapter_shape &s, filler fill)
        : z(s), d(fill(rnd, (size_t)(s.nq * s.h)), s.type, s.lead),
          a(fill(rnd, (size_t)(s.rank * s.h)), s.type, s.lead),
          b(fill(rnd, (size_t)(s.nq * s.rank)), s.type, s.lead)
    {
    }
    tt_adapter_layer layer(bool device)
    {
        bool full = z.kind == TT_ADAPTER_FULL;
        tt_adapter_layer l = {};
        l.kind = z.kind;
        l.type = z.type;
        l.d = full ? d.at(device) : 0;
        l.a = full ? 0 : a.at(device);
        l.b = full ? 0 : b.at(device);
        l.rank = full ? 0 : z.rank;
        l.scale = full ? 0.0f : 0.5f;
        return l;
    }
};

/* Groups of rows with an adapter each; between them a row without. */
static void check_fwd(const std::vector<int> &sizes, int h, int nq, tt_family family, filler fill,
                      double limit)
{
    kit_random rnd = {(uint64_t)(h * 31 + nq)};
    std::vector<test_adapter *> adapters;
    std::vector<tt_adapter_group> host, device;
    int n_rows = 1, max_rank = 0;
    for (size_t i = 0; i < sizes.size(); i++) {
        int rank = (int)(i % 4) * 5 + 1;
        tt_dtype type = i % 3 == 1 ? TT_BF16 : TT_F32;
        tt_adapter_kind kind = i % 5 == 2 ? TT_ADAPTER_FULL : TT_ADAPTER_LORA;
        adapter_shape z = {kind, type, rank, h, nq, i % 2 == 0 ? 0u : 4u};
        test_adapter *a = new test_adapter(&rnd, z, fill);
        adapters.push_back(a);
        host.push_back({n_rows, sizes[i], a->layer(false)});
        device.push_back({n_rows, sizes[i], a->layer(true)});
        n_rows += sizes[i] + 1;
        max_rank = rank > max_rank ? rank : max_rank;
    }
    product_rig rig(n_rows, h > nq ? h : nq, max_rank);
    twin<float> x(fill(&rnd, (size_t)(n_rows * h))), q(fill(&rnd, (size_t)(n_rows * nq)));
    tt_adapter_fwd_args a = {x.at_host(), q.at_host(),      h,     nq,
                             host.data(), (int)host.size(), family};
    tt_adapter_fwd_args d = {x.at_device(), q.at_device(),      h,     nq,
                             device.data(), (int)device.size(), family};
    rig.ref.ops.adapter_fwd(rig.ref.lane, &a);
    CHECK_OK(tt_cuda_adapter_fwd(rig.s.s, &rig.p, &d));
    rig.s.sync();
    if (limit == 0) {
        CHECK(q.device.get() == q.host);
    } else {
        check_close("adapter_fwd", &q, limit);
    }
    for (test_adapter *adapter : adapters) {
        delete adapter;
    }
}

void test_adapter_decode()
{
    check_fwd({1, 1, 1, 1, 1, 1, 1, 1}, 64, 33, TT_DECODE, signs, 0);
    check_fwd({2, 17, 1, 0, 16}, 131, 65, TT_DECODE, signs, 0);
    check_fwd(std::vector<int>(40, 1), 32, 8, TT_DECODE, signs, 0); /* more than a launch takes */
    check_fwd({}, 32, 8, TT_DECODE, signs, 0);
}

void test_adapter_prefill()
{
    check_fwd({1, 63, 2}, 65, 127, TT_PREFILL, signs, 0);
    check_fwd({65, 0, 3, 64}, 96, 33, TT_PREFILL, signs, 0);
    check_fwd({130}, 128, 129, TT_PREFILL, signs, 0);
}

/* dx and both gradients of one adapter. */
static void check_back(const adapter_shape &z, int n_rows, filler fill, double limit)
{
    kit_random rnd = {(uint64_t)(n_rows * 131 + z.h + z.nq)};
    bool full = z.kind == TT_ADAPTER_FULL;
    product_rig rig(n_rows, z.h > z.nq ? z.h : z.nq, full ? 0 : z.rank);
    test_adapter adapter(&rnd, z, fill);
    twin<float> x(fill(&rnd, (size_t)(n_rows * z.h))), dq(fill(&rnd, (size_t)(n_rows * z.nq)));
    twin<float> dx(fill(&rnd, (size_t)(n_rows * z.h)));
    twin<float> g(nothing((size_t)((full ? z.nq : z.rank) * z.h)));
    twin<float> gb(nothing((size_t)(full ? 0 : z.nq * z.rank)));
    tt_adapter_bwd_args ab = {dq.at_host(), dx.at_host(), n_rows, z.h, z.nq, adapter.layer(false)};
    tt_adapter_bwd_args db = {dq.at_device(), dx.at_device(),     n_rows, z.h,
                              z.nq,           adapter.layer(true)};
    tt_adapter_grad_args ag = {x.at_host(), dq.at_host(), g.at_host(), full ? 0 : gb.at_host(),
                               n_rows,      z.h,          z.nq,        adapter.layer(false)};
    tt_adapter_grad_args dg = {
        x.at_device(), dq.at_device(), g.at_device(),      full ? 0 : gb.at_device(), n_rows,
        z.h,           z.nq,           adapter.layer(true)};
    if (n_rows > 0) {
        rig.ref.ops.adapter_bwd(rig.ref.lane, &ab);
        rig.ref.ops.adapter_grad(rig.ref.lane, &ag);
    } else { /* of which the reference has no notion */
        g.host.assign(g.host.size(), 0.0f);
        gb.host.assign(gb.host.size(), 0.0f);
    }
    CHECK_OK(tt_cuda_adapter_bwd(rig.s.s, &rig.p, &db));
    CHECK_OK(tt_cuda_adapter_grad(rig.s.s, &rig.p, &dg));
    rig.s.sync();
    if (limit == 0) {
        CHECK(dx.device.get() == dx.host);
        CHECK(g.device.get() == g.host);
        CHECK(gb.device.get() == gb.host);
    } else {
        check_close("adapter_bwd", &dx, limit);
        check_close("adapter_grad, g", &g, limit);
        check_close("adapter_grad, gb", &gb, limit);
    }
}

void test_adapter_back()
{
    const int rows[] = {1, 63, 64, 65, 130, 127, 2, 0};
    const int hs[] = {33, 64, 65, 129, 131, 1, 128, 32};
    const int nqs[] = {65, 127, 33, 64, 128, 130, 1, 8};
    const int ranks[] = {4, 1, 16, 33, 5, 8, 3, 2};
    for (size_t i = 0; i < 8; i++) {
        tt_dtype type = i % 2 == 0 ? TT_F32 : TT_BF16;
        check_back({TT_ADAPTER_LORA, type, ranks[i], hs[i], nqs[i], 0}, rows[i], signs, 0);
        check_back({TT_ADAPTER_FULL, type, 1, hs[i], nqs[i], 4}, rows[i], signs, 0);
    }
}

/* Ordinary numbers: a rounding to BF16 moves a term by 2^-8 at most, the square of that is 2^-18 on
 * average; LoRA rounds five times on the way. */
void test_adapter_floats()
{
    const double limit = 5 * 0x1p-18;
    check_fwd({1, 2, 1}, 256, 64, TT_DECODE, floats, limit);
    check_fwd({70, 3, 2}, 256, 64, TT_PREFILL, floats, limit);
    check_back({TT_ADAPTER_LORA, TT_F32, 16, 256, 64, 0}, 70, floats, limit);
    check_back({TT_ADAPTER_FULL, TT_BF16, 1, 256, 64, 0}, 70, floats, limit);
}

#ifdef CUEMU
/* Each call that fails ends the op with an error. */
void test_adapter_faults()
{
    kit_random rnd = {9};
    product_rig rig(3, 40, 4);
    test_adapter adapter(&rnd, {TT_ADAPTER_LORA, TT_F32, 4, 40, 33, 0}, signs);
    twin<float> x(signs(&rnd, 120)), q(signs(&rnd, 120)), g(signs(&rnd, 160)), gb(signs(&rnd, 132));
    tt_adapter_layer l = adapter.layer(true);
    tt_adapter_group group = {0, 3, l};
    tt_dev px = x.at_device(), pq = q.at_device();
    tt_adapter_fwd_args decode = {px, pq, 40, 33, &group, 1, TT_DECODE};
    tt_adapter_fwd_args prefill = {px, pq, 40, 33, &group, 1, TT_PREFILL};
    tt_adapter_bwd_args bwd = {pq, px, 3, 40, 33, l};
    tt_adapter_grad_args grad = {px, pq, g.at_device(), gb.at_device(), 3, 40, 33, l};
    tt_adapter_grad_args nothing_to_do = grad;
    nothing_to_do.n_rows = 0;
    const std::function<cudaError_t()> ops[] = {
        [&] { return tt_cuda_adapter_fwd(rig.s.s, &rig.p, &decode); },
        [&] { return tt_cuda_adapter_fwd(rig.s.s, &rig.p, &prefill); },
        [&] { return tt_cuda_adapter_bwd(rig.s.s, &rig.p, &bwd); },
        [&] { return tt_cuda_adapter_grad(rig.s.s, &rig.p, &grad); },
        [&] { return tt_cuda_adapter_grad(rig.s.s, &rig.p, &nothing_to_do); },
    };
    for (const auto &op : ops) {
        CHECK(check_faults(&rig.s, op) >= 1);
    }
}
#endif
