/* ops.h - the one door between the engine and a device: a table of operations. ref/ fills all of it
 * (plain, scalar, sums in double: the definition of each op); cpu/ and cuda/ overwrite what they do
 * faster.
 *
 * Thread: a lane belongs to one thread at a time (the engine's); ops run on it in order, possibly
 * asynchronously. Failures: compute ops return void and assert their preconditions; a device
 * failure is sticky on the lane and comes out of lane_sync(). Only functions that return tt_code
 * fail at once.
 *
 * Memory: tt_dev is an address in the table's device memory. core/ may do arithmetic on it but
 * never dereferences it (on the CPU tables it is a host address, on CUDA a device address).
 * Matrices are row-major, outermost dimension first. Unless stated otherwise activations,
 * gradients, norms and biases are f32 and outputs do not overlap inputs. Argument structs and the
 * host arrays they point to are borrowed for the call only.
 *
 * Shapes: R rows of a step; H hidden; NQ = n_heads * head_dim; NK = n_kv_heads * head_dim; F ffn
 * width; V vocabulary. */
#ifndef TT_OPS_H
#define TT_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"
#include "kernels/err.h"

typedef uint64_t tt_dev; /* 0 = none */

#define TT_PAGE_TOKENS 64 /* tokens of one K/V page */
#define TT_MATMUL_MAX 3   /* weights that share one input in a product */

/* Which family of kernels computes a row: a row's bits depend on its family, never on what else is
 * in the step, on chunk length or on the number of threads. Prompt and span rows are PREFILL, also
 * when there is one; generated rows DECODE. */
typedef enum tt_family { TT_PREFILL, TT_DECODE } tt_family;

typedef struct tt_lane
    tt_lane; /* a device queue with its thread pool, scratch memory and sticky error */

typedef struct tt_lane_options {
    int n_threads; /* CPU worker threads, caller included; 0 = 1 */
    /* CUDA: rows of the largest PREFILL step and the largest dimension of a weight but the
     * vocabulary. With both the lane takes the memory that its ops work in when it is made, so that
     * what `memory` then says is left can be given to pages; an op that needs more takes more. 0 =
     * all of it is taken when an op needs it. CPU tables ignore them. */
    int32_t max_rows, max_dim;
} tt_lane_options;

/* A weight matrix: y[rows] = W[rows, cols] x[cols]. */
typedef struct tt_weight {
    tt_dtype type;
    int64_t rows, cols;
    tt_dev data; /* [rows, tt_row_bytes(type, cols)], borrowed: lives as long as the model */
} tt_weight;

/* Rows [row0, row0 + n_rows) of a step belong to one sequence, at consecutive positions from pos0.
 * Key position p of the sequence lies in page page_table[page0 + p / 64] at offset p % 64. A row at
 * position p sees keys max(0, p - window + 1) .. p (window 0 = all). */
typedef struct tt_seg {
    int32_t row0, n_rows;
    int32_t pos0;
    int32_t page0; /* index of the sequence's first page in the step's page table */
} tt_seg;

/* Where K and V of one layer lie: element (page, head, offset, d) of K at
 * base + page * page_stride + ((head * 64 + offset) * head_dim + d) * sizeof(type); V the same at
 * base_v.
 *
 * TT_I8 ("Q8" in settings): a head's vector x of one token is stored as q[d] = x[d] / scale,
 * rounded to the nearest integer (ties to even), with its own scale = max |x| / 127, both quotients
 * in f32; what is read is scale * q. scale (page, head, offset) of K, an f32, lies at
 * k_scale + page * page_stride + (head * 64 + offset) * 4. A scale below 2^-126 is 0 and so are its
 * q; where x has an infinity or a NaN, the scale is NaN and q are 0. */
typedef struct tt_kv_layer {
    tt_dev k, v;         /* address of the layer's K (V) in page 0 */
    int64_t page_stride; /* bytes from one page to the next */
    tt_dtype type;       /* TT_BF16, TT_F32 or TT_I8 */
    int32_t n_kv_heads, head_dim;
    tt_dev k_scale, v_scale; /* TT_I8 only: of the layer's scales in page 0 */
} tt_kv_layer;

