/* test_sample.cc - draws of tokens and checksums against kernels/ref: the same bits, not nearly.
 * Thread: one. */
#include "train_rig.h"

/* Parameters of draws in turn; stream, counter and row are a test's. */
struct way {
    float temperature, top_p, min_p;
    int top_k;
};

static const way ways[] = {
    {1, 1, 0, 0},        {0, 1, 0, 0},           {0.7f, 0.9f, 0, 0}, {1.3f, 1, 0, 7},
    {2, 0.999f, 0, 40},  {1, 1, 0.1f, 0},        {1, 1e-6f, 0, 0},   {1, 1, 0, 1},
    {5, 0.5f, 0.02f, 0}, {0.05f, 1, 0, 1 << 30}, {1e-38f, 1, 0, 0},  {3, 0, 1, 3},
};
static const int n_ways = sizeof ways / sizeof *ways;

/* Draws from rows that both sides have. */
struct sample_rig {
    kit_random rnd = {31};
    kit_stream s;
    reference ref;
    std::vector<tt_draw> draws;
    std::vector<tt_logit_adjust> adjusts{{0, 0, 1, 0}}; /* never empty */
    std::vector<int32_t> banned{0};

    void add(const way &w, int row)
    {
        tt_draw d = {};
        d.stream = (uint64_t)rnd.next() << 32 | rnd.next();
        d.counter = rnd.next() % 1000;
        d.temperature = w.temperature;
        d.top_p = w.top_p;
        d.min_p = w.min_p;
        d.top_k = w.top_k;
        d.row = row;
        d.adjust0 = (int32_t)adjusts.size();
        d.banned0 = (int32_t)banned.size();
        draws.push_back(d);
    }
    /* Adjustments and banned ids for the draw added last. */
    void adjust(int n_vocab, int step, int ban_step)
    {
        for (int id = rnd.below(step); id < n_vocab; id += step) {
            adjusts.push_back({id, rnd.uniform(), 1 + fabsf(rnd.uniform()), rnd.uniform()});
        }
        for (int id = 0; id + 1 < n_vocab; id += 1 + rnd.below(ban_step)) {
            banned.push_back(id);
        }
        draws.back().n_adjust = (int32_t)adjusts.size() - draws.back().adjust0;
        draws.back().n_banned = (int32_t)banned.size() - draws.back().banned0;
    }
    std::vector<int32_t> run(const std::vector<float> &logits, int n_vocab)
    {
        twin<float> x(logits);
        twin<tt_draw> d(draws);
        twin<tt_logit_adjust> a(adjusts);
        twin<int32_t> b(banned), tokens(std::vector<int32_t>(draws.size(), -1));
        int32_t n = (int32_t)draws.size();
        tt_sample_args h = {x.at_host(),      d.at_host(), a.at_host(), b.at_host(),
                            tokens.at_host(), n,           n_vocab};
        tt_sample_args g = {x.at_device(), d.at_device(),      a.at_device(),
                            b.at_device(), tokens.at_device(), n,
                            n_vocab};
        ref.ops.sample(ref.lane, &h);
        CHECK_OK(tt_cuda_sample(s.s, &g));
        s.sync();
        std::vector<int32_t> got = tokens.device.get();
        for (int32_t i = 0; i < n; i++) {
            if (got[i] != tokens.host[i]) {
                printf("V %d, draw %d (temperature %g, top_k %d, top_p %g, min_p %g): %d, not %d\n",
                       n_vocab, i, draws[i].temperature, draws[i].top_k, draws[i].top_p,
                       draws[i].min_p, got[i], tokens.host[i]);
                kit_check(false, "token", cuemu::here());
            }
        }
        return got;
    }
};

static std::vector<float> normal_like(kit_random *rnd, size_t n, float size)
{
    std::vector<float> v(n);
    for (float &x : v) {
        x = (rnd->uniform() + rnd->uniform() + rnd->uniform() + rnd->uniform()) * size;
    }
    return v;
}

/* Every way of drawing, with adjustments and without, on sizes about those of a block, of a digit
 * and of a chunk of ids. */
void test_sample_sizes()
{
    for (int n_vocab : {1, 2, 33, 511, 1023, 1024, 1025, 2600}) {
        sample_rig rig;
        int n = n_vocab == 2600 ? 2 * n_ways : n_ways;
        for (int i = 0; i < n; i++) {
            rig.add(ways[i % n_ways], n - 1 - i);
            if (i % 2 == 1 || i > n_ways) {
                rig.adjust(n_vocab, i == 20 ? 1 : 3, i == 20 ? 1 : 5);
            }
        }
        rig.run(normal_like(&rig.rnd, (size_t)(n * n_vocab), 4), n_vocab);
    }
}

