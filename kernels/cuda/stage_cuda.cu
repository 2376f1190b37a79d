/* stage_cuda.cu - pinned staging of uploads and downloads; see lane_cuda.h. Copies to and from
 * pinned memory run beside the host; the engine's own memory is not pinned. Thread: the lane's. */
#include <stdlib.h>

#include "kernels/cuda/lane_cuda.h"
#include "kernels/cuda/warp_cuda.cuh"

cudaError_t stage_create(tt_lane *lane)
{
    stage_up *u = &lane->up;
    cudaError_t err =
        cudaMallocHost(reinterpret_cast<void **>(&u->p), STAGE_SEGMENTS * TT_CUDA_STAGE_BYTES);
    for (int i = 0; i < STAGE_SEGMENTS && err == cudaSuccess; i++) {
        err = cudaEventCreateWithFlags(&u->done[i], cudaEventDisableTiming);
    }
    return err;
}

void stage_destroy(tt_lane *lane)
{
    for (cudaEvent_t event : lane->up.done) {
        if (event != nullptr) {
            cudaEventDestroy(event);
        }
    }
    cudaFreeHost(lane->up.p);
    for (int i = 0; i < lane->down.n_blocks; i++) {
        cudaFreeHost(lane->down.block[i].p);
    }
}

/* ---- up ---- */

/* On to the next segment. The ring stays as it was on failure. */
static bool next_segment(tt_lane *lane)
{
    stage_up *u = &lane->up;
    int next = (u->at + 1) % STAGE_SEGMENTS;
    if (!lane_check(lane, cudaEventRecord(u->done[u->at], lane->stream), "an upload")) {
        return false;
    }
    u->pending[u->at] = true;
    if (u->pending[next] &&
        !lane_check(lane, cudaEventSynchronize(u->done[next]), "an upload's end")) {
        return false;
    }
    u->pending[next] = false;
    u->at = next;
    u->used = 0;
    return true;
}

void stage_upload(tt_lane *lane, tt_dev dst, const void *src, size_t n_bytes)
{
    stage_up *u = &lane->up;
    const char *from = static_cast<const char *>(src);
    while (n_bytes > 0) {
        if (u->used == TT_CUDA_STAGE_BYTES && !next_segment(lane)) {
            return;
        }
        size_t room = TT_CUDA_STAGE_BYTES - u->used, n = n_bytes < room ? n_bytes : room;
        char *at = u->p + (size_t)u->at * TT_CUDA_STAGE_BYTES + u->used;
        memcpy(at, from, n);
        u->used += n;
        if (!lane_check(
                lane,
                cudaMemcpyAsync(dev_ptr<char>(dst), at, n, cudaMemcpyHostToDevice, lane->stream),
                "an upload")) {
            return;
        }
        from += n;
        dst += n;
        n_bytes -= n;
    }
}

/* ---- down ---- */

void stage_arrived(tt_lane *lane)
{
    stage_down *d = &lane->down;
    for (int i = 0; i < d->n_pieces; i++) {
        memcpy(d->piece[i].dst, d->piece[i].src, d->piece[i].n_bytes);
    }
    d->n_pieces = 0;
    for (int i = 0; i < d->n_blocks; i++) {
        d->block[i].used = 0;
    }
    for (bool &pending : lane->up.pending) {
        pending = false;
    }
    lane->up.used = 0;
}

void stage_abandon(tt_lane *lane)
{
    lane->down.n_pieces = 0; /* what the blocks have in use stays so */
}

/* A block with room. When there is none a new one, large enough for all that is wanted; after too
 * many, or without memory, the stream has to run. */
static int block_with_room(tt_lane *lane, size_t n_bytes)
{
    stage_down *d = &lane->down;
    int i = 0;
    while (i < d->n_blocks && d->block[i].used == d->block[i].n_bytes) {
        i++;
    }
    if (i < d->n_blocks && d->n_pieces < STAGE_PIECES) {
        return i;
    }
    size_t grain = TT_CUDA_STAGE_BYTES, size = (n_bytes + grain - 1) / grain * grain;
    cudaError_t err = cudaErrorMemoryAllocation;
    if (i < STAGE_BLOCKS && d->n_pieces < STAGE_PIECES) {
        err = cudaMallocHost(reinterpret_cast<void **>(&d->block[i].p), size);
        if (err == cudaSuccess) {
            d->block[i].n_bytes = size;
            d->n_blocks++;
            return i;
        }
    }
    if (err == cudaErrorMemoryAllocation && d->n_blocks > 0) {
        cudaGetLastError();
        err = cudaStreamSynchronize(lane->stream);
        if (err == cudaSuccess) {
            stage_arrived(lane);
            return 0;
        }
    }
    lane_check(lane, err, "pinned memory for a download");
    return -1;
}

void stage_download(tt_lane *lane, void *dst, tt_dev src, size_t n_bytes)
{
    stage_down *d = &lane->down;
    char *to = static_cast<char *>(dst);
    while (n_bytes > 0) {
        int i = block_with_room(lane, n_bytes);
        if (i < 0) {
            return;
        }
        size_t room = d->block[i].n_bytes - d->block[i].used, n = n_bytes < room ? n_bytes : room;
        char *at = d->block[i].p + d->block[i].used;
        if (!lane_check(lane,
                        cudaMemcpyAsync(at, dev_ptr<const char>(src), n, cudaMemcpyDeviceToHost,
                                        lane->stream),
                        "a download")) {
            return;
        }
        d->block[i].used += n;
        d->piece[d->n_pieces++] = {to, at, n};
        to += n;
        src += n;
        n_bytes -= n;
    }
}
