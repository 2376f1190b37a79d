/* test_table_cuda.cc - ops of the table whose calls fail in turn: the failure comes out of the
 * lane, and after it the op does its work; a device that does not say what memory it has, or is too
 * old. The rest of the table: test_lane_cuda.cc, test_lane_faults.cc, tests/checkops. Thread: one.
 */
#include <cstdlib>
#include <unistd.h>

#include "lane_rig.h"
#include "launch_rig.h"

typedef std::function<void(cuda_lane *)> op_fn;

/* A lane of its own for each call that fails, so that working memory and cuBLAS are asked for. */
static void check_op(const char *name, const op_fn &op)
{
    for (cudaError_t with : {cudaErrorMemoryAllocation, cudaErrorIllegalAddress}) {
        tt_code code = with == cudaErrorMemoryAllocation ? TT_E_NOMEM : TT_E_DEVICE;
        long n = 0, n_calls = 0;
        for (tt_code rc = code; rc != TT_OK && n < 100; n++) {
            cuda_lane l;
            cuemu_fail_after(n, with);
            n_calls = cuemu_calls();
            op(&l);
            n_calls = cuemu_calls() - n_calls;
            cuemu_fail_after(-1, cudaSuccess);
            rc = l.ops.lane_sync(l.lane, &l.err);
            kit_check(rc == code || rc == TT_OK, name, cuemu::here());
            op(&l); /* a lane without memory is good again, a lost device is not */
            kit_check(l.ops.lane_sync(l.lane, &l.err) == (rc == TT_E_DEVICE ? rc : TT_OK), name,
                      cuemu::here());
            cudaGetLastError();
        }
        kit_check(n_calls > 1 && n - 1 == n_calls, name, cuemu::here()); /* none was passed over */
    }
}

void test_table_products()
{
    launch_rig r;
    tt_matmul_bwd_args bwd = {}, none = {};
    bwd.dy[0] = r.p;
    bwd.dx = r.at(1);
    bwd.w[0] = &r.quantised;
    bwd.n_rows = ROWS;
    bwd.n_w = 1;
    tt_adapter_bwd_args lora = {r.p, r.at(1), ROWS, DIM, DIM, r.lora.layer};
    check_op("matmul_bwd", [&](cuda_lane *l) { l->ops.matmul_bwd(l->lane, &bwd); });
    check_op("adapter_bwd", [&](cuda_lane *l) { l->ops.adapter_bwd(l->lane, &lora); });
    cuda_lane idle;
    long launches = cuemu_launches();
    idle.ops.matmul_bwd(idle.lane, &none);
    idle.sync();
    CHECK(cuemu_launches() == launches);
}

void test_table_attention()
{
    launch_rig r;
    for (tt_family family : {TT_PREFILL, TT_DECODE}) {
        tt_attention_args a = r.attention(family);
        check_op("attention", [&](cuda_lane *l) { l->ops.attention(l->lane, &a); });
    }
}

void test_memory_unsaid()
{
    for (cudaError_t with : {cudaErrorUnknown, cudaErrorMemoryAllocation}) {
        for (int n = 0; n < 2; n++) {
            cuda_lane l;
            size_t free_bytes = 7, total = 7;
            cuemu_fail_after(n, with);
            tt_code rc = l.ops.memory(l.lane, &free_bytes, &total, &l.err);
            cuemu_fail_after(-1, cudaSuccess);
            CHECK(rc == (with == cudaErrorUnknown ? TT_E_DEVICE : TT_E_NOMEM));
            CHECK(free_bytes == 7 && strstr(l.err.msg, "how much memory") != nullptr);
            CHECK(l.ops.lane_sync(l.lane, &l.err) == (rc == TT_E_DEVICE ? rc : TT_OK));
            cudaGetLastError();
        }
    }
}

/* A part's age is read once: a process of its own sees another. */
void test_old_part()
{
    const char *sm = getenv("CUEMU_SM");
    if (sm != nullptr && atoi(sm) == 75) {
        tt_cuda_info info;
        tt_err err = {};
        CHECK(tt_cuda_module_get()->info(0, &info, &err) == TT_E_INVALID);
        CHECK(strstr(err.msg, "sm_75") != nullptr);
        return;
    }
    char self[256] = "", line[300];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    snprintf(line, sizeof line, "CUEMU_SM=75 '%.*s' old_part", (int)length, self);
    CHECK(system(line) == 0);
}
