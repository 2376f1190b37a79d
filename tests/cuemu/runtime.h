/* runtime.h - what the runtime's own files share: fibers, blocks, the worker of an OS thread,
 * memory and streams. Not seen by .cu files.
 *
 * Thread: a worker, its block and its fibers belong to one OS thread. Host state (memory, streams,
 * faults) is under api_lock. Under ThreadSanitizer fibers are not ordered among each other, though
 * they share this state: it must not be touched through functions that the sanitizer intercepts
 * (memmove, so no growing std::vector in the device side). */
#ifndef CUEMU_RUNTIME_H
#define CUEMU_RUNTIME_H

#include <mutex>
#include <vector>

#include "cuda_runtime.h"
#include "sanitizer_hooks.h"

namespace cuemu
{

enum {
    MAX_THREADS = 1024, /* of a block */
    WARP = 32,
    MAX_ASYNC = 512,  /* cp.async of one thread in flight */
    MAX_STATICS = 64, /* shared arrays of a kernel */
    STACK_BYTES = 128 << 10,
    ARENA_BYTES = 512 << 10,
    STATIC_SHARED_LIMIT = 48 << 10
};

struct settings {
    int order, streams, os_threads, sm, devices;
    size_t memory_bytes;
};
const settings &conf();
/* Dynamic shared memory of a block after cudaFuncSetAttribute. */
int shared_optin_limit();

uint64_t next_random(uint64_t *state);

/* ---- fibers (fiber.cc) ---- */

struct block;

struct async_copy_op {
    void *dst;
    const void *src;
    size_t n_bytes, n_valid;
    int group;
};

struct fiber : thread_view {
    void *sp;
    char *stack; /* [STACK_BYTES], a guard page below */
    fiber *next; /* in the ready queue or a list of waiting ones */
    block *blk;
    place at; /* where it waits, for reports */
    const char *waits_for;
    bool dead;
    void *race_fiber, *fake_stack;
    async_copy_op copies[MAX_ASYNC];
    int n_copies, copy_group;
};

struct meeting {
    unsigned mask, arrived, left;
    warp_op op;
    place at;
    payload p[WARP];
    fiber *waiting;
    meeting *next;
    bool complete, decoded;
    float a[16][16], bt[8][16]; /* an mma's operands, once the first lane has decoded them */
};

struct warp_state {
    unsigned members, exited;
    meeting *open, *pool;
};

struct static_array {
    const void *key;
    char *p;
    size_t n_bytes;
};

struct block {
    int n_threads, n_live;
    const std::function<void()> *body;
    int n_at_barrier;
    fiber *at_barrier;
    place barrier_at;
    int acc[3], result[3];       /* by reduce_op */
    char hb_barrier[2], hb_join; /* addresses for hb_release() and hb_acquire() */
    unsigned barrier_round;
    warp_state warps[MAX_THREADS / WARP];
    char *arena, *dynamic;
    size_t arena_used, dynamic_bytes;
    static_array statics[MAX_STATICS];
    int n_statics;
};

/* One per OS thread that runs blocks; fibers, stacks and arena are kept between blocks. */
struct worker {
    void *main_sp, *main_fake, *main_race_fiber;
    const void *stack_bottom;
    size_t stack_bytes;
    fiber *head, *tail; /* ready queue */
    block blk;
    std::vector<fiber *> fibers; /* grown before a block starts */
    char *arena;
    uint64_t random;
};
extern __thread worker *me_worker;

static inline fiber *self()
{
    return static_cast<fiber *>(current);
}

/* A stack pointer that, switched to, calls entry on an empty stack. */
void *stack_prepare(char *stack, void (*entry)());
void make_ready(fiber *f);
void make_all_ready(fiber **waiting); /* a list in reverse order of arrival; emptied */
/* Takes the next ready fiber; nullptr when none is. */
fiber *take_ready();
/* Switches stacks; nullptr is the worker's own. */
void switch_fiber(fiber *from, fiber *to);
/* Waits in *list; with nobody ready that is a deadlock, which is reported. */
void wait_in(fiber **list, const char *what, place at);
[[noreturn]] void report_deadlock(const block *b);
bool same_place(place a, place b);

/* ---- shared memory (shared.cc) ---- */

void shared_begin(block *b, size_t dynamic_bytes);

/* ---- device memory (memory.cc) ---- */

/* Device memory is readable while an operation of a stream runs, and at no other time. */
void open_device();
void close_device();
bool in_pinned(const void *p, size_t n_bytes);
/* The live device or pinned memory that the range lies in; false: none. (For tests/cuptx.) */
bool find_allocation(const void *p, size_t n_bytes, const char **ret_begin, size_t *ret_bytes);

/* ---- host calls (fault.cc) ---- */

extern std::recursive_mutex api_lock;

/* Held by every API function; err is what the injected fault says. */
struct api_call {
    std::lock_guard<std::recursive_mutex> guard;
    cudaError_t err;
    api_call() : guard(api_lock), err(inject())
    {
    }
};
/* One that makes the host wait for the device. */
struct api_wait : api_call {
    api_wait();
};
extern long n_live_objects, n_launches, n_waits;
/* A sticky error has struck: what is queued does not run any more. */
bool is_dead();

/* ---- parts (part.cc) ---- */

/* The calling thread's, as cudaSetDevice() has said. */
int current_device();

/* ---- streams (stream.cc) ---- */

/* Runs everything that was queued on a device. */
void drain_device(int device);
void drain_stream(cudaStream_t stream);
/* On the legacy stream of the thread's device: behind what is queued in its blocking streams, in no
 * order with the others. Queued; `wait`: the call returns when it has run. */
cudaError_t enqueue_legacy(std::function<void()> op, bool wait);
int device_of(cudaStream_t stream);

} // namespace cuemu

#endif
