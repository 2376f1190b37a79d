/* serving.h - a whole server in the test's process, over the fake engine, and its clients: raw
 * sockets that see every byte. One server at a time. Thread: the test's; the server has its own. */
#ifndef TT_TEST_SERVING_H
#define TT_TEST_SERVING_H

#include <stdbool.h>
#include <stddef.h>

#include "server/settings.h"

enum { TIMEOUT_MS = 20000 };

#define CHAT "/v1/chat/completions"
#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

typedef struct client {
    int fd;
    char *p; /* everything read so far, NUL-terminated */
    size_t n, cap;
    bool closed;
} client;

double now(void); /* monotonic seconds */
void nap_ms(int ms);

/* ---- the server ---- */

/* Of the server that begins next: configure() sets the defaults and a free port, and an engine's
 * script of 40 tokens; then the test changes what it likes. */
extern tt_settings settings;
void configure(void);
void start(void); /* returns when it listens */
void wait_ready(void);
void begin(void); /* both */
int join(void);   /* waits for its end; its exit status */
void stop(void);  /* SIGTERM; it must end with 0 */

/* ---- clients ---- */

client dial(void);
void hang_up(client *c);
typedef enum leaving { CLOSE, RESET, HALF_CLOSE } leaving;
void leave(client *c, leaving how);

void send_text(client *c, const char *text, size_t n);
void post(client *c, const char *path, const char *body);
void get(client *c, const char *path);

/* True when something came within ms. */
bool read_some(client *c, int ms);
/* Reads until `text` has come; fails after a while. */
void expect(client *c, const char *text);
/* Reads one whole answer (by Content-Length or to the last chunk) into out (NULL: nowhere) and
 * forgets it; returns its status. */
int answer(client *c, char *out, size_t cap);
/* The payload of the chunked answer that c has read; out holds c->n + 1. */
void dechunk(const client *c, char *out);

/* Occurrences of `needle`. */
int count(const char *hay, const char *needle);
/* The engine has been given `want` jobs in all. */
void wait_submitted(int want);
/* The engine has noticed `want` cancellations in all, the last within a second after `since`. */
void wait_cancelled(int want, double since);

#endif
