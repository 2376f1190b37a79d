/* profile.c - see profile.h. A call is filed under its operation and its shapes; few of these exist
 * (a layer's are the next layer's), so a search from the last one found is short. */
#include "core/profile.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/sysinfo.h"

struct tt_profile {
    tt_device *d;
    tt_ops real;
    bool async;   /* the device goes on while the host does: every operation is waited for */
    tt_err first; /* failure that such a wait found; handed on by the next lane_sync() */
    double flops_rate, bytes_rate, t0, cpu0;
    tt_profile_section s;
};

static _Thread_local tt_profile *active; /* an operation knows nothing but its lane */

static double cpu_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Keeps the first failure, but one that stays in place of one that does not. */
static void wait_for(tt_profile *p, tt_lane *lane)
{
    tt_err err = {0};
    tt_code rc = p->async ? p->real.lane_sync(lane, &err) : TT_OK;
    if (rc != TT_OK && (p->first.code == TT_OK || rc == TT_E_DEVICE)) {
        p->first = err;
        p->first.code = rc;
    }
}

static tt_profile_row *find_row(tt_profile *p, const char *op, const char *detail)
{
    tt_profile_section *s = &p->s;
    for (int32_t i = 0; i < s->n_rows; i++) {
        if (strcmp(s->row[i].op, op) == 0 && strcmp(s->row[i].detail, detail) == 0) {
            return &s->row[i];
        }
    }
    if (s->n_rows == TT_PROFILE_MAX_ROWS) { /* more shapes than anybody reads: into the last */
        return &s->row[s->n_rows - 1];
    }
    tt_profile_row *r = &s->row[s->n_rows++];
    *r = (tt_profile_row){.op = op};
    snprintf(r->detail, sizeof r->detail, "%s", detail);
    return r;
}

static void note(tt_lane *lane, double t0, const char *op, const char *detail, tt_profile_work k)
{
    tt_profile *p = active;
    wait_for(p, lane);
    double seconds = tt_sys_now() - t0;
    tt_profile_row *r = find_row(p, op, detail);
    r->calls++;
    r->seconds += seconds;
    r->work.bytes += k.bytes;
    r->work.flops += k.flops;
    double by_flops = p->flops_rate > 0 ? k.flops / p->flops_rate : 0;
    double by_bytes = p->bytes_rate > 0 ? k.bytes / p->bytes_rate : 0;
    r->limit_s += by_flops > by_bytes ? by_flops : by_bytes;
    p->s.ops_seconds += seconds;
}

static void note_bytes(tt_lane *lane, double t0, const char *op, double bytes)
{
    note(lane, t0, op, "", (tt_profile_work){.bytes = bytes});
}

static double floats(double rows, double dim)
{
    return (double)sizeof(float) * rows * dim;
}

/* ---- lane and memory ---- */

static tt_code timed_sync(tt_lane *lane, tt_err *reterr)
{
    tt_profile *p = active;
    double t0 = tt_sys_now();
    tt_code rc = p->real.lane_sync(lane, reterr);
    if (p->first.code != TT_OK && rc != TT_E_DEVICE) {
        rc = tt_fail(reterr, p->first.code, "%s", p->first.msg);
    }
    p->first = (tt_err){0};
    note_bytes(lane, t0, "lane_sync", 0);
    return rc;
}

static tt_code timed_alloc(tt_lane *lane, size_t n_bytes, tt_dev *ret_addr, tt_err *reterr)
{
    double t0 = tt_sys_now();
    tt_code rc = active->real.alloc(lane, n_bytes, ret_addr, reterr);
    note_bytes(lane, t0, "alloc", 0);
    return rc;
}

static void timed_free(tt_lane *lane, tt_dev addr)
{
    double t0 = tt_sys_now();
    active->real.free(lane, addr);
    note_bytes(lane, t0, "free", 0);
}

static void timed_upload(tt_lane *lane, tt_dev dst, const void *src, size_t n_bytes)
{
    double t0 = tt_sys_now();
    active->real.upload(lane, dst, src, n_bytes);
    note_bytes(lane, t0, "upload", 2.0 * (double)n_bytes);
}