typedef struct tt_embed_args {
    tt_dev ids;       /* i32 [R], each in [0, table->rows) */
    tt_weight *table; /* [V, H] */
    tt_dev x;         /* out [R, H] */
    int32_t n_rows;
    float scale;
} tt_embed_args;

typedef struct tt_rmsnorm_args {
    tt_dev x;   /* [R, dim] */
    tt_dev w;   /* [dim]; Gemma's 1 + w is already folded in by the loader */
    tt_dev add; /* [R, dim] or 0: y = add + norm(x) * w; may be y */
    tt_dev y;   /* out [R, dim]; may be x */
    int32_t n_rows, dim;
    float eps; /* y = x / sqrt(mean(x^2) + eps) * w */
} tt_rmsnorm_args;

typedef struct tt_rmsnorm_bwd_args {
    tt_dev x, w; /* the forward's inputs */
    tt_dev dy;   /* [R, dim] */
    tt_dev dx;   /* [R, dim]: dx += J^T dy when accumulate, else dx = J^T dy; may be dy when not
                    accumulating */
    int32_t n_rows, dim;
    float eps;
    bool accumulate;
} tt_rmsnorm_bwd_args;

/* y_i[R, rows_i] (+)= x[R, cols] W_i^T for i < n_w. */
typedef struct tt_matmul_args {
    tt_dev x;
    int32_t n_rows, n_w;
    tt_weight *w[TT_MATMUL_MAX]; /* equal cols */
    tt_dev y[TT_MATMUL_MAX];
    bool accumulate;
    tt_family family;
} tt_matmul_args;

/* dx[R, cols] (+)= sum_i dy_i[R, rows_i] W_i. */
typedef struct tt_matmul_bwd_args {
    tt_dev dy[TT_MATMUL_MAX];
    tt_weight *w[TT_MATMUL_MAX]; /* equal cols */
    int32_t n_rows, n_w;
    tt_dev dx;
    bool accumulate;
} tt_matmul_bwd_args;

typedef enum tt_adapter_kind { TT_ADAPTER_FULL, TT_ADAPTER_LORA } tt_adapter_kind;

/* One layer of one adapter of the query projection: q += x D^T, or q += scale * (x A^T) B^T. */
typedef struct tt_adapter_layer {
    tt_adapter_kind kind;
    tt_dtype type; /* TT_F32 (a running job's) or TT_BF16 (published) */
    tt_dev d;      /* FULL: [NQ, H] */
    tt_dev a, b;   /* LORA: [rank, H], [NQ, rank] */
    int32_t rank;
    float scale; /* LORA: alpha / rank */
} tt_adapter_layer;

/* The grouped adapter term: rows [row0, row0 + n_rows) use `layer`. Groups do not overlap; rows in
 * no group are left alone. q is summed in f32 before any rounding. */
typedef struct tt_adapter_group {
    int32_t row0, n_rows;
    tt_adapter_layer layer;
} tt_adapter_group;

typedef struct tt_adapter_fwd_args {
    tt_dev x; /* [R, H] */
    tt_dev q; /* in/out [R, NQ] */
    int32_t h, nq;
    const tt_adapter_group *groups; /* host [n_groups] */
    int32_t n_groups;
    tt_family family;
} tt_adapter_fwd_args;

/* Rows of one training adapter: dx[R, H] += dq D (or scale * (dq B) A). */
typedef struct tt_adapter_bwd_args {
    tt_dev dq; /* [R, NQ] */
    tt_dev dx; /* in/out [R, H] */
    int32_t n_rows, h, nq;
    tt_adapter_layer layer;
} tt_adapter_bwd_args;

/* Gradient of one layer's adapter. FULL: g[NQ, H] = dq^T x. LORA: g = scale * (dq B)^T x [rank, H]
 * and gb = scale * dq^T (x A^T) [NQ, rank]. Overwrites. */
typedef struct tt_adapter_grad_args {
    tt_dev x;  /* [R, H] */
    tt_dev dq; /* [R, NQ] */
    tt_dev g, gb;
    int32_t n_rows, h, nq;
    tt_adapter_layer layer;
} tt_adapter_grad_args;

typedef enum tt_rope_kind {
    TT_ROPE_HALF,       /* pairs (i, i + d/2): Hugging Face's layout, GGUF "neox" */
    TT_ROPE_INTERLEAVED /* pairs (2i, 2i + 1): GGUF files of the llama family, whose Q/K rows are
                           permuted */
} tt_rope_kind;

