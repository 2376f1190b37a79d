/* serial_omp.c - the one function of OpenMP that kernels/ref calls, for a build without the library
 * (MemorySanitizer). Thread: one. */
#include <omp.h>

int omp_get_thread_num(void)
{
    return 0;
}
