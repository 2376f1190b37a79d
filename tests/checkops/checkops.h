/* checkops.h - what the op tests share: random inputs, guarded buffers, shapes, and the rows of the
 * table of tests. Thread: one. The tests reach memory only through the table (alloc, upload,
 * download), so they fit any device.
 *
 * One test = one op on one shape. setup() makes inputs from the test's seed and fills t->args; the
 * driver uploads, calls, downloads, checks canaries and untouched inputs and compares outputs with
 * those of the reference table. A test may be asked for a slice of its rows: inputs are made for
 * all rows, the op sees [row0, row0 + n_rows) only. */
#ifndef TT_CHECKOPS_H
#define TT_CHECKOPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "kernels/ops.h"

#define CO_GUARD 128 /* bytes of canary on each side of a buffer */
#define CO_MAX_BUFS 32
#define CO_MAX_WEIGHTS 8
#define CO_MAX_HOST 64

typedef struct co_rng {
    uint64_t s;
} co_rng;

uint64_t co_next(co_rng *r);
double co_uniform(co_rng *r); /* [0, 1) */
double co_normal(co_rng *r);
int32_t co_below(co_rng *r, int32_t n);

#define CO_BIT(x) (1u << (x))
#define CO_PLAIN (CO_BIT(TT_F32) | CO_BIT(TT_F16) | CO_BIT(TT_BF16))
#define CO_LEGACY                                                                                  \
    (CO_BIT(TT_Q8_0) | CO_BIT(TT_Q4_0) | CO_BIT(TT_Q4_1) | CO_BIT(TT_Q5_0) | CO_BIT(TT_Q5_1))
#define CO_K_TYPES (CO_BIT(TT_Q4_K) | CO_BIT(TT_Q5_K) | CO_BIT(TT_Q6_K))
#define CO_ALL_TYPES (CO_PLAIN | CO_LEGACY | CO_K_TYPES)
#define CO_BOTH_FAMILIES (CO_BIT(TT_PREFILL) | CO_BIT(TT_DECODE))

enum co_flag {
    CO_ACCUMULATE = 1 << 0, /* also: an `add` input */
    CO_IN_PLACE = 1 << 1,
    CO_BIAS = 1 << 2,
    CO_NORM = 1 << 3,
    CO_NO_KV = 1 << 4, /* no row is stored */
    CO_LORA = 1 << 5,
    CO_BF16_ADAPTER = 1 << 6,
    CO_NOT_FINITE = 1 << 7,
    CO_NO_CLIP = 1 << 8,
    CO_SGD = 1 << 9,
    CO_INTERLEAVED = 1 << 10,
    CO_GELU = 1 << 11,
    CO_BENCH = 1 << 12, /* measured by --bench */
    CO_SLOW = 1 << 13,  /* no comparison with the formula, few slices */
};

/* Which fields mean something is the op's affair; zero is none. */
typedef struct co_shape {
    int32_t rows, in, out[TT_MATMUL_MAX];
    int32_t heads, kv_heads, dim; /* dim: of a head, or of a row */
    int32_t rot;                  /* rotated elements; 0 = dim */
    int32_t ctx[4]; /* attention: position of each segment's first row; rows are dealt out evenly */
    int32_t n_segs, window;
    int32_t vocab, block; /* columns of one block of the head */
    int32_t rank, step;
    unsigned types;    /* bits of tt_dtype, one instance each; 0 = F32 */
    unsigned families; /* bits of tt_family; 0 = PREFILL */
    unsigned flags;    /* enum co_flag */
    /* Set by the driver: */
    tt_dtype type;
    tt_family family;
} co_shape;

/* CO_SCRATCH may be written and is not compared. */
typedef enum co_role { CO_IN, CO_OUT, CO_INOUT, CO_SCRATCH } co_role;
typedef enum co_elem { CO_F32, CO_F64, CO_BF16, CO_I32, CO_U8 } co_elem;

typedef struct co_buf {
    const char *name;
    co_role role;
    co_elem elem;
    int64_t rows, len; /* rows == 0: not cut by rows; len elements in all */
    size_t n_bytes;
    uint8_t *sent; /* owned: guard, content, guard as uploaded */
    uint8_t *got;  /* owned: the same after the call */
    tt_dev base;   /* owned */
    tt_dev dev;    /* the content */
} co_buf;

