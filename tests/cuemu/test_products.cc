/* test_products.cc - products with weights of every type (matmul_cuda.cu, matvec_cuda.cu,
 * panel_cuda.cu) against kernels/ref. Products round their operands to BF16, so the reference is
 * asked twice: for rounded operands, where only the order of an FP32 sum may differ, and for the
 * operands as they are. Outputs begin as NaN. The adapters' tests: test_adapter_cuda.cc. Thread:
 * one.
 */
#include "product_rig.h"

static const tt_dtype quantised[] = {TT_Q8_0, TT_Q4_0, TT_Q4_1, TT_Q5_0,
                                     TT_Q5_1, TT_Q4_K, TT_Q5_K, TT_Q6_K};
static const tt_dtype plain[] = {TT_F32, TT_F16, TT_BF16};

struct product_shape {
    int n_rows, out, cols;
    tt_family family;
    bool accumulate;
};

static tt_matmul_args matmul_args(tt_dev x, tt_weight *w, tt_dev y, const product_shape &z)
{
    tt_matmul_args a = {};
    a.x = x;
    a.n_rows = z.n_rows;
    a.n_w = 1;
    a.w[0] = w;
    a.y[0] = y;
    a.accumulate = z.accumulate;
    a.family = z.family;
    return a;
}

/* What the reference makes of y. */
static expected_sums expected(reference *ref, test_weight *w, const std::vector<float> &x,
                              const std::vector<float> &y, product_shape z)
{
    expected_sums e = {y, y, z.accumulate ? each(y, fabsf) : std::vector<float>(y.size(), 0.0f)};
    std::vector<float> x_bf16 = each(x, rounded), x_size = each(x_bf16, fabsf);
    tt_matmul_args a = matmul_args(tt_addr(x.data()), &w->host, tt_addr(e.exact.data()), z);
    ref->ops.matmul(ref->lane, &a);
    a = matmul_args(tt_addr(x_bf16.data()), &w->host_bf16, tt_addr(e.want.data()), z);
    ref->ops.matmul(ref->lane, &a);
    z.accumulate = true;
    a = matmul_args(tt_addr(x_size.data()), &w->host_size, tt_addr(e.size.data()), z);
    ref->ops.matmul(ref->lane, &a);
    return e;
}

/* shift: x begins that many floats behind a multiple of 16 bytes. */
static void check_matmul(product_rig *rig, tt_dtype type, const product_shape &z, size_t shift = 0)
{
    kit_random rnd = {(uint64_t)(z.n_rows * 10007 + z.cols * 101 + z.out + (int)type)};
    size_t n = (size_t)z.n_rows * (size_t)z.out;
    test_weight w(&rnd, type, z.out, z.cols);
    twin<float> x(random_floats(&rnd, (size_t)z.n_rows * (size_t)z.cols + shift));
    twin<float> y(z.accumulate ? random_floats(&rnd, n) : nothing(n));
    x.host.erase(x.host.begin(), x.host.begin() + (ptrdiff_t)shift);
    expected_sums e = expected(&rig->ref, &w, x.host, y.host, z);
    tt_matmul_args d =
        matmul_args(x.at_device() + shift * sizeof(float), &w.device, y.at_device(), z);
    CHECK_OK(tt_cuda_matmul(rig->s.s, &rig->p, &d));
    rig->s.sync();
    char what[120];
    snprintf(what, sizeof what, "matmul %s [%d, %d], %d rows%s%s", tt_dtypes[type].name, z.out,
             z.cols, z.n_rows, z.family == TT_DECODE ? ", decode" : "",
             z.accumulate ? ", accumulate" : "");
    check_sums(what, y.device.get(), e, z.cols);
}

