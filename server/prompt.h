/* prompt.h - from messages or text to token ids, and which of them are the context that qTTT adapts
 * to. Thread: any; a tt_served is constant from ready until stop. Long texts: call from a worker.
 */
#ifndef TT_PROMPT_H
#define TT_PROMPT_H

#include <jansson.h>
#include <time.h>

#include "core/engine.h"
#include "core/template_json.h"
#include "server/api_qttt.h"

/* The model as clients see it. Everything but names and template is borrowed from the engine. */
typedef struct tt_served {
    const tt_model *model;
    const tt_tokenizer *tokenizer;
    tt_template *chat_template; /* owned */
    bool template_fallback; /* ChatML, because the file has none or one that is not understood */
    char name[128], alias[136]; /* alias "" = none */
    char bos[64], eos[64];      /* spellings for the template */
    int32_t max_context;
    bool parse_special; /* the operator's choice: special tokens spelt out by users become their ids
                         */
    size_t longest_token;      /* bytes of the vocabulary's longest entry, >= 1 */
    int64_t created;           /* Unix seconds */
    char template_report[256]; /* why the model's own template is not used; "" otherwise */
} tt_served;

/* model_name: "" = the file's. A template that does not compile is reported and replaced by ChatML.
 * TT_E_NOMEM. */
tt_code tt_served_create(tt_engine *engine, const char *model_name, bool with_alias,
                         tt_served **ret_served, tt_err *reterr);
void tt_served_destroy(tt_served **served);

typedef struct tt_chat_prompt {
    const json_t *messages; /* normalised */
    const json_t *kwargs;   /* or NULL */
    bool add_generation_prompt;
} tt_chat_prompt;

/* The text of a chat, as pieces with their origin. TT_E_INVALID: the template's own complaint;
 * TT_E_CONTEXT_LENGTH: it cannot fit. tt_rendered_finish(). */
tt_code tt_prompt_render(const tt_served *sv, const tt_chat_prompt *p, tt_rendered *ret,
                         tt_err *reterr);
/* Ids of rendered pieces, BOS in front where the model wants it. *ret_ids: malloc'ed, transferred.
 */
tt_code tt_prompt_tokens(const tt_served *sv, const tt_text_piece *pieces, size_t n_pieces,
                         int32_t **ret_ids, size_t *ret_n, tt_err *reterr);
/* The same in the middle of a text, behind the token `before`: nothing is put in front. */
tt_code tt_prompt_more_tokens(const tt_served *sv, int32_t before, const tt_text_piece *pieces,
                              size_t n_pieces, int32_t **ret_ids, size_t *ret_n, tt_err *reterr);
/* Ids of a rendered chat, both in one. User text never becomes a special token (unless the operator
 * wants it); BOS once, whether template or model asks for it. *ret_ids: malloc'ed, transferred.
 * TT_E_INVALID: the template's own complaint.
 */
tt_code tt_prompt_chat(const tt_served *sv, const tt_chat_prompt *p, int32_t **ret_ids,
                       size_t *ret_n, tt_err *reterr);
/* Text that cannot fit the context even in the vocabulary's longest tokens is refused before it
 * costs time and memory to tokenise: TT_E_CONTEXT_LENGTH with both numbers. */
tt_code tt_prompt_may_fit(const tt_served *sv, size_t n_bytes, tt_err *reterr);
/* Ids of plain text (special tokens spelt out in it become their ids with `parse_special` or by the
 * operator's choice), with BOS in front where the model wants it and `add_special` is set. */
tt_code tt_prompt_text(const tt_served *sv, const char *text, size_t n, bool add_special,
                       bool parse_special, int32_t **ret_ids, size_t *ret_n, tt_err *reterr);

/* Tokens that `chat` and the prompt ids[0, n) begin with. 0 when the template refuses `chat`;
 * TT_E_NOMEM. */
int64_t tt_prompt_common(const tt_served *sv, const tt_chat_prompt *chat, const int32_t *ids,
                         size_t n);

/* docs/api.md's rule for the context of a request: sets *ret_tokens in [0, n). chat: NULL for a
 * completion. TT_E_INVALID: qttt.context asks for more than there is. */
tt_code tt_prompt_context(const tt_served *sv, const tt_chat_prompt *chat, const int32_t *ids,
                          size_t n, const tt_qttt_request *q, int32_t *ret_tokens, tt_err *reterr);

#endif
