/* engine_options.h - what the settings say to the engine. Thread: any. */
#ifndef TT_ENGINE_OPTIONS_H
#define TT_ENGINE_OPTIONS_H

#include "core/engine.h"
#include "server/settings.h"

/* model.path is required; model.isa must name kernels that exist. TT_E_INVALID. */
tt_code tt_engine_options_from(const tt_settings *s, tt_engine_options *ret, tt_err *reterr);

#endif
