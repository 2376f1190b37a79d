/* http_rig.h - an HTTP server with handlers of its own (in place of route_table.c) and clients on
 * raw sockets, in one thread: pump() turns the server's loop while a client waits, so a test sees
 * every state between. Everything here asserts. Thread: main. */
#ifndef TT_TEST_HTTP_RIG_H
#define TT_TEST_HTTP_RIG_H

#include <stdbool.h>
#include <stddef.h>

#include "server/http.h"
#include "server/server.h"

extern tt_settings rig_settings;  /* may be changed by a test; the defaults, and a free port */
extern tt_server rig_server;      /* READY, with no model */
extern tt_http_request *rig_held; /* the last request of GET /wait, which nobody answers */
extern int rig_gone, rig_drained; /* its callbacks so far */

/* cmocka's set-up and tear-down of each test. tear-down fails when the loop has a handle left. */
int rig_set_up(void **state);
int rig_tear_down(void **state);

/* What the server has:
 *   GET /now (open), /items/{id}   200 text: "now", or the id
 *   POST /echo, /optional          200 JSON: the body; /optional needs none
 *   GET /scope                     200 text: the tenant
 *   GET /wait                      rig_held
 *   GET /ready                     needs the model
 *   GET /headers                   TT_HTTP_MAX_HEADERS + 3 headers X-Many
 *   GET /failed                    a body whose buffer failed */

typedef struct rig_client {
    int fd;
    char *p; /* everything read so far, NUL-terminated; NULL = nothing yet */
    size_t n, cap;
    bool closed;
} rig_client;

rig_client rig_dial(void);
void rig_hang_up(rig_client *c);
void rig_say(rig_client *c, const char *text);

/* Turns of the loop, some time apart. */
void rig_turns(int n);
/* Until *n is at least `want`. */
void rig_turn_until(const int *n, int want);
/* Until as many requests are open. */
void rig_until_active(int want);
/* One turn, and at most `max` bytes of what has come for the client. */
void rig_pump(rig_client *c, size_t max);
void rig_pump_until(rig_client *c, const char *text);
void rig_pump_until_closed(rig_client *c);

/* Sends a request with further header lines and a body (NULL: none), reads its whole answer and
 * returns it: valid until the client's next. */
const char *rig_ask(rig_client *c, const char *method, const char *path, const char *headers,
                    const char *body);
int rig_status(const char *answer);
const char *rig_body(const char *answer);
/* The payload of a chunked body, in place; returns its length. */
size_t rig_dechunk(char *body);
/* Forgets what was read, sends GET /wait with further header lines and turns until it is held. */
tt_http_request *rig_arrive(rig_client *c, const char *headers);
tt_http_request *rig_wait(rig_client *c); /* without any */

/* Replies with a text. */
void rig_reply(tt_http_request *req, int status, const char *text);

#endif
