/* template_text.c - strings of the chat template interpreter: slices of buffers that remember which
 * bytes the request wrote. Thread: one rendering is one thread's. */
#include "core/template_value.h"

#include <stdlib.h>
#include <string.h>

#include "core/template_unicode.h"

tt_text *tt_text_new(tt_run *r, const char *bytes, size_t n, bool trusted)
{
    tt_text *t = tt_run_alloc(r, 1, sizeof *t);
    if (t != NULL) {
        *t = (tt_text){.p = bytes, .n = n, .n_chars = SIZE_MAX, .trusted = trusted};
    }
    return t;
}

tt_text *tt_text_cstr(tt_run *r, const char *s)
{
    return tt_text_new(r, s, strlen(s), true);
}

tt_text *tt_text_copy(tt_run *r, const char *bytes, size_t n, bool trusted)
{
    char *p = tt_run_alloc(r, n + 1, 1);
    if (p == NULL) {
        return NULL;
    }
    memcpy(p, bytes, n);
    return tt_text_new(r, p, n, trusted);
}

tt_text *tt_text_slice(tt_run *r, const tt_text *t, size_t byte_off, size_t n_bytes)
{
    tt_text *s = tt_run_alloc(r, 1, sizeof *s);
    if (s != NULL) {
        *s = *t;
        s->p = t->p + byte_off;
        s->n = n_bytes;
        s->off = t->off + byte_off;
        s->n_chars = t->n_chars == t->n ? n_bytes : SIZE_MAX; /* all ASCII stays all ASCII */
    }
    return s;
}

/* The run that holds byte `at` of the buffer. */
static size_t find_run(const tt_textbuf *b, size_t at)
{
    size_t lo = 0, hi = b->n_runs - 1;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (b->runs[mid].end > at) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }
    return lo;
}

bool tt_text_origin(const tt_text *t, size_t i, size_t *ret_n)
{
    if (t->buf == NULL || i >= t->n) {
        *ret_n = t->n - i;
        return t->trusted;
    }
    const tt_origin *run = &t->buf->runs[find_run(t->buf, t->off + i)];
    size_t left = run->end - (t->off + i);
    *ret_n = left < t->n - i ? left : t->n - i;
    return run->trusted;
}

bool tt_text_is_trusted(const tt_text *t)
{
    for (size_t i = 0, n = 0; i < t->n; i += n) {
        if (!tt_text_origin(t, i, &n)) {
            return false;
        }
    }
    return true;
}

bool tt_text_equal(const tt_text *a, const tt_text *b)
{
    return a->n == b->n && memcmp(a->p, b->p, a->n) == 0;
}

bool tt_text_is(const tt_text *t, const char *s)
{
    return strlen(s) == t->n && memcmp(t->p, s, t->n) == 0;
}

int tt_text_compare(const tt_text *a, const tt_text *b)
{
    int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    return c != 0 ? (c < 0 ? -1 : 1) : a->n == b->n ? 0 : a->n < b->n ? -1 : 1;
}

size_t tt_text_chars(tt_run *r, tt_text *t)
{
    if (t->n_chars == SIZE_MAX) {
        tt_run_charge(r, t->n);
        size_t n = 0;
        for (size_t i = 0; i < t->n; n++) {
            i += tt_utf8_len(t->p + i, t->n - i);
        }
        t->n_chars = n;
    }
    return t->n_chars;
}

size_t tt_text_offset(tt_run *r, tt_text *t, size_t i)
{
    if (tt_text_chars(r, t) == t->n) {
        return i;
    }
    tt_run_charge(r, i);
    size_t off = 0;
    while (i-- > 0) {
        off += tt_utf8_len(t->p + off, t->n - off);
    }
    return off;
}

size_t tt_text_find(const tt_text *t, const char *needle, size_t n, size_t from)
{
    if (from > t->n || n > t->n - from) {
        return SIZE_MAX;
    }
    if (n == 0) {
        return from;
    }
    const char *p = memmem(t->p + from, t->n - from, needle, n);
    return p == NULL ? SIZE_MAX : (size_t)(p - t->p);
}

tt_textbuf *tt_textbuf_new(tt_run *r)
{
    return tt_run_alloc(r, 1, sizeof(tt_textbuf));
}

