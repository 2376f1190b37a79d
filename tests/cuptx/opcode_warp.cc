/* opcode_warp.cc - barriers, warp collectives, ldmatrix and mma, on the rendezvous of tests/cuemu.
 * ldmatrix is decoded here, apart from compat.cuh's twin of it; the sums of mma are the runtime's,
 * whose layout test_device checks against the manual. Source: PTX ISA 9.0, "Parallel
 * Synchronization and Communication", "Warp Level Matrix" instructions. Thread: a fiber's. */
#include "opcode.h"

namespace cuptx
{

using cuemu::WARP;

enum shuffle_kind { UP, DOWN, BUTTERFLY, INDEX };

/* c: the segment's mask in bits 8..12, the bound in bits 0..4. Out of bounds is the lane itself. */
static void shuffle(thread_state &t, const instruction &i)
{
    int lane = cuemu::current->lane;
    int b = get<int>(t, i.src[1]) & 31, c = get<int>(t, i.src[2]);
    int segment = c >> 8 & 31, bound = c & 31, first = lane & segment;
    int last = first | (bound & ~segment);
    int from = i.mode == UP          ? lane - b
               : i.mode == DOWN      ? lane + b
               : i.mode == BUTTERFLY ? lane ^ b
                                     : first | (b & ~segment);
    bool in_bounds = i.mode == UP ? from >= last : from <= last;
    uint32_t mine = get<uint32_t>(t, i.src[0]), mask = get<uint32_t>(t, i.src[3]);
    uint64_t got = cuemu::shuffle(mask, mine, in_bounds ? from : lane, where(t, i));
    put<uint32_t>(t, i.dst[0], (uint32_t)got);
    if (i.second >= 0) {
        t.r[i.second] = in_bounds;
    }
}

enum vote_kind { BALLOT, ANY, ALL, UNIFORM };

static void vote(thread_state &t, const instruction &i)
{
    uint32_t mask = get<uint32_t>(t, i.src[1]);
    unsigned votes = cuemu::ballot(mask, predicate_of(t, i, 0), where(t, i));
    switch (i.mode) {
    case BALLOT:
        put<uint32_t>(t, i.dst[0], votes);
        break;
    case ANY:
        t.r[i.dst[0]] = votes != 0;
        break;
    case ALL:
        t.r[i.dst[0]] = votes == mask;
        break;
    case UNIFORM:
        t.r[i.dst[0]] = votes == mask || votes == 0;
        break;
    }
}

static void warp_barrier(thread_state &t, const instruction &i)
{
    cuemu::sync_warp(get<uint32_t>(t, i.src[0]), where(t, i));
}

static void check_barrier(const thread_state &t, const instruction &i)
{
    if (t.r[i.src[0]] != 0) {
        cuemu::fail(where(t, i), "barrier %llu: there is only barrier 0",
                    (unsigned long long)t.r[i.src[0]]);
    }
}

static void barrier(thread_state &t, const instruction &i)
{
    check_barrier(t, i);
    cuemu::sync_threads(where(t, i));
}

static void barrier_reduce(thread_state &t, const instruction &i)
{
    check_barrier(t, i);
    int value = cuemu::sync_reduce(where(t, i), predicate_of(t, i, 1), (cuemu::reduce_op)i.mode);
    put<uint32_t>(t, i.dst[0], (uint32_t)value);
}

static void fence(thread_state &, const instruction &)
{
}

/* Lane l holds elements 2 (l % 4) and the next of row l / 4 of each matrix, transposed: of column
 * l / 4. The addresses of matrix m's rows are in lanes 8 m .. 8 m + 7. */
static void load_matrices(thread_state &t, const instruction &i)
{
    uint64_t address = t.r[i.src[0]] + (uint64_t)i.offset[0];
    cuemu::payload mine{{(uint32_t)address, (uint32_t)(address >> 32)}};
    cuemu::meeting *m = cuemu::meet(~0u, cuemu::WARP_LDMATRIX, mine, where(t, i));
    unsigned lane = (unsigned)cuemu::current->lane;
    for (int k = 0; k < i.n_dst; k++) {
        uint32_t value = 0;
        for (unsigned half = 0; half < 2; half++) {
            unsigned pair = lane % 4 * 2 + half;
            bool transposed = (i.flags & M_TRANS) != 0;
            unsigned row = transposed ? pair : lane / 4, column = transposed ? lane / 4 : pair;
            const char *p = locate(t, i, cuemu::peek(m, k * 8 + (int)row), 16);
            uint16_t element;
            memcpy(&element, p + column * sizeof element, sizeof element);
            value |= (uint32_t)element << (16 * half);
        }
        put<uint32_t>(t, i.dst[k], value);
    }
    cuemu::leave(m);
}

static void mma_bf16(thread_state &t, const instruction &i)
{
    float d[4];
    uint32_t a[4];
    for (int k = 0; k < 4; k++) {
        a[k] = get<uint32_t>(t, i.src[k]);
        d[k] = get<float>(t, i.src[6 + k]);
    }
    uint32_t b0 = get<uint32_t>(t, i.src[4]), b1 = get<uint32_t>(t, i.src[5]);
    cuemu::mma_m16n8k16_bf16(d, a, b0, b1, where(t, i));
    for (int k = 0; k < 4; k++) {
        put<float>(t, i.dst[k], d[k]);
    }
}

/* ---- choosing: by the number of operands ---- */

template <action RUN, scalar TYPE, int N_DST, int N_SRC> static action exactly(const instruction &i)
{
    return i.type == TYPE && i.n_dst == N_DST && i.n_src == N_SRC ? RUN : nullptr;
}

static const uint64_t MATRIX = M_SHARED | M_TRANS;

static const opcode rows[] = {
    {"shfl.sync.up", 0, RESULT, UP, exactly<shuffle, B32, 1, 4>},
    {"shfl.sync.down", 0, RESULT, DOWN, exactly<shuffle, B32, 1, 4>},
    {"shfl.sync.bfly", 0, RESULT, BUTTERFLY, exactly<shuffle, B32, 1, 4>},
    {"shfl.sync.idx", 0, RESULT, INDEX, exactly<shuffle, B32, 1, 4>},
    {"vote.sync.ballot", 0, RESULT, BALLOT, exactly<vote, B32, 1, 2>},
    {"vote.sync.any", 0, RESULT, ANY, exactly<vote, PRED, 1, 2>},
    {"vote.sync.all", 0, RESULT, ALL, exactly<vote, PRED, 1, 2>},
    {"vote.sync.uni", 0, RESULT, UNIFORM, exactly<vote, PRED, 1, 2>},
    {"bar.warp.sync", 0, SOURCES, 0, exactly<warp_barrier, NO_TYPE, 0, 1>},
    {"bar.sync", 0, SOURCES, 0, exactly<barrier, NO_TYPE, 0, 1>},
    {"barrier.sync", M_ALIGNED, SOURCES, 0, exactly<barrier, NO_TYPE, 0, 1>},
    {"barrier.cta.sync", M_ALIGNED, SOURCES, 0, exactly<barrier, NO_TYPE, 0, 1>},
    {"bar.red.or", 0, RESULT, cuemu::REDUCE_OR, exactly<barrier_reduce, PRED, 1, 2>},
    {"bar.red.and", 0, RESULT, cuemu::REDUCE_AND, exactly<barrier_reduce, PRED, 1, 2>},
    {"bar.red.popc", 0, RESULT, cuemu::REDUCE_COUNT, exactly<barrier_reduce, U32, 1, 2>},
    {"barrier.cta.red.or", M_ALIGNED, RESULT, cuemu::REDUCE_OR,
     exactly<barrier_reduce, PRED, 1, 2>},
    {"barrier.cta.red.and", M_ALIGNED, RESULT, cuemu::REDUCE_AND,
     exactly<barrier_reduce, PRED, 1, 2>},
    {"barrier.cta.red.popc", M_ALIGNED, RESULT, cuemu::REDUCE_COUNT,
     exactly<barrier_reduce, U32, 1, 2>},
    {"membar.cta", 0, NOTHING, 0, exactly<fence, NO_TYPE, 0, 0>},
    {"membar.gl", 0, NOTHING, 0, exactly<fence, NO_TYPE, 0, 0>},
    {"ldmatrix.sync.aligned.m8n8.x1", MATRIX, RESULT, 0, exactly<load_matrices, B16, 1, 1>},
    {"ldmatrix.sync.aligned.m8n8.x2", MATRIX, RESULT, 0, exactly<load_matrices, B16, 2, 1>},
    {"ldmatrix.sync.aligned.m8n8.x4", MATRIX, RESULT, 0, exactly<load_matrices, B16, 4, 1>},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 0, RESULT, 0,
     exactly<mma_bf16, NO_TYPE, 4, 10>},
};

opcode_rows warp_opcodes()
{
    return {rows, sizeof rows / sizeof *rows};
}

} // namespace cuptx
