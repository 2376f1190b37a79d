/* config_json.h - config.json of a Hugging Face folder, as transformers 4 and 5 write it, for the
 * families of arch.h. Untrusted input. Thread: pure function. */
#ifndef TT_CONFIG_JSON_H
#define TT_CONFIG_JSON_H

#include "core/model_build.h"

typedef struct tt_config {
    tt_model_spec spec; /* all but hf_prefix and hf_head; spec.sliding points into `sliding` */
    uint8_t sliding[TT_MODEL_MAX_LAYERS];
    int64_t n_vocab; /* 0 = the file does not say */
} tt_config;

/* Values that the file leaves out are those of the family's class in transformers, as long as that
 * class is what everybody means; the sizes of a model have no such default. TT_E_MODEL (names the
 * key), TT_E_UNSUPPORTED (another architecture, quantised weights, an activation, mask or scaling
 * that is not implemented), TT_E_NOMEM. */
tt_code tt_config_read(const uint8_t *bytes, uint64_t n_bytes, tt_config *ret_config,
                       tt_err *reterr);

#endif