/* Constants of RoPE and of the q/k norms in one layer. angle = position * inv_freq[i]; (cos, sin) *
 * mscale. */
typedef struct tt_rope {
    tt_rope_kind kind;
    int32_t rot_dim; /* elements of a head that are rotated; <= head_dim, even; the others pass,
                        without mscale */
    tt_dev inv_freq; /* f32 [rot_dim / 2], scaling (linear, llama3, YaRN) already applied */
    float mscale;    /* YaRN's attention factor; else 1 */
} tt_rope;

/* Bias, per-head RMSNorm, RoPE, and the write of K and V into the pages. Per row r:
 *   q = rope(norm?(q + bq)), k likewise, v = v + bv; then, if kv_slot[r] >= 0, k and v are rounded
 *   to the pages' type and stored at slot kv_slot[r] = page * 64 + offset.
 * Rows with slot -1 have no k and v: theirs are not read. What the k and v buffers hold afterwards
 * is undefined. q_pre (or 0) receives q + bq before norm and RoPE, for the backward pass. */
typedef struct tt_qk_rope_args {
    tt_dev q;              /* in/out [R, NQ] */
    tt_dev k, v;           /* [R, NK]; 0 when no row is stored */
    tt_dev bq, bk, bv;     /* [NQ], [NK], [NK] or 0 */
    tt_dev q_norm, k_norm; /* [head_dim] or 0 */
    tt_dev q_pre;          /* out [R, NQ] or 0 */
    tt_dev positions;      /* i32 [R] */
    tt_dev kv_slot;        /* i32 [R] */
    const tt_kv_layer *kv;
    tt_rope rope;
    int32_t n_rows, n_heads;
    float norm_eps;
} tt_qk_rope_args;

/* dq [R, NQ] in place: the transpose of RoPE, then of the per-head norm at q_pre. */
typedef struct tt_q_rope_bwd_args {
    tt_dev dq;
    tt_dev q_pre;  /* [R, NQ]; needed with q_norm */
    tt_dev q_norm; /* [head_dim] or 0 */
    tt_dev positions;
    tt_rope rope;
    int32_t n_rows, n_heads, head_dim;
    float norm_eps;
} tt_q_rope_bwd_args;

typedef struct tt_attention_args {
    tt_dev q;   /* [R, NQ], after RoPE */
    tt_dev out; /* out [R, NQ]; rows of no segment are left alone, also in lse and in the backward's
                   dq */
    tt_dev lse; /* out [R, n_heads] or 0: log-sum-exp of the scaled scores, natural logarithm */
    tt_dev segs;             /* tt_seg [n_segs] in device memory */
    const tt_seg *segs_host; /* the same, for launch shapes */
    tt_dev page_table;       /* i32 */
    const tt_kv_layer *kv;
    int32_t n_rows, n_segs, n_heads;
    int32_t window; /* 0 = all */
    float scale;    /* score = scale * q . k */
    tt_family family;
} tt_attention_args;

/* dq = sum_j dS_j k_j * scale, dS = P * (dP - rowsum(do * o)), P from q, K and lse. K, V are
 * constants. */
typedef struct tt_attention_bwd_args {
    tt_attention_args fwd; /* q, lse, out as the forward left them */
    tt_dev d_out;          /* [R, NQ] */
    tt_dev dq;             /* out [R, NQ] */
} tt_attention_bwd_args;

typedef enum tt_act { TT_ACT_SILU, TT_ACT_GELU_TANH } tt_act;

typedef struct tt_gated_args {
    tt_dev gate, up; /* [R, F] */
    tt_dev y;        /* out [R, F] = act(gate) * up; may be gate or up */
    int32_t n_rows, dim;
    tt_act act;
} tt_gated_args;

typedef struct tt_gated_bwd_args {
    tt_dev gate, up;     /* the forward's inputs */
    tt_dev dy;           /* [R, F] */
    tt_dev d_gate, d_up; /* out [R, F]; may be dy */
    int32_t n_rows, dim;
    tt_act act;
} tt_gated_bwd_args;

