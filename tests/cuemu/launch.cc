/* launch.cc - a grid: checks of the launch, its blocks one after the other (or spread over OS
 * threads), each block's threads as fibers.
 *
 * Under ThreadSanitizer each block has a root fiber, an arena and stacks of its own, and roots are
 * not ordered among each other: races between blocks are found, though blocks run in turn.
 * Thread: launch() any host thread; blocks on the thread that runs the stream, and its helpers. */
#include "runtime.h"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <pthread.h>
#include <sys/mman.h>
#include <thread>

__thread uint3 blockIdx;
__thread dim3 blockDim, gridDim;

namespace cuemu
{

struct grid_run {
    dim3 grid, block;
    size_t dynamic_bytes;
    std::function<void()> body;
    char hb; /* address for hb_release() and hb_acquire() */
};

static const place LAUNCH = {"launch", 0};

static void check_exit(const fiber *me, const block *b)
{
    for (const meeting *m = b->warps[me->warp].open; m != nullptr; m = m->next) {
        if ((m->mask >> me->lane & 1u) != 0) {
            fail(m->at, "lane %d is in the mask of a waiting warp collective, but exits", me->lane);
        }
    }
    if (b->n_at_barrier != 0) {
        fail(b->barrier_at, "a thread exited while others wait in __syncthreads");
    }
    if (me->n_copies != 0) {
        fail(LAUNCH, "a thread exits with a cp.async in flight");
    }
}

/* A fiber's life: one CUDA thread after the other, each entered by a switch. */
static void fiber_main()
{
    stack_switch_end(nullptr);
    for (;;) {
        fiber *me = self();
        block *b = me->blk;
        (*b->body)();
        me->dead = true;
        b->n_live--;
        hb_release(&b->hb_join);
        b->warps[me->warp].exited |= 1u << me->lane;
        check_exit(me, b);
        fiber *next = take_ready();
        if (next == nullptr && b->n_live != 0) {
            report_deadlock(b);
        }
        switch_fiber(me, next);
    }
}

static char *map_pages(size_t n_bytes)
{
    void *p = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fail(LAUNCH, "out of memory for stacks");
    }
    return static_cast<char *>(p);
}

/* The worker of the calling thread; helper threads take over what earlier ones left, since stacks
 * are dear to map. */
static std::mutex idle_lock;

static std::vector<worker *> &idle_workers()
{
    static auto &list = *new std::vector<worker *>;
    return list;
}

static worker *worker_take()
{
    worker *w = nullptr;
    {
        std::lock_guard<std::mutex> guard(idle_lock);
        if (!idle_workers().empty()) {
            w = idle_workers().back();
            idle_workers().pop_back();
        }
    }
    if (w == nullptr) {
        w = new worker();
        w->random = 88172645463325252ull + (uint64_t)conf().order * 7919;
        w->arena = map_pages(ARENA_BYTES);
    }
    pthread_attr_t attr;
    void *bottom;
    pthread_getattr_np(pthread_self(), &attr);
    pthread_attr_getstack(&attr, &bottom, &w->stack_bytes);
    pthread_attr_destroy(&attr);
    w->stack_bottom = bottom;
    return w;
}

/* nullptr is legal: a helper may have found nothing to do. */
static void worker_leave(worker *w)
{
    if (w != nullptr) {
        std::lock_guard<std::mutex> guard(idle_lock);
        idle_workers().push_back(w);
    }
}

static void worker_reserve(worker *w, int n_threads)
{
    while ((int)w->fibers.size() < n_threads) {
        fiber *f = new fiber();
        f->stack = map_pages(STACK_BYTES + 4096) + 4096;
        mprotect(f->stack - 4096, 4096, PROT_NONE);
        f->sp = stack_prepare(f->stack, fiber_main);
        w->fibers.push_back(f);
    }
}

static void block_begin(worker *w, grid_run *run, uint3 index)
{
    block *b = &w->blk;
    int n = b->n_threads = b->n_live = (int)(run->block.x * run->block.y * run->block.z);
    b->body = &run->body;
    b->n_at_barrier = 0;
    b->at_barrier = nullptr;
    b->acc[REDUCE_OR] = b->acc[REDUCE_COUNT] = 0;
    b->acc[REDUCE_AND] = 1;
    shared_begin(b, run->dynamic_bytes);
    blockIdx = index;
    blockDim = run->block;
    gridDim = run->grid;
    for (int i = 0; i * WARP < n; i++) {
        int lanes = n - i * WARP;
        b->warps[i].members = lanes >= WARP ? ~0u : (1u << lanes) - 1;
        b->warps[i].exited = 0;
        b->warps[i].open = nullptr;
    }
    for (int i = 0; i < n; i++) {
        fiber *f = w->fibers[(size_t)i];
        unsigned u = (unsigned)i;
        f->blk = b;
        f->dead = false;
        f->n_copies = f->copy_group = 0;
        f->lane = i % WARP;
        f->warp = i / WARP;
        f->at = {"its first line", 0};
        f->waits_for = "the ready queue";
        f->tid = {u % run->block.x, u / run->block.x % run->block.y,
                  u / (run->block.x * run->block.y)};
        f->race_fiber = race_fiber_create();
    }
}

