/* reload.h - SIGHUP: command line, settings file and key file are read again. All is checked before
 * anything changes; on any fault everything stays. Settings of which tt_setting_reloads() is true
 * take effect, of the others the log says that they need a restart. Requests that run go on as they
 * began. Thread: the loop thread; the files are read in the pool. */
#ifndef TT_RELOAD_H
#define TT_RELOAD_H

#include "server/server.h"

typedef struct tt_reload tt_reload;

/* settings: what s->settings points to, to be changed. TT_E_NOMEM, TT_E_IO. */
tt_code tt_reload_start(tt_server *s, tt_settings *settings, tt_reload **ret, tt_err *reterr);
/* The loop runs once more for its handle; no reading is going on any more. The settings keep what
 * they took until tt_reload_stop(). */
void tt_reload_stop(tt_reload **reload);

/* As if the signal had come. */
void tt_reload_now(tt_reload *r);

#endif
