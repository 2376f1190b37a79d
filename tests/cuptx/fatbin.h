/* fatbin.h - the PTX text in a program that nvcc made. Thread: any. */
#ifndef CUPTX_FATBIN_H
#define CUPTX_FATBIN_H

#include <string>

namespace cuptx
{

/* wrapper: what nvcc's code hands to __cudaRegisterFatBinary(). "" and a sentence in *ret_error
 * when there is no PTX in it, or none that is not compressed. */
std::string fatbin_ptx(const void *wrapper, std::string *ret_error);

} // namespace cuptx

#endif
