/* state_setup.h - the server's state on disk: opened from the settings, and what is told of it.
 * Thread: the loop thread. */
#ifndef TT_STATE_SETUP_H
#define TT_STATE_SETUP_H

#include "server/server.h"

/* s->state_dir and s->state. TT_E_BUSY: another server has the folder. */
tt_code tt_server_open_state(tt_server *s, tt_err *reterr);
/* What was committed is written. */
void tt_server_close_state(tt_server *s);
/* When the writer has woken the loop; logs when the state gets degraded, and when it is well. */
void tt_server_poll_state(tt_server *s);

#endif
