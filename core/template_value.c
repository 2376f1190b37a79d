/* template_value.c - values of the chat template interpreter: making them, and lists, dicts and
 * iteration. Thread: one rendering is one thread's. */
#include "core/template_value.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <xxhash.h>

#include "core/template_unicode.h"

enum { max_depth = 600, dict_index_from = 9 };

bool tt_run_fail(tt_run *r, tt_code code, const char *fmt, ...)
{
    if (r->code == TT_OK) {
        char msg[sizeof r->err->msg];
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(msg, sizeof msg, fmt, ap);
        va_end(ap);
        r->code = tt_fail(r->err, code, "chat template line %u: %s", r->line, n < 0 ? "" : msg);
    }
    return false;
}

bool tt_run_invalid(tt_run *r, const char *fmt, ...)
{
    char msg[sizeof r->err->msg];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return tt_run_fail(r, TT_E_INVALID, "%s", n < 0 ? "" : msg);
}

void *tt_run_alloc(tt_run *r, size_t n, size_t elem_bytes)
{
    size_t bytes;
    bool over =
        __builtin_mul_overflow(n, elem_bytes, &bytes) || bytes > r->arena.limit - r->arena.used;
    void *p = over ? NULL : tt_arena_calloc(&r->arena, n, elem_bytes);
    if (p == NULL) {
        over = over || r->arena.limit - r->arena.used - bytes < 64;
        if (over) {
            tt_run_fail(r, TT_E_CAPACITY, "more than %zu bytes of memory", r->arena.limit);
        } else {
            tt_run_fail(r, TT_E_NOMEM, "out of memory");
        }
    }
    return p;
}

bool tt_run_charge(tt_run *r, size_t n)
{
    r->steps += 1 + n / 64;
    if (r->steps > r->max_steps) {
        return tt_run_fail(r, TT_E_CAPACITY, "more than %zu steps", r->max_steps);
    }
    return r->code == TT_OK;
}

bool tt_run_enter(tt_run *r)
{
    if (r->depth >= max_depth) {
        return tt_run_fail(r, TT_E_CAPACITY, "nesting deeper than %d levels", max_depth);
    }
    r->depth++;
    return tt_run_charge(r, 0) || (r->depth--, false);
}

void tt_run_leave(tt_run *r)
{
    r->depth--;
}

tt_val tt_val_none(void)
{
    return (tt_val){.kind = TT_V_NONE, .trusted = true};
}

tt_val tt_val_bool(bool b)
{
    return (tt_val){.kind = TT_V_BOOL, .trusted = true, .u.b = b};
}

tt_val tt_val_int(int64_t i)
{
    return (tt_val){.kind = TT_V_INT, .trusted = true, .u.i = i};
}

tt_val tt_val_float(double f)
{
    return (tt_val){.kind = TT_V_FLOAT, .trusted = true, .u.f = f};
}

tt_val tt_val_text(tt_text *t)
{
    return t == NULL ? (tt_val){.kind = TT_V_MISSING} : (tt_val){.kind = TT_V_STR, .u.s = t};
}

bool tt_val_set_text(tt_text *t, tt_val *ret)
{
    if (t == NULL) {
        return false;
    }
    *ret = tt_val_text(t);
    return true;
}

bool tt_val_undefined(tt_run *r, const char *owner, const tt_text *name, const char *hint,
                      tt_val *ret)
{
    tt_undefined *u = tt_run_alloc(r, 1, sizeof *u);
    if (u == NULL) {
        return false;
    }
    *u = (tt_undefined){.owner = owner, .name = name, .hint = hint};
    *ret = (tt_val){.kind = TT_V_UNDEFINED, .u.undef = u};
    return true;
}

/* -- Lists --------------------------------------------------------------------------------- */

bool tt_val_list(tt_run *r, tt_kind kind, size_t cap, tt_val *ret)
{
    tt_list *l = tt_run_alloc(r, 1, sizeof *l);
    if (l == NULL) {
        return false;
    }
    l->items = cap == 0 ? NULL : tt_run_alloc(r, cap, sizeof *l->items);
    if (cap != 0 && l->items == NULL) {
        return false;
    }
    l->cap = cap;
    *ret = (tt_val){.kind = (uint8_t)kind, .u.list = l};
    return true;
}

bool tt_list_add(tt_run *r, tt_list *l, tt_val v)
{
    if (l->n == l->cap) {
        size_t cap = l->cap < 4 ? 4 : l->cap * 2;
        tt_val *items = tt_run_alloc(r, cap, sizeof *items);
        if (items == NULL) {
            return false;
        }
        if (l->n != 0) {
            memcpy(items, l->items, l->n * sizeof *items);
        }
        l->items = items;
        l->cap = cap;
    }
    l->items[l->n++] = v;
    return true;
}

bool tt_val_pair(tt_run *r, tt_val a, tt_val b, tt_val *ret)
{
    tt_val v;
    if (!tt_val_list(r, TT_V_TUPLE, 2, &v)) {
        return false;
    }
    v.u.list->items[0] = a;
    v.u.list->items[1] = b;
    v.u.list->n = 2;
    *ret = v;
    return true;
}

