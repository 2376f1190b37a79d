/* serving.c - see serving.h. */
#include "serving.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "fake_engine.h"
#include "server/log.h"
#include "server/loop.h"

tt_settings settings;
static pthread_t server_thread;
static int port, exit_status;
static char port_file[64];

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void nap_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static void *serve(void *arg)
{
    exit_status = tt_serve(&settings);
    return NULL;
}

void configure(void)
{
    tt_err err;
    fake_engine_script = (fake_script){.n_tokens = 40};
    assert_int_equal(tt_settings_init(&settings, &err), TT_OK);
    snprintf(port_file, sizeof port_file, "test_generation.%ld.port", (long)getpid());
    settings.model_path = (char *)(intptr_t) "fake";
    settings.port_file = port_file;
    settings.port = 0;
    settings.state_dir = (char *)(intptr_t) "none";
    tt_log_configure(TT_LOG_ERROR, 0);
}

void start(void)
{
    unlink(port_file);
    assert_int_equal(pthread_create(&server_thread, NULL, serve, NULL), 0);
    port = 0;
    for (double end = now() + 20; port == 0 && now() < end; nap_ms(2)) {
        FILE *f = fopen(port_file, "r");
        if (f != NULL) {
            port = fscanf(f, "%d", &port) == 1 ? port : 0;
            fclose(f);
        }
    }
    assert_true(port > 0);
}

int join(void)
{
    pthread_join(server_thread, NULL);
    unlink(port_file);
    tt_settings_finish(&settings);
    return exit_status;
}

void stop(void)
{
    kill(getpid(), SIGTERM);
    assert_int_equal(join(), 0);
}

client dial(void)
{
    client c = {.fd = socket(AF_INET, SOCK_STREAM, 0)};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(c.fd >= 0);
    assert_int_equal(connect(c.fd, (struct sockaddr *)&a, sizeof a), 0);
    return c;
}

void hang_up(client *c)
{
    close(c->fd);
    free(c->p);
    *c = (client){.fd = -1};
}

void send_text(client *c, const char *text, size_t n)
{
    while (n > 0) {
        ssize_t k = send(c->fd, text, n, MSG_NOSIGNAL);
        assert_true(k > 0);
        text += k;
        n -= (size_t)k;
    }
}

void post(client *c, const char *path, const char *body)
{
    char head[256];
    int n = snprintf(head, sizeof head,
                     "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\n\r\n",
                     path, strlen(body));
    send_text(c, head, (size_t)n);
    send_text(c, body, strlen(body));
}

void get(client *c, const char *path)
{
    char head[256];
    int n = snprintf(head, sizeof head, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
    send_text(c, head, (size_t)n);
}

bool read_some(client *c, int ms)
{
    struct pollfd pf = {.fd = c->fd, .events = POLLIN};
    if (c->closed || poll(&pf, 1, ms) <= 0) {
        return false;
    }
    if (c->cap - c->n < 65536) {
        c->cap = c->cap * 2 + 131072;
        c->p = realloc(c->p, c->cap);
        assert_non_null(c->p);
    }
    ssize_t k = recv(c->fd, c->p + c->n, c->cap - c->n - 1, 0);
    c->closed = k <= 0;
    c->n += k > 0 ? (size_t)k : 0;
    c->p[c->n] = '\0';
    return k > 0;
}

void expect(client *c, const char *text)
{
    double end = now() + TIMEOUT_MS / 1000.0;
    size_t n_text = strlen(text), from = 0;
    while (c->p == NULL || memmem(c->p + from, c->n - from, text, n_text) == NULL) {
        from = c->n > n_text ? c->n - n_text : 0;
        if ((!read_some(c, 100) && c->closed) || now() > end) {
            fail_msg("no '%s' in: %.2000s", text, c->p != NULL ? c->p : "");
        }
    }
}

int count(const char *hay, const char *needle)
{
    int n = 0;
    for (const char *p = hay; p != NULL && (p = strstr(p, needle)) != NULL; p += strlen(needle)) {
        n++;
    }
    return n;
}

int answer(client *c, char *out, size_t cap)
{
    expect(c, "\r\n\r\n");
    char *body = strstr(c->p, "\r\n\r\n") + 4, *length = strstr(c->p, "Content-Length: ");
    size_t head = (size_t)(body - c->p), n = head;
    int status = atoi(c->p + 9);
    if (length != NULL && length < body) {
        n += strtoul(length + 16, NULL, 10);
        while (c->n < n) {
            assert_true(read_some(c, TIMEOUT_MS));
        }
    } else {
        expect(c, "\r\n0\r\n\r\n");
        n = (size_t)(strstr(c->p, "\r\n0\r\n\r\n") - c->p) + 7;
    }
    if (out != NULL) {
        snprintf(out, cap, "%.*s", (int)n, c->p);
    }
    memmove(c->p, c->p + n, c->n - n + 1);
    c->n -= n;
    return status;
}

void wait_ready(void)
{
    for (double end = now() + 20; now() < end; nap_ms(5)) {
        client c = dial();
        get(&c, "/readyz");
        int status = answer(&c, NULL, 0);
        hang_up(&c);
        if (status == 200) {
            return;
        }
    }
    fail_msg("never ready");
}

void begin(void)
{
    start();
    wait_ready();
}

void dechunk(const client *c, char *out)
{
    char *p = strstr(c->p, "\r\n\r\n") + 4;
    for (;;) {
        char *end;
        size_t n = strtoul(p, &end, 16);
        if (n == 0) {
            break;
        }
        memcpy(out, end + 2, n);
        out += n;
        p = end + 2 + n + 2;
    }
    *out = '\0';
}

void leave(client *c, leaving how)
{
    if (how == HALF_CLOSE) {
        shutdown(c->fd, SHUT_WR);
        return;
    }
    struct linger l = {.l_onoff = how == RESET};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    hang_up(c);
}

void wait_submitted(int want)
{
    for (double end = now() + TIMEOUT_MS / 1000.0; fake_engine_counts().submitted < want;) {
        assert_true(now() < end);
        nap_ms(2);
    }
}

void wait_cancelled(int want, double since)
{
    while (fake_engine_counts().cancelled < want) {
        assert_true(now() - since < 5);
        nap_ms(2);
    }
    assert_true(fake_engine_counts().last_cancel_seconds - since < 1);
}
