/* test_ptx_memory.cc - loads and stores of every type and space, atomics, generic addresses,
 * cp.async, and what ends the program. Thread: one. */
#include "ptx_rig.h"

struct memory_type {
    const char *name;
    int bytes;
    bool has_sign;
};
static const memory_type TYPES[] = {
    {"u8", 1, false},  {"s8", 1, true},   {"b8", 1, false},  {"u16", 2, false}, {"s16", 2, true},
    {"b16", 2, false}, {"u32", 4, false}, {"s32", 4, true},  {"b32", 4, false}, {"f32", 4, false},
    {"u64", 8, false}, {"s64", 8, true},  {"b64", 8, false}, {"f64", 8, false}};

/* What a register holds after a load of the low bytes of `word`. */
static uint64_t extended(const memory_type &t, uint64_t word)
{
    int unused = 64 - 8 * t.bytes;
    return t.has_sign ? (uint64_t)((int64_t)(word << unused) >> unused) : word << unused >> unused;
}

static void all_types()
{
    const uint64_t word = 0x91a2b3c4d5e6f788;
    const std::pair<const char *, const char *> spaces[] = {
        {".global", "%out"}, {".shared", "s"}, {".local", "l"}, {"", "%out"}};
    std::string body = ".local .align 8 .b8 l[8];\nld.global.u64 %a, [%in];\n";
    std::vector<uint64_t> want;
    for (const memory_type &t : TYPES) {
        for (const auto &space : spaces) {
            std::string name = std::string(space.first) + "." + t.name, at = space.second;
            body += "st" + name + " [" + at + "], %a; ld" + name + " %x, [" + at +
                    "]; st.global.u64 [%out+" + std::to_string(8 * want.size() + 8) + "], %x;\n";
            want.push_back(extended(t, word));
        }
    }
    std::string text = ptx_kernel(body, ".shared .align 8 .b8 s[8];\n");
    std::vector<uint32_t> got =
        ptx_words(text, {(uint32_t)word, (uint32_t)(word >> 32)}, want.size() * 2 + 2, 1);
    CHECK(memcmp(got.data() + 2, want.data(), want.size() * sizeof want[0]) == 0);
}

static void spaces()
{
    const char arrays[] = ".shared .align 16 .b8 s[32];\n.extern .shared .align 16 .b8 dyn[];\n"
                          ".const .align 4 .b32 c[2] = {11, 12};\n.global .align 4 .b32 g[1];\n";
    std::string text = ptx_kernel(
        ".local .align 16 .b8 l[32];\n.shared .align 4 .b8 more[4];\n"
        "st.shared.u32 [s+28], 1; st.shared.u32 [dyn+60], 2; st.local.u32 [l+4], 3;\n"
        "st.shared.u32 [more], 9; st.global.u32 [g], 13;\n"
        "mov.u32 %s, s; ld.shared.u32 %r, [%s+28]; st.global.u32 [%out], %r;\n"
        "mov.u64 %d, dyn; ld.shared.u32 %r, [%d+60]; st.global.u32 [%out+4], %r;\n"
        "mov.u64 %l, l; ld.local.u32 %r, [%l+4]; st.global.u32 [%out+8], %r;\n"
        "cvta.shared.u64 %g, %s; ld.u32 %r, [%g+28]; st.global.u32 [%out+12], %r;\n"
        "cvta.to.shared.u64 %b, %g; ld.shared.u32 %r, [%b+28]; st.global.u32 [%out+16], %r;\n"
        "cvta.local.u64 %g, %l; ld.u32 %r, [%g+4]; st.global.u32 [%out+20], %r;\n"
        "cvta.to.local.u64 %b, %g; ld.local.u32 %r, [%b+4]; st.global.u32 [%out+24], %r;\n"
        "ld.const.u32 %r, [c+4]; st.global.u32 [%out+28], %r;\n"
        "mov.u64 %c, c; cvta.const.u64 %g, %c; ld.u32 %r, [%g]; st.global.u32 [%out+32], %r;\n"
        "cvta.to.const.u64 %g, %g; ld.const.u32 %r, [%g]; add.u32 %r, %r, 0;\n"
        "mov.u64 %c, g; cvta.global.u64 %g, %c; ld.u32 %r, [%g]; st.global.u32 [%out+36], %r;\n"
        "cvta.to.global.u64 %g, %out; mov.b64 %p, k_in; ld.param.u64 %q, [%p];\n"
        "cvta.param.u64 %g2, %p; ld.u64 %q2, [%g2+8]; st.u32 [%q2+40], 77;\n"
        "cvta.to.param.u64 %g2, %g2; ld.param.u64 %q2, [%g2]; ld.global.u32 %r, [%q2];\n"
        "st.global.u32 [%g+44], %r; ld.shared.u32 %r, [more]; st.global.u32 [%out+48], %r;\n",
        arrays);
    std::vector<uint32_t> want = {1, 2, 3, 1, 1, 3, 3, 12, 11, 13, 77, 500, 9};
    CHECK(ptx_words(text, {500}, want.size(), 1, 64) == want);
}

