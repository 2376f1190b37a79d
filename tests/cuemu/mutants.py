#!/usr/bin/env python3
"""Mistakes made in the real kernels, one at a time: the tests of kernels/cuda have to fail for each.

    mutants.py list BUILD               names that BUILD (plain, asan, tsan, msan) has to catch
    mutants.py make NAME OUTPUT         a C++ file: the kernels' file with the mistake, its headers as far as mistaken
    mutants.py run NAME BINARY          runs the tests built with it in every mode; they have to fail in one at least, a control's in none

Standard library only. `run` ends with `1 passed, 0 failed` or the other way round.
"""
import os
import pathlib
import resource
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLAIN, ASAN, TSAN, MSAN = "plain", "asan", "tsan", "msan"
WARP, DEQUANT = "kernels/cuda/warp_cuda.cuh", "kernels/cuda/dequant_cuda.cuh"
NORM, ROPE = "kernels/cuda/norm_cuda.cu", "kernels/cuda/rope_cuda.cu"
GATED, EMBED = "kernels/cuda/gated_cuda.cu", "kernels/cuda/embed_cuda.cu"
MATVEC, PANEL, ADAPTER = "kernels/cuda/matvec_cuda.cu", "kernels/cuda/panel_cuda.cu", "kernels/cuda/adapter_cuda.cu"
GROUPS = "kernels/cuda/group_cuda.cuh"
ATTN, ATTN_BWD = "kernels/cuda/attention_cuda.cu", "kernels/cuda/attention_bwd_cuda.cu"
DECODE, TILE = "kernels/cuda/attn_decode_cuda.cu", "kernels/cuda/attn_tile_cuda.cuh"
FEED = "kernels/cuda/key_feed_cuda.cuh"
HEAD, OPTIM = "kernels/cuda/head_cuda.cu", "kernels/cuda/optim_cuda.cu"
SAMPLE, CHECKSUM = "kernels/cuda/sample_cuda.cu", "kernels/cuda/checksum_cuda.cu"

