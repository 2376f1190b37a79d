/* api_models.c - GET /v1/models and /v1/models/{id}: the model, and NAME-qttt, which is the same
 * model with qttt.mode on (chat frontends have only a model list to choose from). Thread: the loop
 * thread. */
#include <string.h>

#include "server/api.h"
#include "server/server.h"

static void put_model(tt_buf *b, const tt_served *sv, const char *id)
{
    bool alias = strcmp(id, sv->name) != 0;
    tt_buf_puts(b, "{\"id\":");
    tt_buf_puts_json(b, id);
    tt_buf_printf(b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"qttt\",\"root\":",
                  (long long)sv->created);
    tt_buf_puts_json(b, sv->name);
    tt_buf_puts(b, ",\"parent\":");
    if (alias) {
        tt_buf_puts_json(b, sv->name);
    } else {
        tt_buf_puts(b, "null");
    }
    tt_buf_printf(b, ",\"max_model_len\":%d}", (int)sv->max_context);
}

void tt_api_models_list(tt_http_request *req)
{
    const tt_served *sv = req->server->served;
    tt_buf b = {0};
    tt_buf_puts(&b, "{\"object\":\"list\",\"data\":[");
    put_model(&b, sv, sv->name);
    if (sv->alias[0] != '\0') {
        tt_buf_putc(&b, ',');
        put_model(&b, sv, sv->alias);
    }
    tt_buf_puts(&b, "]}");
    tt_http_reply_json(req, &b);
}

void tt_api_models_get(tt_http_request *req)
{
    const tt_served *sv = req->server->served;
    bool known = strcmp(req->param, sv->name) == 0 ||
                 (sv->alias[0] != '\0' && strcmp(req->param, sv->alias) == 0);
    if (!known) {
        tt_http_error e;
        tt_error_set(&e, 404, "model", "model_not_found", "the model '%.100s' does not exist",
                     req->param);
        tt_http_reply_error(req, &e);
        return;
    }
    tt_buf b = {0};
    put_model(&b, sv, req->param);
    tt_http_reply_json(req, &b);
}
