/* memory_cuda.cu - device memory of a lane: the table's alloc, free, copies and weights, the
 * scratch memory of ops. Thread: the lane's. */
#include <stdlib.h>

#include "kernels/cuda/lane_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

cudaError_t lane_take(tt_lane *lane, size_t n_bytes, tt_dev *ret_addr)
{
    void *p = nullptr;
    size_t n = n_bytes > 0 ? n_bytes : 256;
    cudaError_t err = cudaMalloc(&p, n);
    if (err == cudaErrorMemoryAllocation && lane->n_retired > 0) {
        cudaGetLastError(); /* forgotten: no later call is to be taken for the failed one */
        err = cudaStreamSynchronize(lane->stream);
        if (err == cudaSuccess) {
            lane_free_retired(lane);
            err = cudaMalloc(&p, n);
        }
    }
    if (err == cudaSuccess) {
        *ret_addr = (tt_dev)(uintptr_t)p;
    } else if (err == cudaErrorMemoryAllocation) {
        cudaGetLastError();
    }
    return err;
}

void lane_retire(tt_lane *lane, tt_dev addr)
{
    if (addr == 0) {
        return;
    }
    if (lane->n_retired == LANE_RETIRED) {
        lane_check(lane, cudaFree(dev_ptr<void>(addr)), "giving memory back"); /* which waits */
        return;
    }
    lane->retired[lane->n_retired++] = addr;
}

void lane_free_retired(tt_lane *lane)
{
    for (int i = 0; i < lane->n_retired; i++) {
        lane_check(lane, cudaFree(dev_ptr<void>(lane->retired[i])), "giving memory back");
    }
    lane->n_retired = 0;
}

tt_dev lane_scratch(tt_lane *lane, size_t n_bytes)
{
    if (n_bytes <= lane->scratch_bytes && lane->scratch != 0) {
        return lane->scratch;
    }
    size_t n = (n_bytes + TT_CUDA_GRAIN_BYTES - 1) / TT_CUDA_GRAIN_BYTES * TT_CUDA_GRAIN_BYTES;
    n = n > 0 ? n : TT_CUDA_GRAIN_BYTES;
    /* The old one goes first: the peak is the larger of the two when memory is short. */
    lane_retire(lane, lane->scratch);
    lane->scratch = 0;
    lane->scratch_bytes = 0;
    if (lane_check(lane, lane_take(lane, n, &lane->scratch),
                   "the memory that operations work in")) {
        lane->scratch_bytes = n;
    }
    return lane->scratch;
}

/* ---- the table's ---- */

static tt_code memory_alloc(tt_lane *lane, size_t n_bytes, tt_dev *ret_addr, tt_err *reterr)
{
    if (!lane_enter(lane, false)) {
        return tt_fail(reterr, lane->err.code, "%s", lane->err.msg);
    }
    cudaError_t err = lane_take(lane, n_bytes, ret_addr);
    if (err == cudaErrorMemoryAllocation) {
        return tt_fail(reterr, TT_E_NOMEM, "out of device memory for a buffer of %zu bytes",
                       n_bytes);
    }
    if (!lane_check(lane, err, "an allocation")) {
        return tt_fail(reterr, lane->err.code, "%s", lane->err.msg);
    }
    return TT_OK;
}

static void memory_free(tt_lane *lane, tt_dev addr)
{
    lane_enter(lane, false);
    lane_retire(lane, addr);
}

static void memory_upload(tt_lane *lane, tt_dev dst, const void *src, size_t n_bytes)
{
    if (n_bytes > 0 && lane_enter(lane, false)) {
        stage_upload(lane, dst, src, n_bytes);
    }
}

static void memory_download(tt_lane *lane, void *dst, tt_dev src, size_t n_bytes)
{
    if (n_bytes > 0 && lane_enter(lane, false)) {
        stage_download(lane, dst, src, n_bytes);
    }
}

static void memory_copy(tt_lane *lane, tt_dev dst, tt_dev src, size_t n_bytes)
{
    if (n_bytes > 0 && lane_enter(lane, false)) {
        lane_check(lane,
                   cudaMemcpyAsync(dev_ptr<char>(dst), dev_ptr<const char>(src), n_bytes,
                                   cudaMemcpyDeviceToDevice, lane->stream),
                   "a copy");
    }
}

static void memory_zero(tt_lane *lane, tt_dev dst, size_t n_bytes)
{
    if (n_bytes > 0 && lane_enter(lane, false)) {
        lane_check(lane, cudaMemsetAsync(dev_ptr<char>(dst), 0, n_bytes, lane->stream), "a fill");
    }
}

static tt_code memory_weight_load(tt_lane *lane, tt_weight *w, const void *file_bytes,
                                  tt_err *reterr)
{
    if (lane->n_weights == lane->weights_cap) {
        size_t cap = lane->weights_cap > 0 ? 2 * lane->weights_cap : 64;
        void *p = realloc(lane->weights, cap * sizeof *lane->weights);
        if (p == nullptr) {
            return tt_fail(reterr, TT_E_NOMEM, "no memory for the list of weights");
        }
        lane->weights = static_cast<tt_dev *>(p);
        lane->weights_cap = cap;
    }
    size_t n_bytes = (size_t)(w->rows * tt_row_bytes(w->type, w->cols));
    tt_dev at = 0;
    tt_code rc = memory_alloc(lane, n_bytes, &at, reterr);
    if (rc == TT_OK) {
        lane->weights[lane->n_weights++] = at;
        w->data = at;
        memory_upload(lane, at, file_bytes, n_bytes);
    }
    return rc;
}

static tt_code memory_left(tt_lane *lane, size_t *ret_free, size_t *ret_total, tt_err *reterr)
{
    size_t free_bytes = 0, total_bytes = 0;
    if (!lane_enter(lane, false)) {
        return tt_fail(reterr, lane->err.code, "%s", lane->err.msg);
    }
    cudaError_t err = cudaStreamSynchronize(lane->stream);
    if (err == cudaSuccess) {
        lane_free_retired(lane);
        err = cudaMemGetInfo(&free_bytes, &total_bytes);
    }
    if (err != cudaSuccess) {
        lane_check(lane, lane_code(err) == TT_E_DEVICE ? err : cudaSuccess, "a look at the memory");
        return tt_fail(reterr, lane_code(err), "the device does not say how much memory it has: %s",
                       cudaGetErrorString(err));
    }
    *ret_free = free_bytes;
    *ret_total = total_bytes;
    return TT_OK;
}

void table_init_memory(tt_ops *ops)
{
    ops->alloc = memory_alloc;
    ops->free = memory_free;
    ops->upload = memory_upload;
    ops->download = memory_download;
    ops->copy = memory_copy;
    ops->zero = memory_zero;
    ops->weight_load = memory_weight_load;
    ops->memory = memory_left;
}
