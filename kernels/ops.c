/* ops.c - fills the table of operations for the CPU. Thread: pure function. */
#include "kernels/ops.h"

#include "kernels/cpu/cpu.h"
#include "kernels/lane.h"
#include "kernels/ref/ref.h"

void tt_ops_get(tt_ops *ret_ops, unsigned mask)
{
    static const struct {
        unsigned isa;
        void (*init)(tt_ops *ops);
    } rising[] = {
        {TT_ISA_AVX2, tt_ops_init_avx2},
        {TT_ISA_AVX512, tt_ops_init_avx512},
        {TT_ISA_AVX512BF16, tt_ops_init_avx512bf16},
    };
    *ret_ops = (tt_ops){0};
    tt_ops_init_lane(ret_ops);
    tt_ops_init_ref(ret_ops);
    unsigned have = mask & tt_isa_detect();
    for (size_t i = 0; i < sizeof rising / sizeof *rising; i++) {
        /* A set without those below it is none: every folder counts on the tables under it. */
        if ((have & rising[i].isa) == 0) {
            break;
        }
        rising[i].init(ret_ops);
    }
}
