/* state_lock.h - one server a folder of state: DIR/lock, held by flock() until the process ends
 * however it ends. Thread: any. */
#ifndef TT_STATE_LOCK_H
#define TT_STATE_LOCK_H

#include "kernels/err.h"

/* *ret_fd: to be closed, which gives the lock back. TT_E_BUSY: another process has it, and the
 * message names it. TT_E_IO: the folder is missing or cannot be written. */
tt_code tt_state_lock(const char *dir, int *ret_fd, tt_err *reterr);

#endif
