/* address.cc - from PTX addresses to memory. Every access is aligned and lies within one shared
 * array, one allocation, the thread's local memory or its parameters; else the program ends with
 * kernel and line. Thread: a fiber's. */
#include "ptx.h"

namespace cuptx
{

[[noreturn]] static void outside(const thread_state &t, const instruction &i, const char *what,
                                 uint64_t address, size_t n_bytes)
{
    cuemu::fail(where(t, i), "%s access outside: %#llx + %zu", what, (unsigned long long)address,
                n_bytes);
}

static bool within(uint64_t at, size_t n_bytes, uint64_t begin, size_t size)
{
    return at >= begin && n_bytes <= size && at - begin <= size - n_bytes;
}

static void check_aligned(const thread_state &t, const instruction &i, uint64_t address,
                          size_t n_bytes)
{
    if (address % n_bytes != 0) {
        cuemu::fail(where(t, i), "address %#llx is not aligned to %zu bytes",
                    (unsigned long long)address, n_bytes);
    }
}

char *locate_shared(thread_state &t, const instruction &i, uint64_t offset, size_t n_bytes)
{
    check_aligned(t, i, offset, n_bytes);
    if (within(offset, n_bytes, t.k->dynamic_at, t.dynamic_bytes)) {
        return t.dynamic + (offset - t.k->dynamic_at);
    }
    for (const extent &array : t.k->shared) {
        if (within(offset, n_bytes, array.at, array.n_bytes)) {
            return t.shared + offset;
        }
    }
    outside(t, i, "shared", offset, n_bytes);
}

static char *locate_local(thread_state &t, const instruction &i, uint64_t offset, size_t n_bytes)
{
    check_aligned(t, i, offset, n_bytes);
    if (!within(offset, n_bytes, 0, t.k->local_bytes)) {
        outside(t, i, "local", offset, n_bytes);
    }
    return t.local + offset;
}

static char *locate_parameter(thread_state &t, const instruction &i, uint64_t offset,
                              size_t n_bytes)
{
    check_aligned(t, i, offset, n_bytes);
    if (!within(offset, n_bytes, 0, t.k->param_bytes)) {
        outside(t, i, "parameter", offset, n_bytes);
    }
    return const_cast<char *>(t.params) + offset;
}

/* In a .global or .const variable of the module. */
static bool in_variables(const module *m, const char *p, size_t n_bytes)
{
    for (const auto &v : m->variables) {
        if (p >= v.first && n_bytes <= v.second && (size_t)(p - v.first) <= v.second - n_bytes) {
            return true;
        }
    }
    return false;
}

static char *locate_global(thread_state &t, const instruction &i, uint64_t address, size_t n_bytes)
{
    check_aligned(t, i, address, n_bytes);
    char *p = reinterpret_cast<char *>(address);
    if (within(address, n_bytes, reinterpret_cast<uintptr_t>(t.known), t.known_bytes)) {
        return p;
    }
    if (cuemu::find_allocation(p, n_bytes, &t.known, &t.known_bytes) ||
        in_variables(t.m, p, n_bytes)) {
        return p;
    }
    outside(t, i, "global", address, n_bytes);
}

char *locate(thread_state &t, const instruction &i, uint64_t address, size_t n_bytes)
{
    if ((i.flags & M_SHARED) != 0) {
        return locate_shared(t, i, (uint32_t)address, n_bytes);
    }
    if ((i.flags & M_LOCAL) != 0) {
        return locate_local(t, i, address, n_bytes);
    }
    if ((i.flags & M_PARAM) != 0) {
        return locate_parameter(t, i, address, n_bytes);
    }
    if ((i.flags & (M_GLOBAL | M_CONST)) != 0) {
        return locate_global(t, i, address, n_bytes);
    }
    uint64_t offset = address & ~(uint64_t)WINDOW_MASK;
    switch (address & WINDOW_MASK) {
    case SHARED_WINDOW:
        return locate_shared(t, i, offset, n_bytes);
    case LOCAL_WINDOW:
        return locate_local(t, i, offset, n_bytes);
    case PARAM_WINDOW:
        return locate_parameter(t, i, offset, n_bytes);
    default:
        return locate_global(t, i, address, n_bytes);
    }
}

} // namespace cuptx
