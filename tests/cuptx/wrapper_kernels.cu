/* wrapper_kernels.cu - a product of small matrices that goes through every wrapper of inline PTX in
 * kernels/cuda/compat.cuh, so that each asm line is executed and its result is seen, whichever of
 * the real kernels use it. Built by nvcc for the interpreter, and as C++ for the CPU. Thread: one
 * warp. */
#include "tests/cuptx/wrapper_kernels.h"

#include "kernels/cuda/compat.cuh"

/* Two tiles of each operand: one is filled while the other is multiplied. */
struct product_tiles {
    __nv_bfloat16 a[2][16][16], b[2][16][16];
};

/* Lane l copies 16 bytes: half l % 2 of row l / 2. */
static __device__ void copy_tile(__nv_bfloat16 (*tile)[16], const __nv_bfloat16 *from, int pitch,
                                 int n_rows)
{
    int row = (int)threadIdx.x / 2, half = (int)threadIdx.x % 2 * 8;
    cp_async16(&tile[row][half], from + row * pitch + half, row < n_rows);
}

/* c: two tiles of 16 x 8, in fragments. */
template <bool b_by_rows>
static __device__ void multiply(float c[2][4], __nv_bfloat16 (*a)[16], __nv_bfloat16 (*b)[16])
{
    int lane = (int)threadIdx.x;
    uint32_t fa[4], fb[4];
    ldmatrix_x4<false>(fa, &a[lane % 16][lane / 16 * 8]);
    if (b_by_rows) {
        ldmatrix_x4<true>(fb, &b[lane % 16][lane / 16 * 8]);
    } else {
        ldmatrix_x4<false>(fb, &b[lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);
    }
    mma_bf16(c[0], fa, fb[0], fb[1]);
    mma_bf16(c[1], fa, fb[2], fb[3]);
}

template <bool b_by_rows>
__global__ void __launch_bounds__(32) product_kernel(const __nv_bfloat16 *a, const __nv_bfloat16 *b,
                                                     float *c, int n_steps, int n_rows)
{
    CU_DYN_SHARED(product_tiles, s);
    int k = 16 * n_steps, b_pitch = b_by_rows ? 16 : k, b_step = b_by_rows ? 256 : 16;
    float sum[2][4] = {};
    copy_tile(s->a[0], a, k, n_rows);
    copy_tile(s->b[0], b, b_pitch, 16);
    cp_async_commit();
    for (int i = 0; i < n_steps; i++) {
        if (i + 1 < n_steps) {
            copy_tile(s->a[(i + 1) % 2], a + 16 * (i + 1), k, n_rows);
            copy_tile(s->b[(i + 1) % 2], b + b_step * (i + 1), b_pitch, 16);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncwarp();
        multiply<b_by_rows>(sum, s->a[i % 2], s->b[i % 2]);
        __syncwarp();
    }
    cp_async_wait<0>();
    int row = (int)threadIdx.x / 4, column = (int)threadIdx.x % 4 * 2;
    for (int i = 0; i < 8; i++) {
        int y = row + i % 4 / 2 * 8, x = column + i % 2 + i / 4 * 8;
        c[y * 16 + x] = sum[i / 4][i % 4];
    }
}

cudaError_t wrapper_product(cudaStream_t stream, const __nv_bfloat16 *a, const __nv_bfloat16 *b,
                            float *c, int n_steps, int n_rows, bool b_by_rows)
{
    return b_by_rows ? gpu_launch(1, 32, sizeof(product_tiles), stream, product_kernel<true>, a, b,
                                  c, n_steps, n_rows)
                     : gpu_launch(1, 32, sizeof(product_tiles), stream, product_kernel<false>, a, b,
                                  c, n_steps, n_rows);
}
