/* fail_alloc.h - makes one allocation of the program's own objects fail. A test that uses it is
 * linked with fail_alloc_args (meson.build), which puts these functions before malloc, calloc,
 * realloc and aligned_alloc; shared libraries keep the real ones. Thread: one.
 *
 *     for (int n = 0; fail_alloc_at(n), rc = f(...), fail_alloc_off(); n++) {
 *         assert_int_equal(rc, TT_E_NOMEM);   (the n-th allocation was refused)
 *     }
 *     assert_int_equal(rc, TT_OK);            (f makes no more than n allocations) */
#ifndef TT_TEST_FAIL_ALLOC_H
#define TT_TEST_FAIL_ALLOC_H

#include <stdbool.h>

/* The n-th allocation from now on (0: the next) fails, the others succeed. */
void fail_alloc_at(int n);
/* All succeed again; true: one was refused. */
bool fail_alloc_off(void);

#endif
