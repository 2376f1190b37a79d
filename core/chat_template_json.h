/* chat_template_json.h - finds the chat template of a Hugging Face folder. Private to model_hf.c.
 * Untrusted input. Thread: pure functions. */
#ifndef TT_CHAT_TEMPLATE_JSON_H
#define TT_CHAT_TEMPLATE_JSON_H

#include "core/arena.h"
#include "core/vocab.h"
#include "kernels/err.h"

/* As transformers looks for it: chat_template.jinja, else chat_template of tokenizer_config.json (a
 * string, or the list's entry named "default"), else chat_template of chat_template.json. None of
 * them: {NULL, 0}. The text is copied to the arena. TT_E_MODEL, TT_E_IO, TT_E_NOMEM; the message
 * names the file. */
tt_code tt_chat_template_read(const char *folder, tt_arena *arena, tt_str *ret_template,
                              tt_err *reterr);

#endif
