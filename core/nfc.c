/* nfc.c - see nfc.h. Source: Unicode Standard Annex 15; the tables are utf8proc's. Its own ordering
 * of combining marks is an insertion sort, quadratic on a long run of them, so runs are sorted
 * here. (Hugging Face's normalizer has the tables of Unicode 9: it leaves runs of the few combining
 * marks that are newer as they are.) */
#include "core/nfc.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/utf8.h"

#define OPTIONS (UTF8PROC_STABLE | UTF8PROC_DECOMPOSE)
enum { SHORT_RUN = 24, MAX_PARTS = 32 }; /* no code point decomposes into more than four */

static int class_of(int32_t cp)
{
    return utf8proc_get_property(cp)->combining_class;
}

/* A stable sort by combining class. */
static void sort_short(int32_t *cp, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        int32_t x = cp[i];
        size_t j = i;
        for (; j > 0 && class_of(cp[j - 1]) > class_of(x); j--) {
            cp[j] = cp[j - 1];
        }
        cp[j] = x;
    }
}

static void sort_long(int32_t *cp, size_t n, int32_t *scratch)
{
    size_t begin[257] = {0};
    for (size_t i = 0; i < n; i++) {
        begin[class_of(cp[i]) + 1]++;
    }
    for (size_t c = 0; c < 256; c++) {
        begin[c + 1] += begin[c];
    }
    memcpy(scratch, cp, n * sizeof *cp);
    for (size_t i = 0; i < n; i++) {
        cp[begin[class_of(scratch[i])]++] = scratch[i];
    }
}

static void order_marks(int32_t *cp, size_t n, int32_t *scratch)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && class_of(cp[end]) != 0) {
            end++;
        }
        if (end - i > SHORT_RUN) {
            sort_long(cp + i, end - i, scratch);
        } else {
            sort_short(cp + i, end - i);
        }
        i = end > i ? end : i + 1;
    }
}

/* cp NULL: only counts. */
static size_t decompose(const char *text, size_t n, int32_t *cp)
{
    size_t count = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        int32_t parts[MAX_PARTS];
        int boundary = 0;
        i += (size_t)tt_utf8_next(text + i, n - i, &c);
        utf8proc_ssize_t k =
            utf8proc_decompose_char((int32_t)c, parts, MAX_PARTS, OPTIONS, &boundary);
        if (k < 1 || k > MAX_PARTS) {
            k = 1;
            parts[0] = (int32_t)c;
        }
        if (cp != NULL) {
            memcpy(cp + count, parts, (size_t)k * sizeof *cp);
        }
        count += (size_t)k;
    }
    return count;
}

tt_code tt_nfc(const char *text, size_t n, char **ret_text, size_t *ret_n, tt_err *reterr)
{
    size_t i = 0;
    while (i < n && (unsigned char)text[i] < 0xcc) { /* below U+0300 everything is composed */
        i++;
    }
    if (i == n) {
        *ret_text = NULL;
        *ret_n = 0;
        return TT_OK;
    }
    size_t count = decompose(text, n, NULL);
    int32_t *cp = malloc(count * sizeof *cp), *scratch = malloc(count * sizeof *scratch);
    char *out = malloc(count * 4);
    if (cp == NULL || scratch == NULL || out == NULL) {
        free(cp);
        free(scratch);
        free(out);
        return tt_fail(reterr, TT_E_NOMEM, "no memory to normalise %zu bytes of text", n);
    }
    decompose(text, n, cp);
    order_marks(cp, count, scratch);
    utf8proc_ssize_t composed =
        utf8proc_normalize_utf32(cp, (utf8proc_ssize_t)count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    size_t len = 0;
    for (utf8proc_ssize_t k = 0; k < composed; k++) {
        len += (size_t)tt_utf8_put((uint32_t)cp[k], out + len);
    }
    free(cp);
    free(scratch);
    *ret_text = out;
    *ret_n = len;
    return TT_OK;
}
