/* test_attention.cc - attention and its backward over paged keys and values against kernels/ref.
 * Pages lie in any order, those that no row sees do not exist, keys that were never written are
 * NaN. Thread: one.
 *
 * Queries and d_out of prompt rows are made of BF16 numbers, so that only the rounding of weights
 * is left: by 2^-7 / sqrt(12) of a power of two at or below the number, which makes a normalised
 * squared error of 2.7e-6 where signs are random. Decoded rows lose 2^-17 of queries and weights.
 */
#include <cstdlib>
#include <string>

#include "kernel_rig.h"

struct attn_seg {
    int pos0, n_rows;
};

struct attn_shape {
    tt_family family;
    int dim, heads, kv_heads, window;
    std::vector<attn_seg> segs;
    tt_dtype type = TT_BF16;
};

static const double prefill_limit = 4e-6, bwd_limit = 5e-6, decode_limit = 1e-10, lse_limit = 1e-11;

static float to_bf16_and_back(float x)
{
    return tt_bf16_to_f32(tt_f32_to_bf16(x));
}

/* Everything that an attention and its backward need, on both sides. */
struct attn_rig {
    attn_shape z;
    kit_random rnd;
    std::vector<tt_seg> segs;
    int n_rows = 1, n_pages = 0; /* of the step, one in front in no segment; of all sequences */
    std::vector<int32_t> table;
    std::vector<uint8_t>
        pages; /* K, V, their scales, and as much that is another layer's, in each */

    size_t elem() const
    {
        return z.type == TT_I8 ? 1 : 2;
    }
    /* Bytes of K or V of a page, of its scales, and of the page. */
    size_t half_page() const
    {
        return (size_t)TT_PAGE_TOKENS * (size_t)(z.kv_heads * z.dim) * elem();
    }
    size_t scales() const
    {
        return z.type == TT_I8 ? (size_t)(TT_PAGE_TOKENS * z.kv_heads) * sizeof(float) : 0;
    }
    size_t stride() const
    {
        return 3 * half_page() + 2 * scales();
    }
    int first_key(int pos) const
    {
        return z.window > 0 && pos >= z.window ? pos - z.window + 1 : 0;
    }

