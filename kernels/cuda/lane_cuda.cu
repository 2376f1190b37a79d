/* lane_cuda.cu - see lane_cuda.h: the life of a lane, its failures, its wait. Thread: the lane's.
 */
#include "kernels/cuda/lane_cuda.h"

#include <stdlib.h>

#include "kernels/cuda/warp_cuda.cuh"

tt_code lane_code(cudaError_t err)
{
    return err == cudaSuccess ? TT_OK : err == cudaErrorMemoryAllocation ? TT_E_NOMEM : TT_E_DEVICE;
}

bool lane_check(tt_lane *lane, cudaError_t err, const char *what)
{
    tt_code code = lane_code(err);
    if (code == TT_OK) {
        return true;
    }
    if (code == TT_E_NOMEM) {
        cudaGetLastError(); /* so that no later call is taken for the failed one */
    }
    if (lane->err.code == TT_OK || (lane->err.code == TT_E_NOMEM && code == TT_E_DEVICE)) {
        tt_fail(&lane->err, code,
                code == TT_E_NOMEM ? "out of device memory for %s (%s)" : "CUDA failed in %s: %s",
                what, cudaGetErrorString(err));
    }
    return false;
}

cudaError_t lane_choose(int device)
{
    static thread_local int current = -1;
    cudaError_t err = current == device ? cudaSuccess : cudaSetDevice(device);
    if (err == cudaSuccess) {
        current = device;
    }
    return err;
}

bool lane_enter(tt_lane *lane, bool strict)
{
    if (lane->err.code == TT_E_DEVICE || (strict && lane->err.code != TT_OK)) {
        return false;
    }
    return lane_check(lane, lane_choose(lane->device), "the choice of the device");
}

static cudaError_t of_status(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS        ? cudaSuccess
           : status == CUBLAS_STATUS_ALLOC_FAILED ? cudaErrorMemoryAllocation
                                                  : cudaErrorUnknown;
}

static cudaError_t set_up_blas(tt_lane *lane, cublasHandle_t blas)
{
    int major = 0;
    cudaError_t err =
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, lane->device);
    size_t n_bytes = TT_CUDA_BLAS_BYTES(major);
    if (err == cudaSuccess && lane->blas_space == 0) {
        err = lane_take(lane, n_bytes, &lane->blas_space);
    }
    if (err == cudaSuccess) {
        err = of_status(cublasSetStream(blas, lane->stream));
    }
    if (err == cudaSuccess) { /* after the stream, which takes a workspace away */
        err = of_status(cublasSetWorkspace(blas, dev_ptr<void>(lane->blas_space), n_bytes));
    }
    return err;
}

cublasHandle_t lane_blas(tt_lane *lane)
{
    if (lane->blas != nullptr) {
        return lane->blas;
    }
    cublasHandle_t blas = nullptr;
    cudaError_t err = of_status(cublasCreate(&blas));
    if (err == cudaSuccess) {
        err = set_up_blas(lane, blas);
        if (err == cudaSuccess) {
            lane->blas = blas;
        } else {
            cublasDestroy(blas);
        }
    }
    lane_check(lane, err, "cuBLAS");
    return lane->blas;
}

/* Waits before memory goes. Failures do not matter any more. */
static void lane_destroy(tt_lane **lane)
{
    tt_lane *l = lane != nullptr ? *lane : nullptr;
    if (l == nullptr) {
        return;
    }
    *lane = nullptr;
    lane_enter(l, false);
    if (l->stream != nullptr) {
        cudaStreamSynchronize(l->stream);
    }
    if (l->blas != nullptr) {
        cublasDestroy(l->blas);
    }
    lane_free_retired(l);
    for (size_t i = 0; i < l->n_weights; i++) {
        cudaFree(dev_ptr<void>(l->weights[i]));
    }
    cudaFree(dev_ptr<void>(l->scratch));
    cudaFree(dev_ptr<void>(l->blas_space));
    stage_destroy(l);
    if (l->stream != nullptr) {
        cudaStreamDestroy(l->stream);
    }
    cudaGetLastError();
    free(l->weights);
    free(l);
}

/* The memory that a step within the limits needs, but for decode's attention, which depends on how
 * long contexts are. */
static void reserve(tt_lane *lane, const tt_lane_options *opt)
{
    tt_cuda_products p = {};
    p.max_rows = opt->max_rows;
    p.max_dim = opt->max_dim;
    p.max_out = TT_CUDA_SLICE_ROWS;
    p.max_rank = 256;
    p.pass_rows = TT_CUDA_LANE_PASS_ROWS;
    if (lane_blas(lane) != nullptr) {
        lane_scratch(lane, tt_cuda_products_bytes(&p));
    }
}

static tt_code lane_create(const tt_ops *ops, const tt_lane_options *opt, tt_lane **ret_lane,
                           tt_err *reterr)
{
    tt_lane *lane = static_cast<tt_lane *>(calloc(1, sizeof(tt_lane)));
    if (lane == nullptr) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory for a lane");
    }
    lane->device = (int)ops->device;
    if (lane_enter(lane, true)) {
        lane_check(lane, cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking),
                   "a stream");
    }
    if (lane->err.code == TT_OK) {
        lane_check(lane, stage_create(lane), "pinned memory");
    }
    if (lane->err.code == TT_OK && opt->max_rows > 0 && opt->max_dim > 0) {
        reserve(lane, opt);
    }
    if (lane->err.code != TT_OK) {
        tt_err err = lane->err;
        lane_destroy(&lane);
        return tt_fail(reterr, err.code, "%s", err.msg);
    }
    *ret_lane = lane;
    return TT_OK;
}

static tt_code lane_sync(tt_lane *lane, tt_err *reterr)
{
    if (lane_enter(lane, false)) {
        if (lane_check(lane, cudaStreamSynchronize(lane->stream), "a step")) {
            stage_arrived(lane);
            lane_free_retired(lane);
        } else {
            stage_abandon(lane);
        }
    }
    tt_err err = lane->err;
    if (err.code == TT_OK) {
        return TT_OK;
    }
    if (err.code != TT_E_DEVICE) {
        lane->err.code = TT_OK;
    }
    return tt_fail(reterr, err.code, "%s", err.msg);
}

void table_init_lane(tt_ops *ops)
{
    ops->lane_create = lane_create;
    ops->lane_destroy = lane_destroy;
    ops->lane_sync = lane_sync;
}
