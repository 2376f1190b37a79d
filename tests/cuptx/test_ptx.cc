/* test_ptx.cc - the interpreter on hand-written PTX: every opcode with every type that it takes
 * (what is forgotten is counted as a failure), the reader of PTX text, and what it refuses.
 * Thread: one. */
#include "fatbin.h"
#include "ptx_rig.h"

static void test_text()
{
    /* Comments, several statements a line, blocks, tables, labels that look like opcodes. */
    std::string text =
        ptx_kernel("/* a\n comment; */ .reg .b32 %r<9>; // more {\n"
                   "{ mov.u32 %r1, 5; { add.s32 %r1, %r1, 1; } }\n"
                   "bra.uni $add;\n trap;\n$add:\n@!%p1 mov.u32 %r2,\n%r1;\n"
                   "ld.global.u32 %r3, [numbers+4];\n ld.const.s8 %r4, [bytes+1];\n"
                   "st.global.u32 [%out], %r2; st.global.u32 [%out+4], %r3;"
                   "st.global.u32 [%out+8], %r4;",
                   ".file 1 \"some.cu\"\n.global .align 4 .u32 numbers[3] = {7, 0x8, 9};\n"
                   ".visible .const .align 1 .b8 bytes[2] = {1, 255};\n");
    text.insert(text.find("{\nld.param") + 2, "setp.ne.s32 %p1, 0, 0;\n.loc 1 2 3\n");
    std::vector<uint32_t> out = ptx_words(text, {0}, 3, 1);
    CHECK(out[0] == 6 && out[1] == 8 && out[2] == 0xffffffffu);
}

static void test_refusals()
{
    ptx_expect_abort("unknown opcode: frobnicate.s32 %r1, %r2", "frobnicate.s32 %r1, %r2;");
    ptx_expect_abort("test:12: .cc is not supported", "add.cc.u32 %r1, %r2, %r3;");
    ptx_expect_abort("not supported with these types", "add.f16 %r1, %r2, %r3;");
    ptx_expect_abort("not supported with these types", "add.sat.s32 %r1, %r2, %r3;");
    ptx_expect_abort("not supported with these types", "add.sat.f64 %r1, %r2, %r3;");
    ptx_expect_abort("not supported with these types", "fma.rn.ftz.f64 %r1, %r2, %r3, %r4;");
    ptx_expect_abort("not supported with these types", "rcp.approx.ftz.f64 %r1, %r2;");
    ptx_expect_abort("not supported with these types", "cvt.rz.f32.f64 %r1, %r2;");
    ptx_expect_abort("unknown name nobody", "mov.u32 %r1, nobody;");
    ptx_expect_abort("special register %clock.x", "mov.u32 %r1, %clock.x;");
    ptx_expect_abort("unknown label $L1", "bra $L1;");
    ptx_expect_abort("integer division by zero", "mov.u32 %r2, 0; div.u32 %r1, 1, %r2;");
    ptx_expect_abort("integer division by zero", "mov.u32 %r2, 0; rem.s32 %r1, 1, %r2;");
    ptx_expect_abort("trap", "trap;");
    ptx_expect_abort("functions that are not inlined", "ret; }\n.func f()\n{");
    ptx_expect_abort("not understood", "", ".surfref s;");
}

static void test_fatbin()
{
    std::string wrong;
    uint32_t words[8] = {1, 2, 3, 4};
    CHECK(cuptx::fatbin_ptx(words, &wrong).empty() && wrong == "not a fat binary");
    struct {
        uint32_t magic, version;
        const void *data;
    } wrapper = {0x466243b1, 1, words};
    CHECK(cuptx::fatbin_ptx(&wrapper, &wrong).empty());
    CHECK(wrong == "a fat binary of unknown format");
    words[0] = 0xba55ed50; /* a header of 16 bytes, no entries */
    words[1] = 1 | 16u << 16;
    words[2] = words[3] = 0;
    CHECK(cuptx::fatbin_ptx(&wrapper, &wrong).empty());
    CHECK(wrong.find("has no PTX") != std::string::npos);
}

/* The last of the table: knows what the others have tried. */
static void test_everything_tried()
{
    CHECK(ptx_untested() == 0);
}

static const kit_test tests[] = {
    {"text", test_text},
    {"refusals", test_refusals},
    {"fatbin", test_fatbin},
    {"integers", test_integers},
    {"bits", test_bits},
    {"floats", test_floats},
    {"doubles", test_doubles},
    {"conversions", test_conversions},
    {"comparisons", test_comparisons},
    {"moves_and_jumps", test_moves_and_jumps},
    {"loads_and_stores", test_loads_and_stores},
    {"atomics", test_atomics},
    {"addresses", test_addresses},
    {"async_copies", test_async_copies},
    {"shuffles", test_shuffles},
    {"barriers", test_barriers},
    {"matrices", test_matrices},
    {"everything_tried", test_everything_tried},
};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