/* Every type, over the ends of groups, steps, blocks, tiles and chunks. */
static void test_decode()
{
    product_rig rig(1, 32, 0); /* its workspace is not used */
    const int cols[] = {1, 31, 33, 63, 64, 65, 127, 128, 129, 130, 131, 512};
    const int rows[] = {1, 2, 7, 8, 9, 15, 16, 17, 33, 3, 5, 12};
    const int outs[] = {17, 16, 15, 9, 8, 7, 1, 2, 33, 31, 3, 20};
    for (size_t i = 0; i < 12; i++) {
        check_matmul(&rig, plain[i % 3], {rows[i], outs[i], cols[i], TT_DECODE, i % 2 == 0});
        check_matmul(&rig, plain[(i + 1) % 3], {1, outs[i], cols[i], TT_DECODE, false});
    }
    for (tt_dtype type : plain) {
        check_matmul(&rig, type, {3, 17, 1056, TT_DECODE, false});
    }
    for (tt_dtype type : quantised) {
        int unit = tt_dtypes[type].block_elems;
        check_matmul(&rig, type, {1, 1, unit, TT_DECODE, false});
        check_matmul(&rig, type, {9, 17, 5 * unit, TT_DECODE, true});
        check_matmul(&rig, type, {17, 16, unit == 32 ? 1056 : 1280, TT_DECODE, false});
        check_matmul(&rig, type, {10, 3, 256, TT_DECODE, false}, 1);
    }
    check_matmul(&rig, TT_F32, {0, 8, 32, TT_DECODE, false});
}

static void test_prefill()
{
    product_rig rig(130, 512, 0);
    const int cols[] = {1, 31, 63, 64, 65, 127, 128, 129, 131, 512};
    const int rows[] = {1, 63, 64, 65, 127, 128, 129, 130, 2, 5};
    const int outs[] = {17, 64, 65, 63, 128, 127, 131, 1, 130, 96};
    for (size_t i = 0; i < 10; i++) {
        check_matmul(&rig, plain[i % 3], {rows[i], outs[i], cols[i], TT_PREFILL, i % 2 == 0});
        check_matmul(&rig, plain[(i + 2) % 3], {3, outs[i], cols[i], TT_PREFILL, i % 2 != 0});
    }
    for (tt_dtype type : quantised) {
        check_matmul(&rig, type, {65, 33, 256, TT_PREFILL, false});
        check_matmul(&rig, type, {2, 65, 512, TT_PREFILL, true});
    }
    check_matmul(&rig, TT_BF16, {3, 600, 32, TT_PREFILL, false}); /* more outputs than the tail */
    check_matmul(&rig, TT_F32, {0, 8, 32, TT_PREFILL, false});
    /* A panel that is full, unpacked by blocks of which the last has threads to spare. */
    product_rig full(5, 96, 0);
    check_matmul(&full, TT_F32, {5, 40, 96, TT_PREFILL, false});
}

/* Three weights of one input; their types differ, as in files of mixed types. */
static void check_three(product_rig *rig, tt_family family)
{
    kit_random rnd = {77};
    const int n_rows = 9;
    test_weight w0(&rnd, TT_Q4_K, 33, 256), w1(&rnd, TT_Q4_K, 8, 256), w2(&rnd, TT_Q6_K, 17, 256);
    test_weight *w[] = {&w0, &w1, &w2};
    twin<float> x(random_floats(&rnd, n_rows * 256));
    twin<float> y0(nothing(n_rows * 33)), y1(nothing(n_rows * 8)), y2(nothing(n_rows * 17));
    twin<float> *y[] = {&y0, &y1, &y2};
    tt_matmul_args d = {};
    d.x = x.at_device();
    d.n_rows = n_rows;
    d.n_w = 3;
    d.family = family;
    for (int i = 0; i < 3; i++) {
        d.w[i] = &w[i]->device;
        d.y[i] = y[i]->at_device();
    }
    CHECK_OK(tt_cuda_matmul(rig->s.s, &rig->p, &d));
    rig->s.sync();
    for (int i = 0; i < 3; i++) {
        product_shape z = {n_rows, (int)w[i]->host.rows, 256, family, false};
        check_sums("three", y[i]->device.get(), expected(&rig->ref, w[i], x.host, y[i]->host, z),
                   256);
    }
}

static void test_three()
{
    product_rig rig(9, 256, 0);
    check_three(&rig, TT_DECODE);
    check_three(&rig, TT_PREFILL);
}