/* Equal logits: what is kept is decided by ids, on either side of every bound. */
void test_sample_ties()
{
    const int n_vocab = 2100;
    sample_rig rig;
    for (int top_k : {2, 1023, 1024, 1025, 2099, 2100}) {
        rig.add({1, 1, 0, top_k}, (int)rig.draws.size());
        rig.add({1, 0.5f, 0, top_k}, (int)rig.draws.size());
    }
    std::vector<float> x(rig.draws.size() * n_vocab);
    for (size_t i = 0; i < x.size(); i++) {
        x[i] = i / n_vocab < 6 ? 1.5f : (float)rig.rnd.below(3);
    }
    rig.run(x, n_vocab);
    /* The last candidate that a bound may name, and shares that are reached exactly. */
    sample_rig four;
    for (uint32_t k = 0; k < 24; k++) {
        four.add({1, k % 4 == 0 ? 1 : (float)(k % 4) / 4, 0, 0}, (int)k);
    }
    std::vector<float> y(24 * 40, -3e38f);
    for (int k = 0; k < 24; k++) {
        for (int i : {5, 17, 32, 39}) {
            y[(size_t)(k * 40 + i)] = 0.25f;
        }
    }
    std::vector<int32_t> got = four.run(y, 40);
    for (int k = 0; k < 24; k++) {
        CHECK(got[(size_t)k] <= (k % 4 == 1 ? 5 : k % 4 == 2 ? 17 : k % 4 == 3 ? 32 : 39));
    }
}

/* A share that falls between the whole sum and one unit less keeps the last candidate: p of 1 and
 * 2^-24 (1 + 2^-19 ln 2), 2^44 and 2^20 + 1 units, share 1 - 2^-24. That number of the stream is
 * the first to fall behind the first of them. */
void test_sample_last_unit()
{
    sample_rig rig;
    rig.add({1.44269504f, 0x1.fffffep-1f, 0, 0}, 0);
    rig.draws[0].stream = 1;
    rig.draws[0].counter = 13985623;
    CHECK(rig.run({0, -24 + 0x1p-19f}, 2)[0] == 1);
}

/* A cut within a cut that ends at the same candidate: each is told from its neighbours by as few
 * bits as it takes, which are not the same. */
void test_sample_cuts()
{
    const int n_vocab = 1025, n = 30;
    sample_rig rig;
    for (int i = 0; i < n; i++) {
        rig.add({2, i % 2 == 0 ? 0.999f : 0.98f, i % 5 == 4 ? 0.05f : 0, 40}, i);
    }
    rig.run(normal_like(&rig.rnd, (size_t)(n * n_vocab), 4), n_vocab);
}

/* NaN, infinities, zeros of both signs, nothing but rubbish, everything banned. */
void test_sample_rubbish()
{
    const int n_vocab = 600;
    static const float bad[] = {NAN, -INFINITY, -0.0f, 0.0f, -1e30f, -3e38f};
    sample_rig rig;
    std::vector<float> x;
    for (int row = 0; row < 10; row++) {
        rig.add(ways[row % 2 == 0 ? 0 : row], row);
        if (row % 3 == 2) {
            rig.adjust(n_vocab, 2, 5);
        }
        for (int i = 0; i < n_vocab; i++) {
            float v = row < 4 ? bad[rig.rnd.below(2)] : bad[rig.rnd.below(6)];
            x.push_back(row == 9 && i % 100 == 70 ? INFINITY : v);
        }
    }
    rig.add({1, 1, 0, 0}, 10);
    for (int i = 0; i < n_vocab; i++) {
        rig.banned.push_back(i);
        x.push_back(1);
    }
    rig.draws.back().n_banned = n_vocab;
    std::vector<int32_t> got = rig.run(x, n_vocab);
    CHECK(got[0] == 0 && got[9] == 70 && got[10] == n_vocab - 1);
}

/* A real vocabulary. */
void test_sample_large()
{
    const int n_vocab = 50257;
    sample_rig rig;
    rig.add({1, 1, 0, 0}, 2);
    rig.add({0.8f, 0.95f, 0, 0}, 1);
    rig.adjust(n_vocab, 70, 5);
    rig.add({4, 0.99f, 0, 30000}, 0);
    rig.run(normal_like(&rig.rnd, 3 * (size_t)n_vocab, 3), n_vocab);
}