static void timed_download(tt_lane *lane, void *dst, tt_dev src, size_t n_bytes)
{
    double t0 = tt_sys_now();
    active->real.download(lane, dst, src, n_bytes);
    note_bytes(lane, t0, "download", 2.0 * (double)n_bytes);
}

static void timed_copy(tt_lane *lane, tt_dev dst, tt_dev src, size_t n_bytes)
{
    double t0 = tt_sys_now();
    active->real.copy(lane, dst, src, n_bytes);
    note_bytes(lane, t0, "copy", 2.0 * (double)n_bytes);
}

static void timed_zero(tt_lane *lane, tt_dev dst, size_t n_bytes)
{
    double t0 = tt_sys_now();
    active->real.zero(lane, dst, n_bytes);
    note_bytes(lane, t0, "zero", (double)n_bytes);
}

static void timed_checksum(tt_lane *lane, const tt_checksum_args *a)
{
    double t0 = tt_sys_now();
    active->real.checksum(lane, a);
    note_bytes(lane, t0, "checksum", (double)a->row_bytes * a->n_rows * a->n_groups);
}

static tt_code timed_weight_load(tt_lane *lane, tt_weight *w, const void *file_bytes,
                                 tt_err *reterr)
{
    double t0 = tt_sys_now();
    tt_code rc = active->real.weight_load(lane, w, file_bytes, reterr);
    note_bytes(lane, t0, "weight_load", 0);
    return rc;
}

/* ---- forward ---- */

static void timed_embed(tt_lane *lane, const tt_embed_args *a)
{
    double t0 = tt_sys_now();
    active->real.embed(lane, a);
    note_bytes(lane, t0, "embed",
               floats(a->n_rows, (double)a->table->cols) +
                   (double)a->n_rows * (double)tt_row_bytes(a->table->type, a->table->cols));
}

static void timed_rmsnorm(tt_lane *lane, const tt_rmsnorm_args *a)
{
    double t0 = tt_sys_now();
    active->real.rmsnorm(lane, a);
    note_bytes(lane, t0, "rmsnorm", (a->add != 0 ? 3 : 2) * floats(a->n_rows, a->dim));
}

/* "Q4_1 576>576+192+192, 512 rows" */
static void describe(char *buf, size_t cap, tt_weight *const *w, int32_t n_w, int32_t n_rows)
{
    size_t n = (size_t)snprintf(buf, cap, "%s", tt_dtypes[w[0]->type].name);
    for (int32_t i = 1; i < n_w && n < cap; i++) { /* types may differ: Q4_K files mix them */
        if (w[i]->type != w[i - 1]->type) {
            n += (size_t)snprintf(buf + n, cap - n, ",%s", tt_dtypes[w[i]->type].name);
        }
    }
    n += n < cap ? (size_t)snprintf(buf + n, cap - n, " %lld>", (long long)w[0]->cols) : 0;
    for (int32_t i = 0; i < n_w && n < cap; i++) {
        n += (size_t)snprintf(buf + n, cap - n, "%s%lld", i > 0 ? "+" : "", (long long)w[i]->rows);
    }
    if (n < cap) {
        snprintf(buf + n, cap - n, ", %d rows", n_rows);
    }
}

static void timed_matmul(tt_lane *lane, const tt_matmul_args *a)
{
    char detail[48];
    double t0 = tt_sys_now();
    active->real.matmul(lane, a);
    describe(detail, sizeof detail, a->w, a->n_w, a->n_rows);
    note(lane, t0, "matmul", detail, tt_work_matmul(a));
}

static void timed_adapter_fwd(tt_lane *lane, const tt_adapter_fwd_args *a)
{
    double t0 = tt_sys_now();
    active->real.adapter_fwd(lane, a);
    note(lane, t0, "adapter_fwd", "", tt_work_adapter_fwd(a));
}

static void timed_qk_rope(tt_lane *lane, const tt_qk_rope_args *a)
{
    double t0 = tt_sys_now();
    active->real.qk_rope(lane, a);
    note(lane, t0, "qk_rope", "", tt_work_qk_rope(a));
}

static void timed_attention(tt_lane *lane, const tt_attention_args *a)
{
    char detail[48];
    double t0 = tt_sys_now();
    active->real.attention(lane, a);
    snprintf(detail, sizeof detail, "%d rows of %d%s", a->n_rows, a->n_segs,
             a->window > 0 ? ", window" : "");
    note(lane, t0, "attention", detail, tt_work_attention(a));
}

