/* test_ptx_select.cc - setp in every type, selp, mov, packing, jumps. Thread: one. */
#include <cmath>

#include "ptx_rig.h"

struct relation {
    const char *name;
    bool less, equal, greater;
};
static const relation RELATIONS[] = {{"eq", false, true, false}, {"ne", true, false, true},
                                     {"lt", true, false, false}, {"le", true, true, false},
                                     {"gt", false, false, true}, {"ge", false, true, true}};
static const relation UNSIGNED_RELATIONS[] = {{"lo", true, false, false},
                                              {"ls", true, true, false},
                                              {"hi", false, false, true},
                                              {"hs", false, true, true}};

static const char WRITE_P[] = " selp.u32 %x, 1, 0, %p;";

template <class T> static bool holds(const relation &r, T a, T b)
{
    return a < b ? r.less : a == b ? r.equal : r.greater;
}

template <class T>
static void compare(ptx_batch *batch, const relation *relations, size_t n, const std::string &type)
{
    for (size_t i = 0; i < n; i++) {
        for (T a : {(T)0, (T)1, (T)-1, (T)((T)1 << (sizeof(T) * 8 - 1))}) {
            for (T b : {(T)0, (T)1, (T)-1}) {
                std::string code = std::string("setp.") + relations[i].name + "." + type +
                                   " %p, %a, %b;" + WRITE_P;
                batch->add(code, {(uint64_t)a, (uint64_t)b}, holds(relations[i], a, b), 32);
            }
        }
    }
}

template <class T>
static void compare_floats(ptx_batch *batch, const std::string &type, uint64_t (*bits)(T))
{
    const T values[] = {0, -T(0), T(1.5), -INFINITY, NAN};
    for (const relation &r : RELATIONS) {
        for (T a : values) {
            for (T b : values) {
                bool nan = std::isnan(a) || std::isnan(b), ordered = !nan && holds(r, a, b);
                std::string begin = std::string("setp.") + r.name;
                std::string end = "." + type + " %p, %a, %b;" + WRITE_P;
                std::vector<uint64_t> in = {bits(a), bits(b)};
                batch->add(begin + end, in, ordered, 32);
                batch->add(begin + "u" + end, in, nan || ordered, 32);
                batch->add("setp.num" + end, in, !nan, 32);
                batch->add("setp.nan" + end, in, nan, 32);
            }
        }
    }
}

static void combinations(ptx_batch *batch)
{
    for (uint64_t a = 0; a < 2; a++) {
        for (uint64_t c = 0; c < 2; c++) {
            std::string begin = "setp.ne.s32 %c1, %b, 0; setp.ne.";
            std::string both = " selp.u32 %y, 2, 0, %q; selp.u32 %x, 1, 0, %p; or.b32 %x, %x, %y;";
            std::vector<uint64_t> in = {a, c};
            auto want = [](uint64_t p, uint64_t q) { return p | q << 1; };
            batch->add(begin + "and.s32 %p|%q, %a, 0, %c1;" + both, in, want(a & c, (a ^ 1) & c),
                       32);
            batch->add(begin + "or.s32 %p|%q, %a, 0, !%c1;" + both, in,
                       want(a | (c ^ 1), (a ^ 1) | (c ^ 1)), 32);
            batch->add(begin + "xor.s32 %p|%q, %a, 0, %c1;" + both, in, want(a ^ c, a ^ 1 ^ c), 32);
        }
    }
}

void test_comparisons()
{
    ptx_batch batch;
    compare<uint16_t>(&batch, RELATIONS, 6, "u16");
    compare<int16_t>(&batch, RELATIONS, 6, "s16");
    compare<uint32_t>(&batch, RELATIONS, 6, "u32");
    compare<int32_t>(&batch, RELATIONS, 6, "s32");
    compare<uint64_t>(&batch, RELATIONS, 6, "u64");
    compare<int64_t>(&batch, RELATIONS, 6, "s64");
    compare<uint16_t>(&batch, RELATIONS, 2, "b16");
    compare<uint32_t>(&batch, RELATIONS, 2, "b32");
    compare<uint64_t>(&batch, RELATIONS, 2, "b64");
    compare<uint16_t>(&batch, UNSIGNED_RELATIONS, 4, "u16");
    compare<uint32_t>(&batch, UNSIGNED_RELATIONS, 4, "u32");
    compare<uint64_t>(&batch, UNSIGNED_RELATIONS, 4, "u64");
    compare_floats<float>(&batch, "f32", bits_of_float);
    compare_floats<double>(&batch, "f64", bits_of_double);
    combinations(&batch);
    batch.run();
}

