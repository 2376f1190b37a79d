/* no_threads.c - linked into the tests that are said to have one thread (unit_one_thread in
 * meson.build) in place of pthread_create(): ThreadSanitizer's run leaves them out, and here the
 * claim is checked, in every build. Thread: the only one. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *arg);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *arg)
{
    fputs("this test begins a thread: take it out of unit_one_thread\n", stderr);
    abort();
}