    explicit attn_rig(const attn_shape &s)
        : z(s), rnd{(uint64_t)(s.dim * 100 + s.heads + s.segs[0].pos0)}
    {
        for (const attn_seg &g : z.segs) {
            segs.push_back({n_rows, g.n_rows, g.pos0, n_pages});
            n_rows += g.n_rows + (g.n_rows % 3 == 1); /* gaps of rows in no segment */
            n_pages += (g.pos0 + g.n_rows + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS;
        }
        table.resize((size_t)n_pages);
        for (int i = 0; i < n_pages; i++) {
            table[(size_t)i] = n_pages - 1 - i;
        }
        for (int i = n_pages - 1; i > 0; i--) {
            std::swap(table[(size_t)i], table[(size_t)rnd.below(i + 1)]);
        }
        pages.assign((size_t)n_pages * stride(), 0xff); /* NaN as BF16, in scales too */
        for (const tt_seg &g : segs) {
            write_keys(g);
        }
    }

    /* Scores reach beyond 10, so weights differ; every key counts somewhere. */
    void write_keys(const tt_seg &g)
    {
        int first = first_key(g.pos0) / TT_PAGE_TOKENS * TT_PAGE_TOKENS, n = z.dim;
        for (int p = 0; p < first; p += TT_PAGE_TOKENS) {
            table[(size_t)(g.page0 + p / TT_PAGE_TOKENS)] = 1 << 20;
        }
        for (int p = first; p < g.pos0 + g.n_rows; p++) {
            uint8_t *page =
                &pages[(size_t)table[(size_t)(g.page0 + p / TT_PAGE_TOKENS)] * stride()];
            for (int i = 0; i < 2 * z.kv_heads; i++) {
                write_vector(page, i / z.kv_heads,
                             i % z.kv_heads * TT_PAGE_TOKENS + p % TT_PAGE_TOKENS, n);
            }
        }
    }
    /* Vector `row` of K (half 0) or V. Every whole number occurs; scales differ by a factor of 4.
     */
    void write_vector(uint8_t *page, int half, int row, int n)
    {
        float scale = (2.0f + 1.2f * rnd.uniform()) / 127;
        uint8_t *to = page + (size_t)half * half_page() + (size_t)(row * n) * elem();
        for (int i = 0; i < n; i++) {
            uint16_t h = tt_f32_to_bf16(2 * rnd.uniform());
            int8_t q = (int8_t)(rnd.below(256) - 128);
            memcpy(to + (size_t)i * elem(), z.type == TT_I8 ? (void *)&q : &h, elem());
        }
        if (z.type == TT_I8) {
            size_t scales_at = 2 * half_page() + (size_t)half * scales();
            memcpy(page + scales_at + sizeof scale * (size_t)row, &scale, sizeof scale);
        }
    }

    std::vector<float> rows_of(bool bf16)
    {
        std::vector<float> v((size_t)(n_rows * z.heads * z.dim));
        for (float &x : v) {
            x = 2 * rnd.uniform();
            x = bf16 ? to_bf16_and_back(x) : x;
        }
        return v;
    }
};

/* The same on one of the two sides. */
struct attn_side {
    tt_kv_layer kv;
    tt_attention_args a;
};

static void fill_args(attn_side *side, const attn_rig &rig, tt_dev pages)
{
    size_t half = rig.half_page(), scales = rig.scales();
    side->kv = {};
    side->kv.k = pages;
    side->kv.v = pages + half;
    side->kv.k_scale = scales > 0 ? pages + 2 * half : 0;
    side->kv.v_scale = scales > 0 ? pages + 2 * half + scales : 0;
    side->kv.page_stride = (int64_t)rig.stride();
    side->kv.type = rig.z.type;
    side->kv.n_kv_heads = rig.z.kv_heads;
    side->kv.head_dim = rig.z.dim;
    side->a = {};
    side->a.segs_host = rig.segs.data();
    side->a.kv = &side->kv;
    side->a.n_rows = rig.n_rows;
    side->a.n_segs = (int32_t)rig.segs.size();
    side->a.n_heads = rig.z.heads;
    side->a.window = rig.z.window;
    side->a.scale = 1.2f / sqrtf((float)rig.z.dim);
    side->a.family = rig.z.family;
}

struct attn_buffers {
    twin<float> q, out, lse, d_out, dq;
    twin<tt_seg> segs;
    twin<int32_t> table;
    twin<uint8_t> pages;
    attn_side ref, cuda;

