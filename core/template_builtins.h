/* template_builtins.h - the filters of chat templates that are spread over files, and what they
 * share. Thread: one rendering is one thread's. */
#ifndef TT_TEMPLATE_BUILTINS_H
#define TT_TEMPLATE_BUILTINS_H

#include "core/template_eval.h"

/* An argument as bound by tt_call_bind; MISSING gives `unset`. */
bool tt_arg_int(tt_run *r, const tt_call *call, const tt_val *v, int64_t unset, int64_t *ret);
const tt_text *tt_arg_text(tt_run *r, const tt_call *call, const tt_val *v);

/* str.center; width in code points. */
tt_text *tt_text_center(tt_run *r, tt_text *t, int64_t width, const tt_text *fill);
/* Joins the str() of items, or items that must be strings. */
tt_text *tt_join(tt_run *r, const tt_text *sep, const tt_val *items, bool strings_only);

/* template_format.c: str.format */
bool tt_method_format(tt_run *r, const tt_call *call, tt_val *ret);

/* template_sequences.c */
bool tt_filter_batch(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_dictsort(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_first(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_groupby(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_items(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_join(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_last(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_length(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_list(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_map(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_max(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_min(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_reject(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_rejectattr(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_reverse(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_select(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_selectattr(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_slice(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_sort(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_sum(tt_run *r, const tt_call *call, tt_val *ret);
bool tt_filter_unique(tt_run *r, const tt_call *call, tt_val *ret);

#endif
