/* warp.cc - warp collectives: one rendezvous that carries shuffles, votes, __syncwarp, ldmatrix and
 * mma. Lanes are not in lock step, so code that relies on implicit synchrony breaks.
 *
 * Payloads are registers: they are read here, outside the sanitizers' instrumentation, and order no
 * memory. Register layout of mma.m16n8k16: PTX ISA 8.x, "Matrix Fragments for mma.m16n8k16".
 * Thread: fibers of a warp. */
#include "runtime.h"

namespace cuemu
{

static meeting *meeting_new(warp_state *w, unsigned mask, warp_op op, place at)
{
    for (const meeting *o = w->open; o != nullptr; o = o->next) {
        if ((o->mask & mask) != 0) {
            fail(at, "warp collective with mask %08x overlaps one waiting with mask %08x at %s:%d",
                 mask, o->mask, o->at.file, o->at.line);
        }
    }
    meeting *m = w->pool;
    if (m != nullptr) {
        w->pool = m->next;
    } else {
        m = new meeting;
    }
    m->mask = mask;
    m->arrived = 0;
    m->op = op;
    m->at = at;
    m->waiting = nullptr;
    m->complete = m->decoded = false;
    m->next = w->open;
    w->open = m;
    return m;
}

static void complete(warp_state *w, meeting *m)
{
    m->complete = true;
    m->left = m->arrived;
    meeting **p = &w->open;
    while (*p != m) {
        p = &(*p)->next;
    }
    *p = m->next;
    make_all_ready(&m->waiting);
}

meeting *meet(unsigned mask, warp_op op, const payload &mine, place at)
{
    fiber *me = self();
    warp_state *w = &me->blk->warps[me->warp];
    unsigned bit = 1u << me->lane;
    if ((mask & bit) == 0) {
        fail(at, "warp collective: calling lane %d is not in mask %08x", me->lane, mask);
    }
    if ((mask & ~w->members) != 0) {
        fail(at, "warp collective: mask %08x names lanes that the block does not have", mask);
    }
    if ((mask & w->exited) != 0) {
        fail(at, "warp collective: mask %08x names lanes that have exited", mask);
    }
    meeting *m = w->open;
    while (m != nullptr && (m->mask != mask || (m->arrived & bit) != 0)) {
        m = m->next;
    }
    if (m == nullptr) {
        m = meeting_new(w, mask, op, at);
    } else if (m->op != op || !same_place(m->at, at)) {
        fail(at, "divergent warp collective: other lanes are at %s:%d", m->at.file, m->at.line);
    }
    m->p[me->lane] = mine;
    m->arrived |= bit;
    if (op == WARP_SYNC) {
        hb_release(m);
    }
    if (m->arrived == m->mask) {
        complete(w, m);
    } else {
        wait_in(&m->waiting, "a warp collective", at);
    }
    if (op == WARP_SYNC) {
        hb_acquire(m);
    }
    return m;
}

uint64_t peek(const meeting *m, int lane)
{
    if ((m->arrived >> lane & 1u) == 0) {
        fail(m->at, "shuffle reads lane %d, which does not take part (mask %08x)", lane, m->mask);
    }
    return m->p[lane].w[0] | (uint64_t)m->p[lane].w[1] << 32;
}

void leave(meeting *m)
{
    const fiber *me = self();
    warp_state *w = &me->blk->warps[me->warp];
    m->left &= ~(1u << me->lane);
    if (m->left == 0) {
        m->next = w->pool;
        w->pool = m;
    }
}

void sync_warp(unsigned mask, place at)
{
    leave(meet(mask, WARP_SYNC, payload{}, at));
}

uint64_t shuffle(unsigned mask, uint64_t value, int from_lane, place at)
{
    payload mine{{(uint32_t)value, (uint32_t)(value >> 32)}};
    meeting *m = meet(mask, WARP_SHUFFLE, mine, at);
    uint64_t got = peek(m, from_lane);
    leave(m);
    return got;
}

unsigned ballot(unsigned mask, bool vote, place at)
{
    payload mine{{(uint32_t)vote}};
    meeting *m = meet(mask, WARP_VOTE, mine, at);
    unsigned votes = 0;
    for (int i = 0; i < WARP; i++) {
        if ((m->arrived >> i & 1u) != 0 && m->p[i].w[0] != 0) {
            votes |= 1u << i;
        }
    }
    leave(m);
    return votes;
}

/* The low (0) or high (1) BF16 of a register. */
static float bf16_half(uint32_t reg, int half)
{
    return __uint_as_float(half != 0 ? reg & 0xffff0000u : reg << 16);
}

/* Registers of all lanes to A [16][16] and B transposed [8][16]. */
static void decode(meeting *m)
{
    m->decoded = true;
    for (int lane = 0; lane < WARP; lane++) {
        const uint32_t *w = m->p[lane].w;
        int group = lane / 4;
        for (int half = 0; half < 2; half++) {
            int k = lane % 4 * 2 + half;
            m->a[group][k] = bf16_half(w[0], half);
            m->a[group + 8][k] = bf16_half(w[1], half);
            m->a[group][k + 8] = bf16_half(w[2], half);
            m->a[group + 8][k + 8] = bf16_half(w[3], half);
            m->bt[group][k] = bf16_half(w[4], half);
            m->bt[group][k + 8] = bf16_half(w[5], half);
        }
    }
}

void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, place at)
{
    payload mine{{a[0], a[1], a[2], a[3], b0, b1}};
    meeting *m = meet(~0u, WARP_MMA, mine, at);
    if (!m->decoded) {
        decode(m);
    }
    int row = current->lane / 4, col = current->lane % 4 * 2;
    for (int i = 0; i < 4; i++) {
        const float *x = m->a[row + (i >= 2 ? 8 : 0)], *y = m->bt[col + (i & 1)];
        float sum = 0;
        for (int k = 0; k < 16; k++) {
            sum += x[k] * y[k];
        }
        d[i] += sum;
    }
    leave(m);
}

} // namespace cuemu
