/* api_chat.c - POST /v1/chat/completions. The way of a request: http -> api_request (parse, in a
 * worker) -> prompt -> prepare
 * -> generation (queue, events) -> answer + sse. Thread: the loop thread. */
#include "server/api.h"
#include "server/prepare.h"

void tt_api_chat(tt_http_request *req)
{
    tt_prepare_start(req, TT_API_CHAT);
}
