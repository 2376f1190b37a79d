/* fake_engine.h - an engine without a model, for tests of the server: it implements core/engine.h
 * with scripted timing and tokens. Its text is "word0 word1 word2 ...", a byte a token; running
 * jobs take turns token by token. A job's cached_tokens are its number in the order of starting,
 * from 1. Thread: set the script while no server runs. */
#ifndef TT_TEST_FAKE_ENGINE_H
#define TT_TEST_FAKE_ENGINE_H

#include "core/engine.h"

enum { FAKE_RETRY_AFTER = 7 }; /* what tt_engine_retry_after() says */

typedef struct fake_script {
    int load_ms, prefill_ms, token_us;
    int parallel;         /* jobs that run at a time; 0 = 1 */
    int n_tokens;         /* of an answer whose request gives no max_tokens */
    tt_code load_failure; /* TT_OK: loads */
    tt_code failure;      /* TT_OK: none; else the job fails after fail_after tokens */
    int fail_after;
    int failing;    /* the number of the job that fails; 0 = every one */
    bool tell_seed; /* the text begins with "SEED:" */
    bool stuck;     /* the statistics say that nothing has moved for an hour */
} fake_script;

extern fake_script fake_engine_script;

typedef struct fake_counts {
    int submitted, started, done, cancelled;
    double last_cancel_seconds; /* monotonic time at which a cancellation was noticed */
} fake_counts;

fake_counts fake_engine_counts(void);

#endif
