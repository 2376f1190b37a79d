/* model_writer.c - see model_writer.h. */
#include "model_writer.h"

#include <assert.h>
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/quant.h"

void mw_put(mw_buf *b, const void *p, size_t n)
{
    if (n > b->cap - b->n) {
        b->cap = 2 * b->cap + n + 64;
        b->p = realloc(b->p, b->cap);
        assert(b->p != NULL);
    }
    if (n > 0) {
        memcpy(b->p + b->n, p, n);
    }
    b->n += n;
}

void mw_u32(mw_buf *b, uint32_t x)
{
    mw_put(b, &x, sizeof x);
}

void mw_u64(mw_buf *b, uint64_t x)
{
    mw_put(b, &x, sizeof x);
}

void mw_str(mw_buf *b, const char *s)
{
    mw_u64(b, strlen(s));
    mw_put(b, s, strlen(s));
}

void mw_free(mw_buf *b)
{
    free(b->p);
    *b = (mw_buf){0};
}

void mw_gguf_init(mw_gguf *w)
{
    *w = (mw_gguf){.version = 3, .alignment = 32};
}

static mw_buf *begin_value(mw_gguf *w, const char *key, uint32_t type)
{
    w->n_values++;
    mw_str(&w->values, key);
    mw_u32(&w->values, type);
    return &w->values;
}

void mw_kv_u32(mw_gguf *w, const char *key, uint32_t x)
{
    mw_u32(begin_value(w, key, 4), x);
}

void mw_kv_f32(mw_gguf *w, const char *key, float x)
{
    mw_put(begin_value(w, key, 6), &x, sizeof x);
}

void mw_kv_bool(mw_gguf *w, const char *key, uint8_t x)
{
    mw_put(begin_value(w, key, 7), &x, sizeof x);
}

void mw_kv_str(mw_gguf *w, const char *key, const char *s)
{
    mw_str(begin_value(w, key, 8), s);
}

void mw_kv_strs(mw_gguf *w, const char *key, const char *const *s, uint64_t n)
{
    mw_buf *b = begin_value(w, key, 9);
    mw_u32(b, 8);
    mw_u64(b, n);
    for (uint64_t i = 0; i < n; i++) {
        mw_str(b, s[i]);
    }
}

void mw_kv_array(mw_gguf *w, const char *key, uint32_t elem_type, const void *p, uint64_t n,
                 size_t elem_bytes)
{
    mw_buf *b = begin_value(w, key, 9);
    mw_u32(b, elem_type);
    mw_u64(b, n);
    mw_put(b, p, (size_t)n * elem_bytes);
}

void mw_info(mw_gguf *w, const char *name, int n_dims, const int64_t *dims, uint32_t ggml_type,
             uint64_t offset)
{
    w->n_tensors++;
    mw_str(&w->infos, name);
    mw_u32(&w->infos, (uint32_t)n_dims);
    for (int i = n_dims - 1; i >= 0; i--) {
        mw_u64(&w->infos, (uint64_t)dims[i]);
    }
    mw_u32(&w->infos, ggml_type);
    mw_u64(&w->infos, offset);
}

static uint32_t ggml_type(tt_dtype t)
{
    static const uint32_t numbers[TT_DTYPE_COUNT] = {
        [TT_F32] = 0,  [TT_F16] = 1,  [TT_BF16] = 30, [TT_Q8_0] = 8,  [TT_Q4_0] = 2, [TT_Q4_1] = 3,
        [TT_Q5_0] = 6, [TT_Q5_1] = 7, [TT_Q4_K] = 12, [TT_Q5_K] = 13, [TT_Q6_K] = 14};
    return numbers[t];
}

void mw_tensor(mw_gguf *w, const char *name, int64_t rows, int64_t cols, tt_dtype t, const float *x)
{
    int64_t n_rows = rows > 0 ? rows : 1, dims[2] = {rows, cols};
    while (w->data.n % w->alignment != 0) {
        mw_put(&w->data, "", 1);
    }
    mw_info(w, name, rows > 0 ? 2 : 1, rows > 0 ? dims : dims + 1, ggml_type(t), w->data.n);
    float *row = malloc((size_t)cols * sizeof *row);
    uint8_t *out = malloc((size_t)tt_row_bytes(t, cols));
    assert(row != NULL && out != NULL);
    uint32_t state = 2463534242u + (uint32_t)strlen(name) * 977u + (uint32_t)(unsigned char)name[0];
    for (int64_t r = 0; r < n_rows; r++) {
        for (int64_t i = 0; i < cols; i++) {
            state = state * 1664525u + 1013904223u;
            row[i] = x != NULL ? x[r * cols + i] : (float)(int)(state >> 24) / 256.0f - 0.5f;
        }
        int rc = tt_quant_row(t, row, out, cols);
        assert(rc == 0);
        (void)rc;
        mw_put(&w->data, out, (size_t)tt_row_bytes(t, cols));
    }
    free(row);
    free(out);
}

uint8_t *mw_gguf_finish(mw_gguf *w, size_t *ret_n)
{
    mw_buf f = {0};
    mw_put(&f, "GGUF", 4);
    mw_u32(&f, w->version);
    mw_u64(&f, w->n_tensors);
    mw_u64(&f, w->n_values);
    mw_put(&f, w->values.p, w->values.n);
    mw_put(&f, w->infos.p, w->infos.n);
    while (w->data.n > 0 && f.n % w->alignment != 0) {
        mw_put(&f, "", 1);
    }
    mw_put(&f, w->data.p, w->data.n);
    uint8_t *exact = malloc(f.n);
    assert(exact != NULL);
    memcpy(exact, f.p, f.n);
    *ret_n = f.n;
    mw_free(&f);
    mw_free(&w->values);
    mw_free(&w->infos);
    mw_free(&w->data);
    return exact;
}

char *mw_make_folder(void)
{
    const char *base = getenv("TMPDIR");
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/qttt_test_XXXXXX", base != NULL ? base : "/tmp");
    char *folder = mkdtemp(path);
    assert(folder != NULL);
    folder = strdup(folder);
    assert(folder != NULL);
    return folder;
}

void mw_remove_folder(char *folder)
{
    DIR *d = opendir(folder);
    assert(d != NULL);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char path[PATH_MAX + 300];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] != '.') {
            unlink(path);
        }
    }
    closedir(d);
    rmdir(folder);
    free(folder);
}

void mw_write_file(const char *folder, const char *name, const void *p, size_t n)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert(f != NULL);
    size_t written = fwrite(p, 1, n, f);
    int rc = fclose(f);
    assert(written == n && rc == 0);
    (void)written;
    (void)rc;
}
