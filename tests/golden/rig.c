/* rig.c - see rig.h. */
#include "rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(tt_code rc, const tt_err *err, const char *what)
{
    if (rc != TT_OK) {
        fprintf(stderr, "%s: %s\n", what, err->msg);
        exit(1);
    }
}

static void *must_alloc(size_t n)
{
    void *p = malloc(n ? n : 1);
    if (!p) {
        fprintf(stderr, "no memory for a test\n");
        exit(1);
    }
    return p;
}

static tt_device_choice cuda_table(void)
{
    tt_err err = {0};
    tt_device_choice choice = {0};
    must(tt_cuda_module_load(getenv("QTTT_CUDA_MODULE"), &choice.cuda, &err), &err, "module");
    if (choice.cuda->count(&err) == 0) {
        printf("skip: %s\n", err.msg);
        exit(RIG_SKIP);
    }
    return choice;
}

tt_device_choice rig_table(const char *name)
{
    if (strcmp(name, "cuda") == 0) {
        return cuda_table();
    }
    int mask = tt_isa_parse(name);
    if (mask < 0) {
        fprintf(stderr, "unknown instruction set %s\n", name);
        exit(1);
    }
    if (strcmp(name, "auto") != 0 && ((unsigned)mask & ~tt_isa_detect()) != 0) {
        printf("skip: this machine has no %s\n", name);
        exit(RIG_SKIP);
    }
    return (tt_device_choice){.isa_mask = (unsigned)mask};
}

void rig_open(rig *r, const char *path, tt_device_choice table, tt_dtype kv_type, int32_t n_pages)
{
    tt_err err = {0};
    *r = (rig){0};
    must(tt_model_open(path, &r->model, &err), &err, path);
    tt_lane_options lane = {.n_threads = 2};
    must(tt_device_open(&r->d, r->model, &table, &lane, &err), &err, "device");
    must(tt_kv_create(&r->d, &(tt_kv_options){.type = kv_type, .n_pages = n_pages}, &r->kv, &err),
         &err, "pages");
    must(tt_step_create(&r->d, r->kv, &r->step, &err), &err, "step");
}

void rig_close(rig *r)
{
    if (r->step) {
        tt_step_destroy(&r->step);
    }
    for (int32_t i = 0; i < r->n_pages; i++) {
        tt_kv_unref(r->kv, r->pages[i]);
    }
    if (r->kv) {
        tt_kv_destroy(&r->kv);
    }
    tt_device_close(&r->d);
    if (r->model) {
        tt_model_close(&r->model);
    }
    free(r->ids);
    free(r->pages);
    *r = (rig){0};
}

static int32_t take_page(rig *r)
{
    int32_t page = tt_kv_take(r->kv);
    if (page < 0) {
        fprintf(stderr, "the test's pool has too few pages\n");
        exit(1);
    }
    return page;
}

void rig_run(rig *r, const tt_segment *segs, int32_t n_segs, const tt_step_options *opt)
{
    tt_err err = {0};
    must(tt_step_begin(r->step, segs, n_segs, opt, &err), &err, "begin");
    tt_code rc;
    while ((rc = tt_step_run(r->step, 3, &err)) == (tt_code)TT_STEP_MORE) {
    }
    must(rc, &err, "step");
}

