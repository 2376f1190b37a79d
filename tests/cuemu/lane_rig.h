/* lane_rig.h - the CUDA table with a lane, for its tests. Thread: one. */
#ifndef CUEMU_LANE_RIG_H
#define CUEMU_LANE_RIG_H

#include "product_rig.h"

extern "C" {
#include "kernels/cuda_module.h"
const tt_cuda_module *tt_cuda_module_get(void);
}

struct cuda_lane {
    tt_ops ops = {};
    tt_lane *lane = nullptr;
    tt_err err = {};
    explicit cuda_lane(int32_t max_rows = 0, int32_t max_dim = 0)
    {
        tt_lane_options opt = {};
        opt.max_rows = max_rows;
        opt.max_dim = max_dim;
        CHECK(tt_cuda_module_get()->ops(0, &ops, &err) == TT_OK);
        CHECK(ops.lane_create(&ops, &opt, &lane, &err) == TT_OK);
    }
    ~cuda_lane()
    {
        ops.lane_destroy(&lane);
    }
    cuda_lane(const cuda_lane &) = delete;
    tt_dev alloc(size_t n_bytes)
    {
        tt_dev p = 0;
        CHECK(ops.alloc(lane, n_bytes, &p, &err) == TT_OK);
        return p;
    }
    void sync()
    {
        CHECK(ops.lane_sync(lane, &err) == TT_OK);
    }
};

/* test_lane_faults.cc */
void test_every_call_fails();
void test_device_lost();
void test_module_faults();
/* test_table_cuda.cc */
void test_table_products();
void test_table_attention();
void test_memory_unsaid();
void test_old_part();

#endif
