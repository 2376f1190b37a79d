/* test_lane_cuda.cc - the lane and the memory of the CUDA table: what goes up comes down, in order,
 * with rings and blocks that are full; memory that ops work in grows while the stream is busy;
 * nothing waits but lane_sync(). Sizes: tests/cuemu/meson.build. Thread: one. */
#include "lane_rig.h"

static std::vector<uint8_t> random_bytes(kit_random *rnd, size_t n)
{
    std::vector<uint8_t> v(n);
    for (uint8_t &b : v) {
        b = (uint8_t)rnd->next();
    }
    return v;
}

/* More than the ring holds, in pieces that do not divide its segments; the source changes as soon
 * as the call returns. */
static void test_up_and_down()
{
    kit_random rnd = {1};
    cuda_lane l;
    for (size_t n : {(size_t)1, (size_t)16384, (size_t)16385, (size_t)300001}) {
        std::vector<uint8_t> want = random_bytes(&rnd, n), source = want, got(n, 1), part(n, 2);
        tt_dev a = l.alloc(n), b = l.alloc(n + 64);
        l.ops.upload(l.lane, a, source.data(), n);
        std::fill(source.begin(), source.end(), (uint8_t)7);
        l.ops.zero(l.lane, b, n + 64);
        l.ops.copy(l.lane, b + 32, a, n);
        l.ops.download(l.lane, got.data(), b + 32, n);
        l.ops.zero(l.lane, b, n + 64); /* what was read before stays as it was */
        l.ops.download(l.lane, part.data(), b + 64, n);
        l.sync();
        CHECK(got == want && part == std::vector<uint8_t>(n, 0));
        l.ops.free(l.lane, a);
        l.ops.free(l.lane, b);
    }
    l.ops.free(l.lane, 0);
    l.ops.upload(l.lane, 0, nullptr, 0);
    l.ops.download(l.lane, nullptr, 0, 0);
    l.sync();
}

/* Several steps' uploads without a wait: order is kept around the ring. */
static void test_ring()
{
    cuda_lane l;
    const int n_rounds = 40, each = 5000;
    tt_dev a = l.alloc((size_t)n_rounds * each);
    std::vector<uint8_t> bytes((size_t)each), got((size_t)n_rounds * each);
    for (int i = 0; i < n_rounds; i++) {
        std::fill(bytes.begin(), bytes.end(), (uint8_t)i);
        l.ops.upload(l.lane, a + (tt_dev)(i * each), bytes.data(), bytes.size());
    }
    l.ops.download(l.lane, got.data(), a, got.size());
    l.sync();
    for (int i = 0; i < n_rounds; i++) {
        CHECK(got[(size_t)i * each] == i && got[(size_t)(i + 1) * each - 1] == i);
    }
    l.ops.free(l.lane, a);
}

/* More downloads than there are places for: the lane has to wait, nothing is lost. */
static void test_many_downloads()
{
    cuda_lane l;
    const size_t n = 700;
    std::vector<uint32_t> want(n), got(n);
    tt_dev a = l.alloc(n * 4);
    for (size_t i = 0; i < n; i++) {
        want[i] = (uint32_t)(i * 2654435761u);
    }
    l.ops.upload(l.lane, a, want.data(), n * 4);
    for (size_t i = 0; i < n; i++) {
        l.ops.download(l.lane, &got[i], a + i * 4, 4);
    }
    l.sync();
    CHECK(got == want);
    /* Blocks of many sizes, kept for the next steps. */
    std::vector<uint8_t> large(200000, 1);
    tt_dev b = l.alloc(large.size());
    for (int i = 0; i < 40; i++) {
        size_t some = 3000 + (size_t)i * 1000;
        l.ops.zero(l.lane, b, large.size());
        std::fill(large.begin(), large.end(), (uint8_t)1);
        l.ops.download(l.lane, large.data(), b, some);
        l.ops.download(l.lane, large.data() + some, b, some);
        l.sync();
        CHECK(large[0] == 0 && large[2 * some - 1] == 0 && large[2 * some] == 1);
    }
    l.ops.free(l.lane, a);
    l.ops.free(l.lane, b);
}

/* A product of x (n_rows) with ones: y = the sums of its rows. */
static void product(cuda_lane *l, tt_weight *w, tt_dev x, tt_dev y, int32_t n_rows)
{
    tt_matmul_args a = {};
    a.x = x;
    a.n_rows = n_rows;
    a.n_w = 1;
    a.w[0] = w;
    a.y[0] = y;
    a.family = TT_PREFILL;
    l->ops.matmul(l->lane, &a);
}

/* The memory of ops grows from call to call while earlier ones have not run. */
static void test_growth()
{
    cuda_lane l;
    const int32_t cols = 96, rows = 40, most = 700;
    std::vector<float> ones((size_t)(rows * cols), 1), x((size_t)(most * cols)), y;
    tt_weight w = {TT_F32, rows, cols, 0};
    CHECK(l.ops.weight_load(l.lane, &w, ones.data(), &l.err) == TT_OK);
    for (size_t i = 0; i < x.size(); i++) {
        x[i] = (float)(i / cols % 17);
    }
    tt_dev dx = l.alloc(x.size() * 4);
    l.ops.upload(l.lane, dx, x.data(), x.size() * 4);
    std::vector<tt_dev> dy;
    const int32_t sizes[] = {1, 60, 64, 65, 200, most};
    for (int32_t n : sizes) {
        dy.push_back(l.alloc((size_t)(n * rows) * 4));
        product(&l, &w, dx, dy.back(), n);
    }
    for (size_t i = 0; i < dy.size(); i++) {
        y.assign((size_t)(sizes[i] * rows), -1);
        l.ops.download(l.lane, y.data(), dy[i], y.size() * 4);
        l.sync();
        for (size_t k = 0; k < y.size(); k++) {
            CHECK(y[k] == (float)(cols * (int)(k / rows % 17)));
        }
        l.ops.free(l.lane, dy[i]);
    }
    l.ops.free(l.lane, dx);
}

