/* test_ptx_warp.cc - shuffles, votes, barriers, ldmatrix and mma in hand-written PTX. Expected
 * values are computed from the manual's rules here, apart from the interpreter. Thread: one. */
#include <cmath>

#include "ptx_rig.h"

/* Puts %t = tid, %in32 and %out32 = addresses of this thread's words. */
static const char THREAD[] = "mov.u32 %t, %tid.x; mul.wide.u32 %t4, %t, 4;\n"
                             "add.s64 %in32, %in, %t4; add.s64 %out32, %out, %t4;\n"
                             "ld.global.u32 %v, [%in32];\n";

static std::vector<uint32_t> counted(size_t n)
{
    std::vector<uint32_t> v(n);
    for (size_t i = 0; i < n; i++) {
        v[i] = 1000 + (uint32_t)i;
    }
    return v;
}

static void check_shuffle(const char *mode, int b, int width, int (*from)(int lane, int b))
{
    /* As __shfl_sync() and its kin are translated: segments of `width` lanes. */
    int c = (32 - width) << 8 | (std::string(mode) == "up" ? 0 : 31);
    std::string text = ptx_kernel(std::string(THREAD) + "shfl.sync." + mode + ".b32 %r|%p, %v, " +
                                  std::to_string(b) + ", " + std::to_string(c) +
                                  ", -1;\n@!%p add.u32 %r, %r, 5000;\nst.global.u32 [%out32], %r;");
    std::vector<uint32_t> got = ptx_words(text, counted(32), 32, 32);
    for (int lane = 0; lane < 32; lane++) {
        int first = lane / width * width, source = from(lane, b);
        if (std::string(mode) == "idx") {
            source = first + b % width;
        }
        /* Lanes below their segment may be read by bfly alone: only its end is a bound. */
        bool inside = (source >= first || std::string(mode) == "bfly") && source < first + width;
        uint32_t want = inside ? 1000 + (uint32_t)source : 6000 + (uint32_t)lane;
        if (got[(size_t)lane] != want) {
            printf("shfl %s %d of %d, lane %d: %u, not %u\n", mode, b, width, lane,
                   got[(size_t)lane], want);
            kit_check(false, "a shuffle", cuemu::here());
        }
    }
}

static std::string vote(const char *opcode, const char *condition)
{
    return ptx_kernel(std::string(THREAD) + "setp." + condition + "; " + opcode +
                      "\nst.global.u32 [%out32], %r;");
}

static void votes()
{
    struct {
        const char *opcode, *condition;
        uint32_t want;
    } const cases[] = {
        {"vote.sync.ballot.b32 %r, %p, -1;", "lt.u32 %p, %t, 5", 31},
        {"vote.sync.ballot.b32 %r, !%p, -1;", "lt.u32 %p, %t, 5", ~31u},
        {"vote.sync.any.pred %q, %p, -1; selp.u32 %r, 1, 0, %q;", "eq.u32 %p, %t, 31", 1},
        {"vote.sync.any.pred %q, %p, -1; selp.u32 %r, 1, 0, %q;", "eq.u32 %p, %t, 32", 0},
        {"vote.sync.all.pred %q, %p, -1; selp.u32 %r, 1, 0, %q;", "lt.u32 %p, %t, 32", 1},
        {"vote.sync.all.pred %q, %p, -1; selp.u32 %r, 1, 0, %q;", "lt.u32 %p, %t, 31", 0},
        {"vote.sync.uni.pred %q, %p, -1; selp.u32 %r, 1, 0, %q;", "lt.u32 %p, %t, 31", 0},
        {"vote.sync.uni.pred %q, %p, -1; selp.u32 %r, 1, 0, %q;", "gt.u32 %p, %t, 31", 1},
    };
    for (const auto &c : cases) {
        std::vector<uint32_t> got = ptx_words(vote(c.opcode, c.condition), counted(32), 32, 32);
        CHECK(got == std::vector<uint32_t>(32, c.want));
    }
}

void test_shuffles()
{
    for (int width : {32, 16, 4}) {
        for (int b : {0, 1, 3, 5}) {
            check_shuffle("up", b, width, [](int lane, int by) { return lane - by; });
            check_shuffle("down", b, width, [](int lane, int by) { return lane + by; });
            check_shuffle("bfly", b, width, [](int lane, int by) { return lane ^ by; });
            check_shuffle("idx", b, width, [](int, int by) { return by; });
        }
    }
    votes();
    ptx_expect_abort("names lanes that the block does not have", "bar.warp.sync -1;");
}

void test_barriers()
{
    /* Each thread reads what its neighbour in the next warp wrote. */
    for (const char *barrier :
         {"bar.sync 0", "barrier.sync 0", "barrier.sync.aligned 0", "barrier.cta.sync.aligned 0",
          "membar.cta; bar.sync 0", "membar.gl; bar.sync 0"}) {
        std::string text = ptx_kernel(
            std::string(THREAD) + "cvt.u32.u64 %s, %t4; st.shared.u32 [%s], %v;\n" + barrier +
                ";\nxor.b32 %s, %s, 128; ld.shared.u32 %r, [%s]; st.global.u32 [%out32], %r;",
            ".extern .shared .align 4 .b8 dyn[];\n");
        std::vector<uint32_t> got = ptx_words(text, counted(64), 64, 64, 256);
        for (uint32_t i = 0; i < 64; i++) {
            CHECK(got[i] == 1000 + (i ^ 32));
        }
    }
    struct {
        const char *opcode;
        uint32_t want;
    } const reductions[] = {
        {"red.popc.u32 %r, 0, %p;", 5},
        {"red.popc.u32 %r, 0, !%p;", 35},
        {"red.or.pred %q, 0, %p; selp.u32 %r, 1, 0, %q;", 1},
        {"red.and.pred %q, 0, %p; selp.u32 %r, 1, 0, %q;", 0},
    };
    for (const auto &r : reductions) {
        for (const char *name : {"bar.", "barrier.cta."}) {
            std::string code = std::string(name) + r.opcode;
            std::vector<uint32_t> got =
                ptx_words(vote(code.c_str(), "lt.u32 %p, %t, 5"), counted(40), 40, 40);
            CHECK(got == std::vector<uint32_t>(40, r.want));
        }
    }
    std::string warp = ptx_kernel(std::string(THREAD) + "bar.warp.sync -1;\n"
                                                        "st.global.u32 [%out32], %t;");
    CHECK(ptx_words(warp, counted(32), 32, 32)[31] == 31);
    ptx_expect_abort("there is only barrier 0", "bar.sync 1;");
}