static void timed_gated(tt_lane *lane, const tt_gated_args *a)
{
    double t0 = tt_sys_now();
    active->real.gated(lane, a);
    note_bytes(lane, t0, "gated", 3 * floats(a->n_rows, a->dim));
}

static void timed_gather(tt_lane *lane, const tt_gather_args *a)
{
    double t0 = tt_sys_now();
    active->real.gather(lane, a);
    note_bytes(lane, t0, "gather", 2 * floats(a->n_rows, a->dim));
}

static void timed_head_fwd(tt_lane *lane, const tt_head_args *a)
{
    double t0 = tt_sys_now();
    active->real.head_fwd(lane, a);
    note(lane, t0, "head_fwd", "", tt_work_head(a, false));
}

static void timed_head_finish(tt_lane *lane, const tt_head_args *a)
{
    double t0 = tt_sys_now();
    active->real.head_finish(lane, a);
    note_bytes(lane, t0, "head_finish", floats(a->n_rows, 5));
}

static void timed_sample(tt_lane *lane, const tt_sample_args *a)
{
    double t0 = tt_sys_now();
    active->real.sample(lane, a);
    note_bytes(lane, t0, "sample", floats(a->n_draws, a->n_vocab));
}

/* ---- backward ---- */

static void timed_head_bwd(tt_lane *lane, const tt_head_args *a)
{
    double t0 = tt_sys_now();
    active->real.head_bwd(lane, a);
    note(lane, t0, "head_bwd", "", tt_work_head(a, true));
}

static void timed_rmsnorm_bwd(tt_lane *lane, const tt_rmsnorm_bwd_args *a)
{
    double t0 = tt_sys_now();
    active->real.rmsnorm_bwd(lane, a);
    note_bytes(lane, t0, "rmsnorm_bwd", (a->accumulate ? 4 : 3) * floats(a->n_rows, a->dim));
}

static void timed_matmul_bwd(tt_lane *lane, const tt_matmul_bwd_args *a)
{
    char detail[48];
    double t0 = tt_sys_now();
    active->real.matmul_bwd(lane, a);
    describe(detail, sizeof detail, a->w, a->n_w, a->n_rows);
    note(lane, t0, "matmul_bwd", detail, tt_work_matmul_bwd(a));
}

static void timed_gated_bwd(tt_lane *lane, const tt_gated_bwd_args *a)
{
    double t0 = tt_sys_now();
    active->real.gated_bwd(lane, a);
    note_bytes(lane, t0, "gated_bwd", 5 * floats(a->n_rows, a->dim));
}

static void timed_attention_bwd(tt_lane *lane, const tt_attention_bwd_args *a)
{
    char detail[48];
    double t0 = tt_sys_now();
    active->real.attention_bwd(lane, a);
    snprintf(detail, sizeof detail, "%d rows of %d%s", a->fwd.n_rows, a->fwd.n_segs,
             a->fwd.window > 0 ? ", window" : "");
    note(lane, t0, "attention_bwd", detail, tt_work_attention_bwd(a));
}

static void timed_q_rope_bwd(tt_lane *lane, const tt_q_rope_bwd_args *a)
{
    double t0 = tt_sys_now();
    active->real.q_rope_bwd(lane, a);
    note_bytes(lane, t0, "q_rope_bwd",
               (a->q_norm != 0 ? 3 : 2) * floats(a->n_rows, (double)a->n_heads * a->head_dim));
}

static void timed_adapter_bwd(tt_lane *lane, const tt_adapter_bwd_args *a)
{
    double t0 = tt_sys_now();
    active->real.adapter_bwd(lane, a);
    note(lane, t0, "adapter_bwd", "", tt_work_adapter_bwd(a));
}

static void timed_adapter_grad(tt_lane *lane, const tt_adapter_grad_args *a)
{
    double t0 = tt_sys_now();
    active->real.adapter_grad(lane, a);
    note(lane, t0, "adapter_grad", "", tt_work_adapter_grad(a));
}

/* ---- optimiser ---- */

static void timed_optim_begin(tt_lane *lane, const tt_optim_args *a)
{
    double t0 = tt_sys_now();
    active->real.optim_begin(lane, a);
    note(lane, t0, "optim_begin", "", tt_work_optim(a, false));
}

