/* test_http.c - bodies that are too large, too many, cut short or left alone, over a fake engine.
 * Each test starts and stops a server of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "serving.h"

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

/* What is answered while the body still comes obeys cors_origins as every answer does. */
static void early_answers_and_browsers(void **state)
{
    static const char *const origins[] = {"http://a.example", "http://b.example", NULL};
    static const char *const lists[] = {"*", "http://a.example"};
    for (int i = 0; i < 2; i++) {
        configure();
        settings.max_body = 4096;
        char *list[] = {(char *)(intptr_t)lists[i]};
        settings.cors_origins = (tt_string_list){.v = list, .n = 1};
        begin();
        for (int k = 0; k < 3; k++) {
            char head[512], text[2048], want[128];
            int n =
                snprintf(head, sizeof head,
                         "POST " CHAT " HTTP/1.1\r\nHost: x\r\nContent-Type: "
                         "application/json\r\nContent-Length: 5000\r\n%s%s%s\r\n{",
                         origins[k] != NULL ? "Origin: " : "", origins[k] != NULL ? origins[k] : "",
                         origins[k] != NULL ? "\r\n" : "");
            client c = dial();
            send_text(&c, head, (size_t)n);
            assert_int_equal(answer(&c, text, sizeof text), 413);
            bool allowed = i == 0 || k == 0;
            snprintf(want, sizeof want, "\r\nAccess-Control-Allow-Origin: %s\r\n", lists[i]);
            assert_int_equal(count(text, want), allowed);
            assert_int_equal(count(text, "Access-Control-"), allowed ? 2 : 0);
            assert_int_equal(count(text, "\r\nVary: Origin\r\n"), allowed && i == 1);
            hang_up(&c);
        }
        stop();
    }
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
        cmocka_unit_test(bodies),
        cmocka_unit_test(early_answers_and_browsers),
        cmocka_unit_test(leaving_in_mid_request),
        cmocka_unit_test(leaving_while_parsed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
