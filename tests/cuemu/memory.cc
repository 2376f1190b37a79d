/* memory.cc - device and pinned memory, copies, and the check of kernel arguments.
 *
 * Device memory is never used twice, begins as 0xFF, ends flush against a page that faults, and is
 * accessible while an operation of a stream runs and at no other time: host code that follows a
 * device pointer faults at once. Copies have to lie within one live allocation of the right side.
 * Thread: any, under api_lock. */
#include "runtime.h"

#include <cstdlib>
#include <memory>
#include <sys/mman.h>

namespace cuemu
{

static const size_t SPACE_BYTES = (size_t)1 << 36; /* of addresses; they are not used again */
static const size_t PAGE = 4096;

struct allocation {
    char *p;
    size_t n_bytes;
    int device; /* -1: host memory */
};
/* Plain lists: the half of std::map that lies in libstdc++.so is unknown to MemorySanitizer. */
typedef std::vector<allocation> allocations;

static allocations &on_device()
{
    static auto &list = *new allocations;
    return list;
}

static allocations &pinned()
{
    static auto &list = *new allocations;
    return list;
}

static char *space; /* [SPACE_BYTES], reserved on the first allocation */
static size_t space_used;
static int n_open;

static size_t &device_bytes()
{
    static size_t n_bytes = conf().memory_bytes;
    return n_bytes;
}

/* What an allocation takes: CUDA hands out large pieces, so a request for all that is free can
 * fail. */
static size_t charged(size_t n_bytes)
{
    size_t unit = n_bytes >= (size_t)1 << 20 ? (size_t)2 << 20 : 512;
    return (n_bytes + unit - 1) / unit * unit;
}

static size_t free_bytes_of(int device)
{
    size_t used = 0;
    for (const allocation &a : on_device()) {
        used += a.device == device ? charged(a.n_bytes) : 0;
    }
    return used < device_bytes() ? device_bytes() - used : 0;
}

static bool in_device_space(const void *p)
{
    const char *c = static_cast<const char *>(p);
    return space != nullptr && c >= space && c < space + SPACE_BYTES;
}

static bool in_one_of(const allocations &list, const void *p, size_t n_bytes)
{
    const char *c = static_cast<const char *>(p);
    for (const allocation &a : list) {
        if (c >= a.p && c <= a.p + a.n_bytes && n_bytes <= (size_t)(a.p + a.n_bytes - c)) {
            return true;
        }
    }
    return false;
}

bool in_pinned(const void *p, size_t n_bytes)
{
    return in_one_of(pinned(), p, n_bytes);
}

bool find_allocation(const void *p, size_t n_bytes, const char **ret_begin, size_t *ret_bytes)
{
    for (const allocations *list : {&on_device(), &pinned()}) {
        for (const allocation &a : *list) {
            const char *c = static_cast<const char *>(p);
            if (c >= a.p && c <= a.p + a.n_bytes && n_bytes <= (size_t)(a.p + a.n_bytes - c)) {
                *ret_begin = a.p;
                *ret_bytes = a.n_bytes;
                return true;
            }
        }
    }
    return false;
}

static size_t pages_of(size_t n_bytes)
{
    return (n_bytes + PAGE - 1) / PAGE * PAGE;
}

static char *first_page(const char *p)
{
    return space + (size_t)(p - space) / PAGE * PAGE;
}

static void protect_device(int protection)
{
    for (const allocation &a : on_device()) {
        char *first = first_page(a.p);
        mprotect(first, pages_of((size_t)(a.p - first) + a.n_bytes), protection);
    }
}

void open_device()
{
    if (n_open++ == 0) {
        protect_device(PROT_READ | PROT_WRITE);
    }
}

void close_device()
{
    if (--n_open == 0) {
        protect_device(PROT_NONE);
    }
}

/* Packed integers can look like low addresses, and sanitizers' shadow lies there: what counts as a
 * host pointer is mapped and lies where programs, heaps and stacks do. */
static bool is_host_pointer(uintptr_t v)
{
    return v >= 0x550000000000ull && v < (uintptr_t)1 << 47 &&
           !in_pinned(reinterpret_cast<void *>(v), 0) &&
           msync(reinterpret_cast<void *>(v / PAGE * PAGE), 1, MS_ASYNC) == 0;
}

static int device_holding(const void *p)
{
    const char *c = static_cast<const char *>(p);
    for (const allocation &a : on_device()) {
        if (c >= a.p && c <= a.p + a.n_bytes) {
            return a.device;
        }
    }
    return -1;
}

void check_argument(const void *bytes, size_t n_bytes, const char *what)
{
    static const place ARGUMENT = {"launch", 0};
    std::lock_guard<std::recursive_mutex> guard(api_lock);
    for (size_t i = 0; i + sizeof(uintptr_t) <= n_bytes; i += sizeof(uintptr_t)) {
        uintptr_t v;
        memcpy(&v, static_cast<const char *>(bytes) + i, sizeof v);
        mark_defined(&v, sizeof v); /* padding of structs */
        const void *p = reinterpret_cast<const void *>(v);
        if (in_device_space(p)) {
            int device = device_holding(p);
            if (device < 0) {
                fail(ARGUMENT, "%s is a stale or out-of-range device pointer %p", what, p);
            }
            if (device != current_device()) {
                fail(ARGUMENT, "%s is memory of device %d, the launch is on %d", what, device,
                     current_device());
            }
        } else if (is_host_pointer(v)) {
            fail(ARGUMENT, "%s is a host pointer %p", what, p);
        }
    }
}

static void check_range(const void *p, size_t n_bytes, bool device, const char *which)
{
    static const place COPY = {"copy", 0};
    if (device ? !in_one_of(on_device(), p, n_bytes) : in_device_space(p)) {
        fail(COPY, "the %s %p + %zu is not inside one %s allocation", which, p, n_bytes,
             device ? "device" : "host");
    }
}

static bool reads_device(cudaMemcpyKind kind, const void *src)
{
    return kind == cudaMemcpyDefault
               ? in_device_space(src)
               : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
}

static bool writes_device(cudaMemcpyKind kind, const void *dst)
{
    return kind == cudaMemcpyDefault
               ? in_device_space(dst)
               : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
}

static void check_apart(const void *dst, const void *src, size_t n_bytes)
{
    const char *d = static_cast<const char *>(dst), *s = static_cast<const char *>(src);
    if (d < s + n_bytes && s < d + n_bytes) {
        fail({"copy", 0}, "source and destination overlap");
    }
}

/* Where systems seldom map by themselves and sanitizers allow it: then half a host pointer beside
 * an integer is no device pointer. A few places, since addresses are random. */
static char *reserve_space()
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    for (uintptr_t base = 0x7e9000000000u; base < 0x7ef000000000u; base += SPACE_BYTES) {
        void *got = mmap(reinterpret_cast<void *>(base), SPACE_BYTES, PROT_NONE, flags, -1, 0);
        if (got == reinterpret_cast<void *>(base)) {
            return static_cast<char *>(got);
        }
        if (got != MAP_FAILED) { /* an old system that takes the address for a wish */
            munmap(got, SPACE_BYTES);
        }
    }
    fail({"cudaMalloc", 0}, "the addresses of device memory are taken");
}

