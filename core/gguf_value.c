/* gguf_value.c - typed access to the metadata of a GGUF file. See gguf.h. */
#include "core/gguf.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const uint8_t tt_gguf_scalar_bytes[TT_GGUF_TYPE_COUNT] = {
    [TT_GGUF_U8] = 1,  [TT_GGUF_I8] = 1,  [TT_GGUF_U16] = 2, [TT_GGUF_I16] = 2,
    [TT_GGUF_U32] = 4, [TT_GGUF_I32] = 4, [TT_GGUF_F32] = 4, [TT_GGUF_BOOL] = 1,
    [TT_GGUF_U64] = 8, [TT_GGUF_I64] = 8, [TT_GGUF_F64] = 8,
};

static const char *const type_names[TT_GGUF_TYPE_COUNT] = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64",
};

static int compare_key(const void *key, const void *value)
{
    return tt_str_compare(*(const tt_str *)key, ((const tt_gguf_value *)value)->key);
}

const tt_gguf_value *tt_gguf_find(const tt_gguf *g, const char *key)
{
    tt_str k = {.p = key, .n = (uint32_t)strlen(key)};
    return bsearch(&k, g->values, (size_t)g->n_values, sizeof *g->values, compare_key);
}

static tt_code wrong_type(const tt_gguf_value *v, const char *want, tt_err *reterr)
{
    return tt_fail(reterr, TT_E_MODEL, "%.*s (byte %" PRIu64 ") has type %s%s, expected %s",
                   (int)v->key.n, v->key.p, v->offset, v->type == TT_GGUF_ARRAY ? "array of " : "",
                   type_names[v->type == TT_GGUF_ARRAY ? v->elem_type : v->type], want);
}

static bool is_int(tt_gguf_type t)
{
    return t != TT_GGUF_F32 && t != TT_GGUF_F64 && t != TT_GGUF_BOOL && t != TT_GGUF_STRING &&
           t != TT_GGUF_ARRAY;
}

static int64_t int_at(tt_gguf_type type, const uint8_t *data, uint64_t i)
{
    const uint8_t *p = data + i * tt_gguf_scalar_bytes[type];
    uint64_t u = 0;
    memcpy(&u, p, tt_gguf_scalar_bytes[type]);
    switch (type) {
    case TT_GGUF_I8:
        return (int8_t)u;
    case TT_GGUF_I16:
        return (int16_t)u;
    case TT_GGUF_I32:
        return (int32_t)u;
    case TT_GGUF_U64:
        return u > INT64_MAX ? INT64_MAX : (int64_t)u;
    default:
        return (int64_t)u;
    }
}

int64_t tt_gguf_int_at(const tt_gguf_value *array, uint64_t i)
{
    return int_at(array->elem_type, array->data, i);
}

tt_code tt_gguf_get_int(const tt_gguf *g, const char *key, int64_t min, int64_t max,
                        int64_t *ret_value, tt_err *reterr)
{
    const tt_gguf_value *v = tt_gguf_find(g, key);
    if (v == NULL) {
        return TT_GGUF_ABSENT;
    }
    if (!is_int(v->type)) {
        return wrong_type(v, "an integer", reterr);
    }
    int64_t x = int_at(v->type, v->data, 0);
    if (x < min || x > max) {
        return tt_fail(reterr, TT_E_MODEL,
                       "%s (byte %" PRIu64 ") is %" PRId64 ", expected %" PRId64 " to %" PRId64,
                       key, v->offset, x, min, max);
    }
    *ret_value = x;
    return TT_OK;
}

tt_code tt_gguf_get_float(const tt_gguf *g, const char *key, double *ret_value, tt_err *reterr)
{
    const tt_gguf_value *v = tt_gguf_find(g, key);
    if (v == NULL) {
        return TT_GGUF_ABSENT;
    }
    double x;
    if (v->type == TT_GGUF_F32) {
        float f;
        memcpy(&f, v->data, sizeof f);
        x = f;
    } else if (v->type == TT_GGUF_F64) {
        memcpy(&x, v->data, sizeof x);
    } else {
        return wrong_type(v, "a float", reterr);
    }
    if (!isfinite(x)) {
        return tt_fail(reterr, TT_E_MODEL, "%s (byte %" PRIu64 ") is not a finite number", key,
                       v->offset);
    }
    *ret_value = x;
    return TT_OK;
}

tt_code tt_gguf_get_bool(const tt_gguf *g, const char *key, bool *ret_value, tt_err *reterr)
{
    const tt_gguf_value *v = tt_gguf_find(g, key);
    if (v == NULL) {
        return TT_GGUF_ABSENT;
    }
    if (v->type != TT_GGUF_BOOL || v->data[0] > 1) {
        return wrong_type(v, "a bool of 0 or 1", reterr);
    }
    *ret_value = v->data[0] == 1;
    return TT_OK;
}

tt_code tt_gguf_get_str(const tt_gguf *g, const char *key, tt_str *ret_value, tt_err *reterr)
{
    const tt_gguf_value *v = tt_gguf_find(g, key);
    if (v == NULL) {
        return TT_GGUF_ABSENT;
    }
    if (v->type != TT_GGUF_STRING) {
        return wrong_type(v, "a string", reterr);
    }
    *ret_value = (tt_str){.p = (const char *)v->data, .n = (uint32_t)v->n};
    return TT_OK;
}

tt_code tt_gguf_get_array(const tt_gguf *g, const char *key, tt_gguf_type elem_type,
                          const tt_gguf_value **ret_value, tt_err *reterr)
{
    const tt_gguf_value *v = tt_gguf_find(g, key);
    if (v == NULL) {
        return TT_GGUF_ABSENT;
    }
    if (v->type != TT_GGUF_ARRAY || v->elem_type != elem_type) {
        return wrong_type(v, type_names[elem_type], reterr);
    }
    *ret_value = v;
    return TT_OK;
}

void tt_gguf_strings(const tt_gguf_value *array, tt_str *ret)
{
    const uint8_t *p = array->data;
    for (uint64_t i = 0; i < array->n; i++) {
        uint64_t n;
        memcpy(&n, p, 8);
        ret[i] = (tt_str){.p = (const char *)p + 8, .n = (uint32_t)n};
        p += 8 + n;
    }
}