/* As many draws from one distribution as show that p is what it should be, and that a counter is
 * enough to have its number. */
void test_sample_distribution()
{
    const int n_vocab = 4, n = 100;
    sample_rig rig;
    int hits[4] = {0};
    for (int i = 0; i < n; i++) {
        rig.add({1, 1, 0, 0}, i);
        rig.draws.back().stream = 99;
        rig.draws.back().counter = (uint32_t)i;
    }
    std::vector<float> x;
    for (int i = 0; i < n; i++) {
        for (float p : {0.1f, 0.2f, 0.3f, 0.4f}) {
            x.push_back(logf(p));
        }
    }
    for (int32_t id : rig.run(x, n_vocab)) {
        hits[id]++;
    }
    for (int i = 0; i < 4; i++) {
        CHECK(abs(hits[i] - 10 * (i + 1)) < 20);
    }
}

static uint64_t check_sum(const std::vector<uint8_t> &bytes, const tt_checksum_args &shape)
{
    reference ref;
    kit_stream s;
    twin<uint8_t> x(bytes);
    twin<uint64_t> sum(std::vector<uint64_t>{1});
    tt_checksum_args h = shape, d = shape;
    h.data = x.at_host();
    h.sum = sum.at_host();
    d.data = x.at_device();
    d.sum = sum.at_device();
    ref.ops.checksum(ref.lane, &h);
    CHECK_OK(tt_cuda_checksum(s.s, &d));
    s.sync();
    CHECK(sum.device.get()[0] == sum.host[0]);
    return sum.device.get()[0];
}

void test_checksum()
{
    kit_random rnd = {8};
    struct {
        int64_t row_bytes, stride, gap;
        int n_rows, n_groups;
    } shapes[] = {{8, 8, 0, 1, 1},        {1, 8, 0, 1, 1},       {0, 8, 0, 3, 1},
                  {13, 24, 40, 7, 3},     {15, 16, 0, 2, 2},     {10, 16, 0, 2, 2},
                  {12, 16, 0, 2, 2},      {4096, 4096, 8, 2, 5}, {32768, 32768, 0, 1, 1},
                  {32776, 32776, 0, 3, 1}};
    for (auto &c : shapes) {
        int64_t group = c.n_rows * c.stride + c.gap;
        std::vector<uint8_t> bytes((size_t)(c.n_groups * group));
        for (uint8_t &b : bytes) {
            b = (uint8_t)rnd.next();
        }
        tt_checksum_args shape = {0, c.row_bytes, c.stride, group, 0, c.n_rows, c.n_groups};
        uint64_t sum = check_sum(bytes, shape);
        if (c.row_bytes > 0) {
            size_t last =
                (size_t)((c.n_groups - 1) * group + (c.n_rows - 1) * c.stride + c.row_bytes - 1);
            bytes[last] ^= 0x80;
            CHECK(check_sum(bytes, shape) != sum);
        }
    }
}

#ifdef CUEMU
void test_sample_faults()
{
    kit_stream s;
    kit_array<float> x(std::vector<float>(40, 0));
    kit_array<tt_draw> d(std::vector<tt_draw>(1, tt_draw{}));
    kit_array<uint64_t> out(1);
    tt_sample_args a = {tt_addr(x.p), tt_addr(d.p), 0, 0, tt_addr(out.p), 1, 40};
    CHECK(check_faults(&s, [&] { return tt_cuda_sample(s.s, &a); }) == 1);
    tt_checksum_args c = {tt_addr(x.p), 16, 16, 0, tt_addr(out.p), 2, 1};
    CHECK(check_faults(&s, [&] { return tt_cuda_checksum(s.s, &c); }) == 2);
    a.n_draws = c.n_groups = 0;
    CHECK(check_faults(&s, [&] { return tt_cuda_sample(s.s, &a); }) == 0);
    CHECK(check_faults(&s, [&] { return tt_cuda_checksum(s.s, &c); }) == 1);
    s.sync();
    CHECK(out.get()[0] == 0);
}
#endif

static const kit_test tests[] = {
    {"sample_sizes", test_sample_sizes},
    {"sample_ties", test_sample_ties},
    {"sample_last_unit", test_sample_last_unit},
    {"sample_cuts", test_sample_cuts},
    {"sample_rubbish", test_sample_rubbish},
    {"sample_large", test_sample_large},
    {"sample_distribution", test_sample_distribution},
    {"checksum", test_checksum},
#ifdef CUEMU
    {"sample_faults", test_sample_faults},
#endif
};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
