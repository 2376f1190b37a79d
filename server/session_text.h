/* session_text.h - what an append goes on from: the messages of a session's head, the text that
 * they were rendered to, and the ids of that text with the places at which it may be cut. Never
 * changed once made, so that a worker can read it while the loop thread replaces it. Thread: any.
 *
 * An append renders old and new messages together and keeps the ids up to the first byte that
 * differs, so that an answer's tokens stay what was generated, and a template that rewrites history
 * is right all the same. */
#ifndef TT_SESSION_TEXT_H
#define TT_SESSION_TEXT_H

#include <jansson.h>

#include "core/session.h"
#include "server/prompt.h"

typedef struct tt_session_text tt_session_text;

typedef struct tt_session_text_options {
    const json_t *messages; /* array, copied; the answer's message is among them */
    const json_t *kwargs;   /* chat_template_kwargs or NULL */
    const char *text;       /* [n] rendered prompt */
    size_t n;
    const int32_t *ids; /* [n_ids] of it */
    int32_t n_ids;
    const tt_session_text *from; /* the text that the prompt was spliced onto, or NULL */
    int32_t n_kept;              /* ids taken over from it */
    const int32_t *generated;    /* [n_generated] after the prompt */
    int32_t n_generated;
    const tt_tokenizer *tokenizer;
} tt_session_text_options;

/* *ret: one reference. TT_E_NOMEM. */
tt_code tt_session_text_create(const tt_session_text_options *opt, tt_session_text **ret,
                               tt_err *reterr);
tt_session_text *tt_session_text_ref(tt_session_text *t);
/* *t may be NULL and becomes it. */
void tt_session_text_unref(tt_session_text **t);

const json_t *tt_session_text_messages(const tt_session_text *t);
const json_t *tt_session_text_kwargs(const tt_session_text *t);
size_t tt_session_text_bytes(const tt_session_text *t);

/* The ids of a newly rendered prompt: those of `t` up to the last cut before the first byte that
 * differs, then the rest tokenised. *ret_ids: malloc'ed; *ret_kept: how many are t's. */
tt_code tt_session_text_splice(const tt_session_text *t, const tt_served *sv,
                               const tt_rendered *rendered, int32_t **ret_ids, size_t *ret_n,
                               int32_t *ret_kept, tt_err *reterr);

/* ---- disk ---- */

/* Appends its bytes, the same for equal texts. */
void tt_session_text_pack(const tt_session_text *t, tt_buf *b);
/* p: [n] what pack has written; TT_E_INVALID when it cannot be. *ret: one reference. TT_E_NOMEM. */
tt_code tt_session_text_unpack(const void *p, size_t n, tt_session_text **ret, tt_err *reterr);
/* [TT_SESSION_PART_KEY] the owner's, "" at first: under what it is stored. Loop thread. */
char *tt_session_text_key(tt_session_text *t);

#endif
