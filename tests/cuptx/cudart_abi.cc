/* cudart_abi.cc - what the code that nvcc generates calls, as in libcudart: registration of
 * kernels, launches. With the rest of the stand-in it becomes libcudart.so.13, and a program that
 * nvcc built runs with it unmodified; its kernels are interpreted.
 *
 * Environment, beside cuemu.h's: CUPTX_COVERAGE, a file to which coverage is appended at exit.
 * Thread: registration before main(); launches any thread. */
#include <cstdlib>

#include "coverage.h"
#include "fatbin.h"

namespace cuptx
{

/* Of one fat binary, which is one file that nvcc compiled. The text is parsed at the first use. */
struct registered {
    const void *wrapper;
    std::string name;
    std::unique_ptr<module> m;
};

struct entry {
    const void *stub; /* the host function that stands for the kernel */
    std::string name;
    registered *in;
};

struct registry {
    std::mutex lock;
    std::vector<std::unique_ptr<registered>> modules;
    std::vector<entry> entries;
};

static registry &all()
{
    static auto &r = *new registry;
    return r;
}

static module *module_of(registered *r)
{
    std::lock_guard<std::mutex> guard(all().lock);
    if (r->m == nullptr) {
        std::string wrong, text = fatbin_ptx(r->wrapper, &wrong);
        if (text.empty()) {
            cuemu::fail({r->name.c_str(), 0}, "%s", wrong.c_str());
        }
        r->m = module_parse(r->name, text);
    }
    return r->m.get();
}

static void coverage_at_exit()
{
    for (const auto &r : all().modules) {
        bool has_kernels = false;
        for (const entry &e : all().entries) {
            has_kernels = has_kernels || e.in == r.get();
        }
        if (has_kernels) {
            coverage_write(module_of(r.get()), getenv("CUPTX_COVERAGE"));
        }
    }
}

static registered *registered_add(const void *wrapper)
{
    std::lock_guard<std::mutex> guard(all().lock);
    if (all().modules.empty() && getenv("CUPTX_COVERAGE") != nullptr) {
        atexit(coverage_at_exit);
    }
    auto r = std::make_unique<registered>();
    r->wrapper = wrapper;
    r->name = "ptx of file " + std::to_string(all().modules.size() + 1);
    all().modules.push_back(std::move(r));
    return all().modules.back().get();
}

static const entry *entry_of(const void *stub)
{
    std::lock_guard<std::mutex> guard(all().lock);
    for (const entry &e : all().entries) {
        if (e.stub == stub) {
            return &e;
        }
    }
    return nullptr;
}

static cudaError_t launch(const cudaLaunchConfig_t &c, const void *stub, void **args)
{
    const entry *e = entry_of(stub);
    if (e == nullptr) {
        return cuemu::remember(cudaErrorInvalidValue);
    }
    if (c.numAttrs != 0) {
        cuemu::fail({e->name.c_str(), 0}, "launch attributes are not supported");
    }
    module *m = module_of(e->in);
    const kernel *k = m->find(e->name);
    if (k == nullptr) {
        cuemu::fail({e->name.c_str(), 0}, "the kernel is not in its PTX");
    }
    uint64_t n_threads = (uint64_t)c.blockDim.x * c.blockDim.y * c.blockDim.z;
    if (k->max_threads != 0 && n_threads > k->max_threads) {
        cuemu::fail({k->name.c_str(), 0}, "launched with %llu threads, its bound is %u",
                    (unsigned long long)n_threads, k->max_threads);
    }
    return cuemu::launch(c, stub, kernel_body(m, k, args, c.dynamicSmemBytes));
}

} // namespace cuptx

/* The names and signatures are nvcc's. */
extern "C" {

void **__cudaRegisterFatBinary(void *wrapper)
{
    return reinterpret_cast<void **>(cuptx::registered_add(wrapper));
}

void __cudaRegisterFatBinaryEnd(void **)
{
}

void __cudaUnregisterFatBinary(void **)
{
}

char __cudaInitModule(void **)
{
    return 1;
}

void __cudaRegisterFunction(void **handle, const char *stub, char *, const char *name, int, uint3 *,
                            uint3 *, dim3 *, dim3 *, int *)
{
    std::lock_guard<std::mutex> guard(cuptx::all().lock);
    cuptx::all().entries.push_back({stub, name, reinterpret_cast<cuptx::registered *>(handle)});
}

/* Device variables need no host address: the project copies nothing to symbols. */
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int)
{
}

cudaError_t __cudaGetKernel(const void **kernel, const void *stub)
{
    *kernel = stub;
    return cudaSuccess;
}

/* <<<>>> is banned here (docs/cuda.md); nvcc's stubs still name these two. */
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, cudaStream_t)
{
    cuemu::fail({"launch", 0}, "<<<>>> is not used in this project");
}

cudaError_t __cudaPopCallConfiguration(dim3 *, dim3 *, size_t *, void *)
{
    cuemu::fail({"launch", 0}, "<<<>>> is not used in this project");
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *stub, void **args)
{
    return cuptx::launch(*config, stub, args);
}

cudaError_t __cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **args,
                               size_t shared_bytes, cudaStream_t stream)
{
    cudaLaunchConfig_t c = {};
    c.gridDim = grid;
    c.blockDim = block;
    c.dynamicSmemBytes = shared_bytes;
    c.stream = stream;
    return cuptx::launch(c, kernel, args);
}

/* The header beside has a template of this name. */
cudaError_t cuptx_set_attribute(const void *stub, int attribute,
                                int value) __asm__("cudaFuncSetAttribute");
cudaError_t cuptx_set_attribute(const void *stub, int attribute, int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) {
        return cuemu::remember(cudaErrorInvalidValue);
    }
    return cuemu::allow_shared(stub, value);
}
}
