/* test_generation.c - requests over a fake engine: the shape of streams, choices, heartbeats,
 * leaving clients, slow readers, the queue, time limits. Each test starts and stops a server of its
 * own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "fake_engine.h"
#include "serving.h"

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
            wait_submitted(before.submitted + 2);
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
    fake_engine_script.prefill_ms = 600;
    begin();
    client c[6];
    int submitted = fake_engine_counts().submitted, started = fake_engine_counts().started;
    for (int i = 0; i < 6; i++) {
        c[i] = dial();
        post(&c[i], CHAT, "{" HI ",\"max_tokens\":1}");
        if (i < 3) { /* one runs, two wait */
            wait_submitted(submitted + i + 1);
        }
        while (fake_engine_counts().started == started) {
            nap_ms(2);
        }
    }
    for (int i = 5; i >= 0; i--) {
        char text[4096];
        assert_int_equal(answer(&c[i], text, sizeof text), i < 3 ? 200 : 429);
        if (i >= 3) {
            assert_non_null(strstr(text, "Retry-After: "));
            assert_non_null(strstr(text, "\"type\":\"rate_limit_error\""));
        }
        hang_up(&c[i]);
    }
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
 * its own; a prompt counts once, with the least that a sample found cached. */
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
    fake_counts before = fake_engine_counts();
    post(&a, CHAT, "{" HI ",\"n\":3,\"max_tokens\":1}");
    while (fake_engine_counts().started == before.started) { /* one runs, two wait */
        nap_ms(2);
    }
    before = fake_engine_counts();
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

/* The answer says what mode auto decided: by the operator's rule, which the engine is given. */
static void automatic_mode(void **state)
{
    for (int enough = 0; enough < 2; enough++) {
        configure();
        settings.auto_min_tokens = enough ? 20 : 21;
        begin();
        client c = dial();
        char text[8192];
        post(&c, CHAT,
             "{" HI ",\"max_tokens\":1,\"qttt\":{\"mode\":\"auto\",\"context\":{\"tokens\":20}}}");
        assert_int_equal(answer(&c, text, sizeof text), 200);
        assert_non_null(strstr(text, enough ? "\"status\":\"succeeded\",\"reason\":null"
                                            : "\"status\":\"skipped\",\"reason\":"
                                              "\"auto_context_is_short\""));
        assert_non_null(strstr(text, "\"context_tokens\":20"));
        hang_up(&c);
        stop();
    }
}

/* timeout_seconds, or the operator's bound: 408 before the first byte, an event after it; queued
 * and running jobs of the request end, and a queue behind it moves on. */
static void out_of_time(void **state)
{
    configure();
    settings.request_timeout = 1.5;
    fake_engine_script.prefill_ms = 600000;
    begin();
    client c = dial(), later = dial();
    char text[4096];
    double t = now();
    post(&c, CHAT, "{" HI ",\"n\":2,\"timeout_seconds\":0.1}");
    assert_int_equal(answer(&c, text, sizeof text), 408);
    assert_true(now() - t >= 0.1 && now() - t < 1.4);
    assert_non_null(strstr(text, "\r\nX-Should-Retry: false\r\n"));
    assert_non_null(strstr(text, "\"type\":\"timeout_error\",\"param\":null,\"code\":\"timeout\""));
    t = now();
    post(&c, CHAT, "{" HI ",\"stream\":true,\"timeout_seconds\":0.1}");
    assert_int_equal(answer(&c, text, sizeof text), 200);
    assert_non_null(strstr(text, "data: {\"error\":{\"message\":\"out of time\""));
    assert_null(strstr(text, "[DONE]"));
    t = now();
    post(&c, CHAT, "{" HI "}");
    post(&later, CHAT, "{" HI ",\"timeout_seconds\":0.2}"); /* it never leaves the queue */
    assert_int_equal(answer(&later, NULL, 0), 408);
    assert_true(now() - t < 1.4);
    assert_int_equal(answer(&c, NULL, 0), 408);
    assert_true(now() - t >= 1.5);
    post(&c, CHAT, "{" HI ",\"timeout_seconds\":1.6}");
    assert_int_equal(answer(&c, text, sizeof text), 400);
    assert_non_null(strstr(text, "\"param\":\"timeout_seconds\""));
    hang_up(&c);
    hang_up(&later);
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
        cmocka_unit_test(automatic_mode),
        cmocka_unit_test(out_of_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
