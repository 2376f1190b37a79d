/* test_unknown_ids.cc - an embedding of every type with ids that its table does not have: rows of
 * NaN, long enough for loops that nvcc unrolls. Thread: one. */
#include "kernels/cuda/launch_cuda.h"
#include "tests/cuemu/test_kit.h"

#include <cmath>

extern "C" {
#include "kernels/lane.h"
#include "kernels/quant.h"
}

static void test_unknown_ids()
{
    for (int type = 0; type < TT_DTYPE_COUNT; type++) {
        if (type == TT_I8) { /* no weight has it */
            continue;
        }
        const int64_t rows = 2, cols = 2304;
        kit_stream s;
        kit_array<uint8_t> table(
            std::vector<uint8_t>((size_t)(rows * tt_row_bytes((tt_dtype)type, cols)), 0));
        kit_array<int32_t> ids(std::vector<int32_t>{1, 2, -1, 0});
        kit_array<float> x((size_t)(4 * cols));
        tt_weight w = {(tt_dtype)type, rows, cols, tt_addr(table.p)};
        tt_embed_args a = {tt_addr(ids.p), &w, tt_addr(x.p), 4, 2.0f};
        CHECK_OK(tt_cuda_embed(s.s, &a));
        s.sync();
        std::vector<float> got = x.get();
        for (size_t i = 0; i < got.size(); i++) {
            size_t row = i / (size_t)cols;
            CHECK(row == 0 || row == 3 ? got[i] == 0.0f : std::isnan(got[i]));
        }
    }
}

static const kit_test tests[] = {{"unknown_ids", test_unknown_ids}};

int main(int argc, char **argv)
{
    return kit_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
