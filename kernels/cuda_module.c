/* cuda_module.c - see cuda_module.h. Thread: any. */
#include "kernels/cuda_module.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MODULE_NAME "qttt-cuda.so"
#define PATH_BYTES 4096

/* BUILD/kernels/cuda/qttt-cuda.so of a program BUILD/FOLDER/NAME. False where there is no such
 * file. */
static bool in_build_folder(char path[PATH_BYTES])
{
    static const char beside[] = "/../kernels/cuda/" MODULE_NAME;
    ssize_t n = readlink("/proc/self/exe", path, PATH_BYTES - sizeof beside);
    if (n <= 0) {
        return false;
    }
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    memcpy(slash != NULL ? slash : path, beside, sizeof beside);
    return access(path, F_OK) == 0;
}

/* What a module says of itself; TT_OK when it is this build's. */
static tt_code check(void *handle, const char *path, const tt_cuda_module **ret_module,
                     tt_err *reterr)
{
    tt_cuda_module_fn get;
    void *symbol = dlsym(handle, "tt_cuda_module_get");
    if (symbol == NULL) {
        return tt_fail(reterr, TT_E_UNAVAILABLE, "%s is not a CUDA module of this program", path);
    }
    memcpy(&get, &symbol, sizeof get); /* C has no conversion from void * to a function */
    const tt_cuda_module *m = get();
    if (m->abi != TT_CUDA_ABI || m->ops_size != sizeof(tt_ops)) {
        return tt_fail(reterr, TT_E_UNAVAILABLE,
                       "%s belongs to another build: interface %d with %u bytes, not %d with %zu",
                       path, (int)m->abi, (unsigned)m->ops_size, TT_CUDA_ABI, sizeof(tt_ops));
    }
    *ret_module = m;
    return TT_OK;
}

tt_code tt_cuda_module_load(const char *path, const tt_cuda_module **ret_module, tt_err *reterr)
{
    char own[PATH_BYTES];
    if (path == NULL || path[0] == '\0') {
        path = in_build_folder(own) ? own : TT_CUDA_MODULE_DIR "/" MODULE_NAME;
        if (access(path, F_OK) != 0) {
            return tt_fail(reterr, TT_E_UNAVAILABLE, "there is no CUDA module %s", path);
        }
    }
    /* Only a name with a slash is a path to dlopen(); others are looked for in library folders. */
    char here[PATH_BYTES];
    if (strchr(path, '/') == NULL) {
        if (snprintf(here, sizeof here, "./%s", path) >= (int)sizeof here) {
            return tt_fail(reterr, TT_E_UNAVAILABLE, "the path of the CUDA module is too long");
        }
        path = here;
    }
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        return tt_fail(reterr, TT_E_UNAVAILABLE, "the CUDA module cannot be loaded: %s", dlerror());
    }
    tt_code rc = check(handle, path, ret_module, reterr);
    if (rc != TT_OK) {
        dlclose(handle);
    }
    return rc; /* what is loaded stays: its kernels are known to the driver */
}