static void vectors()
{
    std::string text =
        ptx_kernel("ld.global.v4.u32 {%a, %b, %c, %d}, [%in];\n"
                   "ld.global.nc.L1::no_allocate.v2.f32 {%e, %f}, [%in+8];\n"
                   "st.global.v2.u32 [%out], {%d, %c};\n"
                   "st.global.cs.v4.f32 [%out+16], {%e, %f, %a, %b};\n"
                   "ld.volatile.global.u32 %r, [%in+4]; st.global.u32 [%out+8], %r;");
    CHECK((ptx_words(text, {1, 2, 3, 4}, 8, 1) == std::vector<uint32_t>{4, 3, 2, 0, 3, 4, 1, 2}));
}

void test_loads_and_stores()
{
    spaces();
    vectors();
    all_types();
}

void test_atomics()
{
    struct {
        const char *op, *type;
        uint64_t old, a, want;
    } const cases[] = {{"add", "u32", 0xffffffff, 3, 2},
                       {"add", "s32", 5, (uint64_t)-7, (uint64_t)-2},
                       {"add", "u64", 0xffffffff, 3, 0x100000002},
                       {"add", "f32", bits_of_float(1.5f), bits_of_float(2), bits_of_float(3.5f)},
                       {"min", "u32", 0x80000000, 3, 3},
                       {"min", "s32", 0x80000000, 3, 0x80000000},
                       {"max", "u32", 0x80000000, 3, 0x80000000},
                       {"max", "s32", 0x80000000, 3, 3},
                       {"min", "u64", 1ull << 63, 3, 3},
                       {"max", "u64", 1ull << 63, 3, 1ull << 63},
                       {"and", "b32", 12, 10, 8},
                       {"or", "b32", 12, 10, 14},
                       {"xor", "b32", 12, 10, 6},
                       {"and", "b64", 12, 10, 8},
                       {"exch", "b32", 12, 10, 10},
                       {"exch", "b64", 12, 10, 10}};
    ptx_batch batch;
    int at = 0;
    for (const auto &c : cases) {
        std::string address = "[%in+" + std::to_string(32 * at) + "]", t = c.type;
        const int bits = t.substr(1) == "64" ? 64 : 32;
        std::string op = std::string(c.op) + "." + t;
        const char *space = at % 2 == 0 ? ".global." : ".";
        batch.add("atom" + (space + op) + " %o, " + address + ", %b; ld.global.b64 %x, " + address +
                      "; setp.ne.b" + std::to_string(bits) + " %p, %o, %a; @%p mov.b64 %x, 0x77;",
                  {c.old, c.a}, c.want, bits);
        at++;
        address = "[%in+" + std::to_string(32 * at) + "]";
        batch.add("red" + (space + op) + " " + address + ", %b; ld.global.b64 %x, " + address + ";",
                  {c.old, c.a}, c.want, bits);
        at++;
    }
    for (uint64_t wanted : {12, 13}) {
        for (const char *t : {"b32", "b64"}) {
            std::string address = "[%in+" + std::to_string(32 * at++) + "]";
            batch.add(std::string("atom.global.cas.") + t + " %o, " + address +
                          ", %b, %c; ld.global.b64 %x, " + address + ";",
                      {12, wanted, 99}, wanted == 12 ? 99 : 12, 32);
        }
    }
    batch.run();
    std::string shared = ptx_kernel("atom.shared.add.u32 %r, [s], 2; bar.sync 0;\n"
                                    "ld.shared.u32 %r, [s]; st.global.u32 [%out], %r;",
                                    ".shared .align 4 .b8 s[4];\n");
    CHECK(ptx_words(shared, {0}, 1, 64)[0] == 127); /* shared memory begins as -1 */
}

