/* answer.h - the JSON of chat and completions answers, whole and in chunks. Pure: writes into a
 * buffer. Thread: any. */
#ifndef TT_ANSWER_H
#define TT_ANSWER_H

#include "core/job.h"
#include "server/logprob_list.h"
#include "server/param_list.h"

/* The same in every chunk of one answer. */
typedef struct tt_answer {
    tt_api api;
    const char *id, *model;
    int64_t created;
    bool include_usage;
} tt_answer;

typedef struct tt_usage {
    int64_t prompt_tokens, completion_tokens, cached_tokens;
    int64_t accepted_tokens; /* of completion_tokens, those that drafts had right */
} tt_usage;

/* What a chunk says. Zero = nothing of that kind. */
typedef struct tt_chunk {
    int32_t index;
    bool role;        /* chat's first chunk */
    const char *text; /* NULL = none */
    size_t n_text;
    const tt_logprob_list *logprobs; /* NULL = null */
    const char *finish_reason;
    const tt_event *progress; /* PREFILL or ADAPT: choices [] and "progress" */
    bool queued;              /* choices [] and progress queued */
    int32_t queue_total;
    const tt_usage
        *usage; /* choices [] and usage, unless finish_reason is set too (a whole answer) */
    const tt_qttt_result *qttt;
    const char *job_id;
    double prefill_seconds;
    const struct tt_session_turn *session; /* NULL = in none */
} tt_chunk;

/* One event of a stream, framing included. */
void tt_answer_chunk(tt_buf *b, const tt_answer *a, const tt_chunk *c);

/* A finished choice of a whole answer: text, logprobs, finish_reason, index of `c`. */
void tt_answer_choice(tt_buf *b, const tt_answer *a, const tt_chunk *c);
/* The whole answer around `choices` (joined by commas); usage and qttt of `c`. */
void tt_answer_whole(tt_buf *b, const tt_answer *a, const tt_buf *choices, const tt_chunk *c);

const char *tt_finish_text(tt_finish reason);

#endif
