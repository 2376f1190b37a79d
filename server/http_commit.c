/* http_commit.c - see http_commit.h. */
#include "server/http_commit.h"

#include <assert.h>

#include "server/http_once.h"
#include "server/server.h"
#include "server/sse.h"

tt_state_txn *tt_http_txn(tt_http_request *req)
{
    if (!req->has_txn) {
        req->has_txn = true;
        req->txn = tt_state_begin(req->server->state);
        req->held = req->streaming;
        req->hold_at = req->out.n;
    }
    return req->txn;
}

void tt_http_txn_end(tt_http_request *req, void (*end)(void *arg, tt_code rc), void *arg)
{
    assert(req->has_txn && req->txn_end == NULL);
    req->txn_end = end;
    req->txn_arg = arg;
}

static void tell_end(tt_http_request *req, tt_code rc)
{
    void (*end)(void *arg, tt_code rc) = req->txn_end;
    req->txn_end = NULL;
    if (end != NULL) {
        end(req->txn_arg, rc);
    }
}

void tt_http_commit_drop(tt_http_request *req)
{
    if (req->has_txn && !req->committing) {
        tt_state_abandon(req->txn);
        req->txn = NULL;
        req->has_txn = req->held = false;
        tell_end(req, TT_E_CANCELLED);
    }
}

size_t tt_http_commit_readable(const tt_http_request *req)
{
    return (req->held ? req->hold_at : req->out.n) - req->n_read;
}

void tt_http_commit_consumed(tt_http_request *req, size_t n)
{
    req->hold_at -= req->hold_at < n ? req->hold_at : n;
}

/* What was held is replaced by what went wrong. */
static void fail_stream(tt_http_request *req, const tt_http_error *e)
{
    req->out.n = req->hold_at;
    tt_sse_error(&req->out, e);
}

static void answer(tt_http_request *req, tt_code rc, const tt_err *err)
{
    tt_http_error e;
    if (rc >= 0) {
        tt_http_once_keep(req);
    } else {
        tt_error_from_code(&e, err);
    }
    tell_end(req, rc);
    tt_http_once_release(req);
    if (rc < 0 && req->streaming) {
        fail_stream(req, &e);
    } else if (rc < 0) {
        tt_buf_finish(&req->out);
        req->n_headers = 0;
        tt_http_reply_error(req, &e);
        return;
    }
    req->held = false;
    tt_http_send_committed(req);
}

static void on_committed(void *arg, tt_code rc, const tt_err *err)
{
    tt_http_request *req = arg;
    req->committing = req->has_txn = false;
    req->txn = NULL;
    answer(req, rc, err);
    tt_http_unref(req);
}

static void commit(tt_http_request *req)
{
    tt_state_txn *x = tt_http_txn(req);
    tt_err err;
    req->committing = true;
    tt_http_ref(req);
    if (tt_http_once_put(req, x)) {
        tt_state_commit(x, on_committed, req);
    } else {
        tt_state_abandon(x);
        on_committed(req, tt_fail(&err, TT_E_NOMEM, "no memory for the answer"), &err);
    }
}

bool tt_http_commit_reply(tt_http_request *req)
{
    if (req->once == NULL && !req->has_txn) {
        return false;
    }
    commit(req);
    return true;
}

bool tt_http_commit_stream(tt_http_request *req)
{
    if (req->once == NULL && !req->has_txn) {
        return false;
    }
    (void)tt_http_txn(req);
    req->held = true;
    commit(req);
    return true;
}
