/* health.h - what the outside learns of the server's state without asking for work: the watchdog
 * behind /livez and /metrics, and the service manager (notify.h), which hears of phases, reloads
 * and, as long as all is well, signs of life. Thread: the loop thread. */
#ifndef TT_HEALTH_H
#define TT_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/err.h"

struct tt_server;
typedef struct tt_health tt_health;

/* Starts to watch. A manager that cannot be reached is only logged. TT_E_NOMEM. */
tt_code tt_health_start(struct tt_server *s, tt_health **ret, tt_err *reterr);
/* Before the loop ends; NULL is legal. */
void tt_health_stop(tt_health **health);

/* Seconds for which nothing has moved though work is pending; 0 when all is well. */
double tt_health_stalled(const struct tt_server *s);
/* The device has failed: the process is about to end. */
bool tt_health_lost(const struct tt_server *s);
/* False when it has, or when nothing has moved for longer than watchdog.seconds: only a new process
 * helps. */
bool tt_health_alive(const struct tt_server *s);
/* How often it came to that. */
uint64_t tt_health_stalls(const struct tt_server *s);

/* s->phase has changed. */
void tt_health_tell_phase(struct tt_server *s);
/* A reload of settings begins (SIGHUP); it has ended. */
void tt_health_tell_reload(struct tt_server *s, bool ended);

#endif
