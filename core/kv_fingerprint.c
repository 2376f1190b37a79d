/* kv_fingerprint.c - see kv_fingerprint.h. */
#include "core/kv_fingerprint.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/page_run.h"

enum { PROBE_LAYERS = 2 };

/* A step runs a layer in each unit; what has been run is enough. */
static tt_code run_probe(const tt_model *m, tt_step *step, int32_t page, tt_err *reterr)
{
    int32_t ids[TT_PAGE_TOKENS];
    for (int32_t i = 0; i < TT_PAGE_TOKENS; i++) {
        ids[i] = (int32_t)(((int64_t)i * 7919 + 17) % m->n_vocab);
    }
    tt_segment seg = {
        .ids = ids, .n_rows = TT_PAGE_TOKENS, .pages = &page, .store = true, .want = TT_WANT_NONE};
    tt_code rc = tt_step_begin(step, &seg, 1, &(tt_step_options){.family = TT_PREFILL}, reterr);
    rc = rc == TT_OK ? tt_step_run(step, PROBE_LAYERS, reterr) : rc;
    return rc > 0 ? TT_OK : rc;
}

static tt_code hash_page(const tt_model *m, tt_kv_pool *kv, int32_t page, uint64_t *ret_sum,
                         tt_err *reterr)
{
    size_t bytes = tt_kv_page_bytes(m, tt_kv_layer_of(kv, 0)->type);
    size_t layers = m->n_layers < PROBE_LAYERS ? (size_t)m->n_layers : PROBE_LAYERS;
    void *p = malloc(bytes);
    if (p == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a page");
    }
    tt_code rc = tt_kv_read_page(kv, page, p, reterr);
    if (rc == TT_OK) {
        *ret_sum = XXH3_64bits(p, bytes / (size_t)m->n_layers * layers); /* layers lie in order */
    }
    free(p);
    return rc;
}

tt_code tt_kv_fingerprint(tt_device *d, tt_kv_pool *kv, tt_step *step, uint64_t *ret_fingerprint,
                          tt_err *reterr)
{
    const tt_model *m = d->model;
    uint64_t probe = 0;
    int32_t page = tt_kv_take(kv);
    if (page < 0) {
        return tt_fail(reterr, TT_E_CAPACITY, "no K/V page is free");
    }
    tt_code rc = run_probe(m, step, page, reterr);
    rc = rc == TT_OK ? hash_page(m, kv, page, &probe, reterr) : rc;
    tt_kv_unref(kv, page);
    if (rc != TT_OK) {
        return rc;
    }
    uint64_t parts[] = {m->fingerprint,
                        probe,
                        XXH3_64bits(d->ops.isa, strlen(d->ops.isa)),
                        (uint64_t)tt_kv_layer_of(kv, 0)->type,
                        tt_kv_page_bytes(m, tt_kv_layer_of(kv, 0)->type),
                        TT_PAGE_TOKENS,
                        TT_RUN_VERSION};
    *ret_fingerprint = XXH3_64bits(parts, sizeof parts);
    return TT_OK;
}
