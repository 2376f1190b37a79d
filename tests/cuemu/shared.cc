/* shared.cc - shared memory of a block, and cp.async into it. Every block begins with an arena full
 * of 0xFF (NaN in every float type, -1 in the integers), all of it red zone but what is declared.
 * Thread: fibers of a block. */
#include "runtime.h"

namespace cuemu
{

static const place SHARED = {"shared memory", 0};

/* At least 32 bytes of red zone on each side. */
static char *take(block *b, size_t n_bytes, size_t align)
{
    size_t at = (b->arena_used + 32 + align - 1) / align * align;
    if (at + n_bytes + 64 > ARENA_BYTES) {
        fail(SHARED, "the arena of a block is exhausted");
    }
    b->arena_used = at + n_bytes;
    unpoison(b->arena + at, n_bytes);
    return b->arena + at;
}

void shared_begin(block *b, size_t dynamic_bytes)
{
    /* Everything that this block can ever have: dynamic, static, and red zones between. */
    size_t n = dynamic_bytes + STATIC_SHARED_LIMIT + (size_t)MAX_STATICS * 64;
    n = n < ARENA_BYTES ? n : (size_t)ARENA_BYTES;
    unpoison(b->arena, n);
    memset(b->arena, 0xff, n);
    mark_undefined(b->arena, ARENA_BYTES);
    poison(b->arena, ARENA_BYTES);
    b->arena_used = 0;
    b->n_statics = 0;
    b->dynamic_bytes = dynamic_bytes;
    b->dynamic = take(b, dynamic_bytes, 128);
}

void *dynamic_shared(size_t)
{
    return self()->blk->dynamic;
}

void *static_shared(const void *key, size_t n_bytes, size_t align)
{
    block *b = self()->blk;
    size_t total = n_bytes;
    for (int i = 0; i < b->n_statics; i++) {
        if (b->statics[i].key == key) {
            return b->statics[i].p;
        }
        total += b->statics[i].n_bytes;
    }
    if (total > STATIC_SHARED_LIMIT || b->n_statics == MAX_STATICS) {
        fail(SHARED, "%zu bytes of static shared memory in %d arrays, at most %d in %d", total,
             b->n_statics + 1, (int)STATIC_SHARED_LIMIT, (int)MAX_STATICS);
    }
    static_array *s = &b->statics[b->n_statics++];
    s->key = key;
    s->n_bytes = n_bytes;
    s->p = take(b, n_bytes, align);
    return s->p;
}

void check_aligned(const void *p, size_t n_bytes, place at)
{
    if (reinterpret_cast<uintptr_t>(p) % n_bytes != 0) {
        fail(at, "address %p is not aligned to %zu bytes", p, n_bytes);
    }
}

/* The old bytes die here: a barrier that is missing before a buffer is filled again is seen. */
void async_copy(void *dst, const void *src, size_t n_bytes, size_t n_valid, place at)
{
    fiber *f = self();
    check_aligned(dst, n_bytes, at);
    check_aligned(src, n_bytes, at);
    if (f->n_copies == MAX_ASYNC) {
        fail(at, "more than %d cp.async of one thread in flight", (int)MAX_ASYNC);
    }
    memset(dst, 0xff, n_bytes);
    mark_undefined(dst, n_bytes);
    async_copy_op *c = &f->copies[f->n_copies++];
    c->dst = dst;
    c->src = src;
    c->n_bytes = n_bytes;
    c->n_valid = n_valid;
    c->group = f->copy_group;
}

void async_commit()
{
    self()->copy_group++;
}

/* The bytes arrive as late as the program allows: all but the latest n_pending groups. */
void async_wait(int n_pending)
{
    fiber *f = self();
    int n = 0;
    while (n < f->n_copies && f->copies[n].group < f->copy_group - n_pending) {
        const async_copy_op *c = &f->copies[n++];
        memcpy(c->dst, c->src, c->n_valid);
        memset(static_cast<char *>(c->dst) + c->n_valid, 0, c->n_bytes - c->n_valid);
    }
    for (int i = n; i < f->n_copies; i++) {
        async_copy_op *to = &f->copies[i - n];
        const async_copy_op *from = &f->copies[i];
        to->dst = from->dst;
        to->src = from->src;
        to->n_bytes = from->n_bytes;
        to->n_valid = from->n_valid;
        to->group = from->group;
    }
    f->n_copies -= n;
}

} // namespace cuemu