typedef union co_args {
    tt_embed_args embed;
    tt_rmsnorm_args rmsnorm;
    tt_rmsnorm_bwd_args rmsnorm_bwd;
    tt_matmul_args matmul;
    tt_matmul_bwd_args matmul_bwd;
    tt_adapter_fwd_args adapter_fwd;
    tt_adapter_bwd_args adapter_bwd;
    tt_adapter_grad_args adapter_grad;
    tt_qk_rope_args qk_rope;
    tt_q_rope_bwd_args q_rope_bwd;
    tt_attention_args attention;
    tt_attention_bwd_args attention_bwd;
    tt_gated_args gated;
    tt_gated_bwd_args gated_bwd;
    tt_gather_args gather;
    tt_head_args head;
    tt_optim_args optim;
    tt_delta_norm_args delta_norm;
    tt_sample_args sample;
    tt_checksum_args checksum;
    struct {
        tt_dev src, dst;
        int64_t n;
    } to_bf16;
} co_args;

typedef struct co_test {
    const struct co_op *op;
    const tt_ops *ops;
    tt_lane *lane; /* owned */
    co_shape shape;
    int n_threads;
    int32_t row0, n_rows;
    uint64_t seed; /* of the shape: all its variants have the same inputs */
    co_rng rng;
    co_args args;
    co_buf bufs[CO_MAX_BUFS];
    int n_bufs;
    tt_weight weights[CO_MAX_WEIGHTS];
    uint8_t *weight_bytes[CO_MAX_WEIGHTS]; /* owned */
    int n_weights;
    void *host[CO_MAX_HOST]; /* owned: arrays that args point to */
    int n_host;
    void *scratch; /* what a loss keeps between calls; in `host` */
    bool failed;   /* something was reported */
} co_test;

/* A derivative that a backward op computes: row r of `output` is d loss / d row r of `input`.
 * Buffers that are not cut by rows count as one row. Where the op adds to `output` (always, or with
 * CO_ACCUMULATE), what was there before is taken off. */
typedef enum co_adds { CO_NEVER, CO_WITH_FLAG, CO_ALWAYS } co_adds;

typedef struct co_grad {
    const char *input, *output; /* names of buffers; a test that lacks one skips the row */
    co_adds adds;
    double (*loss)(co_test *t, int64_t row,
                   const double *x); /* by the formula, x in place of the input's row */
} co_grad;

typedef struct co_op {
    const char *name;
    size_t fn;              /* offset of the op's pointer in tt_ops */
    double max_nmse;        /* against ref: sum of squared errors over sum of squares, per output */
    double max_decode_nmse; /* the same for the DECODE family; 0 = max_nmse */
    double max_i8_nmse;     /* the same for the type TT_I8; 0 = the others */
    /* The same on a GPU, where DECODE multiplies on tensor cores: activations are BF16, too. 0 =
     * max_decode_nmse. */
    double max_device_decode_nmse;
    /* Usual size of an output's elements by the making of the inputs: the least that errors are
     * taken relative to, since all elements may be small where terms cancel. 0 = their own size
     * alone. */
    double scale;
    bool by_row;  /* rows are independent: slices are tried */
    bool kv_type; /* the shape's type is that of the K/V pages */
    const co_shape *shapes;
    int n_shapes;
    void (*setup)(co_test *t);
    void (*call)(co_test *t);
    void (*after)(co_test *t); /* or NULL: adds outputs that are derived from what came back */
    void (*formula)(
        co_test *t);      /* or NULL: compares ref with an independent computation: co_expect() */
    const co_grad *grads; /* or NULL; ended by a row without an input */
} co_op;

/* ---- for setup() and formula() ---- */

/* Each returns the buffer, contents random (normal, deviation `sigma`); sigma < 0: normal with rare
 * outliers of 50 |sigma|. */
co_buf *co_in(co_test *t, const char *name, int64_t rows, int64_t len, double sigma);
co_buf *co_inout(co_test *t, const char *name, int64_t rows, int64_t len, double sigma);
/* Filled with NaN (0xFF bytes). */
co_buf *co_out(co_test *t, const char *name, co_elem elem, int64_t rows, int64_t len);
/* Given contents of n_bytes; not cut by rows. */
co_buf *co_bytes(co_test *t, const char *name, co_role role, co_elem elem, const void *p,
                 int64_t len);
/* One given integer a row. */
co_buf *co_ints(co_test *t, const char *name, const int32_t *v, int64_t rows);
/* For after(): an output [rows, len] of doubles whose contents the caller sets with co_set_got().
 */