typedef struct tt_gather_args {
    tt_dev x;   /* [., dim] */
    tt_dev idx; /* i32 [n_rows] */
    tt_dev y;   /* out [n_rows, dim] = x[idx] */
    int32_t n_rows, dim;
} tt_gather_args;

/* Cross-entropy of the head in blocks of vocabulary columns, so that [R, V] logits never exist.
 * head_fwd over all blocks in rising order, then head_finish, then head_bwd over all blocks.
 *   state f32 [R, 4]: running maximum, sum of exp relative to the maximum as stored, target's
 *     logit, unused. Core zeroes nothing: head_fwd with col0 == 0 initialises it.
 *   head_finish: row_loss[R] = (m + log s) - logit_target, 0 for rows with target -1.
 *   head_bwd: dx[R, H] (+)= row_weight[r] * (softmax - onehot)[col0 ..] W[col0 .., :], dx
 *     overwritten when col0 == 0. Logits are recomputed. Rows with target -1 add nothing, whatever
 *     their weight: their dx is 0. */
typedef struct tt_head_args {
    tt_dev x;          /* [R, H], after the final norm */
    tt_weight *w;      /* [V, H] */
    tt_dev targets;    /* i32 [R]; -1 = the row has no loss */
    tt_dev row_weight; /* f32 [R]; head_bwd only */
    tt_dev state;      /* f32 [R, 4] */
    tt_dev row_loss;   /* f32 [R], nats */
    tt_dev dx;         /* [R, H]; head_bwd only */
    int32_t n_rows;
    int32_t col0, n_cols;
} tt_head_args;

/* What a draw changes of its row before it looks at it; an id is named once. In this order:
 * x += bias; x *= x > 0 ? 1 / repetition : repetition; x -= penalty. */
typedef struct tt_logit_adjust {
    int32_t id;
    float bias;
    float repetition; /* > 0; 1 = none */
    float penalty;    /* presence and frequency */
} tt_logit_adjust;

/* How one token is drawn. The generator is splitmix64 (core/rng.h) as a function of a counter:
 * whoever has stream and counter has the number, so a draw keeps no state. */
typedef struct tt_draw {
    uint64_t stream;  /* the generator's state before its first number */
    uint32_t counter; /* which of its numbers decides: 0, 1, ... */
    float temperature;
    float top_p, min_p; /* 1, 0 = off */
    int32_t top_k;      /* 0 = off */
    int32_t row;        /* of the logits; each row belongs to one draw at most */
    int32_t adjust0, n_adjust;
    int32_t banned0, n_banned; /* ids, rising, none twice */
} tt_draw;

#define TT_SAMPLE_MAX_VOCAB ((1 << 20) - 1)
#define TT_SAMPLE_LEAST (-43.0f) /* log2 of the least p that a candidate may have */

/* Draws a token from rows of logits. A row's x are adjusted, banned ids become -inf, NaN counts as
 * -inf. With m = max x:
 *   m = -inf: the least id that is not banned (the last of all, when all are).
 *   m = inf, temperature <= 0 or top_k == 1: the least id with x = m.
 *   else t = (x - m) * (log2(e) / temperature) in f32; candidates have t >= TT_SAMPLE_LEAST; p =
 *   2^t, by the operations of exp2_of() in kernels/ref/sample_ref.c, in f32, none contracted. Of
 *   the candidates in the order of falling p, equal ones by rising id, there stay: the first top_k;
 *   of these the fewest whose p sum up to top_p of the sum; of these those with p >= min_p. One is
 *   drawn with probability p / sum: with top_p < 1 they are walked in that order, else by rising
 *   id, to the first where the sum so far exceeds (the 64-bit number / 2^64) * sum.
 * Sums are sums of floor(p * 2^44) in 64-bit integers, so their order means nothing and every
 * device draws the same token from the same logits. */
typedef struct tt_sample_args {
    tt_dev logits;            /* [., n_vocab]; a row that is drawn from is undefined afterwards */
    tt_dev draws;             /* tt_draw [n_draws] in device memory */
    tt_dev adjusts;           /* tt_logit_adjust */
    tt_dev banned;            /* i32 */
    tt_dev tokens;            /* out i32 [n_draws] */
    int32_t n_draws, n_vocab; /* n_vocab <= TT_SAMPLE_MAX_VOCAB */
} tt_sample_args;

