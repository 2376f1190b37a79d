/* template_value.h - values of the chat template interpreter: Python's data model as far as Jinja
 * templates see it, and the state of one rendering that owns them. Strings know for each byte
 * whether the template or the request wrote it. Thread: one rendering is one thread's.
 *
 * Functions that take a tt_run return false or NULL after filling run->err; nothing is written to
 * their outputs then. Everything is allocated in run->arena and freed with it; no value is ever
 * freed alone. */
#ifndef TT_TEMPLATE_VALUE_H
#define TT_TEMPLATE_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "core/arena.h"
#include "kernels/err.h"

typedef struct tt_run tt_run;
typedef struct tt_val tt_val;
typedef struct tt_node tt_node;

/* -- Text ---------------------------------------------------------------------------------- */

/* A growing byte buffer with the origin of its bytes in runs. Strings are slices of such buffers,
 * so that trimming, splitting and slicing copy nothing, and appending to the string that ends a
 * buffer is in place. */
typedef struct tt_origin {
    size_t end; /* of the run, from the start of the buffer */
    bool trusted;
} tt_origin;

typedef struct tt_textbuf {
    char *data;
    size_t n, cap;
    bool heap;       /* data is malloc'ed: of the output, which nobody has slices of */
    tt_origin *runs; /* sorted, no two neighbours alike; the last ends at n */
    size_t n_runs, cap_runs;
} tt_textbuf;

typedef struct tt_text {
    const char *p; /* UTF-8, not NUL-terminated */
    size_t n;
    tt_textbuf *buf; /* NULL: all bytes have the origin `trusted` */
    size_t off;      /* of the slice in buf */
    size_t n_chars;  /* code points, SIZE_MAX = not counted yet */
    bool trusted;
    bool markup; /* made by the filter safe or escape */
} tt_text;

/* bytes: borrowed while the run lives. */
tt_text *tt_text_new(tt_run *r, const char *bytes, size_t n, bool trusted);
tt_text *tt_text_cstr(tt_run *r, const char *s); /* trusted */
tt_text *tt_text_copy(tt_run *r, const char *bytes, size_t n, bool trusted);
tt_text *tt_text_slice(tt_run *r, const tt_text *t, size_t byte_off, size_t n_bytes);
tt_text *tt_text_concat(tt_run *r, const tt_text *a, const tt_text *b);
bool tt_text_is_trusted(const tt_text *t); /* every byte of it */
bool tt_text_equal(const tt_text *a, const tt_text *b);
bool tt_text_is(const tt_text *t, const char *s);
int tt_text_compare(const tt_text *a, const tt_text *b); /* by code points, as memcmp */
size_t tt_text_chars(tt_run *r, tt_text *t);
/* Byte offset of code point `i`, 0 <= i <= chars. */
size_t tt_text_offset(tt_run *r, tt_text *t, size_t i);
/* First occurrence at or after byte `from`; SIZE_MAX = none. An empty needle is found at `from`. */
size_t tt_text_find(const tt_text *t, const char *needle, size_t n, size_t from);

tt_textbuf *tt_textbuf_new(tt_run *r);
bool tt_textbuf_add(tt_run *r, tt_textbuf *b, const char *bytes, size_t n, bool trusted);
bool tt_textbuf_add_text(tt_run *r, tt_textbuf *b, const tt_text *t);
bool tt_textbuf_add_slice(tt_run *r, tt_textbuf *b, const tt_text *t, size_t off, size_t n);
tt_text *tt_textbuf_text(tt_run *r, tt_textbuf *b);
/* Origin of byte `i` of the text, and in *ret_n how many bytes from there on share it. */
bool tt_text_origin(const tt_text *t, size_t i, size_t *ret_n);

/* -- Values -------------------------------------------------------------------------------- */

