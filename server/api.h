/* api.h - the handlers of the routes, one file a family: api_chat.c, api_completions.c,
 * api_models.c, api_ops.c. Thread: the loop thread. */
#ifndef TT_API_H
#define TT_API_H

#include "server/http.h"

void tt_api_chat(tt_http_request *req);
void tt_api_completions(tt_http_request *req);
void tt_api_models_list(tt_http_request *req);
void tt_api_models_get(tt_http_request *req);
void tt_api_sessions_create(tt_http_request *req);
void tt_api_sessions_list(tt_http_request *req);
void tt_api_sessions_get(tt_http_request *req);
void tt_api_sessions_update(tt_http_request *req);
void tt_api_sessions_delete(tt_http_request *req);
void tt_api_sessions_fork(tt_http_request *req);
void tt_api_sessions_extend(tt_http_request *req);
void tt_api_sessions_reset(tt_http_request *req);
void tt_api_session_diagnostics(tt_http_request *req);
void tt_api_tokenize(tt_http_request *req);
void tt_api_detokenize(tt_http_request *req);
void tt_api_tokenizer_info(tt_http_request *req);
void tt_api_session_jobs_create(tt_http_request *req);
void tt_api_session_jobs_list(tt_http_request *req);
void tt_api_jobs_list(tt_http_request *req);
void tt_api_jobs_get(tt_http_request *req);
void tt_api_jobs_cancel(tt_http_request *req);
void tt_api_jobs_pause(tt_http_request *req);
void tt_api_jobs_resume(tt_http_request *req);
void tt_api_jobs_events(tt_http_request *req);
void tt_api_livez(tt_http_request *req);
void tt_api_readyz(tt_http_request *req);
void tt_api_startupz(tt_http_request *req);
void tt_api_metrics(tt_http_request *req);
void tt_api_admin_state(tt_http_request *req);

#endif
