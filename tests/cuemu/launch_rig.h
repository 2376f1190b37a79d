/* launch_rig.h - arguments for every op, small ones: inputs in the first slice of memory full of
 * zeros, each output in a slice of its own, since contents do not matter where calls fail. Thread:
 * one. */
#ifndef CUEMU_LAUNCH_RIG_H
#define CUEMU_LAUNCH_RIG_H

#include "product_rig.h"

enum { SLICE_BYTES = 1 << 15, SLICES = 12, ROWS = 3, DIM = 64 };

/* One of everything, small. */
struct launch_rig {
    product_rig products;
    kit_array<uint8_t> zeros;
    tt_dev p;
    tt_seg host_seg = {0, 1, 0, 0};
    kit_array<tt_seg> seg;
    tt_weight plain, quantised;
    tt_kv_layer kv = {};
    tt_rope rope;
    tt_adapter_group full = {}, lora = {};
    tt_optim_tensor tensors[2] = {};

    launch_rig()
        : products(ROWS, 2 * DIM, 4), zeros(std::vector<uint8_t>(SLICE_BYTES * SLICES)),
          p(tt_addr(zeros.p)), seg(std::vector<tt_seg>{host_seg}), plain{TT_F32, DIM, DIM, p},
          quantised{TT_Q8_0, DIM, DIM, p}, rope{TT_ROPE_HALF, DIM, p, 1}
    {
        kv.k = at(8);
        kv.v = at(9);
        kv.page_stride = TT_PAGE_TOKENS * DIM * 2;
        kv.type = TT_BF16;
        kv.n_kv_heads = 1;
        kv.head_dim = DIM;
        full.n_rows = lora.n_rows = ROWS;
        full.layer.d = lora.layer.a = lora.layer.b = p;
        lora.layer.kind = TT_ADAPTER_LORA;
        lora.layer.rank = 4;
        for (int i = 0; i < 2; i++) {
            tensors[i].g = p;
            tensors[i].d = at(2 + 3 * i);
            tensors[i].m = at(3 + 3 * i);
            tensors[i].v = at(4 + 3 * i);
            tensors[i].n = DIM;
        }
    }

    /* Slice i; 0 is never written. */
    tt_dev at(int i) const
    {
        return p + (tt_dev)(SLICE_BYTES * i);
    }

    tt_attention_args attention(tt_family family)
    {
        tt_attention_args a = {};
        a.q = a.page_table = p;
        a.out = at(1);
        a.lse = at(2);
        a.segs = tt_addr(seg.p);
        a.segs_host = &host_seg;
        a.kv = &kv;
        a.n_rows = a.n_segs = a.n_heads = 1;
        a.scale = 1;
        a.family = family;
        return a;
    }

    tt_matmul_args matmul(tt_weight *w, tt_family family)
    {
        tt_matmul_args a = {};
        a.x = p;
        a.y[0] = at(1);
        a.n_rows = ROWS;
        a.n_w = 1;
        a.w[0] = w;
        a.accumulate = true; /* a short pass is copied there and back */
        a.family = family;
        return a;
    }

    tt_head_args head(tt_weight *w)
    {
        tt_head_args a = {};
        a.x = a.targets = a.row_weight = p;
        a.state = at(1);
        a.row_loss = at(2);
        a.dx = at(3);
        a.w = w;
        a.n_rows = 1;
        a.n_cols = 16;
        return a;
    }

    tt_optim_args optim(tt_optim_kind kind)
    {
        tt_optim_args a = {};
        a.row_loss = a.row_weight = p;
        a.state = at(1);
        a.t = tensors;
        a.n_tensors = 2;
        a.n_rows = a.step = 1;
        a.kind = kind;
        a.lr = 0.1f;
        return a;
    }
};

#endif
