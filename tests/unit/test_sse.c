/* test_sse.c - the framing of streams, byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "server/sse.h"

static void frames(void **state)
{
    tt_buf b = {0};
    tt_http_error e;
    tt_sse_begin(&b);
    tt_buf_puts(&b, "{\"a\":");
    tt_buf_put_json(&b, "x\r\ny\n\nz", 7); /* a line break in text never ends an event */
    tt_buf_putc(&b, '}');
    tt_sse_end(&b);
    tt_sse_heartbeat(&b);
    tt_error_set(&e, 500, NULL, "cancelled", "gone");
    tt_sse_error(&b, &e);
    tt_sse_done(&b);
    static const char want[] =
        "data: {\"a\":\"x\\r\\ny\\n\\nz\"}\n\n"
        ": keep-alive\n\n"
        "data: {\"error\":{\"message\":\"gone\",\"type\":\"server_error\",\"param\":null,"
        "\"code\":\"cancelled\"}}\n\n"
        "data: [DONE]\n\n";
    assert_int_equal(b.n, strlen(want));
    assert_memory_equal(b.p, want, b.n);
    tt_buf_finish(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(frames)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
