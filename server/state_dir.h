/* state_dir.h - the folder of what outlives the process: from the setting, or by the XDG base
 * directory specification. Thread: any. */
#ifndef TT_STATE_DIR_H
#define TT_STATE_DIR_H

#include <stddef.h>

#include "kernels/err.h"

/* setting: state.dir. ret [size]: the folder's path, "" = nothing outlives the process ("none").
 * The folder is made when it can be; whoever uses it says what is wrong with it. TT_E_INVALID: the
 * path is too long, or there is neither a setting nor a home. */
tt_code tt_state_dir(const char *setting, char *ret, size_t size, tt_err *reterr);

#endif
