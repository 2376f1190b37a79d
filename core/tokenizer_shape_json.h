/* tokenizer_shape_json.h - what the normalizer, pre-tokenizer, decoder and post-processor of a
 * tokenizer.json amount to. Private to tokenizer_json.c. Thread: one at a time. */
#ifndef TT_TOKENIZER_SHAPE_JSON_H
#define TT_TOKENIZER_SHAPE_JSON_H

#include <jansson.h>

#include "core/vocab.h"
#include "kernels/err.h"

/* Sets kind (BPE where the pieces are byte-level, else SPM), pre, nfc, and the flags for spaces;
 * pre is a static string. root: the whole tokenizer.json. TT_E_UNSUPPORTED names what is not one of
 * the known shapes. */
tt_code tt_tokenizer_shape_read(const json_t *root, tt_vocab *vocab, tt_err *reterr);

/* The ids that the post-processor puts before and after a single text; -1 = none. They may be out
 * of the vocabulary. TT_E_UNSUPPORTED: more than one on a side, or another kind of post-processor.
 */
tt_code tt_tokenizer_shape_ends(const json_t *root, json_int_t *ret_before, json_int_t *ret_after,
                                tt_err *reterr);

#endif