/* A sum over groups of rows of bytes that finds any change of one word and, as a hash does, any
 * other: of word i (8 bytes, little-endian, a row's last one filled up with zeros; counted through
 * groups and rows in order) mix(word + (i + 1) * 0x9E3779B97F4A7C15), mix as splitmix64 has it;
 * added modulo 2^64, so in any order. */
typedef struct tt_checksum_args {
    tt_dev data;                  /* aligned to 8 */
    int64_t row_bytes;            /* >= 0 */
    int64_t stride, group_stride; /* bytes from row to row, group to group; multiples of 8 */
    tt_dev sum;                   /* out u64 */
    int32_t n_rows, n_groups;     /* rows of a group; fewer than 2^32 words in all */
} tt_checksum_args;

/* What a training step leaves in device memory; downloaded once per step. */
typedef struct tt_train_state {
    double grad_sq;    /* squared global norm of G */
    double loss;       /* sum over rows of row_weight * row_loss */
    int32_t finite;    /* 1 when loss and grad_sq are finite */
    int32_t n_dropped; /* steps whose update was skipped since the job began */
} tt_train_state;

/* One tensor of the optimiser: param = d + w (w fixed, may be NULL). All f32 [n]. */
typedef struct tt_optim_tensor {
    tt_dev g, d, m, v; /* m, v unused by SGD */
    tt_weight
        *w; /* W_Q [NQ, H] for weight decay, n == rows * cols; NULL: decay acts on d alone (LoRA) */
    int64_t n;
} tt_optim_tensor;

/* With p = d + w before the step, g clipped, t = step, as torch has it:
 *   AdamW  m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
 *          d -= lr wd p + lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
 *   SGD    d -= lr (g + wd p) */
typedef enum tt_optim_kind { TT_ADAMW, TT_SGD } tt_optim_kind;

typedef struct tt_optim_args {
    tt_dev state; /* tt_train_state, zeroed by the caller before step 1; optim_begin fills grad_sq,
                     loss, finite from the tensors' g (before clipping) and the row losses, and
                     leaves n_dropped */
    const tt_optim_tensor *t; /* host [n_tensors] */
    int32_t n_tensors;
    tt_dev row_loss, row_weight; /* f32 [n_rows] */
    int32_t n_rows;
    tt_optim_kind kind;
    int32_t step; /* 1, 2, ...: Adam's bias correction */
    float lr, beta1, beta2, eps, weight_decay;
    float clip; /* factor min(1, clip / (norm + 1e-6)) on g, as torch; 0 = none */
} tt_optim_args;

typedef struct tt_delta_norm_args {
    tt_adapter_layer layer;
    tt_weight *w; /* W_Q [NQ, H] */
    tt_dev out;   /* f64 [2]: squared Frobenius norms of the effective delta and of W_Q */
} tt_delta_norm_args;

