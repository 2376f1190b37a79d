/* starve.c - makes the CPU lane's allocations fail; see driver.h. The one place that looks into a
 * lane. */
#include "kernels/lane.h"
#include "tests/checkops/driver.h"

bool co_starve(co_test *t, int allowed)
{
    tt_err err = {0};
    co_test_upload(t);
    t->lane->n_allocs_left = allowed;
    t->op->call(t);
    bool exhausted = t->lane->n_allocs_left == 0;
    t->lane->n_allocs_left = -1;
    tt_code rc = t->ops->lane_sync(t->lane, &err);
    if (rc < 0 && rc != TT_E_NOMEM) {
        co_fail(t, "starved of memory: %s", err.msg);
    }
    if (rc < 0 && t->ops->lane_sync(t->lane, &err) < 0) {
        co_fail(t, "out of memory was not forgotten by lane_sync");
    }
    /* An op may do without (a prepared weight is optional) or need exactly as many: then the count
     * alone tells nothing. */
    return rc < 0 || exhausted;
}
