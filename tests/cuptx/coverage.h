/* coverage.h - which instructions of which kernels were executed. Thread: at exit. */
#ifndef CUPTX_COVERAGE_H
#define CUPTX_COVERAGE_H

#include "ptx.h"

namespace cuptx
{

/* Appends to the file: "kernel NAME EXECUTED ALL", "missed NAME LINE TEXT" and, for inline PTX,
 * "asm NAME EXECUTED TEXT". */
void coverage_write(const module *m, const char *path);

} // namespace cuptx

#endif
