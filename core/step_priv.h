/* step_priv.h - the inside of a step, shared by step.c, forward.c and backward.c alone. Thread:
 * engine only. */
#ifndef TT_STEP_PRIV_H
#define TT_STEP_PRIV_H

#include "core/forward.h"

/* What a layer's backward pass needs of its forward pass; [R, .] each. */
typedef struct tt_saved {
    tt_dev x_in;     /* [R, H] residual stream before the layer */
    tt_dev q_pre;    /* [R, NQ] before the q-norm and RoPE; models with q-norm */
    tt_dev q, o;     /* [R, NQ] after RoPE; attention's output */
    tt_dev lse;      /* [R, n_heads] */
    tt_dev attn_out; /* [R, H] before the post-norm; models with post-norms */
    tt_dev x_mid;    /* [R, H] residual stream after attention */
    tt_dev gate, up; /* [R, F] */
    tt_dev ffn_out;  /* [R, H] before the post-norm */
} tt_saved;

typedef enum tt_phase {
    PHASE_FORWARD,
    PHASE_HEAD,
    PHASE_HEAD_BWD,
    PHASE_BACKWARD,
    PHASE_DONE
} tt_phase;

#define TT_HEAD_BLOCK 8192 /* vocabulary columns of one head unit */

struct tt_step {
    tt_device *d;
    tt_kv_pool *kv;
    /* ---- the begun step ---- */
    tt_step_options opt;
    tt_segment *segs; /* [n_segs], none of their arrays to be followed any more */
    int32_t n_segs, segs_cap;
    tt_seg *dev_segs_host;    /* [n_segs] */
    tt_adapter_group *groups; /* [n_segs] scratch */
    int32_t n_rows, n_targets;
    /* Last rows that go through the head: first n_logits of segments that want LAST, then those
     * that only have a draw. */
    int32_t n_last, n_logits, n_draws, n_adjusts, n_banned;
    bool any_store, any_all, any_loss;
    tt_phase phase;
    int32_t cursor, first_layer; /* layer or head block; lowest trained layer */
    int32_t done_units;
    /* ---- descriptors, one upload ---- */
    char *host_desc;                /* host image of desc */
    size_t desc_cap, host_desc_cap; /* bytes */
    tt_dev desc;
    tt_dev ids, positions, kv_slot, dev_segs, page_table, last_idx, targets, row_weight;
    tt_dev draws, adjusts, banned;
    tt_dev tokens; /* i32 [n_draws], behind what is uploaded */
    /* ---- workspace ---- */
    tt_dev work; /* owned */
    size_t work_cap;
    tt_dev x, xn, proj, k, v;
    tt_dev dx, dxn, dproj, dq, d_o, dgate, dup;
    tt_dev head_state, row_loss;
    tt_saved *saved; /* [n_layers]; without training all entries share one set of buffers */
    /* ---- results ---- */
    tt_dev logits_dev; /* owned */
    size_t logits_cap;
    float *logits; /* host [n_logits, V], owned */
    size_t logits_host_cap;
    int32_t *drawn; /* host [n_draws], owned */
    size_t drawn_cap;
    float *block; /* host [rows of a block, V], owned */
    size_t block_cap;
    float *losses; /* host [n_rows], owned */
    size_t losses_cap;
};

/* RoPE and attention of a layer, forward and backward alike. */
tt_rope tt_step_rope(const tt_model *m, const tt_layer *l);
tt_attention_args tt_step_attention_args(const tt_step *s, int32_t layer);

/* The head's arguments for the column block at `block`. */
tt_head_args tt_step_head_args(const tt_step *s, int32_t block);
int32_t tt_step_head_blocks(const tt_step *s);

/* One unit of the backward pass: a head block, or a layer (rising index = work already done is
 * higher layers). */
void tt_step_head_bwd(tt_step *s, int32_t block);
void tt_step_layer_bwd(tt_step *s, int32_t layer);

#endif
