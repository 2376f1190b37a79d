/* rate.h - a token bucket: so much a minute, and what was saved up of the last minute at once.
 * Pure: the caller tells the time (seconds, rising). Thread: one at a time. */
#ifndef TT_RATE_H
#define TT_RATE_H

typedef struct tt_rate {
    double per_minute; /* also what the bucket holds; 0 = no limit */
    double level;      /* at `at`; below 0 after something whose size nobody knew before */
    double at;
} tt_rate;

/* Full. */
void tt_rate_init(tt_rate *r, double per_minute, double now);
/* Another rate: the bucket stays as full as it is in proportion. */
void tt_rate_change(tt_rate *r, double per_minute, double now);
/* Seconds until `amount` is there, 0 = it is. More than the bucket holds needs a full bucket. */
double tt_rate_wait(const tt_rate *r, double amount, double now);
/* Takes it, whether it is there or not; a negative amount gives back. */
void tt_rate_take(tt_rate *r, double amount, double now);
/* What is there, never below 0. */
double tt_rate_left(const tt_rate *r, double now);
/* Seconds until the bucket is full again. */
double tt_rate_reset(const tt_rate *r, double now);

#endif