#ifdef CUEMU
/* A step waits once; memory that is freed meanwhile waits for that. */
static void test_waits()
{
    cuda_lane l(64, 128);
    std::vector<float> ones(64 * 128, 1), got(64);
    tt_weight w = {TT_F32, 1, 128, 0};
    CHECK(l.ops.weight_load(l.lane, &w, ones.data(), &l.err) == TT_OK);
    tt_dev x = l.alloc(ones.size() * 4), y = l.alloc(64 * 4), z = l.alloc(64 * 4);
    l.ops.upload(l.lane, x, ones.data(), ones.size() * 4);
    l.ops.download(l.lane, got.data(), y, 4); /* makes its pinned block */
    l.sync();
    long waits = cuemu_waits(), live = cuemu_live();
    l.ops.upload(l.lane, x, ones.data(), 12000); /* into the ring, which is empty after a sync */
    product(&l, &w, x, y, 64);
    l.ops.copy(l.lane, z, y, 64 * 4);
    l.ops.download(l.lane, got.data(), z, 64 * 4);
    l.ops.free(l.lane, x);
    l.ops.free(l.lane, z);
    CHECK(cuemu_waits() == waits && cuemu_live() == live);
    l.sync();
    CHECK(cuemu_waits() == waits + 3 && cuemu_live() == live - 2); /* itself and two cudaFree() */
    CHECK(got[0] == 128 && got[63] == 128);
    l.ops.free(l.lane, y);
}
#endif

/* Too much is said at once and spoils nothing. What is freed is there again. */
static void test_no_room()
{
    cuda_lane l;
    size_t left = 0, total = 0, again = 0;
    tt_dev p = 0;
    CHECK(l.ops.memory(l.lane, &left, &total, &l.err) == TT_OK);
    CHECK(left > 0 && left <= total);
    CHECK(l.ops.alloc(l.lane, total + 1, &p, &l.err) == TT_E_NOMEM && p == 0);
    l.sync();
    for (int i = 0; i < 3; i++) { /* more than half: the one before has to go first */
        p = l.alloc(left / 16 * 9 / 4096 * 64);
        l.ops.free(l.lane, p);
    }
    for (int i = 0; i < 200; i++) { /* more than the list of the freed holds */
        l.ops.free(l.lane, l.alloc(100));
    }
    CHECK(l.ops.memory(l.lane, &again, &total, &l.err) == TT_OK);
    CHECK(again == left);
}

static void test_two_lanes()
{
    cuda_lane a, b(100, 64);
    CHECK(strcmp(a.ops.isa, "cuda") == 0);
    uint32_t one = 1, two = 2, got[2] = {};
    tt_dev p = a.alloc(4), q = b.alloc(4);
    a.ops.upload(a.lane, p, &one, 4);
    b.ops.upload(b.lane, q, &two, 4);
    a.ops.download(a.lane, &got[0], p, 4);
    b.ops.download(b.lane, &got[1], q, 4);
    b.sync();
    a.sync();
    CHECK(got[0] == 1 && got[1] == 2);
    a.ops.free(a.lane, p);
    b.ops.free(b.lane, q);
    a.ops.lane_destroy(nullptr);
    tt_lane *none = nullptr;
    a.ops.lane_destroy(&none);
}

static void test_table_is_full()
{
    tt_ops ops = {};
    tt_err err;
    CHECK(tt_cuda_module_get()->ops(0, &ops, &err) == TT_OK);
    /* Members are pointers of one size but for the last, the number of the device. */
    void (*p[offsetof(tt_ops, device) / sizeof(void (*)())])();
    memcpy(p, &ops, sizeof p);
    for (auto f : p) {
        CHECK(f != nullptr);
    }
}

static void test_devices()
{
    const tt_cuda_module *m = tt_cuda_module_get();
    tt_cuda_info info;
    tt_ops ops;
    tt_err err;
    int32_t n = m->count(&err);
    CHECK(n >= 1);
    CHECK(m->info(0, &info, &err) == TT_OK);
    CHECK(info.sm >= 80 && info.n_multiprocessors > 0 && info.name[0] != '\0');
    CHECK(info.free_bytes > 0 && info.free_bytes <= info.total_bytes && info.driver >= 13000);
    for (int32_t bad : {-1, n}) {
        CHECK(m->info(bad, &info, &err) == TT_E_INVALID && m->ops(bad, &ops, &err) == TT_E_INVALID);
    }
}

int main(int argc, char **argv)
{
    static const kit_test tests[] = {
        {"up_and_down", test_up_and_down},
        {"ring", test_ring},
        {"many_downloads", test_many_downloads},
        {"growth", test_growth},
        {"no_room", test_no_room},
        {"two_lanes", test_two_lanes},
        {"table_is_full", test_table_is_full},
        {"devices", test_devices},
#ifdef CUEMU
        {"waits", test_waits},
        {"every_call_fails", test_every_call_fails},
        {"device_lost", test_device_lost},
        {"module_faults", test_module_faults},
        {"table_products", test_table_products},
        {"table_attention", test_table_attention},
        {"memory_unsaid", test_memory_unsaid},
        {"old_part", test_old_part},
#endif
    };
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
