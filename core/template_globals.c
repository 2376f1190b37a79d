/* template_globals.c - global functions of chat templates: range, dict, namespace, raise_exception,
 * strftime_now. Thread: one rendering is one thread's. */
#include "core/template_eval.h"

#include <string.h>

enum { max_range = 100000 }; /* as Jinja's sandbox */

static bool global_range(tt_run *r, const tt_call *call, tt_val *ret)
{
    int64_t part[3] = {0, 0, 1};
    if (call->n_kw != 0 || call->n_pos < 1 || call->n_pos > 3) {
        return tt_run_invalid(r, "range expected 1 to 3 arguments, got %zu", call->n_pos);
    }
    for (size_t i = 0; i < call->n_pos; i++) {
        if (!tt_val_index(&call->pos[i], &part[call->n_pos == 1 ? 1 : i])) {
            return tt_run_invalid(r, "'%s' object cannot be interpreted as an integer",
                                  tt_val_type(&call->pos[i]));
        }
    }
    if (part[2] == 0) {
        return tt_run_invalid(r, "range() arg 3 must not be zero");
    }
    bool up = part[2] > 0;
    uint64_t span =
        up ? (uint64_t)part[1] - (uint64_t)part[0] : (uint64_t)part[0] - (uint64_t)part[1];
    uint64_t stride = up ? (uint64_t)part[2] : 0 - (uint64_t)part[2];
    bool empty = up ? part[0] >= part[1] : part[0] <= part[1];
    uint64_t n = empty ? 0 : (span - 1) / stride + 1;
    if (n > max_range) {
        return tt_run_invalid(
            r, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d)", max_range);
    }
    tt_range *g = tt_run_alloc(r, 1, sizeof *g);
    if (g == NULL) {
        return false;
    }
    *g = (tt_range){.start = part[0], .stop = part[1], .step = part[2], .n = n};
    *ret = (tt_val){.kind = TT_V_RANGE, .u.range = g};
    return true;
}

/* dict(mapping or pairs, **kwargs) */
static bool global_dict(tt_run *r, const tt_call *call, tt_val *ret)
{
    tt_val d;
    if (!tt_val_dict(r, &d)) {
        return false;
    }
    if (call->n_pos > 1) {
        return tt_run_invalid(r, "dict expected at most 1 argument, got %zu", call->n_pos);
    }
    tt_val from = call->n_pos == 1 ? call->pos[0] : d, item, pair;
    if (from.kind == TT_V_UNDEFINED) {
        return tt_run_invalid(r, "%s", tt_undefined_message(r, &from));
    }
    tt_iter it;
    from.kind = from.kind == TT_V_DICT ? TT_V_ITEMS : from.kind;
    if (!tt_iter_init(r, &from, &it)) {
        return false;
    }
    for (bool more = true; more;) {
        if (!tt_iter_next(r, &it, &item, &more)) {
            return false;
        }
        if (more && !tt_val_to_list(r, &item, TT_V_LIST, &pair)) {
            return false;
        }
        if (more && pair.u.list->n != 2) {
            return tt_run_invalid(
                r, "dictionary update sequence element has length %zu; 2 is required",
                pair.u.list->n);
        }
        if (more && !tt_dict_set(r, d.u.dict, pair.u.list->items[0], pair.u.list->items[1])) {
            return false;
        }
    }
    for (size_t i = 0; i < call->n_kw; i++) {
        if (!tt_dict_set(r, d.u.dict, tt_val_text((tt_text *)call->kw_names[i]), call->kw[i])) {
            return false;
        }
    }
    *ret = d;
    return true;
}

static bool global_namespace(tt_run *r, const tt_call *call, tt_val *ret)
{
    if (!global_dict(r, call, ret)) {
        return false;
    }
    ret->kind = TT_V_NAMESPACE;
    return true;
}

static bool global_raise(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"message"};
    tt_val message;
    if (!tt_call_bind(r, call, names, 1, 1, &message)) {
        return false;
    }
    tt_text *t = tt_val_str(r, &message);
    if (t != NULL && r->code == TT_OK) {
        /* The message alone: it is written for the one who sends the request. */
        r->code = tt_fail(r->err, TT_E_INVALID, "%.*s", (int)(t->n < 250 ? t->n : 250), t->p);
    }
    return false;
}

static bool global_strftime_now(tt_run *r, const tt_call *call, tt_val *ret)
{
    static const char *const names[] = {"format"};
    tt_val format;
    struct tm tm;
    char fmt[256], out[1024];
    if (!tt_call_bind(r, call, names, 1, 1, &format)) {
        return false;
    }
    if (format.kind != TT_V_STR || format.u.s->n >= sizeof fmt ||
        memchr(format.u.s->p, '\0', format.u.s->n) != NULL) {
        return tt_run_invalid(r, "strftime_now() needs a format of less than %zu bytes",
                              sizeof fmt);
    }
    memcpy(fmt, format.u.s->p, format.u.s->n);
    fmt[format.u.s->n] = '\0';
    if (localtime_r(&r->now, &tm) == NULL) {
        return tt_run_invalid(r, "the time is out of range");
    }
    size_t n = fmt[0] == '\0' ? 0 : strftime(out, sizeof out, fmt, &tm);
    if (n == 0 && fmt[0] != '\0' && strcmp(fmt, "%p") != 0) {
        return tt_run_invalid(r, "strftime_now() cannot format '%s'", fmt);
    }
    return tt_val_set_text(tt_text_copy(r, out, n, tt_text_is_trusted(format.u.s)), ret);
}

const tt_builtin *tt_global_find(const tt_text *name)
{
    static const tt_builtin globals[] = {
        {"range", global_range},
        {"dict", global_dict},
        {"namespace", global_namespace},
        {"raise_exception", global_raise},
        {"strftime_now", global_strftime_now},
    };
    for (size_t i = 0; i < sizeof globals / sizeof globals[0]; i++) {
        if (tt_text_is(name, globals[i].name)) {
            return &globals[i];
        }
    }
    return NULL;
}
