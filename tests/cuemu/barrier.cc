/* barrier.cc - __syncthreads and its reductions. Stricter than hardware on purpose: all threads of
 * the block arrive, at one line. Thread: fibers of a block. */
#include "runtime.h"

namespace cuemu
{

static void complete(block *b)
{
    for (int i = 0; i < 3; i++) {
        b->result[i] = b->acc[i];
    }
    b->acc[REDUCE_OR] = b->acc[REDUCE_COUNT] = 0;
    b->acc[REDUCE_AND] = 1;
    b->n_at_barrier = 0;
    b->barrier_round++;
    make_all_ready(&b->at_barrier);
}

int sync_reduce(place at, int value, reduce_op op)
{
    block *b = self()->blk;
    if (b->n_live != b->n_threads) {
        fail(at, "__syncthreads after a thread of the block has exited");
    }
    if (b->n_at_barrier != 0 && !same_place(b->barrier_at, at)) {
        fail(at, "divergent __syncthreads: others wait at %s:%d", b->barrier_at.file,
             b->barrier_at.line);
    }
    b->barrier_at = at;
    b->acc[REDUCE_OR] |= value != 0;
    b->acc[REDUCE_AND] &= value != 0;
    b->acc[REDUCE_COUNT] += value != 0;
    unsigned round = b->barrier_round & 1u;
    hb_release(&b->hb_barrier[round]);
    if (++b->n_at_barrier == b->n_live) {
        complete(b);
    } else {
        wait_in(&b->at_barrier, "__syncthreads", at);
    }
    hb_acquire(&b->hb_barrier[round]);
    return b->result[op];
}

void sync_threads(place at)
{
    sync_reduce(at, 0, REDUCE_OR);
}

} // namespace cuemu
