/* test_launches.cc - every function of launch_cuda.h and product_cuda.h that launches, with each of
 * its calls of the runtime and of cuBLAS failing in turn: the failure comes back as it is, nothing
 * is allocated or left behind, what was queued before does no harm, and once no call fails the
 * function does its work. Whether a function is missing here is coverage.py's to say. Contents do
 * not matter: everything lies in memory full of zeros. Thread: one. */
#include "product_rig.h"

enum { SPACE_BYTES = 1 << 18, ROWS = 3, DIM = 64 };

/* One of everything, small. */
struct launch_rig {
    product_rig products;
    kit_array<uint8_t> zeros;
    tt_dev p;
    tt_seg host_seg = {0, 1, 0, 0};
    kit_array<tt_seg> seg;
    tt_weight plain, quantised;
    tt_kv_layer kv = {};
    tt_rope rope;
    tt_adapter_group full = {}, lora = {};
    tt_optim_tensor tensors[2] = {};

    launch_rig()
        : products(ROWS, 2 * DIM, 4), zeros(std::vector<uint8_t>(SPACE_BYTES)), p(tt_addr(zeros.p)),
          seg(std::vector<tt_seg>{host_seg}), plain{TT_F32, DIM, DIM, p},
          quantised{TT_Q8_0, DIM, DIM, p}, rope{TT_ROPE_HALF, DIM, p, 1}
    {
        kv.k = kv.v = p;
        kv.page_stride = TT_PAGE_TOKENS * DIM * 2;
        kv.type = TT_BF16;
        kv.n_kv_heads = 1;
        kv.head_dim = DIM;
        full.n_rows = lora.n_rows = ROWS;
        full.layer.d = lora.layer.a = lora.layer.b = p;
        lora.layer.kind = TT_ADAPTER_LORA;
        lora.layer.rank = 4;
        for (tt_optim_tensor &t : tensors) {
            t.g = t.d = t.m = t.v = p;
            t.n = DIM;
        }
    }

    tt_attention_args attention(tt_family family)
    {
        tt_attention_args a = {};
        a.q = a.out = a.lse = a.page_table = p;
        a.segs = tt_addr(seg.p);
        a.segs_host = &host_seg;
        a.kv = &kv;
        a.n_rows = a.n_segs = a.n_heads = 1;
        a.scale = 1;
        a.family = family;
        return a;
    }

    tt_matmul_args matmul(tt_weight *w, tt_family family)
    {
        tt_matmul_args a = {};
        a.x = a.y[0] = p;
        a.n_rows = ROWS;
        a.n_w = 1;
        a.w[0] = w;
        a.accumulate = true; /* a short pass is copied there and back */
        a.family = family;
        return a;
    }

    tt_head_args head(tt_weight *w)
    {
        tt_head_args a = {};
        a.x = a.targets = a.row_weight = a.state = a.row_loss = a.dx = p;
        a.w = w;
        a.n_rows = 1;
        a.n_cols = 16;
        return a;
    }

    tt_optim_args optim(tt_optim_kind kind)
    {
        tt_optim_args a = {};
        a.state = a.row_loss = a.row_weight = p;
        a.t = tensors;
        a.n_tensors = 2;
        a.n_rows = a.step = 1;
        a.kind = kind;
        a.lr = 0.1f;
        return a;
    }
};

typedef std::function<cudaError_t(cudaStream_t)> launch_fn;

/* The n-th call fails, for every n until none does: once, or it and all that come after. */
static void check_launch(const char *name, launch_rig *rig, const launch_fn &launch, int n_calls)
{
    for (cudaError_t with : {cudaErrorMemoryAllocation, cudaErrorLaunchFailure}) {
        for (int sticky = 0; sticky < 2; sticky++) {
            long live = cuemu_live();
            int n = 0;
            for (bool done = false; !done && n < 100; n++) {
                (sticky != 0 ? cuemu_fail_sticky_after : cuemu_fail_after)(n, with);
                cudaError_t err = launch(rig->products.s.s);
                cuemu_fail_after(-1, cudaSuccess);
                cudaGetLastError();
                done = err == cudaSuccess;
                /* cuBLAS has failures of its own, which are not told apart. */
                kit_check(done || err == with || err == cudaErrorLaunchFailure ||
                              err == cudaErrorUnknown,
                          name, cuemu::here());
                rig->products.s.sync();
            }
            kit_check(cuemu_live() == live, name, cuemu::here());
            if (n - 1 != n_calls) {
                printf("%s: %d calls, not %d\n", name, n - 1, n_calls);
                kit_check(false, "calls of a launch", cuemu::here());
            }
        }
    }
}