/* A row's bits do not depend on the rows beside it, nor on where in the step it stands. */
static void check_alone(tt_family family, tt_dtype type, int n_rows)
{
    const int out = 19, cols = 160;
    kit_random rnd = {5};
    product_rig rig(n_rows, cols, 0);
    test_weight w(&rnd, type, out, cols);
    twin<float> x(random_floats(&rnd, (size_t)(n_rows * cols)));
    for (bool accumulate : {false, true}) {
        std::vector<float> start = random_floats(&rnd, (size_t)(n_rows * out));
        twin<float> all(start), one(start);
        tt_matmul_args d = matmul_args(x.at_device(), &w.device, all.at_device(),
                                       {n_rows, out, cols, family, accumulate});
        CHECK_OK(tt_cuda_matmul(rig.s.s, &rig.p, &d));
        for (int row = 0; row < n_rows; row += 5) {
            d = matmul_args(x.at_device() + (tt_dev)(row * cols * 4), &w.device,
                            one.at_device() + (tt_dev)(row * out * 4),
                            {1, out, cols, family, accumulate});
            CHECK_OK(tt_cuda_matmul(rig.s.s, &rig.p, &d));
        }
        rig.s.sync();
        std::vector<float> a = all.device.get(), b = one.device.get();
        for (int row = 0; row < n_rows; row += 5) {
            CHECK(memcmp(&a[(size_t)(row * out)], &b[(size_t)(row * out)], out * 4) == 0);
        }
    }
}

/* The same for the way back. */
static void check_alone_bwd(tt_dtype type, int n_rows)
{
    const int out = 150, cols = 160;
    kit_random rnd = {6};
    product_rig rig(n_rows, cols, 0);
    test_weight w(&rnd, type, out, cols);
    twin<float> dy(random_floats(&rnd, (size_t)(n_rows * out)));
    for (bool accumulate : {false, true}) {
        std::vector<float> start = random_floats(&rnd, (size_t)(n_rows * cols));
        twin<float> all(start), one(start);
        tt_matmul_bwd_args d = {};
        d.dy[0] = dy.at_device();
        d.w[0] = &w.device;
        d.n_rows = n_rows;
        d.n_w = 1;
        d.dx = all.at_device();
        d.accumulate = accumulate;
        CHECK_OK(tt_cuda_matmul_bwd(rig.s.s, &rig.p, &d));
        d.n_rows = 1;
        for (int row = 0; row < n_rows; row += 23) {
            d.dy[0] = dy.at_device() + (tt_dev)(row * out * 4);
            d.dx = one.at_device() + (tt_dev)(row * cols * 4);
            CHECK_OK(tt_cuda_matmul_bwd(rig.s.s, &rig.p, &d));
        }
        rig.s.sync();
        std::vector<float> a = all.device.get(), b = one.device.get();
        for (int row = 0; row < n_rows; row += 23) {
            CHECK(memcmp(&a[(size_t)(row * cols)], &b[(size_t)(row * cols)], cols * 4) == 0);
        }
    }
}

static void test_alone()
{
    check_alone(TT_DECODE, TT_Q5_1, 33);
    check_alone(TT_PREFILL, TT_Q4_0, 70);
    check_alone_bwd(TT_Q4_0, 70);
}

/* dx of several weights. */
static void check_bwd(product_rig *rig, tt_dtype type, int n_rows, int cols,
                      const std::vector<int> &outs, bool accumulate)
{
    kit_random rnd = {(uint64_t)(n_rows * 1009 + cols * 11 + (int)type)};
    size_t n = (size_t)n_rows * (size_t)cols;
    twin<float> dx(accumulate ? random_floats(&rnd, n) : nothing(n));
    expected_sums e = {dx.host, dx.host, accumulate ? each(dx.host, fabsf) : nothing(n)};
    tt_matmul_bwd_args d = {}, a = {};
    d.n_rows = a.n_rows = n_rows;
    d.n_w = (int)outs.size();
    a.n_w = 1;
    d.dx = dx.at_device();
    d.accumulate = accumulate;
    int terms = 0;
    std::vector<test_weight *> ws;
    std::vector<twin<float> *> dys;
    for (size_t i = 0; i < outs.size(); i++, terms += outs[i - 1]) {
        test_weight *w = new test_weight(&rnd, type, outs[i], cols);
        twin<float> *dy = new twin<float>(random_floats(&rnd, (size_t)n_rows * (size_t)outs[i]));
        std::vector<float> dy_bf16 = each(dy->host, rounded), dy_size = each(dy_bf16, fabsf);
        ws.push_back(w);
        dys.push_back(dy);
        d.w[i] = &w->device;
        d.dy[i] = dy->at_device();
        a.accumulate = accumulate || i > 0;
        tt_weight *forms[] = {&w->host, &w->host_bf16, &w->host_size};
        const std::vector<float> *grads[] = {&dy->host, &dy_bf16, &dy_size};
        std::vector<float> *sums[] = {&e.exact, &e.want, &e.size};
        for (int form = 0; form < 3; form++) {
            a.w[0] = forms[form];
            a.dy[0] = tt_addr(grads[form]->data());
            a.dx = tt_addr(sums[form]->data());
            rig->ref.ops.matmul_bwd(rig->ref.lane, &a);
        }
    }
    CHECK_OK(tt_cuda_matmul_bwd(rig->s.s, &rig->p, &d));
    rig->s.sync();
    char what[120];
    snprintf(what, sizeof what, "matmul_bwd %s, %d weights [%d, %d], %d rows%s",
             tt_dtypes[type].name, d.n_w, outs[0], cols, n_rows, accumulate ? ", accumulate" : "");
    check_sums(what, dx.device.get(), e, terms);
    for (size_t i = 0; i < ws.size(); i++) {
        delete ws[i];
        delete dys[i];
    }
}

