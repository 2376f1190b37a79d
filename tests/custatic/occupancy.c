/* occupancy.c - how many blocks of a kernel one multiprocessor holds, by NVIDIA's own calculator
 * (cuda_occupancy.h of the toolkit, which needs no GPU).
 *
 * Reads lines "SM REGISTERS STATIC DYNAMIC BARRIERS THREADS" (80 or 90; registers a thread; bytes
 * of shared memory; barriers and threads a block) and prints the number of blocks for each, 0 when
 * the kernel cannot be launched at all. Thread: one. */
#include <stdio.h>

#include <cuda_occupancy.h>

enum { KIB = 1024 };

/* Figures of the CUDA programming guide, "compute capabilities"; 1 KiB of shared memory a block is
 * the driver's. */
static const struct cudaOccDeviceProp parts[] = {
    {.computeMajor = 8,
     .maxThreadsPerBlock = 1024,
     .maxThreadsPerMultiprocessor = 2048,
     .regsPerBlock = 65536,
     .regsPerMultiprocessor = 65536,
     .warpSize = 32,
     .sharedMemPerBlock = 48 * KIB,
     .sharedMemPerMultiprocessor = 164 * KIB,
     .numSms = 108,
     .sharedMemPerBlockOptin = 163 * KIB,
     .reservedSharedMemPerBlock = KIB},
    {.computeMajor = 9,
     .maxThreadsPerBlock = 1024,
     .maxThreadsPerMultiprocessor = 2048,
     .regsPerBlock = 65536,
     .regsPerMultiprocessor = 65536,
     .warpSize = 32,
     .sharedMemPerBlock = 48 * KIB,
     .sharedMemPerMultiprocessor = 228 * KIB,
     .numSms = 132,
     .sharedMemPerBlockOptin = 227 * KIB,
     .reservedSharedMemPerBlock = KIB},
};

int main(void)
{
    int sm, registers, static_bytes, dynamic_bytes, barriers, threads;
    while (scanf("%d %d %d %d %d %d", &sm, &registers, &static_bytes, &dynamic_bytes, &barriers,
                 &threads) == 6) {
        if (sm != 80 && sm != 90) {
            fprintf(stderr, "sm_%d: 80 and 90 are known\n", sm);
            return 1;
        }
        cudaOccFuncAttributes kernel = {.maxThreadsPerBlock = threads,
                                        .numRegs = registers,
                                        .sharedSizeBytes = (size_t)static_bytes,
                                        .partitionedGCConfig = PARTITIONED_GC_OFF,
                                        .shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN,
                                        .maxDynamicSharedSizeBytes = (size_t)dynamic_bytes,
                                        .numBlockBarriers = barriers};
        cudaOccDeviceState state = {.cacheConfig = CACHE_PREFER_NONE,
                                    .carveoutConfig = SHAREDMEM_CARVEOUT_DEFAULT};
        cudaOccResult result;
        if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &parts[sm == 90], &kernel, &state,
                                                    threads,
                                                    (size_t)dynamic_bytes) != CUDA_OCC_SUCCESS) {
            fprintf(stderr, "sm_%d, %d threads: not a kernel that can be\n", sm, threads);
            return 1;
        }
        printf("%d\n", result.activeBlocksPerMultiprocessor);
    }
    return 0;
}