static void moves(ptx_batch *batch)
{
    const uint64_t a = 0x1122334455667788, b = 0x99aabbccddeeff00;
    batch->add("mov.b64 %x, %a;", {a}, a, 64);
    batch->add("mov.f32 %x, 0f3FC00000;", {}, bits_of_float(1.5f), 32);
    batch->add("mov.u32 %x, -2;", {}, 0xfffffffe, 32);
    batch->add("mov.u32 %x, WARP_SZ;", {}, 32, 32);
    batch->add("mov.u64 %x, 0xFFFFFFFFFFFFFFFF;", {}, ~0ull, 64);
    batch->add("mov.b32 %x, {%a, %b};", {a, b}, 0xff007788, 32);
    batch->add("mov.b64 %x, {%a, %b};", {a, b}, 0xddeeff0055667788, 64);
    batch->add("mov.b64 %x, {%a, %b, 5, %a};", {a, b}, 0x77880005ff007788, 64);
    batch->add("mov.b32 %x, {0, %a};", {a}, 0x77880000, 32);
    batch->add("mov.b32 {%y, %x}, %a;", {a}, 0x5566, 32);
    batch->add("mov.b64 {_, %x}, %a;", {a}, 0x11223344, 64);
    batch->add("mov.b64 {_, _, %x, _}, %a;", {a}, 0x3344, 64);
    batch->add("setp.eq.s32 %p, 0, 0; selp.b64 %x, %a, %b, %p;", {a, b}, a, 64);
    batch->add("setp.ne.s32 %p, 0, 0; selp.f32 %x, %a, %b, %p;", {a, b}, b, 32);
    batch->add("mov.u32 %x, 1; setp.ne.s32 %p, 0, 0; @%p mov.u32 %x, 2;", {}, 1, 32);
    batch->add("mov.u32 %x, 1; setp.ne.s32 %p, 0, 0; @!%p mov.u32 %x, 2;", {}, 2, 32);
}

/* A loop, a table of jumps, a return in the middle, a conditional one. */
static void jumps()
{
    std::string text = ptx_kernel("mov.u32 %i, 0; mov.u32 %sum, 0;\n"
                                  "$loop: add.s32 %sum, %sum, %i; add.s32 %i, %i, 1;\n"
                                  "setp.lt.s32 %p, %i, 5;\n@%p bra $loop;\n"
                                  "st.global.u32 [%out], %sum;\n"
                                  "ld.global.u32 %n, [%in];\n"
                                  "$table: .branchtargets\n $zero,\n $one, $zero;\n"
                                  "brx.idx %n, $table;\n"
                                  "$zero: st.global.u32 [%out+4], 70; exit;\n"
                                  "$one: st.global.u32 [%out+4], 71;\n");
    CHECK((ptx_words(text, {0}, 2, 1) == std::vector<uint32_t>{10, 70}));
    CHECK((ptx_words(text, {1}, 2, 1) == std::vector<uint32_t>{10, 71}));
    ptx_expect_abort("brx.idx: 7 of a table of 1", "$t: .branchtargets $l;\nbrx.idx 7, $t;\n$l:");
    std::string early = ptx_kernel("mov.u32 %t, %tid.x; shl.b32 %t4, %t, 2; cvt.u64.u32 %t8, %t4;"
                                   "add.s64 %o, %out, %t8; setp.eq.u32 %p, %t, 1;\n@%p ret;\n"
                                   "st.global.u32 [%o], 9;");
    CHECK((ptx_words(early, {0}, 3, 3) == std::vector<uint32_t>{9, 0, 9}));
}

static void specials()
{
    std::string body;
    const char *names[] = {"tid.x",   "tid.y",   "tid.z",   "ntid.x",   "ntid.y",   "ntid.z",
                           "ctaid.x", "ctaid.y", "ctaid.z", "nctaid.x", "nctaid.y", "nctaid.z"};
    int at = 0;
    for (const char *name : names) {
        body += std::string("mov.u32 %r, %") + name + "; @%p st.global.u32 [%out+" +
                std::to_string(4 * at++) + "], %r;\n";
    }
    /* One thread writes: the last of the last block, 3 + 3 + 31 + 1. */
    std::string text = ptx_kernel("mov.u32 %a, %tid.z; mov.u32 %b, %ctaid.z; add.u32 %c, %a, %b;"
                                  "mov.u32 %l, %laneid; mov.u32 %w, %warpid; add.u32 %c, %c, %l;"
                                  "add.u32 %c, %c, %w; setp.eq.u32 %p, %c, 38;\n" +
                                  body);
    kit_array<uint32_t> in(1), out(std::vector<uint32_t>(12, 0));
    ptx_launch(text, dim3(1, 1, 4), dim3(4, 4, 4), 0, {&in.p, &out.p});
    CHECK((out.get() == std::vector<uint32_t>{3, 3, 3, 4, 4, 4, 0, 0, 3, 1, 1, 4}));
}

void test_moves_and_jumps()
{
    ptx_batch batch;
    moves(&batch);
    batch.run();
    jumps();
    specials();
}
