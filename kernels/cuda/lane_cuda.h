/* lane_cuda.h - the lane of the CUDA table: one stream, cuBLAS on it, the memory that ops work in,
 * pinned staging for what goes up and down, and the sticky failure. Inside kernels/cuda. Thread:
 * one at a time, any; each call makes the lane's device the thread's.
 *
 * One stream, because every op of a step reads what the one before it wrote: there is nothing to
 * run beside it. Nothing here waits for the device but lane_sync(), `memory`, and what has no
 * choice: an upload when the ring is full, an allocation that fails while freed memory waits. */
#ifndef TT_LANE_CUDA_H
#define TT_LANE_CUDA_H

#include "kernels/cuda/product_cuda.h"

/* Tests of the emulated module want small ones, to be at their ends often. */
#ifndef TT_CUDA_LANE_PASS_ROWS
#define TT_CUDA_LANE_PASS_ROWS TT_CUDA_PASS_ROWS
#endif
#ifndef TT_CUDA_STAGE_BYTES
#define TT_CUDA_STAGE_BYTES ((size_t)4 << 20) /* of a segment: enough for DMA at full speed */
#endif
#ifndef TT_CUDA_GRAIN_BYTES
#define TT_CUDA_GRAIN_BYTES ((size_t)2 << 20) /* CUDA's own granularity for large allocations */
#endif
/* cuBLAS's advice for its workspace, by the part's major number. It is ours so that what cuBLAS
 * chooses depends on no other allocation. */
#ifndef TT_CUDA_BLAS_BYTES
#define TT_CUDA_BLAS_BYTES(major) ((size_t)((major) >= 9 ? 32 : 4) << 20)
#endif

enum {
    STAGE_SEGMENTS =
        4,             /* of the ring of uploads: one is filled while the others are on their way */
    STAGE_BLOCKS = 16, /* of downloads */
    STAGE_PIECES = 256, /* downloads between two lane_sync() */
    LANE_RETIRED = 64   /* freed memory that the stream may still use */
};

/* Uploads: bytes are copied into the current segment and go on from there. A full segment is marked
 * by an event, and is written again when that was reached. */
struct stage_up {
    char *p; /* owned, pinned [STAGE_SEGMENTS][TT_CUDA_STAGE_BYTES] */
    cudaEvent_t done[STAGE_SEGMENTS];
    bool pending[STAGE_SEGMENTS]; /* marked */
    int at;
    size_t used; /* of segment `at` */
};

/* Downloads: into pinned blocks while the stream runs, from there to their place in lane_sync(). */
struct stage_down {
    struct {
        char *p; /* owned, pinned */
        size_t n_bytes, used;
    } block[STAGE_BLOCKS];
    int n_blocks;
    struct {
        void *dst;
        const char *src;
        size_t n_bytes;
    } piece[STAGE_PIECES];
    int n_pieces;
};

struct tt_lane {
    int device;
    cudaStream_t stream; /* owned */
    tt_err err;          /* first failure since the last lane_sync(); TT_E_DEVICE stays */
    cublasHandle_t blas; /* owned; made with the first product */
    tt_dev blas_space;
    tt_dev scratch; /* owned: what the op at work needs; grows */
    size_t scratch_bytes;
    tt_dev retired[LANE_RETIRED];
    int n_retired;
    tt_dev *weights; /* owned */
    size_t n_weights, weights_cap;
    stage_up up;
    stage_down down;
};

/* Makes a device the thread's, for the calls that follow. */
cudaError_t lane_choose(int device);
/* The lane's; false = the lane has failed, with TT_E_NOMEM only where
 * `strict`. */
bool lane_enter(tt_lane *lane, bool strict);
/* Records a failure; the first one stays, but TT_E_DEVICE is stronger than TT_E_NOMEM. True when
 * there was none. */
bool lane_check(tt_lane *lane, cudaError_t err, const char *what);
tt_code lane_code(cudaError_t err);

/* Memory that lives until lane_release(). Frees what is retired, after a wait, when there is too
 * little. */
cudaError_t lane_take(tt_lane *lane, size_t n_bytes, tt_dev *ret_addr);
/* Frees when the stream has run. */
void lane_retire(tt_lane *lane, tt_dev addr);
/* Frees what is retired; the stream must have run. */
void lane_free_retired(tt_lane *lane);
/* At least n_bytes for one op, aligned to 256; 0 = a failure was recorded. */
tt_dev lane_scratch(tt_lane *lane, size_t n_bytes);
/* cuBLAS on the lane's stream; NULL = a failure was recorded. */
cublasHandle_t lane_blas(tt_lane *lane);

/* ---- staging (stage_cuda.cu) ---- */

cudaError_t stage_create(tt_lane *lane);
void stage_destroy(tt_lane *lane);
void stage_upload(tt_lane *lane, tt_dev dst, const void *src, size_t n_bytes);
void stage_download(tt_lane *lane, void *dst, tt_dev src, size_t n_bytes);
/* The stream has run: uploads may begin anew, downloads get to their places. */
void stage_arrived(tt_lane *lane);
/* The stream may still run, and nobody waits for the downloads any more. */
void stage_abandon(tt_lane *lane);

/* ---- parts of the table ---- */

void table_init_memory(tt_ops *ops); /* memory_cuda.cu */
void table_init_lane(tt_ops *ops);   /* lane_cuda.cu */
void table_init_ops(tt_ops *ops);    /* table_cuda.cu */

#endif
