/* fuzz_config_json.c - a config.json, and the rope frequencies that follow from it. Thread: main.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "core/config_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static tt_config c;
    static float inv_freq[4096];
    tt_err err = {.code = TT_OK};
    tt_code rc = tt_config_read(data, size, &c, &err);
    if (rc != TT_OK) {
        if (rc != err.code || err.msg[0] == '\0') {
            abort(); /* an error without its text */
        }
        return 0;
    }
    if (tt_model_check_dims(&c.spec, &err) != TT_OK || c.spec.arch == NULL) {
        abort(); /* what was read is not what was checked */
    }
    for (int i = 0; i < 2; i++) {
        float mscale = 1.0f;
        if (c.spec.rope[i].rot_dim > 4096) {
            abort();
        }
        rc = tt_rope_frequencies(&c.spec.rope[i], inv_freq, &mscale, &err);
        for (int32_t k = 0; rc == TT_OK && k < c.spec.rope[i].rot_dim / 2; k++) {
            if (!isfinite(inv_freq[k]) || !isfinite(mscale)) {
                abort();
            }
        }
    }
    return 0;
}
