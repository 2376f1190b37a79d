/* engine_options.h - what the settings say to the engine, and what its failures are to the process.
 * Thread: any. */
#ifndef TT_ENGINE_OPTIONS_H
#define TT_ENGINE_OPTIONS_H

#include "core/device_choice.h"
#include "core/engine.h"
#include "server/settings.h"

enum {
    TT_EXIT_FAILED = 1,
    TT_EXIT_USAGE = 2,  /* a setting or a model that cannot be used: trying again does not help */
    TT_EXIT_DEVICE = 3, /* the GPU that is insisted on is not there, or cannot be used */
    TT_EXIT_LOST = 4    /* it failed while it was in use */
};

/* model.path is required; model.isa must name kernels that exist, model.device a device that
 * answers. *ret_device: the one that was taken, for the log. TT_E_INVALID; TT_E_UNAVAILABLE: there
 * is no such device. */
tt_code tt_engine_options_from(const tt_settings *s, tt_engine_options *ret,
                               tt_device_found *ret_device, tt_err *reterr);

/* The exit status of a command that failed so. */
int tt_exit_status(tt_code rc);

#endif
