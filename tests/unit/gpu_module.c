/* gpu_module.c - a CUDA module whose devices are the CPU: for tests of what lies between a module
 * and a user, where the kernels do not matter. It has the memory that a test says and fails when a
 * test says so; the environment:
 *
 *   GPU_DEVICES   how many there are, 1
 *   GPU_DEAF      a device that is there and does not answer
 *   GPU_MEMORY    bytes of each, 1 GiB; all lanes share them
 *   GPU_BREAK     while this file exists, every synchronisation fails, and the lane is lost
 *   GPU_SCRATCH   while this file exists, operations find no scratch memory: its content is how
 *                 many synchronisations fail so, -1 all
 *
 * Thread: as the module's interface says. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernels/cuda_module.h"
#include "kernels/lane.h"

enum { SLOTS = 4096 };

static tt_ops cpu;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static size_t used;
static struct {
    tt_dev at;
    size_t n_bytes;
} taken[SLOTS];

static long number(const char *name, long otherwise)
{
    const char *text = getenv(name);
    return text != NULL ? atol(text) : otherwise;
}

static size_t memory(void)
{
    return (size_t)number("GPU_MEMORY", 1L << 30);
}

/* The mutex is held. A test may take memory away from under an engine. */
static size_t available(void)
{
    return memory() > used ? memory() - used : 0;
}

static tt_code gpu_alloc(tt_lane *lane, size_t n_bytes, tt_dev *ret_addr, tt_err *reterr)
{
    size_t i = 0;
    pthread_mutex_lock(&mutex);
    tt_code rc = n_bytes > available()
                     ? tt_fail(reterr, TT_E_NOMEM, "no device memory for %zu bytes", n_bytes)
                     : cpu.alloc(lane, n_bytes, ret_addr, reterr);
    while (rc == TT_OK && i < SLOTS - 1 && taken[i].at != 0) {
        i++;
    }
    if (rc == TT_OK) {
        taken[i].at = *ret_addr;
        taken[i].n_bytes = n_bytes;
        used += n_bytes;
    }
    pthread_mutex_unlock(&mutex);
    return rc;
}

/* The lane looks at its table's name: it gets the CPU's. */
static tt_code gpu_lane(const tt_ops *ops, const tt_lane_options *opt, tt_lane **ret_lane,
                        tt_err *reterr)
{
    return cpu.lane_create(&cpu, opt, ret_lane, reterr);
}

static void gpu_free(tt_lane *lane, tt_dev addr)
{
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; addr != 0 && i < SLOTS; i++) {
        if (taken[i].at == addr) {
            used -= taken[i].n_bytes;
            taken[i].at = 0;
            break;
        }
    }
    pthread_mutex_unlock(&mutex);
    cpu.free(lane, addr);
}

/* One failure fewer is left in the file. */
static bool scratch_is_short(void)
{
    const char *path = getenv("GPU_SCRATCH");
    FILE *f = path != NULL ? fopen(path, "r+") : NULL;
    int n = 0;
    if (f == NULL) {
        return false;
    }
    if (fscanf(f, "%d", &n) == 1 && n > 0) {
        rewind(f);
        fprintf(f, "%d ", n - 1);
    }
    fclose(f);
    return n != 0;
}

static tt_code gpu_sync(tt_lane *lane, tt_err *reterr)
{
    const char *path = getenv("GPU_BREAK");
    if (path != NULL && access(path, F_OK) == 0) {
        tt_lane_fail(lane, TT_E_DEVICE, "an illegal memory access was encountered");
    } else if (scratch_is_short()) {
        tt_lane_fail(lane, TT_E_NOMEM, "no device memory for the scratch of an operation");
    }
    return cpu.lane_sync(lane, reterr);
}

static int32_t gpu_count(tt_err *reterr)
{
    int32_t n = (int32_t)number("GPU_DEVICES", 1);
    if (n == 0) {
        tt_fail(reterr, TT_E_UNAVAILABLE, "no CUDA device: no CUDA-capable device is detected");
    }
    return n;
}

static tt_code gpu_info(int32_t device, tt_cuda_info *ret, tt_err *reterr)
{
    if (device == number("GPU_DEAF", -1)) {
        return tt_fail(reterr, TT_E_DEVICE, "device %d does not answer", (int)device);
    }
    pthread_mutex_lock(&mutex);
    *ret = (tt_cuda_info){.sm = 90,
                          .n_multiprocessors = 132,
                          .free_bytes = available(),
                          .total_bytes = memory(),
                          .driver = 13000,
                          .runtime = 13000};
    pthread_mutex_unlock(&mutex);
    snprintf(ret->name, sizeof ret->name, "Pretended GPU %d", (int)device);
    return TT_OK;
}

static tt_code gpu_ops(int32_t device, tt_ops *ret_ops, tt_err *reterr)
{
    tt_ops_get(&cpu, TT_ISA_ALL);
    *ret_ops = cpu;
    ret_ops->isa = "cuda";
    ret_ops->lane_create = gpu_lane;
    ret_ops->alloc = gpu_alloc;
    ret_ops->free = gpu_free;
    ret_ops->lane_sync = gpu_sync;
    return TT_OK;
}

const tt_cuda_module *tt_cuda_module_get(void);
const tt_cuda_module *tt_cuda_module_get(void)
{
    static const tt_cuda_module m = {.abi = TT_CUDA_ABI,
                                     .ops_size = sizeof(tt_ops),
                                     .count = gpu_count,
                                     .info = gpu_info,
                                     .ops = gpu_ops};
    return &m;
}