static cudaError_t device_alloc(void **p, size_t n_bytes)
{
    if (n_bytes == 0) {
        *p = nullptr;
        return cudaSuccess;
    }
    if (charged(n_bytes) > free_bytes_of(current_device())) {
        return remember(cudaErrorMemoryAllocation);
    }
    if (space == nullptr) {
        space = reserve_space();
    }
    size_t rounded = (n_bytes + 255) / 256 * 256, n = pages_of(rounded);
    if (n + PAGE > SPACE_BYTES - space_used) {
        return remember(cudaErrorMemoryAllocation);
    }
    char *base = space + space_used, *at = base + n - rounded;
    space_used += n + PAGE;
    mprotect(base, n, PROT_READ | PROT_WRITE);
    memset(base, 0xff, n);
    mark_undefined(at, n_bytes);
    poison(base, n + PAGE);
    unpoison(at, n_bytes);
    if (n_open == 0) {
        mprotect(base, n, PROT_NONE);
    }
    on_device().push_back({at, n_bytes, current_device()});
    n_live_objects++;
    *p = at;
    return cudaSuccess;
}

static allocation take_out(allocations *list, const void *p, const char *what)
{
    for (size_t i = 0; i < list->size(); i++) {
        allocation a = (*list)[i];
        if (a.p == p) {
            (*list)[i] = list->back();
            list->pop_back();
            n_live_objects--;
            return a;
        }
    }
    fail({what, 0}, "not a live allocation: %p", p);
}