/* The halves of shared memory are numbered; lane l gives row l % 8 of matrix l / 8. */
static void check_ldmatrix(int n_matrices, bool transposed)
{
    std::string registers, store;
    for (int m = 0; m < n_matrices; m++) {
        std::string r = "%m" + std::to_string(m);
        registers += (m == 0 ? "" : ",") + r;
        store += "st.global.u32 [%o+" + std::to_string(4 * m) + "], " + r + ";\n";
    }
    std::string text = ptx_kernel(
        std::string(THREAD) +
            "mul.lo.u32 %k, %t, 8; shl.b32 %at, %t, 4; mov.u32 %j, 0;\n"
            "$fill: cvt.u16.u32 %h, %k; st.shared.u16 [%at], %h; add.u32 %k, %k, 1;\n"
            "add.u32 %at, %at, 2; add.u32 %j, %j, 1; setp.lt.u32 %p, %j, 8; @%p bra $fill;\n"
            "bar.warp.sync -1;\nshl.b32 %row, %t, 4;\nldmatrix.sync.aligned.m8n8.x" +
            std::to_string(n_matrices) + (transposed ? ".trans" : "") + ".shared.b16 {" +
            registers + "}, [%row];\nmul.wide.u32 %o, %t, 16; add.s64 %o, %o, %out;\n" + store,
        ".extern .shared .align 16 .b8 dyn[];\n");
    std::vector<uint32_t> got = ptx_words(text, counted(32), 128, 32, 512);
    for (int lane = 0; lane < 32; lane++) {
        for (int m = 0; m < n_matrices; m++) {
            int row = lane / 4, column = lane % 4 * 2;
            int low = m * 64 + (transposed ? column * 8 + row : row * 8 + column);
            int high = m * 64 + (transposed ? (column + 1) * 8 + row : row * 8 + column + 1);
            CHECK(got[(size_t)(lane * 4 + m)] == ((uint32_t)low | (uint32_t)high << 16));
        }
    }
}

static uint32_t bf16_pair(float low, float high)
{
    return (uint32_t)(bits_of_float(low) >> 16 | bits_of_float(high) >> 16 << 16);
}

/* A [16, 16], B [16, 8], C [16, 8] of small integers, fragments as the manual's tables say. */
static void check_mma()
{
    auto a = [](int row, int k) { return (float)((row * 7 + k * 3) % 11 - 5); };
    auto b = [](int k, int column) { return (float)((k * 5 + column) % 9 - 4); };
    auto c = [](int row, int column) { return (float)(row - 2 * column) * 0.5f; };
    std::vector<uint32_t> in;
    for (int lane = 0; lane < 32; lane++) {
        int g = lane / 4, t = lane % 4 * 2;
        for (int k : {0, 8}) {
            in.push_back(bf16_pair(a(g, t + k), a(g, t + k + 1)));
            in.push_back(bf16_pair(a(g + 8, t + k), a(g + 8, t + k + 1)));
        }
        in.push_back(bf16_pair(b(t, g), b(t + 1, g)));
        in.push_back(bf16_pair(b(t + 8, g), b(t + 9, g)));
        in.push_back((uint32_t)bits_of_float(c(g, t)));
        in.push_back((uint32_t)bits_of_float(c(g, t + 1)));
        in.push_back((uint32_t)bits_of_float(c(g + 8, t)));
        in.push_back((uint32_t)bits_of_float(c(g + 8, t + 1)));
    }
    std::string load;
    const char *names[] = {"a0", "a1", "a2", "a3", "b0", "b1", "c0", "c1", "c2", "c3"};
    for (int i = 0; i < 10; i++) {
        load +=
            std::string("ld.global.u32 %") + names[i] + ", [%i+" + std::to_string(4 * i) + "];\n";
    }
    std::string text =
        ptx_kernel("mov.u32 %t, %tid.x; mul.wide.u32 %i, %t, 40; add.s64 %i, %i, %in;\n" + load +
                   "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%d0,%d1,%d2,%d3}, "
                   "{%a0,%a1,%a2,%a3}, {%b0,%b1}, {%c0,%c1,%c2,%c3};\n"
                   "mul.wide.u32 %o, %t, 16; add.s64 %o, %o, %out;\n"
                   "st.global.v4.f32 [%o], {%d0,%d1,%d2,%d3};");
    std::vector<uint32_t> got = ptx_words(text, in, 128, 32);
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float want = c(row, column);
            for (int k = 0; k < 16; k++) {
                want += a(row, k) * b(k, column);
            }
            CHECK(float_of_bits(got[(size_t)(lane * 4 + i)]) == want);
        }
    }
}

void test_matrices()
{
    for (int n : {1, 2, 4}) {
        check_ldmatrix(n, false);
        check_ldmatrix(n, true);
    }
    check_mma();
}
