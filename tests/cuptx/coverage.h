/* coverage.h - which instructions of which kernels were executed. Thread: at exit. */
#ifndef CUPTX_COVERAGE_H
#define CUPTX_COVERAGE_H

#include "ptx.h"

namespace cuptx
{

/* Appends to the file, for every instruction: "ran" or "missed", kernel, line, text. */
void coverage_write(const module *m, const char *path);

} // namespace cuptx

#endif
