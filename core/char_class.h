/* char_class.h - letter, number, space or neither, for every code point: what the pre-split
 * patterns of models ask of a character. Thread: filled by one, then immutable. */
#ifndef TT_CHAR_CLASS_H
#define TT_CHAR_CLASS_H

#include <stdint.h>

#include "kernels/err.h"

typedef enum tt_char_class {
    TT_CHAR_OTHER,
    TT_CHAR_SPACE,
    TT_CHAR_LETTER,
    TT_CHAR_NUMBER,
    TT_CHAR_KIND = 3, /* mask of the four */
    TT_CHAR_ALONE = 4 /* flag: a digit for the models that take digits one by one */
} tt_char_class;

/* Code points from here on are neither letters nor numbers nor spaces. */
#define TT_CHAR_CLASSES 0x40000

/* of: [TT_CHAR_CLASSES] of tt_char_class. TT_E_NOMEM, TT_E_INTERNAL. */
tt_code tt_char_class_fill(uint8_t *of, tt_err *reterr);

#endif
