/* device_choice.c - see device_choice.h. A machine without a driver pays nothing for "auto": the
 * module, and cuBLAS with it, is loaded only where there are signs of a GPU or a module was named.
 */
#include "core/device_choice.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ANY = -1, MAX_ORDINAL = 255 };

typedef enum kind { KIND_CPU, KIND_CUDA, KIND_AUTO, KIND_BAD } kind;

/* "cuda:3" */
static kind parse(const char *text, int32_t *ret_ordinal)
{
    *ret_ordinal = ANY;
    if (strcmp(text, "cpu") == 0 || strcmp(text, "auto") == 0) {
        return text[0] == 'c' ? KIND_CPU : KIND_AUTO;
    }
    if (strncmp(text, "cuda", 4) != 0 || (text[4] != '\0' && text[4] != ':')) {
        return KIND_BAD;
    }
    if (text[4] == '\0') {
        return KIND_CUDA;
    }
    size_t n = strspn(text + 5, "0123456789");
    if (n == 0 || n > 3 || text[5 + n] != '\0' || atoi(text + 5) > MAX_ORDINAL) {
        return KIND_BAD;
    }
    *ret_ordinal = atoi(text + 5);
    return KIND_CUDA;
}

bool tt_device_driver_seen(void)
{
    if (access("/dev/nvidiactl", F_OK) == 0) {
        return true;
    }
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL); /* systems without that file */
    if (driver != NULL) {
        dlclose(driver);
    }
    return driver != NULL;
}

/* The first device that answers, or the one that is wanted. TT_E_UNAVAILABLE. */
static tt_code ask(const tt_cuda_module *module, int32_t wanted, tt_device_found *f, tt_err *reterr)
{
    tt_err err = {.msg = "no device answers"};
    int32_t n = module->count(&err);
    if (n <= 0) {
        return tt_fail(reterr, TT_E_UNAVAILABLE, "%s", err.msg);
    }
    if (wanted >= n) {
        return tt_fail(reterr, TT_E_UNAVAILABLE, "there %s %d GPU%s, numbered from 0",
                       n == 1 ? "is" : "are", (int)n, n == 1 ? "" : "s");
    }
    for (int32_t i = wanted == ANY ? 0 : wanted; i < (wanted == ANY ? n : wanted + 1); i++) {
        if (module->info(i, &f->info, &err) == TT_OK) {
            f->choice = (tt_device_choice){.cuda = module, .ordinal = i};
            snprintf(f->name, sizeof f->name, "cuda:%d", (int)i);
            return TT_OK;
        }
    }
    return tt_fail(reterr, TT_E_UNAVAILABLE, "%s", err.msg);
}

static tt_code find_cuda(const tt_device_wish *w, int32_t wanted, tt_device_found *f,
                         tt_err *reterr)
{
    const tt_cuda_module *module;
    tt_err err = {0};
    tt_code rc = tt_cuda_module_load(w->module, &module, &err);
    rc = rc == TT_OK ? ask(module, wanted, f, &err) : rc;
    if (rc != TT_OK) {
        return tt_fail(reterr, TT_E_UNAVAILABLE, "%s", err.msg);
    }
    const tt_cuda_info *i = &f->info;
    snprintf(f->why, sizeof f->why,
             "device %s: %s (sm_%d, %d multiprocessors), %.1f of %.1f GiB free, driver %d.%d, "
             "runtime %d.%d",
             f->name, i->name, (int)i->sm, (int)i->n_multiprocessors,
             (double)i->free_bytes / 0x1p30, (double)i->total_bytes / 0x1p30,
             (int)(i->driver / 1000), (int)(i->driver % 1000 / 10), (int)(i->runtime / 1000),
             (int)(i->runtime % 1000 / 10));
    return TT_OK;
}

/* What only the CPU has, or NULL. */
static const char *cpu_only(const tt_device_wish *w)
{
    return strcmp(w->isa, "auto") != 0 ? "model.isa names kernels of the CPU"
           : w->kv_type == TT_F32      ? "model.kv_type is f32, which CUDA has no kernels for"
                                       : NULL;
}

/* The GPU if it can be had, else *ret_reason says why not. */
static bool find_automatic(const tt_device_wish *w, tt_device_found *f, tt_err *ret_reason)
{
    const char *only = cpu_only(w);
    if (only != NULL) {
        tt_fail(ret_reason, TT_E_UNAVAILABLE, "%s", only);
        return false;
    }
    if (w->module[0] == '\0' && !tt_device_driver_seen()) {
        tt_fail(ret_reason, TT_E_UNAVAILABLE,
                "no sign of an NVIDIA driver (neither /dev/nvidiactl nor libcuda.so.1)");
        return false;
    }
    f->wanted = find_cuda(w, ANY, f, ret_reason) != TT_OK;
    return !f->wanted;
}

tt_code tt_device_find(const tt_device_wish *w, tt_device_found *ret, tt_err *reterr)
{
    tt_device_found f = {.name = "cpu"};
    tt_err reason = {0};
    int32_t ordinal;
    kind k = parse(w->device, &ordinal);
    int mask = tt_isa_parse(w->isa);
    if (mask < 0) {
        return tt_fail(reterr, TT_E_INVALID,
                       "model.isa is '%.40s'; expected auto, ref, avx2, avx512 or avx512bf16",
                       w->isa);
    }
    if (k == KIND_BAD) {
        return tt_fail(reterr, TT_E_INVALID,
                       "model.device is '%.40s'; expected auto, cpu, cuda or cuda:N", w->device);
    }
    if (k == KIND_CUDA && cpu_only(w) != NULL) {
        return tt_fail(reterr, TT_E_INVALID, "model.device is %s, but %s", w->device, cpu_only(w));
    }
    if (k == KIND_CUDA) {
        tt_code rc = find_cuda(w, ordinal, &f, &reason);
        if (rc != TT_OK) {
            return tt_fail(reterr, rc, "model.device is %s, but %s", w->device, reason.msg);
        }
    } else if (k == KIND_CPU || !find_automatic(w, &f, &reason)) {
        f.choice = (tt_device_choice){.isa_mask = (unsigned)mask};
        snprintf(f.why, sizeof f.why, "device cpu: %s",
                 k == KIND_CPU ? "model.device says so" : reason.msg);
    }
    f.automatic = k == KIND_AUTO;
    *ret = f;
    return TT_OK;
}