static void test_bwd()
{
    product_rig rig(130, 512, 0);
    const int cols[] = {1, 31, 63, 64, 65, 127, 128, 129, 131, 512};
    const int rows[] = {1, 63, 64, 65, 127, 128, 129, 130, 2, 5};
    const int outs[] = {17, 64, 65, 63, 128, 127, 131, 1, 130, 96};
    for (size_t i = 0; i < 10; i++) {
        check_bwd(&rig, plain[i % 3], rows[i], cols[i], {outs[i]}, i % 2 == 0);
        check_bwd(&rig, plain[(i + 1) % 3], 3, cols[i], {outs[i], 33}, i % 2 != 0);
    }
    for (tt_dtype type : quantised) {
        check_bwd(&rig, type, 65, 256, {40, 7, 129}, false);
    }
    check_bwd(&rig, TT_F32, 0, 32, {8}, false);
}

/* The workspace grows with each limit, and the defaults are those of the header. */
static void test_sizes()
{
    tt_cuda_products p = product_rig::limits(64, 128, 16), q = p;
    size_t n = tt_cuda_products_bytes(&p);
    q.max_rows = 65;
    CHECK(tt_cuda_products_bytes(&q) > n);
    q = p;
    q.max_dim = 160;
    CHECK(tt_cuda_products_bytes(&q) > n);
    q = p;
    q.max_rank = 17;
    CHECK(tt_cuda_products_bytes(&q) > n);
    q = p;
    q.pass_rows = 0;
    q.panel_bytes = 0;
    p.pass_rows = TT_CUDA_PASS_ROWS;
    p.panel_bytes = TT_CUDA_PANEL_BYTES;
    CHECK(tt_cuda_products_bytes(&q) == tt_cuda_products_bytes(&p));
}

#ifdef CUEMU
/* Each call of the runtime and of cuBLAS that fails ends the op with an error. */
static void test_faults()
{
    kit_random rnd = {9};
    product_rig rig(65, 70, 0);
    test_weight w(&rnd, TT_Q4_0, 70, 64);
    twin<float> x(random_floats(&rnd, 65 * 70)), y(random_floats(&rnd, 65 * 70));
    tt_matmul_args decode =
        matmul_args(x.at_device(), &w.device, y.at_device(), {17, 70, 64, TT_DECODE, true});
    tt_matmul_args prefill =
        matmul_args(x.at_device(), &w.device, y.at_device(), {65, 70, 64, TT_PREFILL, true});
    tt_matmul_bwd_args bwd = {};
    bwd.dy[0] = x.at_device();
    bwd.w[0] = &w.device;
    bwd.dx = y.at_device();
    bwd.n_rows = 65;
    bwd.n_w = 1;
    const std::function<cudaError_t()> ops[] = {
        [&] { return tt_cuda_matmul(rig.s.s, &rig.p, &decode); },
        [&] { return tt_cuda_matmul(rig.s.s, &rig.p, &prefill); },
        [&] { return tt_cuda_matmul_bwd(rig.s.s, &rig.p, &bwd); },
    };
    for (const auto &op : ops) {
        CHECK(check_faults(&rig.s, op) >= 1);
    }
}
#endif

static const kit_test tests[] = {
    {"decode", test_decode},
    {"prefill", test_prefill},
    {"three", test_three},
    {"alone", test_alone},
    {"bwd", test_bwd},
    {"sizes", test_sizes},
    {"adapter_decode", test_adapter_decode},
    {"adapter_prefill", test_adapter_prefill},
    {"adapter_back", test_adapter_back},
    {"adapter_floats", test_adapter_floats},
#ifdef CUEMU
    {"faults", test_faults},
    {"adapter_faults", test_adapter_faults},
#endif
};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
