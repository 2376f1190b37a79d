/* test_train.cc - the kernels of training's ends, loss and optimiser, against kernels/ref. Thread:
 * one. */
#include "train_rig.h"

static const kit_test tests[] = {
    {"head", test_head},
    {"head_precision", test_head_precision},
    {"head_rows", test_head_rows},
    {"optim_begin", test_optim_begin},
    {"optim_step", test_optim_step},
    {"optim_dropped", test_optim_dropped},
    {"delta_norm", test_delta_norm},
#ifdef CUEMU
    {"head_faults", test_head_faults},
    {"optim_faults", test_optim_faults},
#else
    {"optim_unrolled", test_optim_unrolled},
#endif
};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