typedef enum tt_kind {
    TT_V_MISSING, /* no value: an argument that was not passed. Never seen by a template */
    TT_V_UNDEFINED,
    TT_V_NONE,
    TT_V_BOOL,
    TT_V_INT,
    TT_V_FLOAT,
    TT_V_STR,
    TT_V_LIST,
    TT_V_TUPLE,
    TT_V_DICT,
    TT_V_KEYS, /* dict views */
    TT_V_VALUES,
    TT_V_ITEMS,
    TT_V_RANGE,
    TT_V_ITER, /* a generator or iterator: consumed by iterating */
    TT_V_NAMESPACE,
    TT_V_MACRO,
    TT_V_METHOD,  /* bound method of a str, list, dict or loop */
    TT_V_BUILTIN, /* a global function */
    TT_V_LOOP
} tt_kind;

typedef struct tt_list {
    tt_val *items;
    size_t n, cap;
    bool group; /* a (grouper, list) pair of the filter groupby */
} tt_list;

typedef struct tt_dict_entry tt_dict_entry;

/* Insertion-ordered; a hash index exists from 9 entries on. */
typedef struct tt_dict {
    tt_dict_entry *entries;
    size_t n, cap;
    uint32_t *index; /* [n_slots] entry + 1, 0 = free */
    size_t n_slots;
} tt_dict;

typedef struct tt_range {
    int64_t start, stop, step;
    size_t n;
} tt_range;

typedef struct tt_undefined {
    const char *owner; /* type of the object without that attribute, NULL = a variable */
    const tt_text *name;
    const char *hint; /* the whole message instead, or NULL */
} tt_undefined;

typedef struct tt_call tt_call;
typedef bool (*tt_func)(tt_run *r, const tt_call *call, tt_val *ret);

/* A built-in filter, test, method or global function. */
typedef struct tt_builtin {
    const char *name;
    tt_func func;
} tt_builtin;

typedef struct tt_method tt_method;
typedef struct tt_macro tt_macro;
typedef struct tt_loop tt_loop;
typedef struct tt_iter tt_iter;

struct tt_val {
    uint8_t kind;
    bool trusted; /* numbers: not taken from the request */
    union {
        bool b;
        int64_t i;
        double f;
        tt_text *s;
        tt_list *list; /* also tuples */
        tt_dict *dict; /* also views and namespaces */
        tt_range *range;
        tt_iter *iter;
        const tt_undefined *undef;
        tt_macro *macro;
        tt_method *method;
        const tt_builtin *builtin;
        tt_loop *loop;
    } u;
};

struct tt_dict_entry {
    tt_val key, value;
    uint64_t hash;
};

struct tt_method {
    tt_val self;
    const tt_builtin *builtin;
};

/* Arguments of a call, evaluated. */
struct tt_call {
    tt_val self; /* what a filter, test or method is applied to; MISSING for functions */
    const char *name;
    const tt_val *pos;
    size_t n_pos;
    const tt_text *const *kw_names;
    const tt_val *kw;
    size_t n_kw;
};

/* Iteration over any iterable; start with tt_iter_init. */
struct tt_iter {
    tt_val over;
    size_t pos; /* item, or byte of a string */
};

/* -- One rendering ------------------------------------------------------------------------- */

typedef struct tt_scope tt_scope;
struct tt_ast;

struct tt_run {
    tt_arena arena;
    tt_err *err;
    tt_code code;
    size_t steps, max_steps, max_text_bytes;
    unsigned depth; /* of C recursion over nodes and values */
    uint32_t line;  /* of the node in evaluation */
    const struct tt_ast *ast;
    time_t now;
    uint64_t hash_seed;
    tt_textbuf *out; /* where statements print to */
    tt_scope *scope;
    tt_val input; /* body of a filter block */
};