bool tt_val_iter_of(tt_run *r, tt_val list, tt_val *ret)
{
    tt_iter *it = tt_run_alloc(r, 1, sizeof *it);
    if (it == NULL) {
        return false;
    }
    it->over = list;
    *ret = (tt_val){.kind = TT_V_ITER, .u.iter = it};
    return true;
}

/* -- Dicts --------------------------------------------------------------------------------- */

bool tt_val_dict(tt_run *r, tt_val *ret)
{
    tt_dict *d = tt_run_alloc(r, 1, sizeof *d);
    if (d == NULL) {
        return false;
    }
    *ret = (tt_val){.kind = TT_V_DICT, .u.dict = d};
    return true;
}

static uint64_t hash_text(const tt_run *r, const tt_text *t)
{
    return XXH3_64bits_withSeed(t->p, t->n, r->hash_seed);
}

/* 1, 1.0 and True are one key, as in Python. */
static uint64_t hash_number(const tt_run *r, double f)
{
    f = f == 0 ? 0 : f; /* -0.0 */
    return XXH3_64bits_withSeed(&f, sizeof f, r->hash_seed ^ 1);
}

bool tt_val_hash(tt_run *r, const tt_val *v, uint64_t *ret)
{
    double f = 0;
    switch (v->kind) {
    case TT_V_STR:
        *ret = hash_text(r, v->u.s);
        return tt_run_charge(r, v->u.s->n);
    case TT_V_BOOL:
    case TT_V_INT:
    case TT_V_FLOAT:
        tt_val_number(v, &f);
        *ret = hash_number(r, f);
        return true;
    case TT_V_NONE:
    case TT_V_UNDEFINED:
        *ret = v->kind;
        return true;
    case TT_V_TUPLE: {
        uint64_t h = r->hash_seed;
        if (!tt_run_enter(r)) {
            return false;
        }
        for (size_t i = 0; i < v->u.list->n; i++) {
            uint64_t part[2] = {h, 0};
            if (!tt_run_charge(r, 0) || !tt_val_hash(r, &v->u.list->items[i], &part[1])) {
                return false;
            }
            h = XXH3_64bits(part, sizeof part);
        }
        tt_run_leave(r);
        *ret = h;
        return true;
    }
    case TT_V_LIST:
    case TT_V_DICT:
    case TT_V_ITEMS:
    case TT_V_KEYS:
        return tt_run_invalid(r, "unhashable type: '%s'", tt_val_type(v));
    default:
        *ret = XXH3_64bits(&v->u.list, sizeof v->u.list);
        return true;
    }
}

/* Index of the entry with that key in *ret_at; d->n when there is none. */
static bool dict_locate(tt_run *r, const tt_dict *d, const tt_val *key, uint64_t hash,
                        size_t *ret_at)
{
    bool same = false;
    if (d->index == NULL) {
        for (size_t i = 0; i < d->n; i++) {
            if (d->entries[i].hash == hash) {
                if (!tt_val_equal(r, &d->entries[i].key, key, &same)) {
                    return false;
                }
                if (same) {
                    *ret_at = i;
                    return true;
                }
            }
        }
        *ret_at = d->n;
        return true;
    }
    for (size_t s = hash & (d->n_slots - 1);; s = (s + 1) & (d->n_slots - 1)) {
        uint32_t e = d->index[s];
        if (e == 0) {
            *ret_at = d->n;
            return true;
        }
        if (d->entries[e - 1].hash == hash) {
            if (!tt_val_equal(r, &d->entries[e - 1].key, key, &same)) {
                return false;
            }
            if (same) {
                *ret_at = e - 1;
                return true;
            }
        }
    }
}

static void index_add(tt_dict *d, size_t at)
{
    size_t s = d->entries[at].hash & (d->n_slots - 1);
    while (d->index[s] != 0) {
        s = (s + 1) & (d->n_slots - 1);
    }
    d->index[s] = (uint32_t)at + 1;
}

static bool dict_grow(tt_run *r, tt_dict *d)
{
    size_t cap = d->cap < 4 ? 4 : d->cap * 2;
    if (cap > UINT32_MAX / 2) {
        return tt_run_fail(r, TT_E_CAPACITY, "a dict too large");
    }
    tt_dict_entry *entries = tt_run_alloc(r, cap, sizeof *entries);
    if (entries == NULL) {
        return false;
    }
    if (d->n != 0) {
        memcpy(entries, d->entries, d->n * sizeof *entries);
    }
    if (cap >= dict_index_from) {
        uint32_t *index = tt_run_alloc(r, cap * 2, sizeof *index);
        if (index == NULL) {
            return false;
        }
        d->index = index;
        d->n_slots = cap * 2;
    }
    d->entries = entries;
    d->cap = cap;
    for (size_t i = 0; d->index != NULL && i < d->n; i++) {
        index_add(d, i);
    }
    return true;
}

