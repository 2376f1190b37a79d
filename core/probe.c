/* probe.c - see probe.h. */
#include "core/probe.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"

void tt_probe_make(tt_probe *p, uint64_t context_hash, int32_t n_context)
{
    *p = (tt_probe){.n_context = n_context, .exists = n_context >= TT_PROBE_MIN_CONTEXT};
    tt_rng rng = tt_rng_make(context_hash, 0x70726F6265);
    for (int32_t i = 0; p->exists && i < TT_PROBE_SEGMENTS; i++) {
        int32_t lo = (int32_t)((int64_t)n_context * i / TT_PROBE_SEGMENTS);
        int32_t hi = (int32_t)((int64_t)n_context * (i + 1) / TT_PROBE_SEGMENTS);
        p->start[i] = lo + (int32_t)tt_rng_below(&rng, (uint64_t)(hi - lo - TT_PASSAGE_TOKENS + 1));
    }
}

bool tt_probe_masks(const tt_probe *p, int32_t pos)
{
    for (int32_t i = 0; p->exists && i < TT_PROBE_SEGMENTS; i++) {
        if (pos >= p->start[i] && pos < p->start[i] + TT_PASSAGE_TOKENS) {
            return true;
        }
    }
    return false;
}

double tt_probe_mean(const double v[TT_PROBE_SEGMENTS])
{
    double sum = 0;
    for (int32_t i = 0; i < TT_PROBE_SEGMENTS; i++) {
        sum += v[i];
    }
    return sum / TT_PROBE_SEGMENTS;
}

void tt_probe_compare(const double before[TT_PROBE_SEGMENTS], const double after[TT_PROBE_SEGMENTS],
                      double *ret_mean, double *ret_se)
{
    double d[TT_PROBE_SEGMENTS], var = 0;
    for (int32_t i = 0; i < TT_PROBE_SEGMENTS; i++) {
        d[i] = after[i] - before[i];
    }
    double mean = tt_probe_mean(d);
    for (int32_t i = 0; i < TT_PROBE_SEGMENTS; i++) {
        var += (d[i] - mean) * (d[i] - mean);
    }
    *ret_mean = mean;
    *ret_se = sqrt(var / (TT_PROBE_SEGMENTS - 1) / TT_PROBE_SEGMENTS);
}

tt_code tt_reread_init(tt_reread *r, tt_kv_pool *kv, const int32_t *context_pages,
                       int32_t n_context, int32_t n_passages, tt_err *reterr)
{
    int32_t n_shared = n_context / TT_PAGE_TOKENS, tail = n_context % TT_PAGE_TOKENS;
    int32_t n_rows = TT_PASSAGE_TOKENS - 1;
    int32_t each = n_shared + (tail + n_rows + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS;
    *r = (tt_reread){.kv = kv, .n_context = n_context, .n_shared = n_shared, .pages_each = each};
    r->pages = malloc((size_t)n_passages * (size_t)each * sizeof *r->pages);
    r->targets = malloc((size_t)n_passages * (size_t)n_rows * sizeof *r->targets);
    if (r->pages == NULL || r->targets == NULL) {
        tt_reread_finish(r);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for %d passages", n_passages);
    }
    for (int32_t i = 0; i < n_passages; i++, r->n_passages++) {
        int32_t *pages = r->pages + (size_t)i * (size_t)each;
        memcpy(pages, context_pages, (size_t)n_shared * sizeof *pages);
        for (int32_t j = n_shared; j < each; j++) {
            if ((pages[j] = tt_kv_take(kv)) < 0) {
                while (--j >= n_shared) {
                    tt_kv_unref(kv, pages[j]);
                }
                tt_reread_finish(r);
                return tt_fail(reterr, TT_E_CAPACITY,
                               "the K/V pool has no page for re-reading passages");
            }
        }
        if (tail > 0) {
            tt_kv_copy_page(kv, pages[n_shared], context_pages[n_shared]);
        }
    }
    return TT_OK;
}

void tt_reread_finish(tt_reread *r)
{
    for (int32_t i = 0; i < r->n_passages; i++) {
        for (int32_t j = r->n_shared; j < r->pages_each; j++) {
            tt_kv_unref(r->kv, r->pages[(size_t)i * (size_t)r->pages_each + (size_t)j]);
        }
    }
    free(r->pages);
    free(r->targets);
    *r = (tt_reread){0};
}

int32_t tt_reread_segment(tt_reread *r, int32_t i, const int32_t *ids, int32_t start,
                          const tt_probe *mask, const tt_adapter *adapter, tt_segment *ret_seg)
{
    assert(i < r->n_passages);
    int32_t n_rows = TT_PASSAGE_TOKENS - 1, n = 0;
    int32_t *targets = r->targets + (size_t)i * (size_t)n_rows;
    for (int32_t j = 0; j < n_rows; j++) {
        bool scored =
            j + 1 >= TT_PASSAGE_CUE && !(mask != NULL && tt_probe_masks(mask, start + j + 1));
        targets[j] = scored ? ids[start + j + 1] : -1;
        n += scored;
    }
    *ret_seg = (tt_segment){.ids = ids + start,
                            .n_rows = n_rows,
                            .pos0 = r->n_context,
                            .pages = r->pages + (size_t)i * (size_t)r->pages_each,
                            .store = true,
                            .adapter = adapter,
                            .want = TT_WANT_LOSS,
                            .targets = targets};
    return n;
}