/* Starts the threads in the order asked for and returns when all have ended. */
static void block_go(worker *w)
{
    block *b = &w->blk;
    static thread_local fiber *order[MAX_THREADS];
    int n = b->n_threads;
    for (int i = 0; i < n; i++) {
        order[i] = w->fibers[(size_t)(conf().order == 1 ? n - 1 - i : i)];
    }
    for (int i = n - 1; conf().order >= 2 && i > 0; i--) {
        std::swap(order[i], order[next_random(&w->random) % (unsigned)(i + 1)]);
    }
    w->head = w->tail = nullptr;
    for (int i = 1; i < n; i++) {
        make_ready(order[i]);
    }
    switch_fiber(nullptr, order[0]);
    if (b->n_live != 0) {
        fail(LAUNCH, "internal: a block ended early");
    }
}

static void run_block(grid_run *run, uint3 index)
{
    int n = (int)(run->block.x * run->block.y * run->block.z);
    if (me_worker == nullptr) {
        me_worker = worker_take();
    }
    worker *w = me_worker;
    worker_reserve(w, n);
    w->blk.arena = w->arena;
    if (!FRESH_STACKS) {
        block_begin(w, run, index);
        block_go(w);
        return;
    }
    void *launcher = race_fiber_current();
    w->main_race_fiber = race_fiber_create();
    race_fiber_switch(w->main_race_fiber);
    w->blk.arena = static_cast<char *>(malloc(ARENA_BYTES));
    char *stacks = map_pages((size_t)n * STACK_BYTES);
    for (int i = 0; i < n; i++) {
        fiber *f = w->fibers[(size_t)i];
        f->stack = stacks + (size_t)i * STACK_BYTES;
        f->sp = stack_prepare(f->stack, fiber_main);
    }
    block_begin(w, run, index);
    block_go(w);
    hb_acquire(&w->blk.hb_join);
    free(w->blk.arena);
    munmap(stacks, (size_t)n * STACK_BYTES);
    hb_release(&run->hb);
    void *root = w->main_race_fiber;
    race_fiber_switch(launcher);
    race_fiber_destroy(root);
    for (int i = 0; i < n; i++) {
        race_fiber_destroy(w->fibers[(size_t)i]->race_fiber);
    }
}

static uint3 block_at(const grid_run *run, size_t i)
{
    size_t x = run->grid.x, y = run->grid.y;
    return {(unsigned)(i % x), (unsigned)(i / x % y), (unsigned)(i / (x * y))};
}

static void run_grid(grid_run *run)
{
    size_t n = (size_t)run->grid.x * run->grid.y * run->grid.z;
    size_t n_helpers = n < (size_t)conf().os_threads ? n : (size_t)conf().os_threads;
    if (n_helpers <= 1) {
        for (size_t i = 0; i < n; i++) {
            run_block(run, block_at(run, conf().order == 1 ? n - 1 - i : i));
        }
    } else {
        std::atomic<size_t> next{0};
        std::vector<std::thread> helpers;
        for (size_t h = 0; h < n_helpers; h++) {
            helpers.emplace_back([run, n, &next] {
                for (size_t i; (i = next++) < n;) {
                    run_block(run, block_at(run, i));
                }
                worker_leave(me_worker);
                me_worker = nullptr;
            });
        }
        for (std::thread &t : helpers) {
            t.join();
        }
    }
    hb_acquire(&run->hb);
}

/* What cudaFuncSetAttribute has allowed; few kernels, so a list. */
static std::vector<std::pair<const void *, int>> &opted_in()
{
    static auto &list = *new std::vector<std::pair<const void *, int>>;
    return list;
}

cudaError_t allow_shared(const void *kernel, int n_bytes)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    if (n_bytes < 0 || n_bytes > shared_optin_limit()) {
        return remember(cudaErrorInvalidValue);
    }
    for (auto &entry : opted_in()) {
        if (entry.first == kernel) {
            entry.second = n_bytes;
            return cudaSuccess;
        }
    }
    opted_in().emplace_back(kernel, n_bytes);
    return cudaSuccess;
}

static size_t shared_allowed(const void *kernel)
{
    int n = STATIC_SHARED_LIMIT;
    for (const auto &entry : opted_in()) {
        if (entry.first == kernel && entry.second > n) {
            n = entry.second;
        }
    }
    return (size_t)n;
}

cudaError_t launch(const cudaLaunchConfig_t &c, const void *kernel, std::function<void()> body)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    const dim3 &g = c.gridDim, &b = c.blockDim;
    uint64_t n_threads = (uint64_t)b.x * b.y * b.z;
    bool block_ok = n_threads > 0 && b.x <= MAX_THREADS && b.y <= MAX_THREADS && b.z <= 64 &&
                    n_threads <= MAX_THREADS;
    bool grid_ok =
        g.x > 0 && g.y > 0 && g.z > 0 && g.x <= 0x7fffffffu && g.y <= 65535 && g.z <= 65535;
    if (!block_ok || !grid_ok) {
        return remember(cudaErrorInvalidConfiguration);
    }
    if (c.dynamicSmemBytes > shared_allowed(kernel)) {
        return remember(cudaErrorInvalidValue);
    }
    if (c.stream != nullptr && device_of(c.stream) != current_device()) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    n_launches++;
    auto run = std::make_shared<grid_run>(grid_run{g, b, c.dynamicSmemBytes, std::move(body), 0});
    return enqueue(c.stream, [run] { run_grid(run.get()); });
}

} // namespace cuemu