static void test_rows()
{
    launch_rig r;
    tt_dev p = r.p;
    auto check = [&r](const char *name, const launch_fn &f) { check_launch(name, &r, f, 1); };
    tt_rmsnorm_args norm = {p, p, 0, p, 1, DIM, 1};
    tt_rmsnorm_bwd_args norm_bwd = {p, p, p, p, 1, DIM, 1, false};
    tt_gated_args gated = {p, p, p, 1, DIM, TT_ACT_SILU};
    tt_gated_bwd_args gated_bwd = {p, p, p, p, p, 1, DIM, TT_ACT_GELU_TANH};
    tt_embed_args embed = {p, &r.quantised, p, 1, 1};
    tt_gather_args gather = {p, p, p, 1, DIM};
    tt_qk_rope_args qk = {};
    qk.q = qk.k = qk.v = qk.positions = qk.kv_slot = p;
    qk.kv = &r.kv;
    qk.rope = r.rope;
    qk.n_rows = qk.n_heads = 1;
    tt_q_rope_bwd_args q_bwd = {p, p, 0, p, r.rope, 1, 1, DIM, 1};
    check("rmsnorm", [&](cudaStream_t s) { return tt_cuda_rmsnorm(s, &norm); });
    check("rmsnorm_bwd", [&](cudaStream_t s) { return tt_cuda_rmsnorm_bwd(s, &norm_bwd); });
    check("gated", [&](cudaStream_t s) { return tt_cuda_gated(s, &gated); });
    check("gated_bwd", [&](cudaStream_t s) { return tt_cuda_gated_bwd(s, &gated_bwd); });
    check("embed", [&](cudaStream_t s) { return tt_cuda_embed(s, &embed); });
    check("gather", [&](cudaStream_t s) { return tt_cuda_gather(s, &gather); });
    check("to_bf16", [&](cudaStream_t s) { return tt_cuda_to_bf16(s, p, p, 8); });
    check("qk_rope", [&](cudaStream_t s) { return tt_cuda_qk_rope(s, &qk); });
    check("q_rope_bwd", [&](cudaStream_t s) { return tt_cuda_q_rope_bwd(s, &q_bwd); });
}

static void test_attention()
{
    launch_rig r;
    for (int dim : {64, 80, 96, 128, 256}) {
        r.kv.head_dim = dim;
        tt_attention_args prefill = r.attention(TT_PREFILL), decode = r.attention(TT_DECODE);
        tt_attention_bwd_args bwd = {prefill, r.p, r.p};
        check_launch(
            "attention", &r, [&](cudaStream_t s) { return tt_cuda_attention(s, &prefill, 0); }, 2);
        check_launch(
            "attention, decoded", &r,
            [&](cudaStream_t s) { return tt_cuda_attention(s, &decode, r.p); }, 3);
        check_launch(
            "attention_bwd", &r, [&](cudaStream_t s) { return tt_cuda_attention_bwd(s, &bwd); }, 2);
    }
}