    explicit attn_buffers(attn_rig *rig)
        : q(rig->rows_of(rig->z.family == TT_PREFILL)), out(nothing(q.host.size())),
          lse(nothing((size_t)(rig->n_rows * rig->z.heads))), d_out(rig->rows_of(true)),
          dq(nothing(q.host.size())), segs(rig->segs), table(rig->table), pages(rig->pages)
    {
        fill_args(&ref, *rig, pages.at_host());
        fill_args(&cuda, *rig, pages.at_device());
        set(&ref.a, [](auto &t) { return t.at_host(); });
        set(&cuda.a, [](auto &t) { return t.at_device(); });
    }
    template <class At> void set(tt_attention_args *a, At at)
    {
        a->q = at(q);
        a->out = at(out);
        a->lse = at(lse);
        a->segs = at(segs);
        a->page_table = at(table);
    }
};

static void run_cuda(const tt_attention_args *a)
{
    kit_stream s;
    kit_array<float> scratch(tt_cuda_attention_scratch(a) / sizeof(float) + 1);
    CHECK_OK(tt_cuda_attention(s.s, a, tt_addr(scratch.p)));
    s.sync();
}

/* Whether the build has kernels for heads of this size: those of a mistake have a few, which
 * mutants.py names. */
static bool is_built(int dim)
{
    const char *only = getenv("KIT_HEAD_DIMS");
    return only == nullptr || strstr(only, (" " + std::to_string(dim) + " ").c_str()) != nullptr;
}

static void check_attention(const attn_shape &z)
{
    static long n_cases;
    const kit_share share = kit_share_asked();
    if (!is_built(z.dim) || n_cases++ % share.step != share.first) {
        return;
    }
    attn_rig rig(z);
    attn_buffers b(&rig);
    reference ref;
    char what[100];
    snprintf(what, sizeof what, "%s, dim %d, heads %d/%d, window %d, from %d",
             tt_dtypes[z.type].name, z.dim, z.heads, z.kv_heads, z.window, z.segs[0].pos0);
    ref.ops.attention(ref.lane, &b.ref.a);
    run_cuda(&b.cuda.a);
    check_close(what, &b.out, z.family == TT_DECODE ? decode_limit : prefill_limit);
    check_close(what, &b.lse, z.family == TT_DECODE ? decode_limit : lse_limit, 1);
    if (z.family == TT_DECODE) {
        return;
    }
    /* From the same forward. */
    kit_stream s;
    cudaMemcpy(b.out.device.p, b.out.host.data(), b.out.host.size() * 4, cudaMemcpyHostToDevice);
    cudaMemcpy(b.lse.device.p, b.lse.host.data(), b.lse.host.size() * 4, cudaMemcpyHostToDevice);
    tt_attention_bwd_args ab = {b.ref.a, b.d_out.at_host(), b.dq.at_host()};
    tt_attention_bwd_args db = {b.cuda.a, b.d_out.at_device(), b.dq.at_device()};
    ref.ops.attention_bwd(ref.lane, &ab);
    CHECK_OK(tt_cuda_attention_bwd(s.s, &db));
    s.sync();
    check_close(what, &b.dq, bwd_limit, 0.01);
}

/* One query and one key; where blocks, pages, tiles and groups end; more than 32 segments. */
static void test_prefill()
{
    std::vector<attn_seg> many(34, {0, 1});
    many[33] = {62, 3};
    const attn_shape shapes[] = {
        {TT_PREFILL, 64, 1, 1, 0, {{0, 1}}},
        {TT_PREFILL, 64, 2, 2, 0, {{0, 63}, {0, 64}, {0, 65}}},
        {TT_PREFILL, 64, 1, 1, 0, {{0, 127}, {1, 128}}},
        {TT_PREFILL, 64, 8, 1, 0, {{190, 9}, {127, 1}, {31, 2}}},
        {TT_PREFILL, 80, 1, 1, 0, {{0, 130}, {1, 130}}},
        {TT_PREFILL, 96, 6, 2, 0, {{60, 7}, {0, 3}, {63, 1}, {64, 1}}},
        {TT_PREFILL, 128, 2, 1, 0, {{0, 33}, {230, 33}}},
        {TT_PREFILL, 128, 5, 1, 0, {{128, 16}}},
        {TT_PREFILL, 256, 2, 1, 0, {{95, 2}, {0, 33}}},
        {TT_PREFILL, 64, 1, 1, 0, many},
    };
    for (const attn_shape &z : shapes) {
        check_attention(z);
    }
}

static void test_window()
{
    const attn_shape shapes[] = {
        {TT_PREFILL, 64, 2, 1, 1, {{70, 3}}},
        {TT_PREFILL, 64, 1, 1, 64, {{0, 70}, {200, 70}}},
        {TT_PREFILL, 128, 2, 2, 40, {{150, 40}}},
        {TT_PREFILL, 256, 1, 1, 100, {{99, 5}, {300, 2}}},
        {TT_DECODE, 64, 2, 1, 1, {{70, 1}}},
        {TT_DECODE, 64, 2, 1, 300, {{298, 1}, {299, 1}, {300, 1}, {811, 1}, {3, 1}}},
        {TT_DECODE, 64, 4, 2, 200, {{454, 4}}},
    };
    for (const attn_shape &z : shapes) {
        check_attention(z);
    }
}

static void test_decode()
{
    std::vector<attn_seg> many(34, {0, 1});
    many[32] = {600, 1};
    const attn_shape shapes[] = {
        {TT_DECODE, 64, 1, 1, 0, {{0, 1}}},
        {TT_DECODE, 64, 2, 2, 0, {{62, 1}, {63, 1}, {64, 1}, {127, 1}, {129, 1}}},
        {TT_DECODE, 64, 8, 1, 0, {{254, 1}, {255, 1}, {256, 1}, {1400, 1}}},
        {TT_DECODE, 64, 20, 1, 0, {{300, 1}, {2, 1}}},
        {TT_DECODE, 80, 3, 1, 0, {{15, 1}, {270, 1}}},
        {TT_DECODE, 96, 2, 1, 0, {{130, 1}}},
        {TT_DECODE, 128, 8, 2, 0, {{253, 5}, {16, 1}, {511, 1}}},
        {TT_DECODE, 256, 4, 2, 0, {{17, 1}, {520, 1}}},
        {TT_DECODE, 64, 1, 1, 0, many},
    };
    for (const attn_shape &z : shapes) {
        check_attention(z);
    }
}

/* For what nvcc makes: windows, several tiles and several segments for each head size; loops over
 * splits, which it unrolls by four, with more turns than that. */
#ifndef CUEMU
static void test_unrolled()
{
    for (int dim : {16, 32, 64, 80, 96, 128, 256}) {
        for (tt_dtype type : {TT_BF16, TT_I8}) {
            check_attention({TT_PREFILL, dim, 1, 1, 0, {{0, 130}, {1, 65}}, type});
            check_attention({TT_PREFILL, dim, 6, 2, 40, {{60, 7}, {0, 70}, {63, 1}}, type});
            check_attention({TT_DECODE, dim, 20, 1, 300, {{299, 2}, {811, 1}, {3, 1}}, type});
        }
        check_attention({TT_DECODE, dim, 2, 2, 0, {{5000, 1}, {63, 1}}});
        check_attention({TT_DECODE, dim, 2, 2, 0, {{300, 1}, {63, 1}}, TT_I8});
    }
    check_attention({TT_DECODE, 64, 1, 1, 0, {{34 * 256, 1}}});
}
#endif

/* Every head size; keys around the ends of blocks and pages, windows that begin inside them. */
static void test_bytes()
{
    const attn_shape shapes[] = {
        {TT_PREFILL, 64, 8, 8, 0, {{0, 1}, {0, 2}}, TT_I8},
        {TT_PREFILL, 64, 6, 2, 0, {{190, 9}, {127, 1}, {0, 65}}, TT_I8},
        {TT_PREFILL, 80, 2, 1, 50, {{61, 70}}, TT_I8},
        {TT_PREFILL, 96, 3, 1, 0, {{60, 7}, {0, 3}}, TT_I8},
        {TT_PREFILL, 128, 4, 2, 0, {{0, 33}, {130, 33}}, TT_I8},
        {TT_PREFILL, 256, 2, 1, 40, {{95, 2}, {0, 33}}, TT_I8},
        {TT_DECODE, 64, 6, 2, 0, {{62, 1}, {64, 1}, {129, 1}, {600, 1}}, TT_I8},
        {TT_DECODE, 80, 3, 1, 0, {{15, 1}, {270, 1}}, TT_I8},
        {TT_DECODE, 96, 2, 1, 90, {{130, 1}}, TT_I8},
        {TT_DECODE, 128, 8, 2, 300, {{253, 5}, {16, 1}, {511, 1}}, TT_I8},
        {TT_DECODE, 256, 4, 2, 0, {{17, 1}, {320, 1}}, TT_I8},
    };
    for (const attn_shape &z : shapes) {
        check_attention(z);
    }
}

/* A row of segment `seg` alone has the bits that it has among others. */
static void check_alone(tt_family family, int seg, int row, tt_dtype type = TT_BF16)
{
    attn_rig rig({family, 64, 6, 2, 500, {{250, 20}, {700, 5}, {3, 2}}, type});
    attn_buffers b(&rig);
    kit_stream s;
    tt_attention_args a = b.cuda.a;
    tt_attention_bwd_args ab = {a, b.d_out.at_device(), b.dq.at_device()};
    run_cuda(&a);
    CHECK_OK(tt_cuda_attention_bwd(s.s, &ab));
    s.sync();
    std::vector<float> out = b.out.device.get(), lse = b.lse.device.get(), dq = b.dq.device.get();

    tt_seg one = rig.segs[(size_t)seg];
    int at = one.row0 + row;
    one = {0, 1, one.pos0 + row, one.page0};
    kit_array<tt_seg> one_device(std::vector<tt_seg>{one});
    size_t width = (size_t)(rig.z.heads * rig.z.dim), first = (size_t)at * width;
    kit_array<float> out1(width), lse1((size_t)rig.z.heads), dq1(width);
    a.q += first * sizeof(float);
    a.out = tt_addr(out1.p);
    a.lse = tt_addr(lse1.p);
    a.segs = tt_addr(one_device.p);
    a.segs_host = &one;
    a.n_rows = a.n_segs = 1;
    run_cuda(&a);
    ab = {a, b.d_out.at_device() + first * sizeof(float), tt_addr(dq1.p)};
    CHECK_OK(tt_cuda_attention_bwd(s.s, &ab));
    s.sync();
    CHECK(memcmp(out1.get().data(), &out[first], width * sizeof(float)) == 0);
    CHECK(memcmp(lse1.get().data(), &lse[(size_t)(at * rig.z.heads)], 6 * sizeof(float)) == 0);
    CHECK(memcmp(dq1.get().data(), &dq[first], width * sizeof(float)) == 0);
}

static void test_alone()
{
    check_alone(TT_PREFILL, 0, 19);
    check_alone(TT_PREFILL, 1, 2);
    check_alone(TT_DECODE, 0, 7);
    check_alone(TT_DECODE, 1, 4);
    check_alone(TT_PREFILL, 0, 19, TT_I8);
    check_alone(TT_DECODE, 0, 7, TT_I8);
}

/* What is left out: the log-sum-exp; all rows. Head sizes that there are no kernels for. */
static void test_nothing()
{
    for (tt_family family : {TT_PREFILL, TT_DECODE}) {
        attn_rig rig({family, 64, 2, 1, 0, {{5, 2}}});
        attn_buffers b(&rig);
        b.cuda.a.lse = 0;
        run_cuda(&b.cuda.a);
        for (float x : b.lse.device.get()) {
            CHECK(std::isnan(x));
        }
        tt_attention_bwd_args ab = {b.cuda.a, b.d_out.at_device(), b.dq.at_device()};
        ab.fwd.lse = b.lse.at_device();
        b.cuda.kv.head_dim = 72;
        for (tt_dtype type : {TT_BF16, TT_I8}) {
            b.cuda.kv.type = type;
            CHECK(tt_cuda_attention(nullptr, &b.cuda.a, 0) == cudaErrorInvalidValue);
            CHECK(tt_cuda_attention_bwd(nullptr, &ab) == cudaErrorInvalidValue);
        }
        b.cuda.a.n_segs = ab.fwd.n_segs = 0;
        CHECK_OK(tt_cuda_attention(nullptr, &b.cuda.a, 0));
        CHECK_OK(tt_cuda_attention_bwd(nullptr, &ab));
        CHECK(tt_cuda_attention_scratch(&b.cuda.a) == 0);
    }
}

#ifdef CUEMU
/* A failing call comes back as it is, whichever it is, and nothing is left behind. */
static void check_fault(int n_calls, const std::function<cudaError_t()> &run)
{
    for (int n = 0; n < n_calls; n++) {
        cuemu_fail_after(n, cudaErrorLaunchFailure);
        CHECK(run() == cudaErrorLaunchFailure);
    }
    cuemu_fail_after(n_calls, cudaErrorLaunchFailure);
    CHECK(run() == cudaSuccess);
    cuemu_fail_after(-1, cudaSuccess);
    CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
}

static void test_faults()
{
    attn_rig prefill({TT_PREFILL, 64, 1, 1, 0, {{0, 2}}}),
        decode({TT_DECODE, 64, 1, 1, 0, {{0, 2}}});
    attn_buffers p(&prefill), d(&decode);
    kit_stream s;
    kit_array<float> scratch(tt_cuda_attention_scratch(&d.cuda.a) / sizeof(float));
    tt_attention_bwd_args ab = {p.cuda.a, p.d_out.at_device(), p.dq.at_device()};
    check_fault(2, [&] { return tt_cuda_attention(s.s, &p.cuda.a, 0); });
    check_fault(2, [&] { return tt_cuda_attention_bwd(s.s, &ab); });
    check_fault(3, [&] { return tt_cuda_attention(s.s, &d.cuda.a, tt_addr(scratch.p)); });
    s.sync();
}
#endif

static const kit_test tests[] = {
    {"prefill", test_prefill}, {"window", test_window}, {"decode", test_decode},
    {"bytes", test_bytes},     {"alone", test_alone},   {"nothing", test_nothing},
#ifdef CUEMU
    {"faults", test_faults},
#else
    {"unrolled", test_unrolled},
#endif
};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
