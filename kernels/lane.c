/* lane.c - see lane.h. Memory of the CPU tables is plain host memory, calls are synchronous. */
#include "kernels/lane.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

#define MAX_THREADS 256

/* Blocks from HUGE_FROM bytes on begin at a huge page and ask for them: K/V pages are read in
 * pieces that lie apart, and each costs a walk of the page table otherwise. Memory that nobody has
 * written still costs nothing. */
#define HUGE_PAGE ((size_t)2 << 20)
#define HUGE_FROM ((size_t)16 << 20)

static void *alloc_aligned(tt_lane *lane, size_t n_bytes)
{
    if (n_bytes > PTRDIFF_MAX) { /* no allocator has that much, and sanitizers end the program */
        return NULL;
    }
    if (lane->n_allocs_left >= 0 && lane->n_allocs_left-- == 0) {
        lane->n_allocs_left = 0;
        return NULL;
    }
    size_t align = n_bytes >= HUGE_FROM ? HUGE_PAGE : TT_LANE_ALIGN;
    size_t n = n_bytes == 0 ? align : (n_bytes + align - 1) & ~(align - 1);
    void *p = aligned_alloc(align, n);
    if (p != NULL && align == HUGE_PAGE) {
        (void)madvise(p, n, MADV_HUGEPAGE); /* a wish: kernels without them refuse */
    }
    return p;
}

void tt_lane_fail(tt_lane *lane, tt_code code, const char *what)
{
    if (lane->err.code == TT_OK) {
        tt_fail(&lane->err, code, "%s", what);
    }
}

/* Old contents are not kept, so the old memory goes first: the peak is the larger of the two. */
static bool grow(tt_lane *lane, tt_lane_buf *buf, size_t n_bytes)
{
    if (buf->p != NULL && buf->n_bytes >= n_bytes) {
        return true;
    }
    free(buf->p);
    *buf = (tt_lane_buf){.p = alloc_aligned(lane, n_bytes)};
    if (buf->p == NULL) {
        tt_lane_fail(lane, TT_E_NOMEM, "out of memory for the scratch buffers of an operation");
        return false;
    }
    buf->n_bytes = n_bytes;
    return true;
}

void *tt_lane_scratch(tt_lane *lane, int slot, size_t n_bytes)
{
    assert(slot >= 0 && slot < TT_LANE_SLOTS);
    if (lane->err.code != TT_OK || !grow(lane, &lane->scratch[slot], n_bytes)) {
        return NULL;
    }
    return lane->scratch[slot].p;
}

bool tt_lane_reserve_threads(tt_lane *lane, size_t n_bytes)
{
    if (lane->err.code != TT_OK) {
        return false;
    }
    for (int i = 0; i < lane->n_threads; i++) {
        if (!grow(lane, &lane->thread[i], n_bytes)) {
            return false;
        }
    }
    return true;
}

static void lane_destroy(tt_lane **lane)
{
    if (lane == NULL || *lane == NULL) {
        return;
    }
    tt_lane *l = *lane;
    *lane = NULL;
    if (l->gemm_destroy != NULL) {
        l->gemm_destroy(l->gemm);
    }
    for (int i = 0; i < TT_LANE_SLOTS; i++) {
        free(l->scratch[i].p);
    }
    for (int i = 0; l->thread != NULL && i < l->n_threads; i++) {
        free(l->thread[i].p);
    }
    free(l->thread);
    free(l);
}

static tt_code lane_create(const tt_ops *ops, const tt_lane_options *opt, tt_lane **ret_lane,
                           tt_err *reterr)
{
    int n = opt->n_threads < 1 ? 1 : opt->n_threads > MAX_THREADS ? MAX_THREADS : opt->n_threads;
    tt_lane *lane = calloc(1, sizeof *lane);
    if (lane != NULL) {
        lane->thread = calloc((size_t)n, sizeof *lane->thread);
    }
    if (lane == NULL || lane->thread == NULL) {
        lane_destroy(&lane);
        return tt_fail(reterr, TT_E_NOMEM, "out of memory for a lane of %d threads", n);
    }
    lane->ops = ops;
    lane->n_threads = n;
    lane->n_allocs_left = -1;
    *ret_lane = lane;
    return TT_OK;
}

static tt_code lane_sync(tt_lane *lane, tt_err *reterr)
{
    tt_err err = lane->err;
    if (err.code == TT_OK) {
        return TT_OK;
    }
    if (err.code != TT_E_DEVICE) {
        lane->err = (tt_err){0};
    }
    return tt_fail(reterr, err.code, "%s", err.msg);
}

static tt_code lane_alloc(tt_lane *lane, size_t n_bytes, tt_dev *ret_addr, tt_err *reterr)
{
    void *p = alloc_aligned(lane, n_bytes);
    if (p == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory for a buffer of %zu bytes", n_bytes);
    }
    *ret_addr = tt_addr(p);
    return TT_OK;
}

static void lane_free(tt_lane *lane, tt_dev addr)
{
    (void)lane;
    free(tt_ptr(addr));
}

static void lane_upload(tt_lane *lane, tt_dev dst, const void *src, size_t n_bytes)
{
    (void)lane;
    if (n_bytes > 0) {
        memcpy(tt_ptr(dst), src, n_bytes);
    }
}

static void lane_download(tt_lane *lane, void *dst, tt_dev src, size_t n_bytes)
{
    (void)lane;
    if (n_bytes > 0) {
        memcpy(dst, tt_ptr(src), n_bytes);
    }
}

static void lane_copy(tt_lane *lane, tt_dev dst, tt_dev src, size_t n_bytes)
{
    (void)lane;
    if (n_bytes > 0) {
        memmove(tt_ptr(dst), tt_ptr(src), n_bytes);
    }
}

static void lane_zero(tt_lane *lane, tt_dev dst, size_t n_bytes)
{
    (void)lane;
    if (n_bytes > 0) {
        memset(tt_ptr(dst), 0, n_bytes);
    }
}

static tt_code lane_weight_load(tt_lane *lane, tt_weight *w, const void *file_bytes, tt_err *reterr)
{
    (void)lane;
    (void)reterr;
    w->data = tt_addr(file_bytes);
    return TT_OK;
}

void tt_ops_init_lane(tt_ops *ops)
{
    ops->lane_create = lane_create;
    ops->lane_destroy = lane_destroy;
    ops->lane_sync = lane_sync;
    ops->alloc = lane_alloc;
    ops->free = lane_free;
    ops->upload = lane_upload;
    ops->download = lane_download;
    ops->copy = lane_copy;
    ops->zero = lane_zero;
    ops->weight_load = lane_weight_load;
}