/* Doubling; the old block stays in the arena, for slices may point to it. */
static void *grow(tt_run *r, const void *old, size_t n, size_t want, size_t elem, size_t *cap)
{
    size_t fresh_cap = *cap * 2 > want ? *cap * 2 : want;
    void *fresh = tt_run_alloc(r, fresh_cap, elem);
    if (fresh != NULL) {
        if (n != 0) {
            memcpy(fresh, old, n * elem);
        }
        *cap = fresh_cap;
    }
    return fresh;
}

/* Room for n more bytes and one more run. */
static bool reserve(tt_run *r, tt_textbuf *b, size_t n)
{
    if (n > r->max_text_bytes - b->n) {
        return tt_run_fail(r, TT_E_CAPACITY, "a text of more than %zu bytes", r->max_text_bytes);
    }
    if (b->n + n > b->cap && b->heap) { /* in place where it can be; nothing stays behind */
        size_t cap = b->cap * 2 > b->n + n + 64 ? b->cap * 2 : b->n + n + 64;
        char *data = realloc(b->data, cap);
        if (data == NULL) {
            return tt_run_fail(r, TT_E_NOMEM, "no memory for a prompt of %zu bytes", b->n + n);
        }
        b->data = data;
        b->cap = cap;
    } else if (b->n + n > b->cap) {
        char *data = grow(r, b->data, b->n, b->n + n + 64, 1, &b->cap);
        if (data == NULL) {
            return false;
        }
        b->data = data;
    }
    if (b->n_runs == b->cap_runs) {
        tt_origin *runs = grow(r, b->runs, b->n_runs, 4, sizeof *runs, &b->cap_runs);
        if (runs == NULL) {
            return false;
        }
        b->runs = runs;
    }
    return true;
}

bool tt_textbuf_add(tt_run *r, tt_textbuf *b, const char *bytes, size_t n, bool trusted)
{
    if (n == 0) {
        return true;
    }
    if (!tt_run_charge(r, n) || !reserve(r, b, n)) {
        return false;
    }
    memcpy(b->data + b->n, bytes, n);
    b->n += n;
    if (b->n_runs != 0 && b->runs[b->n_runs - 1].trusted == trusted) {
        b->runs[b->n_runs - 1].end = b->n;
    } else {
        b->runs[b->n_runs++] = (tt_origin){.end = b->n, .trusted = trusted};
    }
    return true;
}

bool tt_textbuf_add_slice(tt_run *r, tt_textbuf *b, const tt_text *t, size_t off, size_t n)
{
    for (size_t i = 0, run = 0; i < n; i += run) {
        bool trusted = tt_text_origin(t, off + i, &run);
        run = run < n - i ? run : n - i;
        if (!tt_textbuf_add(r, b, t->p + off + i, run, trusted)) {
            return false;
        }
    }
    return true;
}

bool tt_textbuf_add_text(tt_run *r, tt_textbuf *b, const tt_text *t)
{
    return tt_textbuf_add_slice(r, b, t, 0, t->n);
}

tt_text *tt_textbuf_text(tt_run *r, tt_textbuf *b)
{
    tt_text *t =
        tt_text_new(r, b->data != NULL ? b->data : "", b->n, b->n_runs == 0 || b->runs[0].trusted);
    if (t != NULL && b->n_runs != 0) {
        t->buf = b;
    }
    return t;
}

/* In place when `a` is what its buffer ends with: a chain a + b + c + ... is linear. */
tt_text *tt_text_concat(tt_run *r, const tt_text *a, const tt_text *b)
{
    if (b->n == 0 || a->n == 0) {
        return tt_text_slice(r, b->n == 0 ? a : b, 0, b->n == 0 ? a->n : b->n);
    }
    tt_textbuf *buf = a->buf;
    size_t start = a->off;
    if (buf == NULL || a->p + a->n != buf->data + buf->n) {
        buf = tt_textbuf_new(r);
        start = 0;
        if (buf == NULL || !tt_textbuf_add_text(r, buf, a)) {
            return NULL;
        }
    }
    if (!tt_textbuf_add_text(r, buf, b)) {
        return NULL;
    }
    tt_text *t = tt_text_new(r, buf->data + start, a->n + b->n, false);
    if (t != NULL) {
        t->buf = buf;
        t->off = start;
    }
    return t;
}
