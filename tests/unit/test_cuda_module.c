/* test_cuda_module.c - what is taken for a module of this build and what is not.
 * test_cuda_module GOOD WRONG_ABI WRONG_SIZE NO_MODULE: paths of shared libraries. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/cuda_module.h"

static char **paths;

static void refused(const char *path, const char *reason)
{
    tt_err err = {0};
    const tt_cuda_module *m = NULL;
    assert_int_equal(tt_cuda_module_load(path, &m, &err), TT_E_UNAVAILABLE);
    assert_int_equal(err.code, TT_E_UNAVAILABLE);
    if (strstr(err.msg, reason) == NULL) {
        fail_msg("%s: '%s' does not say '%s'", path, err.msg, reason);
    }
    assert_null(m); /* touched on success only */
}

static void one_that_fits(void **state)
{
    (void)state;
    tt_err err = {0};
    const tt_cuda_module *m = NULL, *again = NULL;
    assert_int_equal(tt_cuda_module_load(paths[1], &m, &err), TT_OK);
    assert_int_equal(m->abi, TT_CUDA_ABI);
    assert_int_equal(m->count(&err), 0);
    assert_string_equal(err.msg, "a stub has no devices");
    assert_int_equal(tt_cuda_module_load(paths[1], &again, &err), TT_OK);
    assert_ptr_equal(m, again); /* it has stayed */
}

static void no_file(void **state)
{
    (void)state;
    refused("/nowhere/qttt-cuda.so", "No such file");
    refused("no_such_name.so", "./no_such_name.so"); /* this folder's, not a library folder's */
}

static void no_library(void **state)
{
    (void)state;
    refused("/proc/self/cmdline", "/proc/self/cmdline");
    refused("/", "cannot be loaded");
}

static void of_another_build(void **state)
{
    (void)state;
    refused(paths[2], "another build: interface 1001");
    refused(paths[3], "with 7 bytes");
}

static void no_module(void **state)
{
    (void)state;
    refused(paths[4], "is not a CUDA module");
}

/* This program lies in a folder without a module beside it; what is installed is the machine's
 * affair. */
static void the_installed_one(void **state)
{
    (void)state;
    tt_err err = {0};
    const tt_cuda_module *m = NULL;
    const char *const none[] = {NULL, ""};
    for (int i = 0; i < 2; i++) {
        if (access(TT_CUDA_MODULE_DIR "/qttt-cuda.so", F_OK) != 0) {
            refused(none[i], "there is no CUDA module " TT_CUDA_MODULE_DIR "/qttt-cuda.so");
        } else if (tt_cuda_module_load(none[i], &m, &err) != TT_OK) {
            assert_int_equal(err.code, TT_E_UNAVAILABLE);
        }
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_fits), cmocka_unit_test(no_file),
        cmocka_unit_test(no_library),    cmocka_unit_test(of_another_build),
        cmocka_unit_test(no_module),     cmocka_unit_test(the_installed_one),
    };
    if (argc != 5) {
        return 2;
    }
    paths = argv;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
