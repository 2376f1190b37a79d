/* test_generation.c - the whole server in this process over a fake engine: streams, heartbeats,
 * leaving clients, slow readers, the queue, draining. Clients are raw sockets. Each test starts and
 * stops a server of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
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

enum { TIMEOUT_MS = 20000 };

static tt_settings settings;
static pthread_t server_thread;
static int port, exit_status;
static char port_file[64];

typedef struct client {
    int fd;
    char *p; /* everything read so far, NUL-terminated */
    size_t n, cap;
    bool closed;
} client;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void nap_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static void *serve(void *arg)
{
    exit_status = tt_serve(&settings);
    return NULL;
}

/* Settings of a test: defaults, a free port, then `set` may change them. */
static void configure(void)
{
    tt_err err;
    fake_engine_script = (fake_script){.n_tokens = 40};
    assert_int_equal(tt_settings_init(&settings, &err), TT_OK);
    snprintf(port_file, sizeof port_file, "test_generation.%ld.port", (long)getpid());
    settings.model_path = (char *)(intptr_t) "fake";
    settings.port_file = port_file;
    settings.port = 0;
    tt_log_configure(TT_LOG_ERROR, 0);
}

static void start(void)
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

static int join(void)
{
    pthread_join(server_thread, NULL);
    tt_settings_finish(&settings);
    return exit_status;
}

static void stop(void)
{
    kill(getpid(), SIGTERM);
    assert_int_equal(join(), 0);
}

static client dial(void)
{
    client c = {.fd = socket(AF_INET, SOCK_STREAM, 0)};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(c.fd >= 0);
    assert_int_equal(connect(c.fd, (struct sockaddr *)&a, sizeof a), 0);
    return c;
}

static void hang_up(client *c)
{
    close(c->fd);
    free(c->p);
    *c = (client){.fd = -1};
}

static void send_text(client *c, const char *text, size_t n)
{
    while (n > 0) {
        ssize_t k = send(c->fd, text, n, MSG_NOSIGNAL);
        assert_true(k > 0);
        text += k;
        n -= (size_t)k;
    }
}

static void post(client *c, const char *path, const char *body)
{
    char head[256];
    int n = snprintf(head, sizeof head,
                     "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\n\r\n",
                     path, strlen(body));
    send_text(c, head, (size_t)n);
    send_text(c, body, strlen(body));
}

