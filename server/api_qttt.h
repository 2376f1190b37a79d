/* api_qttt.h - the qttt object of docs/api.md, in requests and in answers. Thread: any. */
#ifndef TT_API_QTTT_H
#define TT_API_QTTT_H

#include <jansson.h>

#include "core/engine.h"
#include "server/error_map.h"

typedef enum tt_context_kind {
    TT_CONTEXT_RULE,
    TT_CONTEXT_MESSAGES,
    TT_CONTEXT_TOKENS
} tt_context_kind;

typedef struct tt_qttt_request {
    tt_qttt_params params; /* context_tokens is filled after tokenising, by prompt.c */
    tt_context_kind context;
    int64_t context_n;  /* messages or tokens */
    int64_t generation; /* that answers; -1 = the latest */
    bool from_latest;   /* start_from "latest": the session's adapter goes into start_adapter */
} tt_qttt_request;

/* v: the request's "qttt" (NULL = absent). on: what mode is without the field (the NAME-qttt
 * alias). n_layers bounds "layers". Names that it does not know are appended to `ignored` as
 * "qttt.name". False: `e` names field and range. */
bool tt_qttt_parse(const json_t *v, bool on, const tt_qttt_caps *caps, int32_t n_layers,
                   tt_qttt_request *ret, tt_buf *ignored, tt_http_error *e);

/* The answer's object. job_id: "qttt_...", or NULL. prefill_seconds from the job's last event. */
void tt_qttt_write(tt_buf *b, const tt_qttt_result *r, const char *job_id, double prefill_seconds);

/* Parts of it, and of a job's object: "hyperparameters", "budget", "recall" (null when there is
 * none). */
void tt_qttt_write_params(tt_buf *b, const tt_qttt_params *p);
void tt_qttt_write_budget(tt_buf *b, const tt_qttt_params *p);
void tt_qttt_write_recall(tt_buf *b, const tt_qttt_result *r);
/* ,"durable":...,"durable_error":... */
void tt_qttt_write_durable(tt_buf *b, const tt_qttt_result *r);

/* Appends `name` to a comma-separated header value; bytes that a header cannot hold become '?'.
 * Bounded. */
void tt_ignored_add(tt_buf *ignored, const char *prefix, const char *name);

#endif