/* Addresses are not given out again: what still points here faults. */
static void device_free(void *p)
{
    int device = device_holding(p);
    if (device >= 0) {
        drain_device(device);
    }
    allocation a = take_out(&on_device(), p, "cudaFree");
    char *first = first_page(a.p);
    size_t n = pages_of((size_t)(a.p - first) + a.n_bytes);
    poison(first, n);
    mmap(first, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

/* Pageable sources are read at the call, pinned ones when the copy runs; into pageable memory and
 * from host to host the call waits. */
static cudaError_t copy_async(void *dst, const void *src, size_t n_bytes, cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    bool to_device = writes_device(kind, dst), from_device = reads_device(kind, src);
    if (to_device && !from_device && !in_pinned(src, n_bytes)) {
        const char *bytes = static_cast<const char *>(src);
        auto kept = std::make_shared<std::vector<char>>(bytes, bytes + n_bytes);
        return enqueue(stream, [dst, kept] { memcpy(dst, kept->data(), kept->size()); });
    }
    cudaError_t err = enqueue(stream, [dst, src, n_bytes] { memcpy(dst, src, n_bytes); });
    if (err == cudaSuccess && !to_device && (!from_device || !in_pinned(dst, n_bytes))) {
        drain_stream(stream);
    }
    return err;
}

} // namespace cuemu

using namespace cuemu;

extern "C" {

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    *free_bytes = free_bytes_of(current_device());
    *total_bytes = device_bytes();
    return cudaSuccess;
}

void cuemu_set_memory(size_t n_bytes)
{
    std::lock_guard<std::recursive_mutex> guard(api_lock);
    device_bytes() = n_bytes;
}

cudaError_t cudaMalloc(void **p, size_t n_bytes)
{
    api_call call;
    return call.err != cudaSuccess ? call.err : device_alloc(p, n_bytes);
}

cudaError_t cudaFree(void *p)
{
    api_wait call;
    if (p != nullptr) {
        device_free(p);
    }
    return call.err;
}

/* Begins as NaN, as device memory does. */
cudaError_t cudaHostAlloc(void **p, size_t n_bytes, unsigned flags)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    if ((flags & ~(cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined)) !=
        0) {
        return remember(cudaErrorInvalidValue);
    }
    if (n_bytes == 0) {
        *p = nullptr;
        return cudaSuccess;
    }
    void *got = malloc(n_bytes);
    if (got == nullptr) {
        return remember(cudaErrorMemoryAllocation);
    }
    memset(got, 0xff, n_bytes);
    mark_undefined(got, n_bytes);
    pinned().push_back({static_cast<char *>(got), n_bytes, -1});
    n_live_objects++;
    *p = got;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t n_bytes)
{
    return cudaHostAlloc(p, n_bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *p)
{
    api_wait call;
    if (p != nullptr) {
        for (int device = 0; device < conf().devices; device++) {
            drain_device(device);
        }
        take_out(&pinned(), p, "cudaFreeHost");
        free(p);
    }
    return call.err;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n_bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    api_call call;
    if (call.err != cudaSuccess || n_bytes == 0) {
        return call.err;
    }
    check_range(dst, n_bytes, writes_device(kind, dst), "destination");
    check_range(src, n_bytes, reads_device(kind, src), "source");
    check_apart(dst, src, n_bytes);
    return copy_async(dst, src, n_bytes, kind, stream);
}

/* Between places of one device the host does not wait, as for cudaMemset(). */
cudaError_t cudaMemcpy(void *dst, const void *src, size_t n_bytes, cudaMemcpyKind kind)
{
    api_wait call;
    if (call.err != cudaSuccess || n_bytes == 0) {
        return call.err;
    }
    check_range(dst, n_bytes, writes_device(kind, dst), "destination");
    check_range(src, n_bytes, reads_device(kind, src), "source");
    check_apart(dst, src, n_bytes);
    bool on_device = writes_device(kind, dst) && reads_device(kind, src);
    return enqueue_legacy([=] { memcpy(dst, src, n_bytes); }, !on_device);
}

/* Pinned host memory only: what a pageable one would mean is not needed here. */
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    api_call call;
    if (call.err != cudaSuccess || width == 0 || height == 0) {
        return call.err;
    }
    if (width > dst_pitch || width > src_pitch) {
        return remember(cudaErrorInvalidValue);
    }
    bool to_device = writes_device(kind, dst), from_device = reads_device(kind, src);
    size_t dst_bytes = dst_pitch * (height - 1) + width;
    size_t src_bytes = src_pitch * (height - 1) + width;
    check_range(dst, dst_bytes, to_device, "destination");
    check_range(src, src_bytes, from_device, "source");
    if ((!to_device && !in_pinned(dst, dst_bytes)) ||
        (!from_device && !in_pinned(src, src_bytes))) {
        fail({"copy", 0}, "cudaMemcpy2DAsync with pageable host memory");
    }
    return enqueue(stream, [=] {
        for (size_t i = 0; i < height; i++) {
            memcpy(static_cast<char *>(dst) + i * dst_pitch,
                   static_cast<const char *>(src) + i * src_pitch, width);
        }
    });
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t n_bytes, cudaStream_t stream)
{
    api_call call;
    if (call.err != cudaSuccess || n_bytes == 0) {
        return call.err;
    }
    check_range(dst, n_bytes, true, "destination");
    return enqueue(stream, [dst, value, n_bytes] { memset(dst, value, n_bytes); });
}

cudaError_t cudaMemset(void *dst, int value, size_t n_bytes)
{
    api_wait call;
    if (call.err != cudaSuccess || n_bytes == 0) {
        return call.err;
    }
    check_range(dst, n_bytes, true, "destination");
    return enqueue_legacy([=] { memset(dst, value, n_bytes); }, false);
}
}
