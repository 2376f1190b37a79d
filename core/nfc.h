/* nfc.h - Unicode's composed normal form, for the tokenizers that ask for it. Thread: none, pure
 * functions. */
#ifndef TT_NFC_H
#define TT_NFC_H

#include <stddef.h>

#include "kernels/err.h"

/* text: valid UTF-8. *ret_text: malloc'ed, transferred, *ret_n bytes; NULL when the text is easily
 * seen to be in that form already. Linear time, also on long runs of combining marks. TT_E_NOMEM.
 */
tt_code tt_nfc(const char *text, size_t n, char **ret_text, size_t *ret_n, tt_err *reterr);

#endif
