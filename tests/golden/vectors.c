/* vectors.c - see vectors.h. */
#include "vectors.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/dtype.h"

#define RECORD_BYTES 112

static const int64_t type_bytes[] = {4, 2, 4, 8, 2, 4};

static void *read_file(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "rb");
    void *bytes = NULL;
    long n = 0;
    if (f && fseek(f, 0, SEEK_END) == 0 && (n = ftell(f)) > 0 && fseek(f, 0, SEEK_SET) == 0) {
        bytes = malloc((size_t)n);
        if (bytes && fread(bytes, 1, (size_t)n, f) != (size_t)n) {
            free(bytes);
            bytes = NULL;
        }
    }
    if (f) {
        fclose(f);
    }
    *ret_n = bytes ? (size_t)n : 0;
    return bytes;
}

/* One record at p: false when it points outside of the file. */
static bool parse_record(const vec_file *file, const unsigned char *p, vec *v)
{
    uint32_t type, n_dims;
    uint64_t dims[4], offset;
    memcpy(v->name, p, sizeof v->name);
    memcpy(&type, p + 64, 4);
    memcpy(&n_dims, p + 68, 4);
    memcpy(dims, p + 72, 32);
    memcpy(&offset, p + 104, 8);
    if (v->name[63] != 0 || type > VEC_U32 || n_dims > 4 || offset % 8 != 0 ||
        offset > file->n_bytes) {
        return false;
    }
    v->type = (vec_type)type;
    v->n_dims = (int32_t)n_dims;
    v->n = 1;
    for (int d = 0; d < 4; d++) {
        if (dims[d] > file->n_bytes || __builtin_mul_overflow(v->n, (int64_t)dims[d], &v->n)) {
            return false;
        }
        v->dims[d] = (int64_t)dims[d];
    }
    v->data = (const unsigned char *)file->bytes + offset;
    return (uint64_t)v->n <= (file->n_bytes - offset) / (uint64_t)type_bytes[type];
}

vec_file *vec_open(const char *path)
{
    vec_file *file = calloc(1, sizeof *file);
    uint64_t n = 0;
    if (!file) {
        goto fail;
    }
    file->bytes = read_file(path, &file->n_bytes);
    if (!file->bytes || file->n_bytes < 16 || memcmp(file->bytes, "TTVEC001", 8) != 0) {
        goto fail;
    }
    memcpy(&n, (char *)file->bytes + 8, 8);
    if (n > (file->n_bytes - 16) / RECORD_BYTES ||
        !(file->items = calloc(n ? n : 1, sizeof *file->items))) {
        goto fail;
    }
    file->n_items = (int32_t)n;
    for (uint64_t i = 0; i < n; i++) {
        if (!parse_record(file, (unsigned char *)file->bytes + 16 + i * RECORD_BYTES,
                          &file->items[i])) {
            goto fail;
        }
    }
    return file;
fail:
    fprintf(stderr, "%s: cannot be read as test vectors\n", path);
    vec_close(&file);
    return NULL;
}

void vec_close(vec_file **file)
{
    if (*file) {
        free((*file)->bytes);
        free((*file)->items);
        free(*file);
        *file = NULL;
    }
}

const vec *vec_find(const vec_file *file, const char *name)
{
    for (int32_t i = 0; i < file->n_items; i++) {
        if (strcmp(file->items[i].name, name) == 0) {
            return &file->items[i];
        }
    }
    return NULL;
}

static const vec *need(const vec_file *file, int type, int64_t n, const char *format, va_list args)
{
    char name[64];
    vsnprintf(name, sizeof name, format, args);
    const vec *v = vec_find(file, name);
    if (!v || (type >= 0 && (int)v->type != type) || (n >= 0 && v->n != n)) {
        fprintf(stderr, "test vector %s: missing or of another shape\n", name);
        abort();
    }
    return v;
}

const vec *vec_need(const vec_file *file, vec_type type, int64_t n, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const vec *v = need(file, (int)type, n, format, args);
    va_end(args);
    return v;
}

const float *vec_f32(const vec_file *file, int64_t n, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const vec *v = need(file, VEC_F32, n, format, args);
    va_end(args);
    return v->data;
}

const int32_t *vec_i32(const vec_file *file, int64_t n, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const vec *v = need(file, VEC_I32, n, format, args);
    va_end(args);
    return v->data;
}

double vec_f64(const vec_file *file, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const vec *v = need(file, VEC_F64, 1, format, args);
    va_end(args);
    double x;
    memcpy(&x, v->data, sizeof x);
    return x;
}

void vec_to_f32(const vec *v, float *y, int64_t n)
{
    if (v->n != n) {
        fprintf(stderr, "test vector %s: %lld elements, not %lld\n", v->name, (long long)v->n,
                (long long)n);
        abort();
    }
    const unsigned char *p = v->data;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = 0;
        double d = 0;
        switch (v->type) {
        case VEC_F32:
            memcpy(&y[i], p + 4 * i, 4);
            break;
        case VEC_F64:
            memcpy(&d, p + 8 * i, 8);
            y[i] = (float)d;
            break;
        case VEC_F16:
            memcpy(&h, p + 2 * i, 2);
            y[i] = tt_f16_to_f32(h);
            break;
        case VEC_U16:
            memcpy(&h, p + 2 * i, 2);
            y[i] = tt_bf16_to_f32(h);
            break;
        default:
            abort();
        }
    }
}