static void timed_optim_step(tt_lane *lane, const tt_optim_args *a)
{
    double t0 = tt_sys_now();
    active->real.optim_step(lane, a);
    note(lane, t0, "optim_step", "", tt_work_optim(a, true));
}

static void timed_delta_norm(tt_lane *lane, const tt_delta_norm_args *a)
{
    double t0 = tt_sys_now();
    active->real.delta_norm(lane, a);
    note_bytes(lane, t0, "delta_norm",
               (double)a->w->rows * (double)tt_row_bytes(a->w->type, a->w->cols));
}

static void timed_to_bf16(tt_lane *lane, tt_dev src_f32, tt_dev dst_bf16, int64_t n)
{
    double t0 = tt_sys_now();
    active->real.to_bf16(lane, src_f32, dst_bf16, n);
    note_bytes(lane, t0, "to_bf16", 6.0 * (double)n);
}

/* ---- attaching ---- */

/* lane_create, lane_destroy and memory stay: they belong to no step. */
static void wrap(tt_ops *ops)
{
    ops->lane_sync = timed_sync;
    ops->alloc = timed_alloc;
    ops->free = timed_free;
    ops->upload = timed_upload;
    ops->download = timed_download;
    ops->copy = timed_copy;
    ops->zero = timed_zero;
    ops->checksum = timed_checksum;
    ops->weight_load = timed_weight_load;
    ops->embed = timed_embed;
    ops->rmsnorm = timed_rmsnorm;
    ops->matmul = timed_matmul;
    ops->adapter_fwd = timed_adapter_fwd;
    ops->qk_rope = timed_qk_rope;
    ops->attention = timed_attention;
    ops->gated = timed_gated;
    ops->gather = timed_gather;
    ops->head_fwd = timed_head_fwd;
    ops->head_finish = timed_head_finish;
    ops->sample = timed_sample;
    ops->head_bwd = timed_head_bwd;
    ops->rmsnorm_bwd = timed_rmsnorm_bwd;
    ops->matmul_bwd = timed_matmul_bwd;
    ops->gated_bwd = timed_gated_bwd;
    ops->attention_bwd = timed_attention_bwd;
    ops->q_rope_bwd = timed_q_rope_bwd;
    ops->adapter_bwd = timed_adapter_bwd;
    ops->adapter_grad = timed_adapter_grad;
    ops->optim_begin = timed_optim_begin;
    ops->optim_step = timed_optim_step;
    ops->delta_norm = timed_delta_norm;
    ops->to_bf16 = timed_to_bf16;
}

tt_code tt_profile_attach(tt_device *d, double flops_rate, double bytes_rate, tt_profile **ret,
                          tt_err *reterr)
{
    assert(active == NULL);
    tt_profile *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a profile");
    }
    p->d = d;
    p->real = d->ops;
    p->async = d->ops.memory != NULL;
    p->flops_rate = flops_rate;
    p->bytes_rate = bytes_rate;
    wrap(&d->ops);
    active = p;
    tt_profile_begin(p, "");
    *ret = p;
    return TT_OK;
}

void tt_profile_detach(tt_profile **profile)
{
    tt_profile *p = profile != NULL ? *profile : NULL;
    if (p != NULL) {
        assert(active == p);
        p->d->ops = p->real;
        active = NULL;
        free(p);
        *profile = NULL;
    }
}

void tt_profile_begin(tt_profile *p, const char *name)
{
    p->s = (tt_profile_section){0};
    snprintf(p->s.name, sizeof p->s.name, "%s", name);
    p->cpu0 = cpu_now();
    p->t0 = tt_sys_now();
}

static int by_seconds(const void *a, const void *b)
{
    double x = ((const tt_profile_row *)a)->seconds, y = ((const tt_profile_row *)b)->seconds;
    return (x < y) - (x > y);
}

const tt_profile_section *tt_profile_end(tt_profile *p, int32_t runs)
{
    tt_profile_section *s = &p->s;
    s->seconds = tt_sys_now() - p->t0;
    s->cpu_seconds = cpu_now() - p->cpu0;
    s->runs = runs;
    qsort(s->row, (size_t)s->n_rows, sizeof s->row[0], by_seconds);
    return s;
}