/* Fails the run: "line 3: text". The first failure stays. Always returns false. */
bool tt_run_fail(tt_run *r, tt_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
bool tt_run_invalid(tt_run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Zeroed memory; NULL fails the run. */
void *tt_run_alloc(tt_run *r, size_t n, size_t elem_bytes);
/* Accounts work: `n` bytes or cheap items. False when the bound is reached. */
bool tt_run_charge(tt_run *r, size_t n);
bool tt_run_enter(tt_run *r); /* one level of recursion; undo with tt_run_leave */
void tt_run_leave(tt_run *r);

/* -- Constructors -------------------------------------------------------------------------- */

tt_val tt_val_none(void);
tt_val tt_val_bool(bool b);
tt_val tt_val_int(int64_t i);
tt_val tt_val_float(double f);
tt_val tt_val_text(tt_text *t); /* t may be NULL after a failure: the result is MISSING */
bool tt_val_set_text(tt_text *t, tt_val *ret); /* false when t is NULL */
bool tt_val_undefined(tt_run *r, const char *owner, const tt_text *name, const char *hint,
                      tt_val *ret);
bool tt_val_list(tt_run *r, tt_kind kind, size_t cap,
                 tt_val *ret); /* LIST, TUPLE or ITER over a new list */
bool tt_val_pair(tt_run *r, tt_val a, tt_val b, tt_val *ret);
bool tt_list_add(tt_run *r, tt_list *l, tt_val v);
bool tt_val_iter_of(tt_run *r, tt_val list, tt_val *ret); /* a generator over the items of a list */

bool tt_val_dict(tt_run *r, tt_val *ret);
/* Fails on unhashable keys. */
bool tt_dict_set(tt_run *r, tt_dict *d, tt_val key, tt_val value);
/* *ret_value NULL when the key is not there. */
bool tt_dict_get(tt_run *r, const tt_dict *d, tt_val key, tt_val **ret_value);
tt_val *tt_dict_find(tt_run *r, const tt_dict *d, const tt_text *key);
tt_val *tt_dict_find_cstr(tt_run *r, const tt_dict *d, const char *key);

/* -- Python's protocols -------------------------------------------------------------------- */

const char *tt_val_type(const tt_val *v); /* as type(x).__name__ */
bool tt_val_truthy(const tt_val *v);
bool tt_val_is_number(const tt_val *v); /* bool, int, float */
bool tt_val_number(const tt_val *v, double *ret);
bool tt_val_index(const tt_val *v, int64_t *ret); /* bool or int */
bool tt_val_equal(tt_run *r, const tt_val *a, const tt_val *b, bool *ret);
/* -1, 0, 1; fails where Python's < does. op is for the message. */
bool tt_val_order(tt_run *r, const tt_val *a, const tt_val *b, const char *op, int *ret);
bool tt_val_hash(tt_run *r, const tt_val *v, uint64_t *ret);
bool tt_val_contains(tt_run *r, const tt_val *seq, const tt_val *item, bool *ret);
bool tt_val_len(tt_run *r, const tt_val *v, size_t *ret);
bool tt_val_has_len(const tt_val *v);
bool tt_val_iterable(const tt_val *v);
bool tt_iter_init(tt_run *r, const tt_val *v, tt_iter *ret);
/* *ret_more false at the end. */
bool tt_iter_next(tt_run *r, tt_iter *it, tt_val *ret, bool *ret_more);
bool tt_val_to_list(tt_run *r, const tt_val *v, tt_kind kind, tt_val *ret);

/* -- Text of values (template_print.c) ----------------------------------------------------- */

tt_text *tt_val_str(tt_run *r, const tt_val *v); /* str(x) */
bool tt_val_repr(tt_run *r, tt_textbuf *b, const tt_val *v);
/* repr of a float into out[32]; returns the length. */
size_t tt_float_repr(double f, char *out);
const char *tt_undefined_message(tt_run *r, const tt_val *v);

typedef struct tt_tojson_options {
    bool ensure_ascii, sort_keys, pretty;
    const tt_text *indent; /* with pretty */
    const tt_text *item_sep, *key_sep;
} tt_tojson_options;

bool tt_val_tojson(tt_run *r, tt_textbuf *b, const tt_val *v, const tt_tojson_options *opt);

#endif
