/* planted_static.cu - mistakes that nvcc's flags (PLANTED 1 to 3) or the reading of its PTX
 * (PLANTED 0) have to notice: one kernel each, named after its mistake. custatic.py compiles them
 * and expects to be told. Nothing here is ever run. Thread: none. */

#include "kernels/cuda/compat.cuh"

#if PLANTED == 0

__global__ void without_bounds(float *x)
{
    x[threadIdx.x] = 0;
}

static __device__ __noinline__ float outside(float x)
{
    return x < 1 ? x * x : 2 * x;
}

__global__ void __launch_bounds__(32) calls(float *x)
{
    x[threadIdx.x] = outside(x[threadIdx.x]);
}

__global__ void __launch_bounds__(32) generic_address(float *x, int n)
{
    __shared__ float part[32];
    part[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    const float *p = threadIdx.x < n ? part : x + 32;
    x[threadIdx.x] = p[n];
}

__global__ void __launch_bounds__(32) fences(float *x, int *flag)
{
    x[threadIdx.x] = 1;
    __threadfence();
    *flag = 1;
}

__global__ void __launch_bounds__(32) doubles(float *x)
{
    x[threadIdx.x] = (float)((double)x[threadIdx.x] * 1.1 + 0.1);
}

__global__ void __launch_bounds__(32) dynamic_shared(float *x)
{
    extern __shared__ float launched[];
    launched[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = launched[31 - threadIdx.x];
}

struct launched_layout {
    float rows[4][33];
};

__global__ void __launch_bounds__(32) dynamic_said(float *x)
{
    CU_DYN_SHARED(launched_layout, s);
    s->rows[0][threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = s->rows[0][31 - threadIdx.x];
}

__global__ void __launch_bounds__(32) wide(float4 *x)
{
    float4 v = x[threadIdx.x];
    v.x += v.y * v.z + v.w;
    x[threadIdx.x] = v;
}

#elif PLANTED == 1

/* An array that is indexed by what is not known before it runs lies in local memory. */
__global__ void __launch_bounds__(32) local_array(float *x, int n)
{
    float a[256];
#pragma unroll 1
    for (int i = 0; i < 256; i++) {
        a[i] = x[i * n];
    }
    x[threadIdx.x] = a[(n * 7 + threadIdx.x) % 256];
}

#elif PLANTED == 2

/* 1,024 threads have 64 registers each; these 96 values have to live across a barrier. */
__global__ void __launch_bounds__(1024) spills(float *x)
{
    float v[96];
#pragma unroll
    for (int i = 0; i < 96; i++) {
        v[i] = x[threadIdx.x + i * 1024];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 96; i++) {
        x[threadIdx.x * 96 + i] = v[i] * v[(i * 5 + 1) % 96];
    }
}

#elif PLANTED == 3

__global__ void __launch_bounds__(32) launched(float *x)
{
    x[threadIdx.x] = 0;
}

void default_stream(float *x)
{
    launched<<<1, 32>>>(x);
}

#endif
