/* test_loop.c - the phases of a server: loading, draining, stopping; the watchdog of /livez. Over a
 * fake engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "fake_engine.h"
#include "serving.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draining),
        cmocka_unit_test(drain_bound),
        cmocka_unit_test(loading),
        cmocka_unit_test(watchdog),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
