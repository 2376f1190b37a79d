/* starve.c - makes allocations of a lane fail; see driver.h. The one place that looks into a lane
 * of the CPU; in an emulated device calls of the CUDA runtime fail. */
#include <stddef.h>

#include "kernels/lane.h"
#include "tests/checkops/driver.h"

static const cuemu_hooks *emulated;
static const tt_ops *on_device;

void co_starve_device(const tt_ops *ops, const cuemu_hooks *hooks)
{
    on_device = ops;
    emulated = hooks;
}

bool co_can_starve(const co_test *t)
{
    return t->ops != on_device || emulated != NULL;
}

/* Returns whether the limit was reached. */
static bool call_on_device(co_test *t, int allowed)
{
    long before = emulated->calls();
    emulated->fail_after(allowed, 1);
    t->op->call(t);
    emulated->fail_after(-1, 1);
    return emulated->calls() - before > allowed;
}

static bool call_on_cpu(co_test *t, int allowed)
{
    t->lane->n_allocs_left = allowed;
    t->op->call(t);
    bool exhausted = t->lane->n_allocs_left == 0;
    t->lane->n_allocs_left = -1;
    return exhausted;
}

bool co_starve(co_test *t, int allowed)
{
    tt_err err = {0};
    bool device = t->ops == on_device;
    co_test_upload(t);
    bool exhausted = device ? call_on_device(t, allowed) : call_on_cpu(t, allowed);
    tt_code rc = t->ops->lane_sync(t->lane, &err);
    if (rc < 0 && rc != TT_E_NOMEM) {
        co_fail(t, "starved of memory: %s", err.msg);
    }
    if (device && exhausted && rc != TT_E_NOMEM) {
        co_fail(t, "a failed call was not noticed");
    }
    if (rc < 0 && t->ops->lane_sync(t->lane, &err) < 0) {
        co_fail(t, "out of memory was not forgotten by lane_sync");
    }
    /* An op of the CPU may do without (a prepared weight is optional) or need exactly as many: then
     * the count alone tells nothing. */
    return rc < 0 || exhausted;
}
