/* rate.c - see rate.h. */
#include "server/rate.h"

#include <math.h>

static double level_at(const tt_rate *r, double now)
{
    double passed = now > r->at ? now - r->at : 0;
    return fmin(r->per_minute, r->level + passed * r->per_minute / 60);
}

void tt_rate_init(tt_rate *r, double per_minute, double now)
{
    *r = (tt_rate){.per_minute = per_minute, .level = per_minute, .at = now};
}

void tt_rate_change(tt_rate *r, double per_minute, double now)
{
    double share = r->per_minute > 0 ? level_at(r, now) / r->per_minute : 1;
    *r = (tt_rate){.per_minute = per_minute, .level = share * per_minute, .at = now};
}

double tt_rate_wait(const tt_rate *r, double amount, double now)
{
    if (r->per_minute <= 0) {
        return 0;
    }
    /* A billionth of the bucket: who waits as long as he was told finds it there. */
    double missing = fmin(amount, r->per_minute) - level_at(r, now) - 1e-9 * r->per_minute;
    return missing > 0 ? missing * 60 / r->per_minute : 0;
}

void tt_rate_take(tt_rate *r, double amount, double now)
{
    if (r->per_minute > 0) {
        r->level = fmin(r->per_minute, level_at(r, now) - amount);
        r->at = now > r->at ? now : r->at;
    }
}

double tt_rate_left(const tt_rate *r, double now)
{
    return fmax(0, level_at(r, now));
}

double tt_rate_reset(const tt_rate *r, double now)
{
    return r->per_minute > 0 ? (r->per_minute - level_at(r, now)) * 60 / r->per_minute : 0;
}
