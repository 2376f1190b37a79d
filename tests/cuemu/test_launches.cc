/* test_launches.cc - every function of launch_cuda.h and product_cuda.h that launches, with each of
 * its calls of the runtime and of cuBLAS failing in turn: the failure comes back as it is, nothing
 * is allocated or left behind, what was queued before does no harm, and once no call fails the
 * function does its work. Whether a function is missing here is coverage.py's to say. Contents do
 * not matter: everything lies in memory full of zeros, inputs in its first slice, each output in
 * one of its own. Thread: one. */
#include "launch_rig.h"

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
    tt_dev p = r.p, y = r.at(1), z = r.at(2);
    auto check = [&r](const char *name, const launch_fn &f) { check_launch(name, &r, f, 1); };
    tt_rmsnorm_args norm = {p, p, 0, y, 1, DIM, 1};
    tt_rmsnorm_bwd_args norm_bwd = {p, p, p, y, 1, DIM, 1, false};
    tt_gated_args gated = {p, p, y, 1, DIM, TT_ACT_SILU};
    tt_gated_bwd_args gated_bwd = {p, p, p, y, z, 1, DIM, TT_ACT_GELU_TANH};
    tt_embed_args embed = {p, &r.quantised, y, 1, 1};
    tt_gather_args gather = {p, p, y, 1, DIM};
    tt_qk_rope_args qk = {};
    qk.k = qk.v = qk.positions = qk.kv_slot = p;
    qk.q = y;
    qk.kv = &r.kv;
    qk.rope = r.rope;
    qk.n_rows = qk.n_heads = 1;
    tt_q_rope_bwd_args q_bwd = {y, p, 0, p, r.rope, 1, 1, DIM, 1};
    check("rmsnorm", [&](cudaStream_t s) { return tt_cuda_rmsnorm(s, &norm); });
    check("rmsnorm_bwd", [&](cudaStream_t s) { return tt_cuda_rmsnorm_bwd(s, &norm_bwd); });
    check("gated", [&](cudaStream_t s) { return tt_cuda_gated(s, &gated); });
    check("gated_bwd", [&](cudaStream_t s) { return tt_cuda_gated_bwd(s, &gated_bwd); });
    check("embed", [&](cudaStream_t s) { return tt_cuda_embed(s, &embed); });
    check("gather", [&](cudaStream_t s) { return tt_cuda_gather(s, &gather); });
    check("to_bf16", [&](cudaStream_t s) { return tt_cuda_to_bf16(s, p, y, 8); });
    check("qk_rope", [&](cudaStream_t s) { return tt_cuda_qk_rope(s, &qk); });
    check("q_rope_bwd", [&](cudaStream_t s) { return tt_cuda_q_rope_bwd(s, &q_bwd); });
}

static void test_draws()
{
    launch_rig r;
    kit_array<tt_draw> draw(std::vector<tt_draw>(1));
    tt_sample_args sample = {r.at(1), tt_addr(draw.p), 0, 0, r.at(2), 1, 40};
    tt_checksum_args sum = {r.p, 16, 16, 0, r.at(1), 2, 1};
    check_launch(
        "sample", &r, [&](cudaStream_t s) { return tt_cuda_sample(s, &sample); }, 1);
    check_launch(
        "checksum", &r, [&](cudaStream_t s) { return tt_cuda_checksum(s, &sum); }, 2);
}

static void test_attention()
{
    launch_rig r;
    for (int dim : {16, 32, 64, 80, 96, 128, 256}) {
        r.kv.head_dim = dim;
        tt_attention_args prefill = r.attention(TT_PREFILL), decode = r.attention(TT_DECODE);
        tt_attention_bwd_args bwd = {prefill, r.p, r.at(4)};
        check_launch(
            "attention", &r, [&](cudaStream_t s) { return tt_cuda_attention(s, &prefill, 0); }, 2);
        check_launch(
            "attention, decoded", &r,
            [&](cudaStream_t s) { return tt_cuda_attention(s, &decode, r.at(3)); }, 3);
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
    bwd.dy[0] = r.p;
    bwd.dx = r.at(1);
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
    tt_dev p = r.p, y = r.at(1), z = r.at(2);
    for (const tt_adapter_group *g : {&r.full, &r.lora}) {
        bool full = g == &r.full;
        tt_adapter_fwd_args decode = {p, y, DIM, DIM, g, 1, TT_DECODE};
        tt_adapter_fwd_args prefill = {p, y, DIM, DIM, g, 1, TT_PREFILL};
        tt_adapter_bwd_args bwd = {p, y, ROWS, DIM, DIM, g->layer};
        tt_adapter_grad_args grad = {p, p, y, z, ROWS, DIM, DIM, g->layer}, none = grad;
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
        tt_delta_norm_args a = {g->layer, &r.plain, r.at(1)};
        check_launch(
            "delta_norm", &r, [&](cudaStream_t s) { return tt_cuda_delta_norm(s, scratch, &a); },
            3);
    }
}

static const kit_test tests[] = {
    {"rows", test_rows},         {"draws", test_draws},       {"attention", test_attention},
    {"products", test_products}, {"adapters", test_adapters}, {"training", test_training},
};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
