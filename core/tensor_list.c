/* tensor_list.c - see tensor_list.h. */
#include "core/tensor_list.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

tt_code tt_tensor_list_grow(tt_tensor_list *l, int32_t n_more, tt_err *reterr)
{
    if (n_more < 0 || n_more > TT_TENSOR_LIST_MAX - l->n) {
        return tt_fail(reterr, TT_E_MODEL, "more than %d tensors", TT_TENSOR_LIST_MAX);
    }
    size_t n = (size_t)(l->n + n_more) + 1; /* never a realloc to 0 */
    tt_file_tensor *t = realloc(l->t, n * sizeof *t);
    if (t == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for %zu tensors", n);
    }
    l->t = t;
    memset(l->t + l->n, 0, (size_t)n_more * sizeof *t);
    l->n += n_more;
    return TT_OK;
}

int tt_str_compare(tt_str a, tt_str b)
{
    uint32_t n = a.n < b.n ? a.n : b.n;
    int c = n > 0 ? memcmp(a.p, b.p, n) : 0;
    return c != 0 ? c : (a.n > b.n) - (a.n < b.n);
}

/* qsort has no context argument in C11, so what is sorted carries the name with it. */
typedef struct named {
    tt_str name;
    int32_t index;
} named;

static int by_name(const void *a, const void *b)
{
    return tt_str_compare(((const named *)a)->name, ((const named *)b)->name);
}

tt_code tt_tensor_list_index(tt_tensor_list *l, tt_err *reterr)
{
    size_t n = (size_t)l->n;
    named *v = malloc((n + 1) * sizeof *v);
    int32_t *order = malloc((n + 1) * sizeof *order);
    if (v == NULL || order == NULL) {
        free(v);
        free(order);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for %zu tensor names", n);
    }
    for (size_t i = 0; i < n; i++) {
        v[i] = (named){.name = l->t[i].name, .index = (int32_t)i};
    }
    qsort(v, n, sizeof *v, by_name);
    tt_code rc = TT_OK;
    for (size_t i = 0; i < n && rc == TT_OK; i++) {
        order[i] = v[i].index;
        if (i > 0 && tt_str_compare(v[i - 1].name, v[i].name) == 0) {
            rc = tt_fail(reterr, TT_E_MODEL, "two tensors are named \"%.*s\"", (int)v[i].name.n,
                         v[i].name.p);
        }
    }
    free(v);
    if (rc != TT_OK) {
        free(order);
        return rc;
    }
    free(l->by_name);
    l->by_name = order;
    return TT_OK;
}

int32_t tt_tensor_list_find(const tt_tensor_list *l, const char *name)
{
    tt_str key = {.p = name, .n = (uint32_t)strlen(name)};
    int32_t lo = 0, hi = l->by_name != NULL ? l->n : 0;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        int c = tt_str_compare(key, l->t[l->by_name[mid]].name);
        if (c == 0) {
            return l->by_name[mid];
        }
        if (c < 0) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }
    return -1;
}

void tt_tensor_list_finish(tt_tensor_list *l)
{
    free(l->t);
    free(l->by_name);
    *l = (tt_tensor_list){0};
}

const char *tt_tensor_shape_text(const tt_file_tensor *t, char *buf, size_t cap)
{
    size_t used = (size_t)snprintf(buf, cap, "[");
    for (int32_t i = 0; i < t->n_dims && used < cap; i++) {
        used +=
            (size_t)snprintf(buf + used, cap - used, "%s%" PRId64, i > 0 ? ", " : "", t->dims[i]);
    }
    if (used < cap) {
        snprintf(buf + used, cap - used, "]");
    }
    return buf;
}

/* Bytes of the code point at p (n left), 0 = invalid: no overlong forms, no surrogates, nothing
 * above U+10FFFF. */
static uint64_t utf8_length(const unsigned char *p, uint64_t n)
{
    if (p[0] < 0x80) {
        return 1;
    }
    uint64_t len = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || n < len) {
        return 0;
    }
    for (uint64_t i = 1; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    bool bad = (p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ||
               (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F);
    return bad ? 0 : len;
}

bool tt_name_valid(const char *p, uint64_t n, uint64_t max)
{
    if (n == 0 || n > max) {
        return false;
    }
    const unsigned char *u = (const unsigned char *)p;
    for (uint64_t i = 0; i < n;) {
        uint64_t len = utf8_length(u + i, n - i);
        if (len == 0 || u[i] < 0x20 || u[i] == 0x7F) {
            return false;
        }
        i += len;
    }
    return true;
}
