/* http_rig.c - see http_rig.h. */
#include "http_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/log.h"
#include "server/route.h"

enum { DEADLINE_SECONDS = 30 };

tt_settings rig_settings;
tt_server rig_server;
tt_http_request *rig_held;
int rig_gone, rig_drained;

/* ---- the handlers ---- */

static void on_gone(void *arg)
{
    assert_ptr_equal(arg, &rig_gone);
    rig_gone++;
}

static void on_drained(void *arg)
{
    assert_ptr_equal(arg, &rig_gone);
    rig_drained++;
}

void rig_reply(tt_http_request *req, int status, const char *text)
{
    tt_buf b = {0};
    tt_buf_puts(&b, text);
    tt_http_reply(req, status, "text/plain", &b);
    assert_null(b.p); /* taken over */
}

static void get_now(tt_http_request *req)
{
    rig_reply(req, 200, req->param[0] != '\0' ? req->param : "now");
}

static void post_echo(tt_http_request *req)
{
    tt_buf b = {0};
    tt_buf_put(&b, req->body.p, req->body.n);
    tt_http_release_body(req);
    assert_int_equal(req->body.n, 0);
    tt_http_reply_json(req, &b);
}

static void get_scope(tt_http_request *req)
{
    rig_reply(req, 200, req->scope);
}

static void get_wait(tt_http_request *req)
{
    req->on_gone = on_gone;
    req->on_drained = on_drained;
    req->arg = &rig_gone;
    rig_held = req;
}

static void get_headers(tt_http_request *req)
{
    char value[] = "v?";
    for (int i = 0; i < TT_HTTP_MAX_HEADERS + 3; i++) {
        value[1] = (char)('a' + i); /* copied: one buffer serves all */
        tt_http_header(req, "X-Many", value);
    }
    rig_reply(req, 200, "");
}

static void get_failed(tt_http_request *req)
{
    tt_buf b;
    tt_buf_init(&b, 4);
    tt_buf_puts(&b, "longer than four");
    tt_http_reply_json(req, &b);
}

const tt_route tt_routes[] = {
    {"/now", "GET", .handler = get_now, .open = true},
    {"/items/{id}", "GET", .handler = get_now},
    {"/echo", "POST", .handler = post_echo},
    {"/optional", "POST", .handler = post_echo, .optional_body = true},
    {"/scope", "GET", .handler = get_scope},
    {"/wait", "GET", .handler = get_wait},
    {"/ready", "GET", .handler = get_now, .ready = true},
    {"/headers", "GET", .handler = get_headers},
    {"/failed", "GET", .handler = get_failed},
};
const int tt_n_routes = (int)(sizeof tt_routes / sizeof *tt_routes);

/* ---- server ---- */

int rig_set_up(void **state)
{
    tt_err err;
    tt_log_configure(TT_LOG_ERROR, 0);
    assert_int_equal(tt_settings_init(&rig_settings, &err), TT_OK);
    rig_settings.port = 0;
    rig_server = (tt_server){.settings = &rig_settings, .phase = TT_PHASE_READY};
    rig_held = NULL;
    rig_gone = rig_drained = 0;
    assert_int_equal(uv_loop_init(&rig_server.loop), 0);
    if (tt_http_start(&rig_server, &rig_server.http, &err) != TT_OK) {
        fail_msg("%s", err.msg);
    }
    return 0;
}

int rig_tear_down(void **state)
{
    tt_http_stop(&rig_server.http);
    assert_null(rig_server.http);
    tt_http_stop(&rig_server.http); /* legal */
    uv_run(&rig_server.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&rig_server.loop), 0);
    tt_settings_finish(&rig_settings);
    return 0;
}

static void turn(void)
{
    uv_run(&rig_server.loop, UV_RUN_NOWAIT);
}

void rig_turns(int n)
{
    while (n-- > 0) {
        turn();
        poll(NULL, 0, 1);
    }
}

static double deadline(void)
{
    return tt_now() + DEADLINE_SECONDS;
}

void rig_turn_until(const int *n, int want)
{
    for (double end = deadline(); *n < want; turn()) {
        assert_true(tt_now() < end);
    }
}

void rig_until_active(int want)
{
    for (double end = deadline(); tt_http_active(rig_server.http) != want; turn()) {
        assert_true(tt_now() < end);
    }
}

/* ---- clients ---- */

