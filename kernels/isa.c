/* isa.c - which instruction sets this machine has (CPUID) and its operating system saves (XGETBV).
 * Thread: pure functions. Source: Intel SDM volume 1, chapters 14 and 15. */
#include "kernels/ops.h"

#if defined(__x86_64__)
#include <cpuid.h>

enum {
    CPUID1_ECX_FMA = 1 << 12,
    CPUID1_ECX_OSXSAVE = 1 << 27,
    CPUID1_ECX_AVX = 1 << 28,
    CPUID1_ECX_F16C = 1 << 29,
    CPUID7_EBX_AVX2 = 1 << 5,
    CPUID7_EBX_AVX512F = 1 << 16,
    CPUID7_EBX_AVX512DQ = 1 << 17,
    CPUID7_EBX_AVX512BW = 1 << 30,
    CPUID7_ECX_AVX512VNNI = 1 << 11,
    CPUID71_EAX_AVX512BF16 = 1 << 5,
    XCR0_AVX = 0x06,   /* XMM, YMM */
    XCR0_AVX512 = 0xE6 /* plus mask registers and both halves of ZMM */
};
#define CPUID7_EBX_AVX512VL (1u << 31)

/* XCR0, the register states that the operating system saves. Assembler, because the intrinsic would
 * need the whole file compiled for machines that have XSAVE. */
static unsigned read_xcr0(void)
{
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

static bool has(unsigned reg, unsigned bits)
{
    return (reg & bits) == bits;
}

unsigned tt_isa_detect(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) ||
        !has(c, CPUID1_ECX_OSXSAVE | CPUID1_ECX_AVX | CPUID1_ECX_FMA | CPUID1_ECX_F16C)) {
        return 0;
    }
    unsigned xcr0 = read_xcr0();
    if (!has(xcr0, XCR0_AVX) || !__get_cpuid_count(7, 0, &a, &b, &c, &d) ||
        !has(b, CPUID7_EBX_AVX2)) {
        return 0;
    }
    unsigned max_leaf = a;
    unsigned isa = TT_ISA_AVX2;
    if (!has(xcr0, XCR0_AVX512) || !has(b, CPUID7_EBX_AVX512F | CPUID7_EBX_AVX512DQ |
                                               CPUID7_EBX_AVX512BW | CPUID7_EBX_AVX512VL)) {
        return isa;
    }
    isa |= TT_ISA_AVX512;
    if (!has(c, CPUID7_ECX_AVX512VNNI) || max_leaf < 1 ||
        !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !has(a, CPUID71_EAX_AVX512BF16)) {
        return isa;
    }
    return isa | TT_ISA_AVX512BF16;
}

#else

unsigned tt_isa_detect(void)
{
    return 0;
}

#endif

int tt_isa_parse(const char *name)
{
    static const struct {
        const char *name;
        int mask;
    } names[] = {
        {"ref", 0},
        {"avx2", TT_ISA_AVX2},
        {"avx512", TT_ISA_AVX2 | TT_ISA_AVX512},
        {"avx512bf16", TT_ISA_AVX2 | TT_ISA_AVX512 | TT_ISA_AVX512BF16},
        {"auto", TT_ISA_ALL},
    };
    for (size_t i = 0; name != NULL && i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i].name) == 0) {
            return names[i].mask;
        }
    }
    return -1;
}
