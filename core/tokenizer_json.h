/* tokenizer_json.h - the tokenizer of a Hugging Face folder: tokenizer.json and
 * tokenizer_config.json to a tt_vocab. Thread: one at a time; what is read is immutable. */
#ifndef TT_TOKENIZER_JSON_H
#define TT_TOKENIZER_JSON_H

#include <stddef.h>

#include "core/vocab.h"
#include "kernels/err.h"

typedef struct tt_tokenizer_json tt_tokenizer_json;

/* The files are untrusted. TT_E_IO: tokenizer.json cannot be opened; TT_E_MODEL: it is not what it
 * should be (says where); TT_E_UNSUPPORTED: names the kind of model, normalizer, pre-tokenizer or
 * decoder; TT_E_NOMEM. */
tt_code tt_tokenizer_json_read(const char *folder, tt_tokenizer_json **ret_json, tt_err *reterr);
/* The same from memory; config (the text of tokenizer_config.json) may be NULL. Both are borrowed
 * for the call. */
tt_code tt_tokenizer_json_parse(const char *text, size_t n, const char *config, size_t n_config,
                                tt_tokenizer_json **ret_json, tt_err *reterr);
void tt_tokenizer_json_destroy(tt_tokenizer_json **json);

/* Borrowed while `json` lives. */
const tt_vocab *tt_tokenizer_json_vocab(const tt_tokenizer_json *json);

#endif