void rig_context(rig *r, const int32_t *ids, int32_t n, int32_t chunk)
{
    for (int32_t i = 0; i < r->n_pages; i++) {
        tt_kv_unref(r->kv, r->pages[i]);
    }
    free(r->ids);
    free(r->pages);
    r->n_ids = n;
    r->n_pages = (n + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS;
    r->ids = must_alloc((size_t)n * sizeof *r->ids);
    r->pages = must_alloc((size_t)r->n_pages * sizeof *r->pages);
    memcpy(r->ids, ids, (size_t)n * sizeof *ids);
    for (int32_t i = 0; i < r->n_pages; i++) {
        r->pages[i] = take_page(r);
    }
    for (int32_t at = 0; at < n; at += chunk) {
        int32_t rows = n - at < chunk ? n - at : chunk;
        tt_segment seg = {
            .ids = r->ids + at, .n_rows = rows, .pos0 = at, .pages = r->pages, .store = true};
        rig_run(r, &seg, 1, &(tt_step_options){.family = TT_PREFILL});
    }
}

void rig_logits(rig *r, const int32_t *positions, int32_t n, float *y)
{
    size_t n_vocab = (size_t)r->model->n_vocab;
    for (int32_t i = 0; i < n; i++) {
        tt_segment seg = {.ids = r->ids + positions[i],
                          .n_rows = 1,
                          .pos0 = positions[i],
                          .pages = r->pages,
                          .want = TT_WANT_LAST};
        rig_run(r, &seg, 1, &(tt_step_options){.family = TT_PREFILL});
        memcpy(y + (size_t)i * n_vocab, tt_step_logits(r->step, 0), n_vocab * sizeof *y);
    }
}

tt_segment rig_span(const rig *r, int32_t start, int32_t k, const tt_adapter *adapter,
                    int32_t *targets)
{
    memcpy(targets, r->ids + start + 1, (size_t)k * sizeof *targets);
    return (tt_segment){.ids = r->ids + start,
                        .n_rows = k,
                        .pos0 = start,
                        .pages = r->pages,
                        .adapter = adapter,
                        .want = TT_WANT_LOSS,
                        .targets = targets};
}

double rig_span_loss(rig *r, int32_t start, int32_t k, const tt_adapter *adapter, float *loss)
{
    int32_t *targets = must_alloc((size_t)k * sizeof *targets);
    tt_segment seg = rig_span(r, start, k, adapter, targets);
    rig_run(r, &seg, 1, &(tt_step_options){.family = TT_PREFILL});
    memcpy(loss, tt_step_losses(r->step), (size_t)k * sizeof *loss);
    double sum = 0;
    for (int32_t i = 0; i < k; i++) {
        sum += loss[i];
    }
    free(targets);
    return sum / k;
}

int32_t *rig_fork(rig *r, int32_t n, int32_t *ret_n_pages)
{
    int32_t n_pages = (r->n_ids + n + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS,
            shared = r->n_ids / TT_PAGE_TOKENS;
    int32_t *pages = must_alloc((size_t)n_pages * sizeof *pages);
    memcpy(pages, r->pages, (size_t)shared * sizeof *pages);
    for (int32_t i = shared; i < n_pages; i++) {
        pages[i] = take_page(r);
    }
    if (r->n_ids % TT_PAGE_TOKENS != 0) {
        tt_kv_copy_page(r->kv, pages[shared], r->pages[shared]);
    }
    *ret_n_pages = n_pages;
    return pages;
}

void rig_unfork(rig *r, int32_t **pages, int32_t n_pages)
{
    for (int32_t i = r->n_ids / TT_PAGE_TOKENS; i < n_pages; i++) {
        tt_kv_unref(r->kv, (*pages)[i]);
    }
    free(*pages);
    *pages = NULL;
}

void rig_question(rig *r, const int32_t *ids, int32_t n, const tt_adapter *adapter, float *y)
{
    int32_t n_pages, *pages = rig_fork(r, n, &n_pages);
    tt_segment seg = {.ids = ids,
                      .n_rows = n,
                      .pos0 = r->n_ids,
                      .pages = pages,
                      .store = true,
                      .adapter = adapter,
                      .want = TT_WANT_LAST};
    rig_run(r, &seg, 1, &(tt_step_options){.family = TT_PREFILL});
    memcpy(y, tt_step_logits(r->step, 0), (size_t)r->model->n_vocab * sizeof *y);
    rig_unfork(r, &pages, n_pages);
}

uint64_t rig_checksum(rig *r)
{
    uint64_t all = 0;
    tt_err err = {0};
    for (int32_t i = 0; i < r->n_pages; i++) {
        uint64_t sum = 0;
        int32_t n = r->n_ids - i * TT_PAGE_TOKENS;
        n = n < TT_PAGE_TOKENS ? n : TT_PAGE_TOKENS;
        must(tt_kv_checksum(r->kv, r->pages[i], n, &sum, &err), &err, "checksum");
        all = all * 0x9E3779B97F4A7C15u + sum;
    }
    return all;
}

void rig_get_bytes(rig *r, void *dst, tt_dev src, size_t n_bytes)
{
    tt_err err = {0};
    r->d.ops.download(r->d.lane, dst, src, n_bytes);
    must(r->d.ops.lane_sync(r->d.lane, &err), &err, "download");
}

void rig_put_bytes(rig *r, tt_dev dst, const void *src, size_t n_bytes)
{
    tt_err err = {0};
    r->d.ops.upload(r->d.lane, dst, src, n_bytes);
    must(r->d.ops.lane_sync(r->d.lane, &err), &err, "upload");
}

void rig_get(rig *r, float *y, tt_dev x, int64_t n)
{
    rig_get_bytes(r, y, x, (size_t)n * sizeof *y);
}

void rig_put(rig *r, tt_dev x, const float *y, int64_t n)
{
    rig_put_bytes(r, x, y, (size_t)n * sizeof *y);
}

double rig_error(const float *a, const float *b, int64_t n)
{
    double num = 0, den = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = (double)a[i] - (double)b[i];
        num += e * e;
        den += (double)b[i] * (double)b[i];
    }
    double e = den > 0 ? sqrt(num / den) : sqrt(num);
    return isnan(e) ? INFINITY : e;
}

double rig_angle(const float *a, const float *b, int64_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    double angle = aa > 0 && bb > 0 ? 1.0 - ab / sqrt(aa * bb) : aa == bb ? 0.0 : 1.0;
    return isnan(angle) ? INFINITY : angle;
}