rig_client rig_dial(void)
{
    rig_client c = {.fd = socket(AF_INET, SOCK_STREAM, 0)};
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)tt_http_port(rig_server.http))};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1; /* small writes go out as they are */
    setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    assert_int_equal(connect(c.fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(fcntl(c.fd, F_SETFL, O_NONBLOCK), 0);
    return c;
}

void rig_hang_up(rig_client *c)
{
    close(c->fd);
    free(c->p);
    *c = (rig_client){.fd = -1};
}

void rig_say(rig_client *c, const char *text)
{
    size_t n = strlen(text);
    for (double end = deadline(); n > 0; turn()) {
        ssize_t k = send(c->fd, text, n, MSG_NOSIGNAL);
        assert_true(tt_now() < end);
        text += k > 0 ? k : 0;
        n -= k > 0 ? (size_t)k : 0;
    }
}

void rig_pump(rig_client *c, size_t max)
{
    turn();
    if (c->closed || poll(&(struct pollfd){.fd = c->fd, .events = POLLIN}, 1, 1) <= 0) {
        return;
    }
    if (c->cap - c->n <= max) {
        c->cap = 2 * c->cap + max + 1;
        c->p = realloc(c->p, c->cap);
        assert_non_null(c->p);
    }
    ssize_t k = recv(c->fd, c->p + c->n, max, 0);
    c->closed = k <= 0;
    c->n += k > 0 ? (size_t)k : 0;
    c->p[c->n] = '\0';
}

void rig_pump_until(rig_client *c, const char *text)
{
    for (double end = deadline(); c->p == NULL || strstr(c->p, text) == NULL;) {
        rig_pump(c, 65536);
        if (tt_now() > end || (c->closed && strstr(c->p, text) == NULL)) {
            fail_msg("no '%s' in '%s'", text, c->p != NULL ? c->p : "");
        }
    }
}

void rig_pump_until_closed(rig_client *c)
{
    for (double end = deadline(); !c->closed; rig_pump(c, 65536)) {
        assert_true(tt_now() < end);
    }
}

const char *rig_ask(rig_client *c, const char *method, const char *path, const char *headers,
                    const char *body)
{
    char line[64];
    if (c->p != NULL) {
        c->p[c->n = 0] = '\0';
    }
    const char *const parts[] = {method, " ", path, " HTTP/1.1\r\nHost: x\r\n", headers};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        rig_say(c, parts[i]);
    }
    if (body != NULL) {
        snprintf(line, sizeof line, "Content-Length: %zu\r\n\r\n", strlen(body));
        rig_say(c, line);
        rig_say(c, body);
    } else {
        rig_say(c, "\r\n");
    }
    rig_pump_until(c, "\r\n\r\n");
    const char *length = strstr(c->p, "Content-Length: ");
    size_t n = (size_t)(rig_body(c->p) - c->p);
    n += length != NULL && strcmp(method, "HEAD") != 0 ? strtoul(length + 16, NULL, 10) : 0;
    for (double end = deadline(); c->n < n; rig_pump(c, 65536)) {
        assert_true(tt_now() < end && !c->closed);
    }
    return c->p;
}

int rig_status(const char *answer)
{
    assert_memory_equal(answer, "HTTP/1.1 ", 9);
    return atoi(answer + 9);
}

const char *rig_body(const char *answer)
{
    const char *end = strstr(answer, "\r\n\r\n");
    assert_non_null(end);
    return end + 4;
}

tt_http_request *rig_arrive(rig_client *c, const char *headers)
{
    if (c->p != NULL) {
        c->p[c->n = 0] = '\0';
    }
    rig_held = NULL;
    rig_say(c, "GET /wait HTTP/1.1\r\nHost: x\r\n");
    rig_say(c, headers);
    rig_say(c, "\r\n");
    for (double end = deadline(); rig_held == NULL; turn()) {
        assert_true(tt_now() < end);
    }
    return rig_held;
}

tt_http_request *rig_wait(rig_client *c)
{
    return rig_arrive(c, "");
}

size_t rig_dechunk(char *p)
{
    char *out = p;
    for (char *at = p, *end;; at = end + 2) {
        size_t n = strtoul(at, &end, 16);
        assert_memory_equal(end, "\r\n", 2);
        if (n == 0) {
            return (size_t)(out - p);
        }
        memmove(out, end + 2, n);
        out += n;
        end += 2 + n;
        assert_memory_equal(end, "\r\n", 2);
    }
}