# name: (compiled file, file with the mistake, what stands there, what is put there, which builds have to catch it[, the one
# test of the program that is run, where the others would only take time]). Without a mistake: a control, whose tests have to pass.
# What stands there is found exactly once, so a change of a kernel that moves it is noticed. The first word of a name says which
# program has to notice it (meson.build).
MUTANTS = {
    # synchronisation
    "sum_no_barrier": (NORM, WARP, "    __syncthreads();\n    v = 0;", "    v = 0;", {PLAIN, ASAN, TSAN, MSAN}),
    "sum_shared_twice": (NORM, NORM, "block_sum<NORM_THREADS>(dot, part_dot)", "block_sum<NORM_THREADS>(dot, part_square)", {TSAN}),
    "rope_no_sync_after_load": (ROPE, ROPE, "    }\n    __syncwarp();\n}", "    }\n}", {PLAIN, TSAN}),
    "rope_no_sync_after_turn": (ROPE, ROPE, "rotate(rope, position, 1.0f, head);\n        __syncwarp();\n        for",
                                "rotate(rope, position, 1.0f, head);\n        for", {PLAIN, TSAN}),
    "rope_bwd_no_sync": (ROPE, ROPE, "-1.0f, g);\n        __syncwarp();", "-1.0f, g);", {PLAIN, TSAN}),
    "embed_one_row": (EMBED, EMBED, "float *out = x + (int64_t)blockIdx.x * s.cols;", "float *out = x;", {PLAIN, TSAN}),
    "rope_k_no_sync": (ROPE, ROPE, "            rotate(rope, position, 1.0f, head);\n            __syncwarp();",
                       "            rotate(rope, position, 1.0f, head);", {PLAIN, TSAN}),
    "rope_one_head": (ROPE, ROPE, "    float *head = heads[threadIdx.x / 32];", "    float *head = heads[0];", {PLAIN}),
    "gather_one_row": (EMBED, EMBED, "y + (int64_t)blockIdx.x * dim", "y", {PLAIN}),
    "sum_half_mask": (NORM, WARP, "v += __shfl_xor_sync(0xffffffffu", "v += __shfl_xor_sync(0x0000ffffu", {PLAIN}),
    # bounds
    "norm_bwd_bound": (NORM, NORM, "i < dim; i += NORM_THREADS) {\n        float v = s *",
                       "i <= dim; i += NORM_THREADS) {\n        float v = s *", {ASAN}),
    "gated_bwd_bound": (GATED, GATED, "if (i < n) {\n        float slope, value", "if (i <= n) {\n        float slope, value", {ASAN}),
    "gather_bound": (EMBED, EMBED, "i < dim; i += EMBED_THREADS", "i <= dim; i += EMBED_THREADS", {ASAN}),
    "to_bf16_bound": (EMBED, EMBED, "if (i < n) {\n        dst", "if (i <= n) {\n        dst", {ASAN}),
    "embed_bound": (EMBED, EMBED, "i < s.cols; i += EMBED_THREADS", "i <= s.cols; i += EMBED_THREADS", {ASAN}),
    "rope_page_bound": (ROPE, ROPE, "i < in.head_dim; i += 32", "i <= in.head_dim; i += 32", {PLAIN}),
    "norm_bound": (NORM, NORM, "i < dim; i += NORM_THREADS) {\n        float v = x[row + i]",
                   "i <= dim; i += NORM_THREADS) {\n        float v = x[row + i]", {ASAN, TSAN}),
    "gated_bound": (GATED, GATED, "if (i < n) {\n        float slope;", "if (i <= n) {\n        float slope;", {ASAN}),
    "rope_small_rows": (ROPE, ROPE, "CU_SHARED(float[ROPE_WARPS][ROPE_MAX_DIM], heads);\n    float *head",
                        "CU_SHARED(float[ROPE_WARPS][ROPE_MAX_DIM / 2], heads);\n    float *head", {ASAN, TSAN}),
    "embed_id_bound": (EMBED, EMBED, "id < s.rows", "id <= s.rows", {ASAN}),
    # values
    "sum_half_warp": (NORM, WARP, "bits = 16;", "bits = 8;", {PLAIN}),
    "rope_bwd_forward": (ROPE, ROPE, "-1.0f, g);", "1.0f, g);", {PLAIN}),
    "rope_one_part": (ROPE, ROPE, "fmaf(-k, two_pi_low, fmaf(-k, two_pi_high, hi)) + lo", "fmaf(-k, two_pi_high, hi)", {PLAIN}),
    "rope_offset": (ROPE, ROPE, "slot % TT_PAGE_TOKENS", "slot % 32", {PLAIN}),
    "norm_no_eps": (NORM, NORM, "rsqrtf(sum / (float)dim + eps)", "rsqrtf(sum / (float)dim)", {PLAIN}),
    "k_scale_bits": (EMBED, DEQUANT, "(s[g - 4] >> 6) << 4", "(s[g - 4] >> 6) << 3", {PLAIN}),
    "gelu_slope": (GATED, GATED, "3.0f * c", "2.0f * c", {PLAIN}),
    # products and adapters (test_products)
    "mat_no_barrier": (MATVEC, MATVEC, "    __syncthreads();\n", "", {PLAIN, TSAN}),
    "mat_one_launch": (ADAPTER, ADAPTER, "        few_flush(&queue);\n    }\n    return queue.err;", "    }\n    return few_flush(&queue);",
                       {PLAIN, TSAN}),
    "mat_out_bound": (MATVEC, MATVEC, "p.cols && out < p.rows", "p.cols && out <= p.rows", {ASAN}),
    "mat_row_bound": (MATVEC, MATVEC, "if (row < p.n_rows) {", "if (row <= p.n_rows) {", {ASAN}),
    "mat_panel_bound": (PANEL, PANEL, "if (row >= s.n_out) {", "if (row > s.n_out) {", {PLAIN}, "prefill"),
    "mat_group_bound": (MATVEC, MATVEC, "if (group < n_groups) {", "if (group <= n_groups) {", {ASAN}),
    "mat_tail_bound": (PANEL, PANEL, "copy_rows(r, y, ldy, r->tail, c->m, n_rows, c->m);",
                       "copy_rows(r, y, ldy, r->tail, c->m, n_rows + 1, c->m);", {PLAIN}, "prefill"),
    "mat_rows_of_nothing": (PANEL, PANEL, "if (row < s.rows) {", "if (row <= s.rows) {", {ASAN}),
    "mat_one_warp": (MATVEC, MATVEC, "total += part[warp][row][out];", "total += part[0][row][out];", {PLAIN}),
    "mat_steps": (MATVEC, MATVEC, "step += FEW_WARPS * FEW_LANES", "step += 2 * FEW_WARPS * FEW_LANES", {PLAIN}),
    "mat_first_chunk": (MATVEC, MATVEC, "block % p.n_chunks * FEW_ROWS", "0", {PLAIN}),
    "mat_next_product": (MATVEC, MATVEC, ">= batch.p[index + 1]", "> batch.p[index + 1]", {PLAIN}),
    "mat_no_scale": (MATVEC, MATVEC, "fmaf(p.scale, total, *y)", "total + *y", {PLAIN}),
    "mat_fifth_bit": (MATVEC, GROUPS, "(fifth >> i & 1u) << 4", "(fifth >> i & 1u) << 3", {PLAIN}),
    "mat_one_scale": (PANEL, GROUPS, "i < 8 ? scale0 : scale1", "scale0", {PLAIN}),
    "mat_high_bit": (MATVEC, GROUPS, "top >> 8 & 1u", "top >> 7 & 1u", {PLAIN}),
    "mat_odd_column": (PANEL, GROUPS, "e + 1 < cols ?", "e + 2 < cols ?", {PLAIN}),
    "mat_first_slice": (PANEL, PANEL, "(int64_t)row * ldb + o;", "(int64_t)row * ldb;", {PLAIN}),
    "mat_last_slice": (PANEL, PANEL, "accumulate || o > 0", "accumulate", {PLAIN}),
    "mat_tail_empty": (PANEL, PANEL, "if (c->beta != 0) {", "if (false) {", {PLAIN}),
    "mat_inner_rows": (ADAPTER, ADAPTER, "few_add(&queue, &wb, t,", "few_add(&queue, &wb, r->inner,", {PLAIN}),
    # attention (test_attention)
    "attn_control": (ATTN, None, None, None, {PLAIN}),
    "attn_bwd_control": (ATTN_BWD, None, None, None, {PLAIN}),
    "attn_decode_control": (DECODE, None, None, None, {PLAIN}),
    "attn_no_barrier": (ATTN, FEED, "cp_async_wait<0>();\n        sync();", "cp_async_wait<0>();", {PLAIN, TSAN}),
    "attn_bwd_no_barrier": (ATTN_BWD, FEED, "cp_async_wait<0>();\n        sync();", "cp_async_wait<0>();", {PLAIN, TSAN}),
    "attn_one_buffer": (ATTN, ATTN, "key0 + keys, buf ^ 1)", "key0 + keys, buf)", {PLAIN, TSAN}),
    "attn_bwd_one_buffer": (ATTN_BWD, ATTN_BWD, "key0 + BWD_KEYS<D>, buf ^ 1)", "key0 + BWD_KEYS<D>, buf)", {PLAIN}),
    "attn_decode_one_buffer": (DECODE, DECODE, "TT_PAGE_TOKENS + skip, buf ^ 1)", "TT_PAGE_TOKENS + skip, buf)", {PLAIN}, "decode"),
    "attn_no_wait": (ATTN, FEED, "cp_async_wait<0>()", "cp_async_wait<1>()", {PLAIN}),
    "attn_bwd_no_wait": (ATTN_BWD, FEED, "cp_async_wait<0>()", "cp_async_wait<1>()", {PLAIN}),
    "attn_decode_no_wait": (DECODE, FEED, "cp_async_wait<0>()", "cp_async_wait<1>()", {PLAIN}, "decode"),
    "attn_no_commit": (ATTN, FEED, "        cp_async_commit();\n", "", {PLAIN}),
    "attn_no_warp_barrier": (DECODE, FEED, "cp_async_wait<0>();\n        sync();", "cp_async_wait<0>();", {TSAN}, "decode"),
    "attn_queries_no_barrier": (DECODE, DECODE, "        }\n    }\n    __syncthreads();\n}\n\n/* The warp's keys",
                                "        }\n    }\n}\n\n/* The warp's keys", {PLAIN, TSAN}, "decode"),
    "attn_sums_too_early": (DECODE, DECODE, "warp = (int)threadIdx.x / 32;\n    __syncthreads();",
                            "warp = (int)threadIdx.x / 32;", {TSAN}, "decode"),
    "attn_sums_no_barrier": (DECODE, DECODE, "        }\n    }\n    __syncthreads();\n}\n\n/* Joins the warps'",
                             "        }\n    }\n}\n\n/* Joins the warps'", {PLAIN, TSAN}, "decode"),
    "attn_join_no_barrier": (DECODE, DECODE, "        part_sum[warp] = sum;\n    }\n    __syncthreads();",
                             "        part_sum[warp] = sum;\n    }", {PLAIN}, "decode"),
    "attn_one_part_of_all": (DECODE, DECODE, "(before + (int64_t)row * splits.n + split)", "(before + (int64_t)row * splits.n)",
                             {PLAIN, TSAN}, "decode"),
    "attn_find_mask": (DECODE, TILE, "const unsigned all = 0xffffffffu;", "const unsigned all = 0x7fffffffu;", {PLAIN}, "decode"),
    "attn_row_mask": (ATTN, TILE, "    v += __shfl_xor_sync(0xffffffffu, v, 1);", "    v += __shfl_xor_sync(0x0000ffffu, v, 1);", {PLAIN}),
    "attn_row_bound": (ATTN, TILE, "if (i < t.n) {", "if (i <= t.n) {", {PLAIN, ASAN}),
    "attn_shared_too_small": (ATTN, ATTN, "size_t n_bytes = sizeof(prefill_layout<D, type>);",
                              "size_t n_bytes = sizeof(prefill_layout<D, type>) / 2;", {ASAN}),
    "attn_bwd_shared_too_small": (ATTN_BWD, ATTN_BWD, "size_t n_bytes = sizeof(bwd_layout<D, type>);",
                                  "size_t n_bytes = sizeof(bwd_layout<D, type>) / 2;", {ASAN}),
    "attn_decode_shared_too_small": (DECODE, DECODE, "size_t n_bytes = sizeof(decode_layout<D, type>);",
                                     "size_t n_bytes = sizeof(decode_layout<D, type>) - 16;", {ASAN}, "decode"),
    "attn_short_rows": (DECODE, DECODE, "float o[ATTN_WARPS][DECODE_ROWS][D]; /*", "float o[ATTN_WARPS][DECODE_ROWS][D - 8]; /*", {ASAN}, "decode"),
    "attn_join_bound": (DECODE, DECODE, "        if (i * 32 + lane < D) {",
                        "        if (i * 32 + lane <= D) {", {ASAN}, "decode"),
    "attn_bwd_sees_next": (ATTN_BWD, ATTN_BWD, "key < own.row[r].keys.end", "key <= own.row[r].keys.end", {PLAIN}),
    "attn_decode_next_split": (DECODE, DECODE, "min(t.keys.end, (split + 1) * DECODE_SPLIT)",
                               "min(t.keys.end, (split + 1) * DECODE_SPLIT + 1)", {PLAIN}, "decode"),
    "attn_values_straight": (ATTN, FEED, "ldmatrix_x4<true>", "ldmatrix_x4<false>", {PLAIN}),
    "attn_sees_next": (ATTN, TILE, "key < row[r].keys.end ? c", "key <= row[r].keys.end ? c", {PLAIN}),
    "attn_window_long": (ATTN, TILE, "pos - window + 1", "pos - window", {PLAIN}),
    "attn_unwritten_keys": (ATTN, FEED, "bool seen = key >= t.keys.first && key < t.keys.end", "bool seen = key >= t.keys.first", {PLAIN}),
    "attn_no_fix": (ATTN, TILE, "o[n][2 * r + 1] *= fix;", "", {PLAIN}),
    "attn_half_page": (ATTN_BWD, FEED, "key0 % TT_PAGE_TOKENS", "key0 % 32", {PLAIN}),
    # pages of one byte an element (test_attention bytes, test_kernels rope_bytes)
    "attn_bytes_no_barrier": (ATTN, FEED, "sync(); /* widened", "/* widened", {PLAIN}, "bytes"),
    "attn_bytes_no_warp_barrier": (DECODE, FEED, "sync(); /* widened", "/* widened", {PLAIN, TSAN}, "bytes"),
    "attn_bytes_sign": (DECODE, FEED, "^ 0x80808080u, y", ", y", {PLAIN}, "bytes"),
    "attn_bytes_pair": (ATTN, FEED, "w >> (16 * i + 8)", "w >> (16 * i)", {PLAIN}, "bytes"),
    "attn_bytes_k_for_v": (DECODE, FEED, "me < n ? in.k_scale : in.v_scale", "in.k_scale", {PLAIN}, "bytes"),
    "attn_bytes_scale_head": (ATTN, FEED, "t.kv_head * TT_PAGE_TOKENS + key % TT_PAGE_TOKENS", "key % TT_PAGE_TOKENS", {PLAIN}, "bytes"),
    "attn_bytes_scale_key": (ATTN, FEED, "g * 8 + (int)threadIdx.x % 4 * 2", "g * 8", {PLAIN}, "bytes"),
    "attn_bytes_unwritten_scale": (ATTN, FEED, "me < 2 * n && key >= t.keys.first && key < t.keys.end", "me < 2 * n", {PLAIN}, "bytes"),
    "attn_bytes_bwd_last_scale": (ATTN_BWD, ATTN_BWD, "    feed.scale_columns(ds, false);\n", "", {PLAIN}, "bytes"),
    "attn_bytes_values_first": (ATTN, ATTN, "feed.scale_columns(p, true);", "", {PLAIN}, "bytes"),
    "rope_bytes_largest": (ROPE, ROPE, "most = max(most, __shfl_xor_sync(0xffffffffu, most, b));", "", {PLAIN}),
    "rope_bytes_truncated": (ROPE, ROPE, "rintf(head[i] / scale)", "(head[i] / scale)", {PLAIN}),
    "rope_bytes_subnormal": (ROPE, ROPE, "scale < FLT_MIN ? 0.0f : scale", "scale", {PLAIN}),
    "rope_bytes_nan": (ROPE, ROPE, "most < 0x7f800000u ? scale", "most <= 0x7f800000u ? scale", {PLAIN}),
    "attn_one_part": (DECODE, TILE, "a[1][3] = bf16_rest(y[2], y[3], a[0][3]);", "a[1][3] = 0;", {PLAIN}),
    "attn_first_split": (DECODE, DECODE, "first - splits.first", "0", {PLAIN}),
    "attn_32_segments": (DECODE, TILE, "place.before += __shfl_sync(all, count, last);", "place.before = __shfl_sync(all, count, last);",
                         {PLAIN}),
    "attn_bwd_no_mean": (ATTN_BWD, ATTN_BWD, " - own.along[r]", "", {PLAIN}),
    # the head
    "train_head_max_no_barrier": (HEAD, HEAD, "    __syncthreads();\n    for (int i = 0; i < HEAD_THREADS / 32",
                                  "    for (int i = 0; i < HEAD_THREADS / 32", {PLAIN, TSAN}),
    "train_head_shared_twice": (HEAD, HEAD, "block_sum<HEAD_THREADS>(sum, part_sum)", "block_sum<HEAD_THREADS>(sum, part_max)", {TSAN}),
    "train_head_half_mask": (HEAD, HEAD, "__shfl_xor_sync(0xffffffffu, v, bits)", "__shfl_xor_sync(0x0000ffffu, v, bits)", {PLAIN}),
    "train_head_one_row": (HEAD, HEAD, "float *s = state + (size_t)blockIdx.x * STATE_LEN;\n    float old", "float *s = state;\n    float old",
                           {PLAIN}),
    "train_head_cols_bound": (HEAD, HEAD, "i < n_cols; i += HEAD_THREADS) {\n        float p", "i <= n_cols; i += HEAD_THREADS) {\n        float p",
                              {ASAN}),
    "train_head_finish_bound": (HEAD, HEAD, "if (r < n_rows) {", "if (r <= n_rows) {", {ASAN}),
    "train_head_panel_bound": (HEAD, HEAD, "if (i < n) {\n            panel", "if (i <= n) {\n            panel", {ASAN}),
    "train_head_no_rescale": (HEAD, HEAD, "s[STATE_SUM] * expf(old - top) + sum", "s[STATE_SUM] + sum", {PLAIN}),
    "train_head_onehot": (HEAD, HEAD, "col0 + i == target", "i == target", {PLAIN}),
    "train_head_no_target": (HEAD, HEAD, "target < 0 ? 0.0f : v", "v", {PLAIN}),
    "train_head_dx_kept": (HEAD, HEAD, "keep = a->col0 == 0 ? 0.0f : 1.0f", "keep = 1.0f", {PLAIN}),
    # the optimiser
    "train_optim_no_barrier": (OPTIM, OPTIM, "    __syncthreads();\n    bool finite", "    bool finite", {PLAIN, TSAN}),
    "train_optim_sum_no_barrier": (OPTIM, OPTIM, "    __syncthreads();\n    v = 0;", "    v = 0;", {PLAIN, TSAN}),
    "train_optim_shared_twice": (OPTIM, OPTIM, "block_sum_f64(loss, part_loss)", "block_sum_f64(loss, part_squares)", {TSAN}),
    "train_optim_half_mask": (OPTIM, OPTIM, "__shfl_xor_sync(0xffffffffu, v, bits)", "__shfl_xor_sync(0x0000ffffu, v, bits)", {PLAIN}),
    "train_norms_shared_twice": (OPTIM, OPTIM, "sum_of(w, n_w, part_w)", "sum_of(w, n_w, part_delta)", {TSAN}, "delta_norm"),
    "train_gram_shared_twice": (OPTIM, OPTIM, "block_sum_f64(sum_b, part_b)", "block_sum_f64(sum_b, part_a)", {TSAN}, "delta_norm"),
    "train_gram_bound": (OPTIM, OPTIM, "o < nq; o += OPTIM_THREADS", "o <= nq; o += OPTIM_THREADS", {PLAIN, ASAN}, "delta_norm"),
    "train_all_count": (OPTIM, OPTIM, "threadIdx.x == 0 && state->finite == 0", "state->finite == 0", {PLAIN}, "optim_dropped"),
    "train_one_square": (OPTIM, OPTIM, "        out[blockIdx.x] = sum;", "        out[0] = sum;", {PLAIN}, "optim_begin"),
    "train_optim_bound": (OPTIM, OPTIM, "finite && i < u.n", "finite && i <= u.n", {ASAN}),
    "train_optim_squares_bound": (OPTIM, OPTIM, "first + SQUARES_BLOCK < n ? first + SQUARES_BLOCK : n", "first + SQUARES_BLOCK", {ASAN}),
    "train_optim_not_dropped": (OPTIM, OPTIM, "finite && i < u.n", "i < u.n", {PLAIN}),
    "train_optim_clip_grows": (OPTIM, OPTIM, "factor < 1 ? (float)factor : 1.0f", "(float)factor", {PLAIN}),
    # draws of tokens, checksums (test_sample)
    "sample_banned_no_barrier": (SAMPLE, SAMPLE, "= -INFINITY;\n    }\n    __syncthreads();", "= -INFINITY;\n    }", {PLAIN}),
    "sample_best_no_barrier": (SAMPLE, SAMPLE, "] = best;\n    }\n    __syncthreads();", "] = best;\n    }", {PLAIN}),
    "sample_scan_no_barrier": (SAMPLE, SAMPLE, "] = upto;\n    }\n    __syncthreads();", "] = upto;\n    }", {PLAIN}),
    "sample_token_no_barrier": (SAMPLE, SAMPLE, "    __syncthreads();\n    return w.token;", "    return w.token;", {PLAIN}),
    "sample_no_atomic": (SAMPLE, SAMPLE, "atomicAdd(&w.counts[bin], 1u)", "w.counts[bin] += 1u", {TSAN}),
    "sample_row_bound": (SAMPLE, SAMPLE, "i < s.n_vocab; i += SAMPLE_THREADS) {\n            x[i]",
                         "i <= s.n_vocab; i += SAMPLE_THREADS) {\n            x[i]", {PLAIN}),
    "sample_bins": (SAMPLE, SAMPLE, "unsigned counts[SAMPLE_BINS];", "unsigned counts[SAMPLE_BINS - 1];", {ASAN}),
    "sample_chunk_bound": (SAMPLE, SAMPLE, "unsigned i = chunk * SAMPLE_BINS + k;\n            unsigned key = i < s.n ?",
                           "unsigned i = chunk * SAMPLE_BINS + k;\n            unsigned key = true ?", {PLAIN}),
    "sample_place_beyond": (SAMPLE, SAMPLE, "key < last.key ? sample_place{key, ~0u} : last", "sample_place{key, ~0u}", {PLAIN}),
    "sample_ties": (SAMPLE, SAMPLE, "key == last.key && id <= last.id", "key == last.key", {PLAIN}),
    "sample_share_down": (SAMPLE, SAMPLE, "part += b.value * total != 0; /* rounded up */", "", {PLAIN}),
    "sample_draw_last": (SAMPLE, SAMPLE, "return part + 1;", "return total - part;", {PLAIN}),
    "sample_second_bin": (SAMPLE, SAMPLE, "second ? before + first : before", "before", {PLAIN}),
    "sample_first_term": (SAMPLE, SAMPLE, "y = step_of(y, f, 2.40226507e-1f);", "", {PLAIN}),
    "sample_counter": (SAMPLE, SAMPLE, "((uint64_t)counter + 1)", "(uint64_t)counter", {PLAIN}),
    "sample_first_maximum": (SAMPLE, SAMPLE, "<< 32 | ~(unsigned)i;", "<< 32 | (unsigned)i;", {PLAIN}),
    "sample_repetition": (SAMPLE, SAMPLE, "v > 0 ? 1.0f / a.repetition : a.repetition", "1.0f / a.repetition", {PLAIN}),
    "sample_sum_bound": (CHECKSUM, CHECKSUM, "if (i < s.n_words) {", "if (i <= s.n_words) {", {PLAIN}),
    "sample_sum_lanes": (CHECKSUM, CHECKSUM, "bits = 16;", "bits = 8;", {PLAIN}),
    "sample_sum_no_zero": (CHECKSUM, CHECKSUM, "s.n_words == 0)", "s.n_words >= 0)", {PLAIN}),
    "train_gram_rows": (OPTIM, OPTIM, "row_element<type>(b, o * rank + j)", "row_element<type>(b, j * nq + o)", {PLAIN}),
}
MODES = [{"CUEMU_ORDER": "0", "CUEMU_STREAMS": "1"}, {"CUEMU_ORDER": "1", "CUEMU_STREAMS": "0"},
         {"CUEMU_ORDER": "7", "CUEMU_STREAMS": "3"}]