void test_addresses()
{
    const char arrays[] = ".shared .align 16 .b8 s[32];\n.shared .align 4 .b8 t[8];\n"
                          ".const .align 4 .b32 c[2] = {11, 12};\n";
    const struct {
        const char *sentence, *body;
    } cases[] = {
        {"k:", "ld.global.u32 %r, [%in+2];"},
        {"not aligned to 4", "ld.global.u32 %r, [%in+2];"},
        {"not aligned to 16", "ld.global.v4.u32 {%a,%b,%c,%d}, [%in+8];"},
        {"global access outside", "ld.global.u32 %r, [%in+32];"},
        {"global access outside", "ld.global.u32 %r, [%in+-4];"},
        {"global access outside", "st.global.u32 [%out+32], 1;"},
        {"global access outside", "mov.u64 %n, 0; ld.u32 %r, [%n];"},
        {"global access outside", "ld.const.u32 %r, [c+8];"},
        {"shared access outside", "ld.shared.u32 %r, [s+32];"},
        {"shared access outside", "ld.shared.u32 %r, [s+64];"},
        {"shared access outside", "st.shared.u32 [t+8], 1;"},
        {"shared access outside", "cvta.shared.u64 %g, s; ld.u32 %r, [%g+32];"},
        {"local access outside", ".local .align 4 .b8 l[8]; ld.local.u32 %r, [l+8];"},
        {"local access outside",
         ".local .align 4 .b8 l[8]; cvta.local.u64 %g, l; ld.u32 %r, [%g+8];"},
        {"parameter access outside", "ld.param.u64 %r, [k_out+8];"},
        {"is not of this space", "cvta.to.shared.u64 %g, %in;"},
        {"is not of this space", "cvta.shared.u64 %g, s; cvta.to.global.u64 %h, %g;"},
        {"cp.async of 8 of 8", "cp.async.cg.shared.global [s], [%in], 8;"},
        {"cp.async of 20 of 16", "cp.async.cg.shared.global [s], [%in], 16, 20;"},
        {"shared access outside", "cp.async.cg.shared.global [s+32], [%in], 16;"},
        {"global access outside", "cp.async.cg.shared.global [s], [%in+32], 16;"},
        {"global access outside", "cp.async.cg.shared.global [s], [%in+32], 16, 4;"},
        {"with a cp.async in flight", "cp.async.cg.shared.global [s], [%in], 16;"},
    };
    for (const auto &c : cases) {
        ptx_expect_abort(c.sentence, c.body, arrays);
    }
}

void test_async_copies()
{
    const char arrays[] = ".shared .align 16 .b8 s[64];\n";
    std::string text = ptx_kernel(
        "cp.async.cg.shared.global [s], [%in], 16;\ncp.async.commit_group;\n"
        "cp.async.ca.shared.global.L2::128B [s+16], [%in+16], 16, 4;\ncp.async.commit_group;\n"
        "cp.async.wait_group 1;\nld.shared.u32 %r, [s+4]; st.global.u32 [%out], %r;\n"
        "ld.shared.u32 %r, [s+16]; st.global.u32 [%out+4], %r;\n"
        "cp.async.wait_group 0;\nld.shared.u32 %r, [s+16]; st.global.u32 [%out+8], %r;\n"
        "ld.shared.u32 %r, [s+20]; st.global.u32 [%out+12], %r;\n"
        "cp.async.ca.shared.global [s+32], [%in+4], 4; cp.async.ca.shared.global [s+40], [%in], "
        "8;\n"
        "cp.async.cg.shared.global [s+48], [%in+1024], 16, 0;\n"
        "cp.async.wait_all;\nld.shared.u32 %r, [s+32]; st.global.u32 [%out+16], %r;\n"
        "ld.shared.u32 %r, [s+44]; st.global.u32 [%out+20], %r;\n"
        "ld.shared.u32 %r, [s+52]; st.global.u32 [%out+24], %r;\n",
        arrays);
    std::vector<uint32_t> in = {10, 11, 12, 13, 14, 15, 16, 17};
    std::vector<uint32_t> want = {11, ~0u, 14, 0, 11, 11, 0};
    CHECK(ptx_words(text, in, want.size(), 1) == want);
}
