/* test_kit.h - what the tests of this folder share: checks, a table of tests, children that have to
 * abort with a certain sentence, device arrays. Thread: one. */
#ifndef CUEMU_TEST_KIT_H
#define CUEMU_TEST_KIT_H

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <cuda_runtime.h>
#include <functional>
#include <vector>

#ifndef CUEMU /* NVIDIA's headers: the tests of the kernels run there too (docs/cuda.md) */
namespace cuemu
{

struct place {
    const char *file;
    int line;
};

static constexpr place here(const char *file = __builtin_FILE(), int line = __builtin_LINE())
{
    return {file, line};
}

} // namespace cuemu

/* Nothing is counted and no call can be made to fail. */
static inline long cuemu_live()
{
    return 0;
}
#endif

struct kit_test {
    const char *name;
    void (*run)();
};

/* Runs the table (or the test named in argv[1]); prints a line each and "N passed, N failed".
 * Without a device: 77, which meson counts as skipped. */
int kit_main(int argc, char **argv, const kit_test *tests, size_t n_tests);

/* KIT_SHARE=0/4: of a test's cases the first, fifth, .. where all take long: the modes of a build
 * share them. Without it first = 0, step = 1. KIT_SHARE_TESTS: the same for the tests of a table.
 */
struct kit_share {
    long first, step;
};
kit_share kit_share_asked(const char *variable = "KIT_SHARE");

/* A check that fails says so and fails its test; the test goes on. */
void kit_check(bool ok, const char *what, cuemu::place at);
#define CHECK(x) kit_check((x), #x, {__FILE__, __LINE__})
#define CHECK_OK(x) kit_check((x) == cudaSuccess, #x, {__FILE__, __LINE__})

/* Runs `what` in a child, which has to end by abort() and to say `text` on stderr. */
void kit_expect_abort(const char *text, const std::function<void()> &what,
                      cuemu::place at = cuemu::here());
/* The same, ended by a fault of memory (or a sanitizer's report of it). */
void kit_expect_fault(const std::function<void()> &what, cuemu::place at = cuemu::here());

struct kit_random {
    uint64_t s;
    uint32_t next();
    float uniform(); /* [-1, 1) */
    int below(int n);
};

/* A stream for the life of a test. */
struct kit_stream {
    cudaStream_t s;
    kit_stream();
    ~kit_stream();
    kit_stream(const kit_stream &) = delete;
    void sync();
};

/* n elements of device memory, uploaded and downloaded with blocking copies. */
template <class T> struct kit_array {
    T *p = nullptr;
    size_t n;
    explicit kit_array(size_t count) : n(count)
    {
        kit_check(cudaMalloc(&p, n * sizeof(T)) == cudaSuccess, "cudaMalloc", cuemu::here());
    }
    explicit kit_array(const std::vector<T> &v) : kit_array(v.size())
    {
        cudaMemcpy(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice);
    }
    kit_array(const kit_array &) = delete;
    ~kit_array()
    {
        cudaFree(p);
    }
    std::vector<T> get() const
    {
        std::vector<T> v(n);
        cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost);
        return v;
    }
};

#endif
