/* template_json.h - the chat template of a model: a sandboxed interpreter of the subset of Jinja
 * that real templates use. Behaves as Python's jinja2 with Hugging Face's settings (trim_blocks,
 * lstrip_blocks, loopcontrols, tojson as json.dumps(ensure_ascii=False), raise_exception,
 * strftime_now). Bounded in steps and in output. Thread: a compiled template is immutable. */
#ifndef TT_TEMPLATE_JSON_H
#define TT_TEMPLATE_JSON_H

#include <jansson.h>
#include <stddef.h>
#include <time.h>

#include "core/tokenizer.h"
#include "kernels/err.h"

typedef struct tt_template tt_template;

/* src comes from an untrusted file. TT_E_UNSUPPORTED names line and construct; TT_E_MODEL a syntax
 * error with its line. */
tt_code tt_template_create(const char *src, size_t n_bytes, tt_template **ret_template,
                           tt_err *reterr);
void tt_template_destroy(tt_template **t);

/* The template of models that bring none: ChatML. */
extern const char tt_template_chatml[];

typedef struct tt_render_options {
    const json_t *messages; /* array, required; borrowed */
    const json_t *tools;    /* array or NULL (then `tools` is none, as transformers passes it) */
    const json_t *kwargs;   /* object or NULL: further globals (chat_template_kwargs) */
    bool add_generation_prompt;
    const char *bos_token,
        *eos_token; /* borrowed; NULL: undefined in the template, as transformers leaves it */
    time_t now;     /* strftime_now */
    size_t max_steps, max_output_bytes; /* 0 = 10 million, 64 MiB */
} tt_render_options;

/* What was rendered, and which bytes of it came out of the template itself rather than out of a
 * value of the request: text pieces for tt_tokenizer_encode_pieces. A string built from both (~,
 * join, replace, ...) keeps the origin of each byte where the operation allows, and counts as
 * untrusted where it does not. */
typedef struct tt_rendered {
    char *text; /* NUL-terminated */
    size_t n;
    tt_text_piece *pieces; /* into text, in order, without gaps */
    size_t n_pieces;
} tt_rendered;

/* TT_E_INVALID: raise_exception's message, or an operation on a wrong type (with line);
 * TT_E_CAPACITY: over a bound. */
tt_code tt_template_render(const tt_template *t, const tt_render_options *opt,
                           tt_rendered *ret_rendered, tt_err *reterr);
void tt_rendered_finish(tt_rendered *r);

#endif