static void get(client *c, const char *path)
{
    char head[256];
    int n = snprintf(head, sizeof head, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
    send_text(c, head, (size_t)n);
}

static bool read_some(client *c, int ms)
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

/* Reads until `text` has come; fails after a while. Looks at new bytes only: a slow reader takes
 * megabytes in small pieces. */
static void expect(client *c, const char *text)
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

static int count(const char *hay, const char *needle)
{
    int n = 0;
    for (const char *p = hay; p != NULL && (p = strstr(p, needle)) != NULL; p += strlen(needle)) {
        n++;
    }
    return n;
}

/* Reads one whole answer (by Content-Length or to the last chunk) and forgets it; returns its
 * status. */
static int answer(client *c, char *out, size_t cap)
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

static void wait_ready(void)
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

static void begin(void)
{
    start();
    wait_ready();
}

#define CHAT "/v1/chat/completions"
#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

/* The payload of a chunked stream. */
static void dechunk(const client *c, char *out)
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

static void stream_shape(void **state)
{
    configure();
    begin();
    client c = dial();
    post(&c, CHAT,
         "{" HI ",\"stream\":true,\"max_tokens\":2,\"stream_options\":{\"include_usage\":true}}");
    expect(&c, "[DONE]");
    expect(&c, "\r\n0\r\n\r\n");
    assert_memory_equal(c.p, "HTTP/1.1 200 OK\r\n", 17);
    assert_non_null(strstr(c.p, "Content-Type: text/event-stream\r\n"));
    assert_non_null(strstr(c.p, "Cache-Control: no-cache\r\n"));
    assert_non_null(strstr(c.p, "X-Accel-Buffering: no\r\n"));
    char text[8192], head[256], want[4096];
    dechunk(&c, text);
    const char *tail = strstr(text, ",\"choices\"");
    assert_non_null(tail);
    snprintf(head, sizeof head, "%.*s", (int)(tail - text), text);
    assert_memory_equal(head, "data: {\"id\":\"chatcmpl-", 22);
    size_t n = 0;
    static const char *const parts[] = {
        ("\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
         "\"finish_reason\":null"),
        "\"delta\":{\"content\":\"w\"},\"logprobs\":null,\"finish_reason\":null",
        "\"delta\":{\"content\":\"o\"},\"logprobs\":null,\"finish_reason\":null",
        "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\""};
    for (int i = 0; i < 4; i++) {
        n += (size_t)snprintf(want + n, sizeof want - n,
                              "%s,\"choices\":[{\"index\":0,%s}],\"usage\":null}\n\n", head,
                              parts[i]);
    }
    int tokens = atoi(strstr(text, "\"prompt_tokens\":") + 16);
    n += (size_t)snprintf(
        want + n, sizeof want - n,
        "%s,\"choices\":[],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":2,"
        "\"total_tokens\":%d,\"prompt_tokens_details\":{\"cached_tokens\":0}}}\n\n",
        head, tokens, tokens + 2);
    snprintf(want + n, sizeof want - n, "data: [DONE]\n\n");
    assert_string_equal(text, want);
    hang_up(&c);
    stop();
}

/* Headers go out while the request still waits, then a comment after each silence, then the answer.
 */
static void heartbeats_while_queued(void **state)
{
    configure();
    settings.heartbeat_seconds = 0.1;
    fake_engine_script.prefill_ms = 700;
    begin();
    client a = dial(), b = dial();
    post(&a, CHAT, "{" HI ",\"stream\":true,\"max_tokens\":1}");
    expect(&a, "\r\n\r\n");
    double sent = now();
    post(&b, CHAT, "{" HI ",\"stream\":true,\"max_tokens\":1}");
    expect(&b, "\r\n\r\n");
    assert_true(now() - sent < 0.5);
    assert_null(strstr(b.p, "data:"));
    expect(&b, "[DONE]");
    expect(&a, "[DONE]");
    assert_true(count(a.p, ": keep-alive\n\n") >= 3);
    assert_true(count(b.p, ": keep-alive\n\n") >= 6);
    assert_true(strstr(b.p, ": keep-alive") < strstr(b.p, "data:"));
    hang_up(&a);
    hang_up(&b);
    stop();
}

typedef enum leaving { CLOSE, RESET, HALF_CLOSE } leaving;

static void leave(client *c, leaving how)
{
    if (how == HALF_CLOSE) {
        shutdown(c->fd, SHUT_WR);
        return;
    }
    struct linger l = {.l_onoff = how == RESET};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    hang_up(c);
}

static void wait_cancelled(int want, double since)
{
    while (fake_engine_counts().cancelled < want) {
        assert_true(now() - since < 5);
        nap_ms(2);
    }
    assert_true(fake_engine_counts().last_cancel_seconds - since < 1);
}

static void leaving_cancels(void **state)
{
    configure();
    fake_engine_script.prefill_ms = 600000;
    begin();
    for (int streamed = 0; streamed < 2; streamed++) {
        for (leaving how = CLOSE; how <= HALF_CLOSE; how++) {
            fake_counts before = fake_engine_counts();
            client running = dial(), queued = dial();
            const char *body = streamed ? "{" HI ",\"stream\":true}" : "{" HI "}";
            post(&running, CHAT, body);
            while (fake_engine_counts().started == before.started) {
                nap_ms(2);
            }
            post(&queued, CHAT, body);
            nap_ms(50);
            double t = now();
            leave(&queued,
                  how); /* while it waits: it must not hold its place when its turn comes */
            leave(&running, how);
            wait_cancelled(before.cancelled + 2, t);
            if (how == HALF_CLOSE) { /* the server has nothing more to say and closes */
                while (read_some(&running, 2000)) {
                }
                assert_true(running.closed);
                hang_up(&running);
                hang_up(&queued);
            }
        }
    }
    stop();
}

/* A client that does not read holds nobody up; what it gets in the end is the whole answer in
 * fewer, larger chunks. */
static void slow_reader(void **state)
{
    enum { N = 60000 };
    configure();
    settings.backlog = 4096;
    begin();
    client slow = dial(), other = dial();
    int small = 4096;
    setsockopt(slow.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    char body[256];
    snprintf(body, sizeof body, "{" HI ",\"stream\":true,\"max_tokens\":%d}", N);
    fake_counts before = fake_engine_counts();
    post(&slow, CHAT, body);
    for (double t = now(); fake_engine_counts().done == before.done; nap_ms(5)) {
        assert_true(now() - t < 60); /* the engine runs on to the end */
    }
    post(&other, CHAT, "{" HI ",\"max_tokens\":3}");
    assert_int_equal(answer(&other, NULL, 0), 200);
    int large = 1 << 20; /* now it reads, and a window of 4 KiB would take most of a minute */
    setsockopt(slow.fd, SOL_SOCKET, SO_RCVBUF, &large, sizeof large);
    expect(&slow, "\r\n0\r\n\r\n");
    char *text = malloc(slow.n + 1), *got = calloc(1, N + 64), *want = calloc(1, N + 64);
    assert_true(text != NULL && got != NULL && want != NULL);
    dechunk(&slow, text);
    size_t n = 0;
    int chunks = 0;
    for (char *p = text; (p = strstr(p, "\"delta\":{\"content\":\"")) != NULL; chunks++) {
        p += 20;
        size_t k = strcspn(p, "\"");
        memcpy(got + n, p, k);
        n += k;
    }
    for (size_t w = 0, i = 0; w < N; i++) {
        w += (size_t)snprintf(want + w, N + 64 - w, "word%zu ", i);
    }
    assert_int_equal(n, N);
    assert_memory_equal(got, want, N);
    assert_true(chunks < N / 2);
    assert_non_null(strstr(text, "data: [DONE]"));
    free(text);
    free(got);
    free(want);
    hang_up(&slow);
    hang_up(&other);
    stop();
}

static void failures(void **state)
{
    configure();
    fake_engine_script.failure = TT_E_DEVICE;
    fake_engine_script.fail_after = 3;
    begin();
    client c = dial();
    char text[4096];
    post(&c, CHAT, "{" HI "}");
    assert_int_equal(answer(&c, text, sizeof text), 500);
    assert_non_null(strstr(text, "\"code\":\"device_failure\""));
    post(&c, CHAT, "{" HI ",\"stream\":true}"); /* the same connection */
    assert_int_equal(answer(&c, text, sizeof text), 200);
    assert_non_null(strstr(text, "data: {\"error\":{\"message\":\"as scripted\""));
    assert_null(strstr(text, "[DONE]"));
    assert_int_equal(count(text, "\"finish_reason\":\"stop\""), 0);
    hang_up(&c);
    stop();
}

static void full_queue(void **state)
{
    configure();
    settings.max_requests = 2;
    fake_engine_script.prefill_ms = 400;
    begin();
    client c[6];
    int refused = 0;
    for (int i = 0; i < 6; i++) {
        c[i] = dial();
        post(&c[i], CHAT, "{" HI ",\"max_tokens\":1}");
        nap_ms(20);
    }
    for (int i = 0; i < 6; i++) {
        char text[4096];
        int status = answer(&c[i], text, sizeof text);
        assert_true(status == 200 || status == 429);
        if (status == 429) {
            refused++;
            assert_non_null(strstr(text, "Retry-After: "));
            assert_non_null(strstr(text, "\"type\":\"rate_limit_error\""));
        }
        hang_up(&c[i]);
    }
    assert_int_equal(refused, 3);
    stop();
}

/* An engine that has not moved for long is stuck only while there is work for it. */
static void watchdog(void **state)
{
    configure();
    fake_engine_script.prefill_ms = 1500;
    fake_engine_script.stuck = true;
    begin();
    client work = dial(), probe = dial();
    get(&probe, "/livez");
    assert_int_equal(answer(&probe, NULL, 0), 200);
    fake_counts before = fake_engine_counts();
    post(&work, CHAT, "{" HI ",\"max_tokens\":1}");
    while (fake_engine_counts().started == before.started) {
        nap_ms(2);
    }
    get(&probe, "/livez");
    assert_int_equal(answer(&probe, NULL, 0), 503);
    assert_int_equal(answer(&work, NULL, 0), 200);
    get(&probe, "/livez");
    assert_int_equal(answer(&probe, NULL, 0), 200);
    hang_up(&work);
    hang_up(&probe);
    stop();
}

/* Several prompts are one request: each has its own text, log-probabilities and place in the list,
 * and its tokens count. */
static void several_prompts(void **state)
{
    configure();
    fake_engine_script.parallel = 2;
    begin();
    client a = dial();
    char text[8192];
    post(&a, "/v1/completions",
         "{\"prompt\":[\"x\",\"yy\",[65,66,67]],\"max_tokens\":2,\"echo\":true,\"logprobs\":1}");
    assert_int_equal(answer(&a, text, sizeof text), 200);
    assert_non_null(strstr(text, "{\"index\":0,\"text\":\"xwo\""));
    assert_non_null(strstr(text, "{\"index\":1,\"text\":\"yywo\""));
    assert_non_null(strstr(text, "{\"index\":2,\"text\":\"ABCwo\""));
    assert_non_null(strstr(
        text, "\"logprobs\":{\"tokens\":[\"A\",\"B\",\"C\",\"w\",\"o\"],\"token_logprobs\":"
              "[null,-0.25,-0.25,-0.5,-0.5],\"top_logprobs\":[null,{\"B\":-0.25},{\"C\":-0.25},"
              "{\"w\":-0.5},{\"o\":-0.5}],\"text_offset\":[0,1,2,3,4]}"));
    assert_non_null(strstr(text, "\"prompt_tokens\":6,\"completion_tokens\":6,"));
    hang_up(&a);
    stop();
}

/* n = 3 of two prompts: index = prompt * n + sample, sample i under seed + i, every choice's text
 * its own; a prompt counts once, with what its first sample found cached. */
static void samples(void **state)
{
    configure();
    fake_engine_script.parallel = 4;
    fake_engine_script.tell_seed = true;
    begin();
    client c = dial();
    char text[8192];
    post(&c, "/v1/completions",
         "{\"prompt\":[\"x\",\"yy\"],\"n\":3,\"seed\":41,\"max_tokens\":5,\"echo\":true}");
    assert_int_equal(answer(&c, text, sizeof text), 200);
    for (int i = 0; i < 6; i++) {
        char want[128];
        snprintf(want, sizeof want, "{\"index\":%d,\"text\":\"%s%d:wo\",\"logprobs\":null,", i,
                 i < 3 ? "x" : "yy", 41 + i % 3);
        assert_non_null(strstr(text, want));
    }
    /* jobs 0 and 3 started after none and after three others */
    assert_non_null(strstr(text, "\"prompt_tokens\":3,\"completion_tokens\":30,\"total_tokens\":33,"
                                 "\"prompt_tokens_details\":{\"cached_tokens\":3}"));
    post(&c, CHAT, "{" HI ",\"n\":2,\"max_tokens\":30}"); /* no seed: two random ones */
    assert_int_equal(answer(&c, text, sizeof text), 200);
    const char *a = strstr(text, "\"content\":\""), *b = strstr(a + 1, "\"content\":\"");
    assert_non_null(b);
    assert_true(strtoull(a + 11, NULL, 10) != strtoull(b + 11, NULL, 10));
    hang_up(&c);
    stop();
}

/* Two choices of a stream: each has its role, its text in order and its end; they come in turns. */
static void interleaved_stream(void **state)
{
    enum { N = 30 };
    configure();
    fake_engine_script.parallel = 2;
    fake_engine_script.tell_seed = true;
    fake_engine_script.token_us = 1000;
    begin();
    client c = dial();
    post(&c, CHAT,
         "{" HI ",\"stream\":true,\"n\":2,\"seed\":5,\"max_tokens\":30,"
         "\"stream_options\":{\"include_usage\":true}}");
    expect(&c, "\r\n0\r\n\r\n");
    char *text = malloc(c.n + 1), got[2][N + 1] = {{0}};
    assert_non_null(text);
    dechunk(&c, text);
    int n[2] = {0}, roles[2] = {0}, ends[2] = {0}, last = -1, turns = 0;
    for (char *p = text; (p = strstr(p, "\"choices\":[{\"index\":")) != NULL;) {
        int i = atoi(p += 20);
        assert_in_range(i, 0, 1);
        assert_int_equal(ends[i], 0);
        p = strstr(p, "\"delta\":") + 8;
        if (strncmp(p, "{\"role\"", 7) == 0) {
            assert_int_equal(n[i], 0);
            roles[i]++;
        } else if (strncmp(p, "{}", 2) == 0) {
            ends[i]++;
        } else {
            size_t k = strcspn(p + 12, "\"");
            assert_true((size_t)n[i] + k <= N);
            memcpy(got[i] + n[i], p + 12, k);
            n[i] += (int)k;
            turns += i != last;
            last = i;
        }
    }
    assert_string_equal(got[0], "5:word0 word1 word2 word3 word");
    assert_string_equal(got[1], "6:word0 word1 word2 word3 word");
    assert_true(roles[0] == 1 && roles[1] == 1 && ends[0] == 1 && ends[1] == 1);
    assert_true(turns >= N / 2); /* a token each in turn, unless the loop was held up */
    assert_int_equal(count(text, "\"usage\":{"), 1);
    assert_non_null(strstr(text, "\"completion_tokens\":60,"));
    assert_int_equal(count(text, "data: [DONE]"), 1);
    free(text);
    hang_up(&c);
    stop();
}

/* A request gets all its places or none, and one that could never have them is told so. */
static void all_places_or_none(void **state)
{
    configure();
    settings.max_requests = 4;
    fake_engine_script.prefill_ms = 300;
    begin();
    client a = dial(), b = dial();
    char text[4096];
    post(&a, CHAT, "{" HI ",\"n\":3,\"max_tokens\":1}");
    nap_ms(100); /* one runs, two wait */
    fake_counts before = fake_engine_counts();
    post(&b, CHAT, "{" HI ",\"n\":3,\"max_tokens\":1}");
    assert_int_equal(answer(&b, text, sizeof text), 429);
    char header[32];
    snprintf(header, sizeof header, "Retry-After: %d\r\n", FAKE_RETRY_AFTER);
    assert_non_null(strstr(text, header));
    post(&b, CHAT, "{" HI ",\"n\":2,\"max_tokens\":1}");
    assert_int_equal(answer(&b, NULL, 0), 200);
    assert_int_equal(answer(&a, NULL, 0), 200);
    assert_int_equal(fake_engine_counts().started - before.started, 4);
    post(&b, CHAT, "{" HI ",\"n\":5}");
    assert_int_equal(answer(&b, text, sizeof text), 400);
    assert_non_null(strstr(text, "\"param\":\"n\""));
    post(&b, "/v1/completions", "{\"prompt\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}");
    assert_int_equal(answer(&b, text, sizeof text), 400);
    assert_non_null(strstr(text, "\"param\":\"prompt\""));
    hang_up(&a);
    hang_up(&b);
    stop();
}

/* One job's error is the answer's, and the other jobs stop at once, running and queued. */
static void one_failure_ends_all(void **state)
{
    for (int streamed = 0; streamed < 2; streamed++) {
        configure();
        fake_engine_script.parallel = 3;
        fake_engine_script.token_us = 2000;
        fake_engine_script.failure = TT_E_DEVICE;
        fake_engine_script.fail_after = 5;
        fake_engine_script.failing = 2;
        begin();
        fake_counts before = fake_engine_counts();
        client c = dial();
        char text[8192];
        double t = now();
        post(&c, CHAT,
             streamed ? "{" HI ",\"n\":4,\"max_tokens\":90000,\"stream\":true}"
                      : "{" HI ",\"n\":4,\"max_tokens\":90000}");
        assert_int_equal(answer(&c, text, sizeof text), streamed ? 200 : 500);
        assert_non_null(strstr(text, "{\"error\":{\"message\":\"as scripted\""));
        assert_null(strstr(text, "[DONE]"));
        wait_cancelled(before.cancelled + 3, t);
        hang_up(&c);
        stop();
    }
}

static void leaving_cancels_every_sample(void **state)
{
    configure();
    fake_engine_script.parallel = 2;
    fake_engine_script.prefill_ms = 600000;
    begin();
    for (int streamed = 0; streamed < 2; streamed++) {
        fake_counts before = fake_engine_counts();
        client c = dial();
        post(&c, CHAT, streamed ? "{" HI ",\"n\":4,\"stream\":true}" : "{" HI ",\"n\":4}");
        while (fake_engine_counts().started < before.started + 2) {
            nap_ms(2);
        }
        double t = now();
        leave(&c, CLOSE);
        wait_cancelled(before.cancelled + 4, t);
    }
    stop();
}

static void adapted_answer(void **state)
{
    configure();
    fake_engine_script.parallel = 3;
    begin();
    client c = dial();
    char text[8192];
    post(&c, CHAT, "{" HI ",\"model\":\"fake-qttt\",\"max_tokens\":1}");
    assert_int_equal(answer(&c, text, sizeof text), 200);
    assert_non_null(strstr(text, "\"qttt\":{\"job_id\":\"qttt_"));
    assert_non_null(strstr(text, "\"adapter_id\":\"adp_0000000000000001\""));
    assert_non_null(strstr(text, "\"span_loss_before\":null,\"span_loss_after\":0.5"));
    post(&c, CHAT,
         "{" HI ",\"model\":\"fake-qttt\",\"max_tokens\":1,\"stream\":true,"
         "\"stream_options\":{\"include_usage\":true,\"include_progress\":true}}");
    assert_int_equal(answer(&c, text, sizeof text), 200);
    assert_int_equal(count(text, "\"qttt\":{"), 1);
    assert_true(strstr(text, "\"qttt\":{") > strstr(text, "\"usage\":{"));
    assert_int_equal(count(text, "\"phase\":\"prefill\""), 4);
    assert_int_equal(count(text, "\"phase\":\"adapt\""), 1);
    assert_int_equal(count(text, "\"phase\":\"queued\""), 1);
    /* samples share the adaptation: told once, by the one that trained, and counted once */
    post(&c, CHAT,
         "{" HI ",\"model\":\"fake-qttt\",\"max_tokens\":1,\"n\":3,\"stream\":true,"
         "\"stream_options\":{\"include_usage\":true,\"include_progress\":true}}");
    assert_int_equal(answer(&c, text, sizeof text), 200);
    assert_int_equal(count(text, "\"qttt\":{"), 1);
    assert_int_equal(count(text, "\"cached\":false"), 1);
    assert_int_equal(count(text, "\"phase\":\"prefill\""), 4);
    assert_int_equal(count(text, "\"phase\":\"adapt\""), 1);
    assert_int_equal(count(text, "\"finish_reason\":\"length\""), 3);
    get(&c, "/metrics");
    char *page = malloc(1 << 16);
    assert_non_null(page);
    assert_int_equal(answer(&c, page, 1 << 16), 200);
    assert_non_null(strstr(page, "\nqttt_jobs_total{outcome=\"succeeded\"} 3\n"));
    free(page);
    hang_up(&c);
    stop();
}

static void draining(void **state)
{
    configure();
    settings.drain_delay = 0.4;
    fake_engine_script.prefill_ms = 1200;
    begin();
    client running = dial(), probe = dial(), late = dial();
    char text[4096];
    post(&running, CHAT, "{" HI ",\"stream\":true,\"max_tokens\":2}");
    expect(&running, "\r\n\r\n");
    kill(getpid(), SIGTERM);
    nap_ms(100);
    get(&probe, "/readyz"); /* not ready at once, but still taking work */
    assert_int_equal(answer(&probe, NULL, 0), 503);
    get(&probe, "/v1/models");
    assert_int_equal(answer(&probe, NULL, 0), 200);
    nap_ms(600);
    post(&late, CHAT, "{" HI "}");
    assert_int_equal(answer(&late, text, sizeof text), 503);
    assert_non_null(strstr(text, "Retry-After: "));
    assert_non_null(strstr(text, "Connection: close"));
    assert_non_null(strstr(text, "\"type\":\"service_unavailable\""));
    expect(&running, "[DONE]");
    assert_int_equal(join(), 0);
    hang_up(&running);
    hang_up(&probe);
    hang_up(&late);
}

static void drain_bound(void **state)
{
    for (int second_signal = 0; second_signal < 2; second_signal++) {
        configure();
        settings.drain_timeout = second_signal ? 600 : 0.2;
        fake_engine_script.prefill_ms = 600000;
        begin();
        client streamed = dial(), plain = dial();
        post(&streamed, CHAT, "{" HI ",\"stream\":true}");
        post(&plain, CHAT, "{" HI "}");
        expect(&streamed, "\r\n\r\n");
        nap_ms(50);
        kill(getpid(), SIGTERM);
        nap_ms(100);
        if (second_signal) {
            kill(getpid(), SIGTERM);
        }
        expect(&streamed, "data: {\"error\":");
        assert_int_equal(answer(&plain, NULL, 0), 503);
        assert_int_equal(join(), 0);
        assert_null(strstr(streamed.p, "[DONE]"));
        hang_up(&streamed);
        hang_up(&plain);
    }
}

static void loading(void **state)
{
    configure();
    fake_engine_script.load_ms = 400;
    start();
    client c = dial();
    char text[2048];
    get(&c, "/livez");
    assert_int_equal(answer(&c, NULL, 0), 200);
    get(&c, "/readyz");
    assert_int_equal(answer(&c, NULL, 0), 503);
    post(&c, CHAT, "{" HI "}");
    assert_int_equal(answer(&c, text, sizeof text), 503);
    assert_non_null(strstr(text, "\"code\":\"loading\""));
    wait_ready();
    hang_up(&c);
    stop();
    configure();
    fake_engine_script.load_failure = TT_E_MODEL;
    fake_engine_script.load_ms = 50;
    start();
    assert_int_equal(join(), 2);
}

static void bodies(void **state)
{
    configure();
    settings.max_body = 4096;
    settings.max_bodies = 6000;
    begin();
    client c = dial(), waiting = dial();
    char text[4096], big[5000];
    memset(big, ' ', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    static const char too_long[] =
        "POST " CHAT " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 5000\r\n\r\n{";
    client l = dial();
    send_text(&l, too_long,
              strlen(too_long)); /* answered at once, then the rest is read and dropped */
    assert_int_equal(answer(&l, text, sizeof text), 413);
    assert_non_null(strstr(text, "Connection: close"));
    send_text(&l, big, sizeof big - 1);
    while (read_some(&l, 2000)) {
    }
    assert_true(l.closed);
    hang_up(&l);
    l = dial();
    static const char chunked[] =
        "POST " CHAT " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n1387\r\n";
    send_text(&l, chunked, strlen(chunked));
    send_text(&l, big, sizeof big - 1); /* no end of the body yet */
    assert_int_equal(answer(&l, NULL, 0), 413);
    hang_up(&l);
    static const char expects[] =
        "POST " CHAT " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 5000\r\nExpect: 100-continue\r\n\r\n";
    client e = dial();
    send_text(&e, expects, strlen(expects)); /* answered before the body is sent */
    assert_int_equal(answer(&e, NULL, 0), 413);
    hang_up(&e);
    static const char half[] =
        "POST " CHAT " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 4000\r\n\r\n";
    send_text(&waiting, half, strlen(half));
    send_text(&waiting, big, 3999);
    nap_ms(100);
    big[3000] = '\0';
    post(&c, CHAT, big); /* 3,999 + 3,000 bytes are more than all bodies may hold */
    assert_int_equal(answer(&c, text, sizeof text), 429);
    assert_non_null(strstr(text, "Retry-After: "));
    hang_up(&c);
    c = dial();
    hang_up(&waiting);
    nap_ms(100);
    post(&c, CHAT, big);
    assert_int_equal(answer(&c, NULL, 0), 400); /* only spaces: the place is free again */
    post(&c, CHAT, "{" HI ",\"max_tokens\":1}");
    get(&c, "/livez"); /* pipelined */
    assert_int_equal(answer(&c, NULL, 0), 200);
    assert_int_equal(answer(&c, NULL, 0), 200);
    hang_up(&c);
    c = dial();
    get(&c, "/livez"); /* an answer, and then the end, though the client only closed its half */
    shutdown(c.fd, SHUT_WR);
    assert_int_equal(answer(&c, NULL, 0), 200);
    while (read_some(&c, 2000)) {
    }
    assert_true(c.closed);
    hang_up(&c);
    stop();
}

/* Heads and bodies that never come whole: nothing of them is left for a drain to wait for. */
static void leaving_in_mid_request(void **state)
{
    static const char head[] =
        "POST " CHAT " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 500\r\n\r\n{\"messages\":";
    configure();
    settings.drain_timeout = 600;
    begin();
    for (int i = 0; i < 60; i++) {
        client c = dial();
        send_text(&c, head, i % 3 == 0 ? 20 : strlen(head));
        leave(&c, (leaving)(i % 2));
    }
    double t = now();
    stop();
    assert_true(now() - t < 10);
}

/* Bodies whose client leaves while a worker reads them, and while they wait for one. */
static void leaving_while_parsed(void **state)
{
    enum { N = 12, BYTES = 4 << 20 };
    configure();
    settings.max_bodies = 12 << 20; /* what those who left still hold is counted, and given back */
    begin();
    char *body = malloc(BYTES + 128);
    assert_non_null(body);
    size_t n = (size_t)sprintf(body, "{" HI ",\"max_tokens\":1,\"user\":\"");
    memset(body + n, 'x', BYTES);
    strcpy(body + n + BYTES, "\"}");
    for (int i = 0; i < N; i++) {
        client c = dial();
        post(&c, i % 2 == 0 ? CHAT : "/tokenize", body);
        leave(&c, (leaving)(i % 2));
    }
    client c = dial();
    int status = 429;
    for (double t = now(); status == 429 && now() - t < 10; nap_ms(10)) {
        hang_up(&c);
        c = dial();
        post(&c, CHAT, body);
        status = answer(&c, NULL, 0);
    }
    assert_int_equal(status, 200);
    free(body);
    hang_up(&c);
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stream_shape),
        cmocka_unit_test(heartbeats_while_queued),
        cmocka_unit_test(leaving_cancels),
        cmocka_unit_test(slow_reader),
        cmocka_unit_test(failures),
        cmocka_unit_test(full_queue),
        cmocka_unit_test(several_prompts),
        cmocka_unit_test(samples),
        cmocka_unit_test(interleaved_stream),
        cmocka_unit_test(all_places_or_none),
        cmocka_unit_test(one_failure_ends_all),
        cmocka_unit_test(leaving_cancels_every_sample),
        cmocka_unit_test(adapted_answer),
        cmocka_unit_test(draining),
        cmocka_unit_test(drain_bound),
        cmocka_unit_test(loading),
        cmocka_unit_test(watchdog),
        cmocka_unit_test(bodies),
        cmocka_unit_test(leaving_in_mid_request),
        cmocka_unit_test(leaving_while_parsed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
