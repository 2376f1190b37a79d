/* hex.c - see hex.h. */
#include "server/hex.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static const char digits[] = "0123456789abcdef";

void tt_hex_write(const unsigned char *p, size_t n, char *ret_text)
{
    for (size_t i = 0; i < n; i++) {
        ret_text[2 * i] = digits[p[i] >> 4];
        ret_text[2 * i + 1] = digits[p[i] & 15];
    }
    ret_text[2 * n] = '\0';
}

bool tt_hex_read(const char *text, unsigned char *ret, size_t n)
{
    if (text == NULL || strlen(text) != 2 * n || strspn(text, digits) != 2 * n) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        ret[i] = (unsigned char)((strchr(digits, text[2 * i]) - digits) << 4 |
                                 (strchr(digits, text[2 * i + 1]) - digits));
    }
    return true;
}

void tt_hex_random(size_t n, char *ret_text)
{
    unsigned char r[16];
    assert(n <= sizeof r);
    if (getrandom(r, n, GRND_NONBLOCK) != (ssize_t)n) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        uint64_t t[2] = {(uint64_t)ts.tv_sec << 32 | (uint64_t)ts.tv_nsec,
                         (uint64_t)(uintptr_t)ret_text};
        memcpy(r, t, sizeof r);
    }
    tt_hex_write(r, n, ret_text);
}
