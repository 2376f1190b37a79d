/* vectors.h - reads the containers of test vectors that ttv.py writes (layout there). Thread: any;
 * immutable once open. */
#ifndef TT_TEST_VECTORS_H
#define TT_TEST_VECTORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum vec_type { VEC_F32, VEC_F16, VEC_I32, VEC_F64, VEC_U16, VEC_U32 } vec_type;

typedef struct vec {
    char name[64];
    vec_type type;
    int32_t n_dims;
    int64_t dims[4];  /* outermost first, unused = 1 */
    int64_t n;        /* elements */
    const void *data; /* borrowed from the file */
} vec;

typedef struct vec_file {
    void *bytes;
    size_t n_bytes;
    vec *items;
    int32_t n_items;
} vec_file;

/* NULL with a line on stderr when the file cannot be read or is damaged. */
vec_file *vec_open(const char *path);
void vec_close(vec_file **file);

/* NULL when the file has no tensor of that name. */
const vec *vec_find(const vec_file *file, const char *name);
/* vec_find() of a formatted name; a missing tensor, another type or another number of elements (n
 * >= 0) ends the process. */
const vec *vec_need(const vec_file *file, vec_type type, int64_t n, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

const float *vec_f32(const vec_file *file, int64_t n, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
const int32_t *vec_i32(const vec_file *file, int64_t n, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
double vec_f64(const vec_file *file, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* F32, F16, F64 or BF16 bits (U16) widened into y[n]; the number of elements must be n. */
void vec_to_f32(const vec *v, float *y, int64_t n);

#endif
