/* run.cc - one CUDA thread: a register file, a program counter, instructions until it returns.
 * Thread: a fiber of a block; kernel_body() the thread that launches. */
#include "ptx.h"

#include <cstdlib>

namespace cuptx
{

/* A thread's registers and local memory, reused by the next one on the same OS thread: fibers of a
 * block are alive together, so it is a list. */
struct store {
    store *next;
    size_t n_bytes;
    uint64_t words[1];
};

struct store_list {
    store *head = nullptr;
    ~store_list()
    {
        while (head != nullptr) {
            store *s = head;
            head = s->next;
            free(s);
        }
    }
};
static thread_local store_list free_stores;

static store *store_take(size_t n_bytes)
{
    store *s = free_stores.head;
    if (s != nullptr) {
        free_stores.head = s->next;
        if (s->n_bytes >= n_bytes) {
            return s;
        }
        free(s);
    }
    s = static_cast<store *>(malloc(sizeof *s + n_bytes));
    if (s == nullptr) {
        cuemu::fail({"launch", 0}, "out of memory for registers");
    }
    s->n_bytes = n_bytes;
    return s;
}

static void store_leave(store *s)
{
    s->next = free_stores.head;
    free_stores.head = s;
}

static void specials_fill(uint64_t *r)
{
    const cuemu::thread_view *me = cuemu::current;
    r[TID_X] = me->tid.x;
    r[TID_Y] = me->tid.y;
    r[TID_Z] = me->tid.z;
    r[NTID_X] = blockDim.x;
    r[NTID_Y] = blockDim.y;
    r[NTID_Z] = blockDim.z;
    r[CTAID_X] = blockIdx.x;
    r[CTAID_Y] = blockIdx.y;
    r[CTAID_Z] = blockIdx.z;
    r[NCTAID_X] = gridDim.x;
    r[NCTAID_Y] = gridDim.y;
    r[NCTAID_Z] = gridDim.z;
    r[LANEID] = (uint64_t)me->lane;
    r[WARPID] = (uint64_t)me->warp;
}

/* Marks are written by several OS threads with the same values. */
static void run_thread(const module *m, const kernel *k, const char *params, size_t dynamic_bytes)
{
    size_t n_slots = (size_t)k->n_slots, n_local = (k->local_bytes + 15) / 16 * 16;
    store *s = store_take(n_slots * sizeof(uint64_t) + n_local + 16);
    uint64_t *r = s->words;
    specials_fill(r);
    memcpy(r + N_SPECIALS, k->constants.data(), k->constants.size() * sizeof *r);
    uintptr_t local = (reinterpret_cast<uintptr_t>(r + n_slots) + 15) / 16 * 16;
    thread_state t = {};
    t.r = r;
    t.k = k;
    t.m = m;
    t.params = params;
    t.local = reinterpret_cast<char *>(local);
    t.dynamic = static_cast<char *>(cuemu::dynamic_shared(128));
    t.dynamic_bytes = dynamic_bytes;
    if (!k->shared.empty()) {
        t.shared = static_cast<char *>(cuemu::static_shared(k, k->shared_bytes, 128));
    }
    memset(t.local, 0xff, n_local);
    const instruction *code = k->code.data();
    uint8_t *marks = const_cast<uint8_t *>(k->marks.data());
    while (t.pc >= 0) {
        int pc = t.pc++;
        const instruction &i = code[pc];
        if (i.guard >= 0 && predicate(t, i.guard) == i.guard_negated) {
            marks[pc] |= SKIPPED;
            continue;
        }
        marks[pc] |= EXECUTED;
        i.run(t, i);
    }
    store_leave(s);
}

std::function<void()> kernel_body(const module *m, const kernel *k, void **args,
                                  size_t dynamic_bytes)
{
    auto params = std::make_shared<std::vector<uint64_t>>(k->param_bytes / sizeof(uint64_t) + 1);
    char *bytes = reinterpret_cast<char *>(params->data());
    for (size_t n = 0; n < k->params.size(); n++) {
        const extent &p = k->params[n];
        cuemu::check_argument(args[n], p.n_bytes, k->name.c_str());
        memcpy(bytes + p.at, args[n], p.n_bytes);
    }
    return [m, k, params, dynamic_bytes] {
        run_thread(m, k, reinterpret_cast<const char *>(params->data()), dynamic_bytes);
    };
}

} // namespace cuptx
