/* sanitizer_hooks.h - what the runtime tells the sanitizers: which stack runs, which memory may be
 * touched, what orders memory. Each hook is nothing in a build without its sanitizer. The runtime
 * itself is compiled without ThreadSanitizer (it is the synchronisation) and is told of it by
 * CUEMU_TSAN. Source: compiler-rt's headers sanitizer/ and tsan_interface.h. Thread: any. */
#ifndef CUEMU_SANITIZER_HOOKS_H
#define CUEMU_SANITIZER_HOOKS_H

#include <cstddef>

#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#define CUEMU_MSAN 1
#endif
#if __has_feature(address_sanitizer)
#define CUEMU_ASAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define CUEMU_ASAN 1
#endif

#ifdef CUEMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CUEMU_MSAN
#include <sanitizer/msan_interface.h>
#endif

#ifdef CUEMU_TSAN
extern "C" {
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *address);
void __tsan_release(void *address);
}
#endif

namespace cuemu
{

#ifdef CUEMU_TSAN
static const bool FRESH_STACKS = true; /* shadow of reused stacks and arenas is full of old races */
#else
static const bool FRESH_STACKS = false;
#endif

/* Tests that look at what nobody has written are for the other builds. */
#ifdef CUEMU_MSAN
static const bool UNDEFINED_IS_REPORTED = true;
#else
static const bool UNDEFINED_IS_REPORTED = false;
#endif

/* Red zones. */
static inline void poison(const void *p, size_t n)
{
#ifdef CUEMU_ASAN
    __asan_poison_memory_region(p, n);
#endif
    (void)p, (void)n;
}

static inline void unpoison(const void *p, size_t n)
{
#ifdef CUEMU_ASAN
    __asan_unpoison_memory_region(p, n);
#endif
    (void)p, (void)n;
}

/* Contents that nobody has written. */
static inline void mark_undefined(const void *p, size_t n)
{
#ifdef CUEMU_MSAN
    __msan_poison(p, n);
#endif
    (void)p, (void)n;
}

static inline void mark_defined(const void *p, size_t n)
{
#ifdef CUEMU_MSAN
    __msan_unpoison(p, n);
#endif
    (void)p, (void)n;
}

/* What came before hb_release(p) is visible after hb_acquire(p). */
static inline void hb_release(void *p)
{
#ifdef CUEMU_TSAN
    __tsan_release(p);
#endif
    (void)p;
}

static inline void hb_acquire(void *p)
{
#ifdef CUEMU_TSAN
    __tsan_acquire(p);
#endif
    (void)p;
}

/* A ThreadSanitizer fiber: created, it knows what its creator has done so far. */
static inline void *race_fiber_create()
{
#ifdef CUEMU_TSAN
    return __tsan_create_fiber(0);
#else
    return nullptr;
#endif
}

static inline void race_fiber_destroy(void *fiber)
{
#ifdef CUEMU_TSAN
    __tsan_destroy_fiber(fiber);
#endif
    (void)fiber;
}

static inline void *race_fiber_current()
{
#ifdef CUEMU_TSAN
    return __tsan_get_current_fiber();
#else
    return nullptr;
#endif
}

/* Flag 1: the switch orders nothing, so that races are found whatever the order of running. */
static inline void race_fiber_switch(void *fiber)
{
#ifdef CUEMU_TSAN
    __tsan_switch_to_fiber(fiber, 1);
#endif
    (void)fiber;
}

/* Around a switch of stacks: *fake belongs to the stack that is left; [bottom, bottom + n) is the
 * other. */
static inline void stack_switch_begin(void **fake, const void *bottom, size_t n)
{
#if defined CUEMU_ASAN
    __sanitizer_start_switch_fiber(fake, bottom, n);
#elif defined CUEMU_MSAN
    __msan_start_switch_fiber(bottom, n);
#endif
    (void)fake, (void)bottom, (void)n;
}

static inline void stack_switch_end(void *fake)
{
#if defined CUEMU_ASAN
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#elif defined CUEMU_MSAN
    __msan_finish_switch_fiber(nullptr, nullptr);
#endif
    (void)fake;
}

} // namespace cuemu

#endif