bool tt_dict_set(tt_run *r, tt_dict *d, tt_val key, tt_val value)
{
    uint64_t hash = 0;
    size_t at = 0;
    if (!tt_val_hash(r, &key, &hash) || !dict_locate(r, d, &key, hash, &at)) {
        return false;
    }
    if (at < d->n) {
        d->entries[at].value = value;
        return true;
    }
    if (d->n == d->cap && !dict_grow(r, d)) {
        return false;
    }
    d->entries[d->n++] = (tt_dict_entry){.key = key, .value = value, .hash = hash};
    if (d->index != NULL) {
        index_add(d, d->n - 1);
    }
    return true;
}

bool tt_dict_get(tt_run *r, const tt_dict *d, tt_val key, tt_val **ret_value)
{
    uint64_t hash = 0;
    size_t at = 0;
    if (!tt_val_hash(r, &key, &hash) || !dict_locate(r, d, &key, hash, &at)) {
        return false;
    }
    *ret_value = at < d->n ? &d->entries[at].value : NULL;
    return true;
}

tt_val *tt_dict_find(tt_run *r, const tt_dict *d, const tt_text *key)
{
    size_t at = 0;
    tt_val k = {.kind = TT_V_STR, .u.s = (tt_text *)key};
    return dict_locate(r, d, &k, hash_text(r, key), &at) && at < d->n ? &d->entries[at].value
                                                                      : NULL;
}

tt_val *tt_dict_find_cstr(tt_run *r, const tt_dict *d, const char *key)
{
    tt_text t = {.p = key, .n = strlen(key), .n_chars = SIZE_MAX};
    return tt_dict_find(r, d, &t);
}

/* -- Iteration ----------------------------------------------------------------------------- */

bool tt_val_has_len(const tt_val *v)
{
    return v->kind == TT_V_UNDEFINED || (v->kind >= TT_V_STR && v->kind <= TT_V_RANGE) ||
           v->kind == TT_V_LOOP;
}

bool tt_val_iterable(const tt_val *v)
{
    return v->kind == TT_V_UNDEFINED || (v->kind >= TT_V_STR && v->kind <= TT_V_ITER) ||
           v->kind == TT_V_LOOP;
}

bool tt_iter_init(tt_run *r, const tt_val *v, tt_iter *ret)
{
    if (!tt_val_iterable(v) || v->kind == TT_V_LOOP) {
        return tt_run_invalid(r, "'%s' object is not iterable", tt_val_type(v));
    }
    *ret = (tt_iter){.over = *v};
    return true;
}

static bool entry_of(tt_run *r, const tt_val *over, size_t i, tt_val *ret)
{
    const tt_dict_entry *e = &over->u.dict->entries[i];
    if (over->kind == TT_V_ITEMS) {
        return tt_val_pair(r, e->key, e->value, ret);
    }
    *ret = over->kind == TT_V_VALUES ? e->value : e->key;
    return true;
}

bool tt_iter_next(tt_run *r, tt_iter *it, tt_val *ret, bool *ret_more)
{
    if (!tt_run_charge(r, 0)) {
        return false;
    }
    *ret_more = false;
    const tt_val *over = &it->over;
    switch (over->kind) {
    case TT_V_ITER:
        return tt_iter_next(r, over->u.iter, ret, ret_more);
    case TT_V_STR: {
        const tt_text *s = over->u.s;
        if (it->pos >= s->n) {
            return true;
        }
        size_t n = tt_utf8_len(s->p + it->pos, s->n - it->pos);
        tt_text *c = tt_text_slice(r, s, it->pos, n);
        it->pos += n;
        *ret_more = true;
        return tt_val_set_text(c, ret);
    }
    case TT_V_LIST:
    case TT_V_TUPLE:
        *ret_more = it->pos < over->u.list->n;
        *ret = *ret_more ? over->u.list->items[it->pos++] : *ret;
        return true;
    case TT_V_DICT:
    case TT_V_KEYS:
    case TT_V_VALUES:
    case TT_V_ITEMS:
        *ret_more = it->pos < over->u.dict->n;
        return !*ret_more || entry_of(r, over, it->pos++, ret);
    case TT_V_RANGE:
        *ret_more = it->pos < over->u.range->n;
        *ret = *ret_more
                   ? tt_val_int(over->u.range->start + (int64_t)it->pos++ * over->u.range->step)
                   : *ret;
        return true;
    default: /* undefined: nothing */
        return true;
    }
}

bool tt_val_to_list(tt_run *r, const tt_val *v, tt_kind kind, tt_val *ret)
{
    tt_iter it;
    tt_val l;
    if (!tt_iter_init(r, v, &it) || !tt_val_list(r, kind, 0, &l)) {
        return false;
    }
    for (bool more = true; more;) {
        tt_val item = tt_val_none();
        if (!tt_iter_next(r, &it, &item, &more) || (more && !tt_list_add(r, l.u.list, item))) {
            return false;
        }
    }
    *ret = l;
    return true;
}
