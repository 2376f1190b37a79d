/* opcode_float.h - FP32 and FP64 as the rows of opcode_integer.cc need it: the actions for add,
 * sub, ... where the type is f32 or f64, by rounding. Thread: constants. */
#ifndef CUPTX_OPCODE_FLOAT_H
#define CUPTX_OPCODE_FLOAT_H

#include "opcode.h"

namespace cuptx
{

static inline bool is_float(const instruction &i)
{
    return i.type == F32 || i.type == F64;
}

action float_add(const instruction &i);
action float_sub(const instruction &i);
action float_mul(const instruction &i);
action float_div(const instruction &i);
action float_min(const instruction &i);
action float_max(const instruction &i);
action float_neg(const instruction &i);
action float_abs(const instruction &i);

} // namespace cuptx

#endif