/* x to a panel, the weight to a panel, y to the tail, the product, and back. */
static void test_products()
{
    launch_rig r;
    const tt_cuda_products *with = &r.products.p;
    tt_matmul_args decode = r.matmul(&r.quantised, TT_DECODE);
    tt_matmul_args prefill = r.matmul(&r.quantised, TT_PREFILL);
    tt_matmul_bwd_args bwd = {};
    bwd.dy[0] = bwd.dx = r.p;
    bwd.w[0] = &r.quantised;
    bwd.n_rows = ROWS;
    bwd.n_w = 1;
    bwd.accumulate = true;
    check_launch(
        "matmul, few rows", &r, [&](cudaStream_t s) { return tt_cuda_matmul(s, with, &decode); },
        1);
    check_launch(
        "matmul", &r, [&](cudaStream_t s) { return tt_cuda_matmul(s, with, &prefill); }, 5);
    check_launch(
        "matmul_bwd", &r, [&](cudaStream_t s) { return tt_cuda_matmul_bwd(s, with, &bwd); }, 5);
}

static void test_adapters()
{
    launch_rig r;
    const tt_cuda_products *with = &r.products.p;
    tt_dev p = r.p;
    for (const tt_adapter_group *g : {&r.full, &r.lora}) {
        bool full = g == &r.full;
        tt_adapter_fwd_args decode = {p, p, DIM, DIM, g, 1, TT_DECODE};
        tt_adapter_fwd_args prefill = {p, p, DIM, DIM, g, 1, TT_PREFILL};
        tt_adapter_bwd_args bwd = {p, p, ROWS, DIM, DIM, g->layer};
        tt_adapter_grad_args grad = {p, p, p, p, ROWS, DIM, DIM, g->layer}, none = grad;
        none.n_rows = 0;
        check_launch(
            "adapter_fwd, few rows", &r,
            [&](cudaStream_t s) { return tt_cuda_adapter_fwd(s, with, &decode); }, full ? 1 : 2);
        check_launch(
            "adapter_fwd", &r,
            [&](cudaStream_t s) { return tt_cuda_adapter_fwd(s, with, &prefill); }, full ? 5 : 9);
        check_launch(
            "adapter_bwd", &r, [&](cudaStream_t s) { return tt_cuda_adapter_bwd(s, with, &bwd); },
            full ? 5 : 9);
        check_launch(
            "adapter_grad", &r,
            [&](cudaStream_t s) { return tt_cuda_adapter_grad(s, with, &grad); }, full ? 3 : 12);
        check_launch(
            "adapter_grad of nothing", &r,
            [&](cudaStream_t s) { return tt_cuda_adapter_grad(s, with, &none); }, full ? 1 : 2);
    }
}

static void test_training()
{
    launch_rig r;
    kit_array<uint8_t> space(1 << 16);
    tt_dev scratch = tt_addr(space.p);
    cublasHandle_t blas = r.products.p.blas;
    for (tt_weight *w : {&r.plain, &r.quantised}) {
        bool plain = w == &r.plain;
        tt_head_args a = r.head(w);
        CHECK(tt_cuda_head_scratch(&a) <= (int64_t)space.n);
        check_launch(
            "head_fwd", &r, [&](cudaStream_t s) { return tt_cuda_head_fwd(s, blas, scratch, &a); },
            plain ? 2 : 4);
        check_launch(
            "head_bwd", &r, [&](cudaStream_t s) { return tt_cuda_head_bwd(s, blas, scratch, &a); },
            plain ? 3 : 5);
        check_launch(
            "head_finish", &r, [&](cudaStream_t s) { return tt_cuda_head_finish(s, &a); }, 1);
    }
    for (tt_optim_kind kind : {TT_ADAMW, TT_SGD}) {
        tt_optim_args a = r.optim(kind);
        check_launch(
            "optim_begin", &r, [&](cudaStream_t s) { return tt_cuda_optim_begin(s, scratch, &a); },
            3);
        check_launch(
            "optim_step", &r, [&](cudaStream_t s) { return tt_cuda_optim_step(s, &a); }, 3);
    }
    for (const tt_adapter_group *g : {&r.full, &r.lora}) {
        tt_delta_norm_args a = {g->layer, &r.plain, r.p};
        check_launch(
            "delta_norm", &r, [&](cudaStream_t s) { return tt_cuda_delta_norm(s, scratch, &a); },
            3);
    }
}

static const kit_test tests[] = {
    {"rows", test_rows},         {"attention", test_attention}, {"products", test_products},
    {"adapters", test_adapters}, {"training", test_training},
};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
