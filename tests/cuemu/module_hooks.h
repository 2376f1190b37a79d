/* module_hooks.h - what tests of the emulated module may do to the runtime inside it, got by
 * dlsym(handle, "cuemu_module_hooks"). Thread: as the runtime. */
#ifndef CUEMU_MODULE_HOOKS_H
#define CUEMU_MODULE_HOOKS_H

typedef struct cuemu_hooks {
    /* The n-th call from now (0 = the next) fails: for lack of memory, or as a broken device does.
     * n < 0: none does. */
    void (*fail_after)(long n, int no_memory);
    /* Since the module was loaded; live: what was made and not destroyed. */
    long (*calls)(void);
    long (*live)(void);
    long (*launches)(void);
    long (*waits)(void); /* calls in which the host waits for the device, or may */
} cuemu_hooks;

typedef const cuemu_hooks *(*cuemu_hooks_fn)(void);

#endif
