/* vocab_gguf.h - the tokenizer's data and the chat template from the metadata of a GGUF file.
 * Private to model_gguf.c. Thread: one at a time per model. */
#ifndef TT_VOCAB_GGUF_H
#define TT_VOCAB_GGUF_H

#include "core/arena.h"
#include "core/gguf.h"
#include "core/vocab.h"

/* Strings point into the file, tables lie in the arena. TT_E_MODEL, TT_E_UNSUPPORTED (a tokenizer
 * of another kind, named), TT_E_NOMEM. */
tt_code tt_vocab_read_gguf(const tt_gguf *g, tt_arena *arena, tt_vocab *ret_vocab, tt_err *reterr);

#endif