def mutated(path, old, new):
    text = (ROOT / path).read_text()
    if text.count(old) != 1:
        sys.exit(f"{path}: {text.count(old)} places read {old!r}")
    return f'#line 1 "{path}"\n' + text.replace(old, new)


def make(name, output):
    unit, path, old, new = MUTANTS[name][:4]
    if path is None:
        text = (ROOT / unit).read_text()
    elif path == unit:
        text = mutated(path, old, new)
    else:
        include = f'#include "{path}"\n'
        text = (ROOT / unit).read_text()
        if text.count(include) != 1:
            sys.exit(f"{unit}: includes {path} {text.count(include)} times")
        text = text.replace(include, mutated(path, old, new))
    pathlib.Path(output).write_text("/* Generated by tests/cuemu/mutants.py. */\n" + text)


def limits():
    """A mutant that does not end is stopped by processor time: a machine with other work to do changes nothing."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))


def first_failure(name, binary):
    """(mode, exit status) where the tests fail first; (None, 0) when they pass in every mode."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("CUEMU_")} | {"KIT_FIRST_FAILURE": "1"}
    for mode in MODES:
        status = subprocess.run([binary, *MUTANTS[name][5:]], env={**env, **mode}, capture_output=True, preexec_fn=limits).returncode
        if status != 0:
            return mode, status
    return None, 0


def run(name, binary):
    mode, status = first_failure(name, binary)
    control = MUTANTS[name][1] is None
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        right, said = False, f"no end in {mode}, which says nothing"
    elif control:
        right, said = status == 0, "passes without a mistake" if status == 0 else f"status {status} in {mode} without a mistake"
    else:
        right, said = status != 0, f"caught in {mode}, status {status}" if status != 0 else "no test of kernels/cuda noticed"
    print(f"{'' if right else 'FAIL '}{name}: {said}")
    print("1 passed, 0 failed" if right else "0 passed, 1 failed")
    sys.exit(0 if right else 1)


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what == "list" and len(sys.argv) == 3:
        print("\n".join(name for name, m in MUTANTS.items() if sys.argv[2] in m[4]))
    elif what == "make" and len(sys.argv) == 4:
        make(*sys.argv[2:])
    elif what == "run" and len(sys.argv) == 4:
        run(*sys.argv[2:])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
