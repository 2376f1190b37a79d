/* api_completions.c - POST /v1/completions: text or ids, several prompts, echo and legacy logprobs
 * for evaluation harnesses. The way of a request is that of api_chat.c. Thread: the loop thread. */
#include "server/api.h"
#include "server/prepare.h"

void tt_api_completions(tt_http_request *req)
{
    tt_prepare_start(req, TT_API_COMPLETIONS);
}
