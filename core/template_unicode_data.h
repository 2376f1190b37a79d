/* template_unicode_data.h - tables of template_unicode.c. Thread: none, constants. */
#ifndef TT_TEMPLATE_UNICODE_DATA_H
#define TT_TEMPLATE_UNICODE_DATA_H

#include <stddef.h>
#include <stdint.h>

/* first, first + step, ..., n of them */
typedef struct tt_uni_range {
    uint32_t first;
    uint16_t n;
    uint8_t step;
} tt_uni_range;

/* The same, each mapped to itself + delta. Sorted by first; the row of a code point is the last
 * that starts at or before. */
typedef struct tt_uni_shift {
    uint32_t first;
    uint16_t n;
    uint8_t step;
    int32_t delta;
} tt_uni_shift;

/* One to several; 0 ends `to`. */
typedef struct tt_uni_special {
    uint32_t from;
    uint32_t to[3];
} tt_uni_special;

extern const tt_uni_range tt_uni_alpha_rows[], tt_uni_decimal_rows[], tt_uni_digit_rows[],
    tt_uni_numeric_rows[];
extern const tt_uni_range tt_uni_printable_rows[], tt_uni_upper_rows[], tt_uni_lower_rows[],
    tt_uni_title_rows[];
extern const tt_uni_range tt_uni_case_ignorable_rows[];
extern const size_t tt_uni_n_alpha, tt_uni_n_decimal, tt_uni_n_digit, tt_uni_n_numeric,
    tt_uni_n_printable;
extern const size_t tt_uni_n_upper, tt_uni_n_lower, tt_uni_n_title, tt_uni_n_case_ignorable;

extern const tt_uni_shift tt_uni_to_upper_rows[], tt_uni_to_lower_rows[], tt_uni_to_title_rows[];
extern const size_t tt_uni_n_to_upper, tt_uni_n_to_lower, tt_uni_n_to_title;
extern const tt_uni_special tt_uni_to_upper_special_rows[], tt_uni_to_lower_special_rows[];
extern const tt_uni_special tt_uni_to_title_special_rows[];
extern const size_t tt_uni_n_to_upper_special, tt_uni_n_to_lower_special, tt_uni_n_to_title_special;

#endif
