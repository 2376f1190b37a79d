/* test_isa.c - kernels/isa.c and ops.c: names, detection against the kernel's own list, how tables
 * are filled. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/ops.h"

static void names(void **state)
{
    (void)state;
    assert_int_equal(tt_isa_parse("ref"), 0);
    assert_int_equal(tt_isa_parse("avx2"), TT_ISA_AVX2);
    assert_int_equal(tt_isa_parse("avx512"), TT_ISA_AVX2 | TT_ISA_AVX512);
    assert_int_equal(tt_isa_parse("avx512bf16"), TT_ISA_ALL);
    assert_int_equal(tt_isa_parse("auto"), TT_ISA_ALL);
    assert_int_equal(tt_isa_parse(""), -1);
    assert_int_equal(tt_isa_parse("AVX2"), -1);
    assert_int_equal(tt_isa_parse("avx2 "), -1);
    assert_int_equal(tt_isa_parse(NULL), -1);
}

/* Linux lists what CPUID has and the system enables. */
static bool flag_of(const char *flags, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = flags; (p = strstr(p, name)) != NULL; p += n) {
        if (p[-1] == ' ' && (p[n] == ' ' || p[n] == '\n')) {
            return true;
        }
    }
    return false;
}

static void agrees_with_the_system(void **state)
{
    (void)state;
    static char flags[16384];
    FILE *f = fopen("/proc/cpuinfo", "r");
    bool found = false;
    while (f != NULL && !found && fgets(flags, sizeof flags, f) != NULL) {
        found = strncmp(flags, "flags", 5) == 0;
    }
    if (f != NULL) {
        fclose(f);
    }
    if (!found) {
        print_message("skip: /proc/cpuinfo lists no flags here\n");
        skip();
    }
    unsigned want = 0;
    if (flag_of(flags, "avx2") && flag_of(flags, "fma") && flag_of(flags, "f16c")) {
        want = TT_ISA_AVX2;
        if (flag_of(flags, "avx512f") && flag_of(flags, "avx512dq") && flag_of(flags, "avx512bw") &&
            flag_of(flags, "avx512vl")) {
            want |= TT_ISA_AVX512;
            if (flag_of(flags, "avx512_vnni") && flag_of(flags, "avx512_bf16")) {
                want |= TT_ISA_AVX512BF16;
            }
        }
    }
    assert_int_equal(tt_isa_detect(), want);
}

static bool full(const tt_ops *ops)
{
    /* Members are pointers of one size; none may be left out but those that only CUDA has. */
    void (*p[offsetof(tt_ops, memory) / sizeof(void (*)(void))])(void);
    memcpy(p, ops, sizeof p);
    for (size_t i = 0; i < sizeof p / sizeof *p; i++) {
        if (p[i] == NULL) {
            return false;
        }
    }
    return true;
}

static void every_table_is_full(void **state)
{
    (void)state;
    static const char *const isa[] = {"ref", "avx2", "avx512", "avx512bf16"};
    for (int i = 0; i < 4; i++) {
        tt_ops ops;
        memset(&ops, 0, sizeof ops);
        tt_ops_get(&ops, (unsigned)tt_isa_parse(isa[i]));
        assert_true(full(&ops));
        unsigned want = (unsigned)tt_isa_parse(isa[i]);
        if ((tt_isa_detect() & want) == want) {
            assert_string_equal(ops.isa, isa[i]);
        }
    }
}

static void a_mask_takes_sets_away(void **state)
{
    (void)state;
    tt_ops ref, ops;
    tt_ops_get(&ref, 0);
    assert_string_equal(ref.isa, "ref");
    /* A set without the one below it does not count. */
    tt_ops_get(&ops, TT_ISA_AVX512 | TT_ISA_AVX512BF16);
    assert_memory_equal(&ops, &ref, sizeof ref);
    if (tt_isa_detect() & TT_ISA_AVX2) {
        tt_ops_get(&ops, TT_ISA_AVX2);
        assert_true(ops.matmul != ref.matmul);
    } else {
        print_message("skip: no AVX2 here\n");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(agrees_with_the_system),
        cmocka_unit_test(every_table_is_full),
        cmocka_unit_test(a_mask_takes_sets_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