typedef struct tt_ops {
    const char *isa; /* the highest folder that filled this table: "ref", "avx2", "avx512",
                        "avx512bf16", "cuda" */

    /* ---- lane and memory ---- */
    tt_code (*lane_create)(const struct tt_ops *ops, const tt_lane_options *opt, tt_lane **ret_lane,
                           tt_err *reterr);
    void (*lane_destroy)(tt_lane **lane); /* NULL and *lane == NULL are legal */
    /* Waits; returns the first failure since the last call. TT_E_NOMEM (host or device memory;
     * outputs since then are undefined, the lane is good again) is forgotten by the call;
     * TT_E_DEVICE stays: memory and weights of the lane are lost, nothing but free() and
     * lane_destroy() makes sense any more. While a failure is pending ops do nothing. The only call
     * of a step that waits for the device. */
    tt_code (*lane_sync)(tt_lane *lane, tt_err *reterr);
    tt_code (*alloc)(tt_lane *lane, size_t n_bytes, tt_dev *ret_addr,
                     tt_err *reterr);         /* 64-byte aligned */
    void (*free)(tt_lane *lane, tt_dev addr); /* 0 is legal */
    void (*upload)(tt_lane *lane, tt_dev dst, const void *src,
                   size_t n_bytes); /* src may be reused on return */
    void (*download)(tt_lane *lane, void *dst, tt_dev src,
                     size_t n_bytes); /* dst valid after lane_sync */
    void (*copy)(tt_lane *lane, tt_dev dst, tt_dev src, size_t n_bytes);
    void (*zero)(tt_lane *lane, tt_dev dst, size_t n_bytes);
    void (*checksum)(tt_lane *lane, const tt_checksum_args *a);
    /* Makes w->data from the bytes of the model file: the CPU borrows them, CUDA copies them into
     * memory that lane_destroy() gives back. */
    tt_code (*weight_load)(tt_lane *lane, tt_weight *w, const void *file_bytes, tt_err *reterr);

    /* ---- forward ---- */
    void (*embed)(tt_lane *lane, const tt_embed_args *a);
    void (*rmsnorm)(tt_lane *lane, const tt_rmsnorm_args *a);
    void (*matmul)(tt_lane *lane, const tt_matmul_args *a);
    void (*adapter_fwd)(tt_lane *lane, const tt_adapter_fwd_args *a);
    void (*qk_rope)(tt_lane *lane, const tt_qk_rope_args *a);
    void (*attention)(tt_lane *lane, const tt_attention_args *a);
    void (*gated)(tt_lane *lane, const tt_gated_args *a);
    void (*gather)(tt_lane *lane, const tt_gather_args *a);
    void (*head_fwd)(tt_lane *lane, const tt_head_args *a);
    void (*head_finish)(tt_lane *lane, const tt_head_args *a);
    void (*sample)(tt_lane *lane, const tt_sample_args *a);

    /* ---- backward ---- */
    void (*head_bwd)(tt_lane *lane, const tt_head_args *a);
    void (*rmsnorm_bwd)(tt_lane *lane, const tt_rmsnorm_bwd_args *a);
    void (*matmul_bwd)(tt_lane *lane, const tt_matmul_bwd_args *a);
    void (*gated_bwd)(tt_lane *lane, const tt_gated_bwd_args *a);
    void (*attention_bwd)(tt_lane *lane, const tt_attention_bwd_args *a);
    void (*q_rope_bwd)(tt_lane *lane, const tt_q_rope_bwd_args *a);
    void (*adapter_bwd)(tt_lane *lane, const tt_adapter_bwd_args *a);
    void (*adapter_grad)(tt_lane *lane, const tt_adapter_grad_args *a);

    /* ---- optimiser ---- */
    void (*optim_begin)(tt_lane *lane,
                        const tt_optim_args *a); /* norm, loss, finite flag into *state */
    void (*optim_step)(
        tt_lane *lane,
        const tt_optim_args *a); /* updates d, m, v; nothing when !finite but ++n_dropped */
    void (*delta_norm)(tt_lane *lane, const tt_delta_norm_args *a);
    void (*to_bf16)(tt_lane *lane, tt_dev src_f32, tt_dev dst_bf16,
                    int64_t n); /* round to nearest even */

    /* ---- zero in the tables of the CPU ---- */
    /* The device's memory now, in bytes, other processes' included. Waits for the lane. */
    tt_code (*memory)(tt_lane *lane, size_t *ret_free, size_t *ret_total, tt_err *reterr);
    int64_t device; /* on which lane_create() makes lanes: CUDA's number */
} tt_ops;

/* Instruction sets, rising. A mask takes sets away: a table is filled by ref, then by every set
 * that the machine has and the mask holds, low to high. */
enum tt_isa {
    TT_ISA_AVX2 = 1 << 0,       /* AVX2, FMA, F16C */
    TT_ISA_AVX512 = 1 << 1,     /* F, BW, DQ, VL */
    TT_ISA_AVX512BF16 = 1 << 2, /* plus BF16, VNNI */
    TT_ISA_ALL = (1 << 3) - 1
};

/* What this machine has (CPUID and the OS's register state), of enum tt_isa. */
unsigned tt_isa_detect(void);
/* "ref", "avx2", "avx512", "avx512bf16", "auto" to a mask; -1 for any other name. "avx512" holds
 * avx2 too, and so on. */
int tt_isa_parse(const char *name);
/* Fills *ret_ops for the CPU with the sets in mask & tt_isa_detect(), up to the first that is
 * missing. */
void tt_ops_get(tt_ops *ret_ops, unsigned mask);

#endif
