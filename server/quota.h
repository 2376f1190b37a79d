/* quota.h - what an API key may keep: sessions, jobs, bytes (tt_key_limits). Limits on rates and on
 * requests in progress are tenant.h's. All are TT_OK or TT_E_CAPACITY with a sentence for the
 * client; without keys nothing is limited. Thread: the loop thread. */
#ifndef TT_QUOTA_H
#define TT_QUOTA_H

#include "server/server.h"

/* What a tenant keeps. */
typedef struct tt_holdings {
    int32_t sessions, jobs; /* jobs: that have not ended */
    int64_t bytes;          /* ids and messages of its sessions */
    int64_t adapter_bytes;  /* of their generations */
} tt_holdings;

tt_holdings tt_holdings_of(tt_server *s, const char *scope);

/* One session more, of n bytes. Idle implicit ones of the same tenant give way first, the least
 * recently used before others. */
tt_code tt_quota_session(tt_server *s, const char *scope, size_t n_bytes, tt_err *reterr);
/* n bytes more in what there is. */
tt_code tt_quota_bytes(tt_server *s, const char *scope, size_t n_bytes, tt_err *reterr);
/* One job more. */
tt_code tt_quota_job(tt_server *s, const char *scope, tt_err *reterr);

#endif
