/* diagnostics_json.h - the answer of POST /v1/sessions/{id}/diagnostics as JSON and as CSV
 * (docs/api.md, "Diagnostics"). Thread: any. */
#ifndef TT_DIAGNOSTICS_JSON_H
#define TT_DIAGNOSTICS_JSON_H

#include "core/job.h"
#include "server/buf.h"

typedef struct tt_diagnostics_answer {
    const char *session_id, *model;
    int32_t context_tokens, prompt_tokens;
    tt_diagnose_params asked;
    const char *needle; /* its text, [n_needle] */
    size_t n_needle;
    int32_t occurrences; /* of a text in the context; the first is the needle */
    int32_t generation;  /* `adapted`; 0 = there is none */
    uint64_t adapter_id;
    int32_t n_layers, n_heads;
    const tt_head_diagnosis *base;    /* [n_layers, n_heads] */
    const tt_head_diagnosis *adapted; /* the same; NULL with generation 0 */
} tt_diagnostics_answer;

void tt_diagnostics_write_json(tt_buf *b, const tt_diagnostics_answer *a);
/* A line of names, then a line a head; what JSON calls null is empty. */
void tt_diagnostics_write_csv(tt_buf *b, const tt_diagnostics_answer *a);

#endif
