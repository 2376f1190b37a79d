/* compat_wrappers.cu - every line of inline PTX of compat.cuh in one kernel, so that nvcc compiles
 * them whether or not a kernel of the server uses them; custatic.py counts what comes out. Never
 * run. Thread: none. */
#include "kernels/cuda/compat.cuh"

__global__ void __launch_bounds__(32) wrappers(const uint4 *from, float4 *to)
{
    CU_SHARED(uint4[32], tile);
    int lane = (int)threadIdx.x;
    cp_async16(&tile[lane], from + lane, lane < 31);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    uint32_t a[4], b[4];
    ldmatrix_x4<false>(a, &tile[lane]);
    ldmatrix_x4<true>(b, &tile[lane]);
    float d[4] = {};
    mma_bf16(d, a, b[0], b[1]);
    to[lane] = make_float4(d[0], d[1], d[2], d[3]);
}