co_buf *co_derived(co_test *t, const char *name, int64_t rows, int64_t len);
void co_set_got(co_buf *b, int64_t i, double v);
/* Address of the first row of the slice (of the whole where the buffer is not cut by rows). */
tt_dev co_dev(const co_test *t, const co_buf *b);
/* Zeroed host memory that lives as long as the test. */
void *co_host(co_test *t, size_t n_bytes);
/* Zeroed memory that the variants of one shape share, so that what follows from the inputs is
 * computed once: *ret_ready tells whether an earlier variant has filled it. */
void *co_memo(co_test *t, const char *name, size_t n_bytes, bool *ret_ready);
/* A random matrix of the shape's or the given type, elements of deviation sigma. */
tt_weight *co_weight(co_test *t, tt_dtype type, int64_t rows, int64_t cols, double sigma);
/* Its values as doubles [rows, cols]; host memory of the test. */
double *co_weight_values(co_test *t, const tt_weight *w);

co_buf *co_find(co_test *t, const char *name);
bool co_has(const co_test *t, const char *name);
/* Element i of a buffer as uploaded / as it came back. */
double co_sent(const co_buf *b, int64_t i);
double co_got(const co_buf *b, int64_t i);
/* Compares the rows of the slice of output `name` with want [rows, len] (or [len]). */
void co_expect(co_test *t, const char *name, const double *want, double max_nmse);

/* ---- pages of K and V: two layers each, of the shape's type, kv_heads and dim ---- */

/* One head's vector of one token. */
typedef struct co_kv_at {
    int32_t page, head, offset;
    bool is_v;
} co_kv_at;

int64_t co_kv_page_bytes(const co_shape *s);
/* Layer 0 or 1 of pages that begin at `pages`. */
tt_kv_layer co_kv_layer(const co_shape *s, int layer, tt_dev pages);
/* Stores x[dim] as the type has it, or gets what is stored; first_k: the host's copy of kv->k. */
void co_kv_put(const co_shape *s, const tt_kv_layer *kv, uint8_t *first_k, co_kv_at at,
               const double *x);
void co_kv_get(const co_shape *s, const tt_kv_layer *kv, const uint8_t *first_k, co_kv_at at,
               double *x);
/* Sets all bytes that a vector takes to 1. */
void co_kv_mark(const co_shape *s, const tt_kv_layer *kv, uint8_t *first_k, co_kv_at at);
/* y[n] = what TT_I8 leaves of x, without any rounding but that to whole numbers. */
void co_kv_quantise(const double *x, int32_t n, double *y);

/* One line on stdout; the test counts as failed. */
void co_fail(co_test *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- the tables of tests, one a file, each ended by a row without a name ---- */

extern const co_op co_embed_ops[], co_norm_ops[], co_matmul_ops[], co_gated_ops[], co_rope_ops[],
    co_attention_ops[], co_head_ops[], co_adapter_ops[], co_optim_ops[], co_sample_ops[];

/* ---- for the driver ---- */

typedef struct co_setting {
    const tt_ops *ops;
    int n_threads;
    uint64_t seed;
    int32_t row0, n_rows; /* n_rows 0 = all */
} co_setting;

/* A test with its inputs made; NULL (with a message on stderr) when the machine is out of memory.
 */
co_test *co_test_create(const co_op *op, const co_shape *shape, const co_setting *set);
void co_test_destroy(co_test **t);
/* Uploads all buffers, calls the op, downloads; canaries, inputs and rows outside the slice must be
 * untouched. */
void co_test_run(co_test *t);
/* Uploads all buffers; the call itself is the caller's. */
void co_test_upload(co_test *t);
tt_code co_test_sync(co_test *t);
/* Largest NMSE over the outputs; reports those over the op's limit. */
double co_test_compare(co_test *t, const co_test *want);
/* Outputs of t, over t's rows, equal those of `want` bit for bit; `what` says why they must. */
void co_test_same_bits(co_test *t, const co_test *want, const char *what);

/* "matmul rows=7 in=576 out=1536 Q4_1 decode" into text[n]. */
void co_describe(const co_test *t, char *text, size_t n);

/* The checks that are no comparison between tables; each returns the number of failures and adds to
 * *n_passed. */
int co_check_quant(const char *vectors_path, int *n_passed);
int co_check_gradients(const char *function, uint64_t seed, int *n_passed);

#endif
