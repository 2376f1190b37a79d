/* blas.cc - cuBLAS by plain loops. Arguments are judged as its documentation says; elements are
 * packed one by one in code that sanitizers see, so a wrong leading dimension or stride is a read
 * out of bounds. Thread: any; products run as operations of the handle's stream. */
#include "cublas_v2.h"

#include <vector>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "runtime.h"

struct cublasContext {
    cudaStream_t stream;
    int device; /* the thread's when it was made */
};

namespace cuemu
{

struct matrix {
    const void *p;
    cudaDataType type;
    int ld;
    long long stride; /* elements from one of the batch to the next */
    bool transposed;
};

struct product {
    int m, n, k, n_batch;
    matrix a, b;
    void *c;
    cudaDataType c_type;
    int ldc;
    long long c_stride;
    float alpha, beta;
};

/* What an injected failure looks like from outside. */
static cublasStatus_t failed(cudaError_t err, cublasStatus_t otherwise)
{
    return err == cudaErrorMemoryAllocation ? CUBLAS_STATUS_ALLOC_FAILED : otherwise;
}

static size_t element_bytes(cudaDataType type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

static float load(const void *p, cudaDataType type, size_t i)
{
    switch (type) {
    case CUDA_R_16BF:
        return __bfloat162float(static_cast<const __nv_bfloat16 *>(p)[i]);
    case CUDA_R_16F:
        return __half2float(static_cast<const __half *>(p)[i]);
    default:
        return static_cast<const float *>(p)[i];
    }
}

static void store(void *p, cudaDataType type, size_t i, float v)
{
    switch (type) {
    case CUDA_R_16BF:
        static_cast<__nv_bfloat16 *>(p)[i] = __float2bfloat16(v);
        return;
    case CUDA_R_16F:
        static_cast<__half *>(p)[i] = __float2half(v);
        return;
    default:
        static_cast<float *>(p)[i] = v;
    }
}

/* Element (r, i) of one of the batch, r < n_rows, i < k; its column-major storage has k along the
 * leading dimension when k_leads. Written to out[r * row_step + i * k_step]. */
static std::vector<float> pack(const matrix &x, int index, int n_rows, int k, bool k_leads,
                               size_t row_step, size_t k_step)
{
    std::vector<float> out((size_t)n_rows * (size_t)k);
    const char *base = static_cast<const char *>(x.p) +
                       (long long)index * x.stride * (long long)element_bytes(x.type);
    for (int r = 0; r < n_rows; r++) {
        for (int i = 0; i < k; i++) {
            size_t at = k_leads ? (size_t)r * (size_t)x.ld + (size_t)i
                                : (size_t)i * (size_t)x.ld + (size_t)r;
            out[(size_t)r * row_step + (size_t)i * k_step] = load(base, x.type, at);
        }
    }
    return out;
}

/* A column of C at a time: each element is one sum in rising order of k, and the compiler makes
 * many elements at once. */
static void multiply(const product &p, int index)
{
    size_t m = (size_t)p.m, k = (size_t)p.k;
    std::vector<float> a = pack(p.a, index, p.m, p.k, p.a.transposed, 1, m);
    std::vector<float> b = pack(p.b, index, p.n, p.k, !p.b.transposed, k, 1);
    std::vector<float> column(m);
    char *c = static_cast<char *>(p.c) +
              (long long)index * p.c_stride * (long long)element_bytes(p.c_type);
    for (int j = 0; j < p.n; j++) {
        float *sum = column.data();
        for (size_t i = 0; i < m; i++) {
            sum[i] = 0;
        }
        for (size_t l = 0; l < k; l++) {
            const float *x = a.data() + l * m;
            float y = b[(size_t)j * k + l];
            for (size_t i = 0; i < m; i++) {
                sum[i] += x[i] * y;
            }
        }
        for (int i = 0; i < p.m; i++) {
            size_t at = (size_t)j * (size_t)p.ldc + (size_t)i;
            float old = p.beta == 0 ? 0 : p.beta * load(c, p.c_type, at);
            store(c, p.c_type, at, p.alpha * sum[i] + old);
        }
    }
}

/* The documented table of types for FP32 compute: A and B alike, C the same or FP32. */
static cublasStatus_t judge(const product &p, cublasComputeType_t compute)
{
    int rows_a = p.a.transposed ? p.k : p.m, rows_b = p.b.transposed ? p.n : p.k;
    if (p.m < 0 || p.n < 0 || p.k < 0 || p.n_batch < 0 || p.a.ld < 1 || p.a.ld < rows_a ||
        p.b.ld < 1 || p.b.ld < rows_b || p.ldc < 1 || p.ldc < p.m) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    bool compute_ok = compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_PEDANTIC;
    bool types_ok = p.a.type == p.b.type && (p.c_type == p.a.type || p.c_type == CUDA_R_32F);
    return compute_ok && types_ok ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

} // namespace cuemu

using namespace cuemu;

extern "C" {

cublasStatus_t cublasCreate(cublasHandle_t *handle)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return failed(call.err, CUBLAS_STATUS_NOT_INITIALIZED);
    }
    *handle = new cublasContext();
    (*handle)->device = current_device();
    n_live_objects++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle)
{
    api_call call;
    delete handle;
    n_live_objects--;
    return call.err != cudaSuccess ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return failed(call.err, CUBLAS_STATUS_NOT_INITIALIZED);
    }
    if (stream != nullptr && device_of(stream) != handle->device) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

/* Not used; but it has to be device memory, aligned to 256. */
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *p, size_t)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return failed(call.err, CUBLAS_STATUS_NOT_INITIALIZED);
    }
    check_argument(&p, sizeof p, "a workspace");
    return reinterpret_cast<uintptr_t>(p) % 256 != 0 ? CUBLAS_STATUS_INVALID_VALUE
                                                     : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t)
{
    api_call call;
    return call.err != cudaSuccess ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "cublas error";
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a,
                                          cublasOperation_t op_b, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType a_type,
                                          int lda, long long a_stride, const void *b,
                                          cudaDataType b_type, int ldb, long long b_stride,
                                          const void *beta, void *c, cudaDataType c_type, int ldc,
                                          long long c_stride, int n_batch,
                                          cublasComputeType_t compute, cublasGemmAlgo_t)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return failed(call.err, CUBLAS_STATUS_EXECUTION_FAILED);
    }
    product p = {};
    p.m = m;
    p.n = n;
    p.k = k;
    p.n_batch = n_batch;
    p.a = {a, a_type, lda, a_stride, op_a != CUBLAS_OP_N};
    p.b = {b, b_type, ldb, b_stride, op_b != CUBLAS_OP_N};
    p.c = c;
    p.c_type = c_type;
    p.ldc = ldc;
    p.c_stride = c_stride;
    cublasStatus_t status = judge(p, compute);
    if (status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    if (handle->device != current_device()) {
        fail({"cublas", 0}, "a handle of device %d is used on %d", handle->device,
             current_device());
    }
    p.alpha = *static_cast<const float *>(alpha);
    p.beta = *static_cast<const float *>(beta);
    check_argument(&a, sizeof a, "A of a product");
    check_argument(&b, sizeof b, "B of a product");
    check_argument(&c, sizeof c, "C of a product");
    n_launches++;
    cudaError_t err = enqueue(handle->stream, [p] {
        for (int i = 0; i < p.n_batch; i++) {
            multiply(p, i);
        }
    });
    return err != cudaSuccess ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                            int m, int n, int k, const void *alpha, const void *a,
                            cudaDataType a_type, int lda, const void *b, cudaDataType b_type,
                            int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algo)
{
    return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, 0, b,
                                      b_type, ldb, 0, beta, c, c_type, ldc, 0, 1, compute, algo);
}
}
