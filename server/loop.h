/* loop.h - the life of a serving process: start, load, serve, drain, stop. Thread: the calling
 * thread becomes the loop thread. */
#ifndef TT_LOOP_H
#define TT_LOOP_H

#include "server/settings.h"

/* Serves until SIGTERM or SIGINT; SIGHUP reads keys and settings again (reload.h). Exit status: 0
 * after a clean drain, else one of engine_options.h. */
int tt_serve(tt_settings *settings);

#endif
