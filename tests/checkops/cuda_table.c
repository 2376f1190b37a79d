/* cuda_table.c - the table of a CUDA module beside the reference; see driver.h. Thread: one. */
#include <dlfcn.h>
#include <string.h>

#include "kernels/cuda_module.h"
#include "tests/checkops/driver.h"

/* What the emulated module offers to tests; NULL for one that drives a GPU. */
static const cuemu_hooks *hooks_of(const char *path)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    void *symbol = handle != NULL ? dlsym(handle, "cuemu_module_hooks") : NULL;
    cuemu_hooks_fn get;
    memcpy(&get, &symbol, sizeof get);
    return get != NULL ? get() : NULL;
}

bool co_make_device(co_run *run, const char *module_path, int *ret_status)
{
    const tt_cuda_module *m;
    tt_err err;
    if (tt_cuda_module_load(module_path, &m, &err) != TT_OK) {
        fprintf(stderr, "checkops: %s\n", err.msg);
        *ret_status = 1;
        return false;
    }
    if (m->count(&err) == 0) {
        printf("skip: %s\n", err.msg);
        *ret_status = 77;
        return false;
    }
    run->tables[0] = (co_table){.name = "ref"};
    run->tables[1] = (co_table){.name = "cuda", .run = true, .device = true};
    run->n_tables = 2;
    tt_ops_get(&run->tables[0].ops, 0);
    if (m->ops(0, &run->tables[1].ops, &err) != TT_OK) {
        fprintf(stderr, "checkops: %s\n", err.msg);
        *ret_status = 1;
        return false;
    }
    co_starve_device(&run->tables[1].ops, hooks_of(module_path));
    return true;
}

bool co_device_takes(const co_op *op, const co_shape *s)
{
    static const int32_t heads[] = {16, 32, 64, 80, 96, 128, 256};
    if (s->flags & CO_SLOW) {
        return false;
    }
    if (!op->kv_type) {
        return true;
    }
    bool type = s->type == TT_BF16 || s->type == TT_I8;
    for (size_t i = 0; type && i < sizeof heads / sizeof *heads; i++) {
        if (s->dim == heads[i]) {
            return true;
        }
    }
    return false;
}
