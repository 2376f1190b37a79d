/* opcode.h - the table of opcodes: for each name the modifiers it takes, how its operands are read,
 * and which function runs it for which types. The rows are in the files opcode_*.cc, one a kind of
 * instruction. Thread: constants. */
#ifndef CUPTX_OPCODE_H
#define CUPTX_OPCODE_H

#include "ptx.h"

namespace cuptx
{

enum shape {
    RESULT,  /* the first operand is written, the others are read */
    SOURCES, /* all operands are read */
    NOTHING, /* no operands */
    JUMP,    /* a label */
    JUMP_BY  /* an index and the label of a table */
};

struct opcode {
    const char *name;   /* the leading parts: "mul.wide" */
    uint64_t modifiers; /* that may follow */
    shape operands;
    unsigned mode; /* passed on in the instruction */
    /* The function for an instruction whose types and operands are known; nullptr: there is none.
     */
    action (*choose)(const instruction &i);
};

struct opcode_rows {
    const opcode *rows;
    size_t n;
};

opcode_rows integer_opcodes(); /* opcode_integer.cc */
opcode_rows float_opcodes();   /* opcode_float.cc */
opcode_rows convert_opcodes(); /* opcode_convert.cc */
opcode_rows select_opcodes();  /* opcode_select.cc */
opcode_rows memory_opcodes();  /* opcode_memory.cc */
opcode_rows warp_opcodes();    /* opcode_warp.cc */

/* Fills in run, flags, mode and types of *i from "mul.wide.s32" and reports the operands' shape in
 * two steps, since what runs may depend on how many operands there are. An error is a sentence. */
const opcode *opcode_find(const std::string &text, instruction *i, std::string *ret_error);

/* ---- for the rows: a template of actions, instantiated for a set of types ---- */

template <template <class> class OP> static action integers(const instruction &i)
{
    switch (i.type) {
    case U16:
        return OP<uint16_t>::run;
    case S16:
        return OP<int16_t>::run;
    case U32:
        return OP<uint32_t>::run;
    case S32:
        return OP<int32_t>::run;
    case U64:
        return OP<uint64_t>::run;
    case S64:
        return OP<int64_t>::run;
    default:
        return nullptr;
    }
}

/* Where there is no sign. */
template <template <class> class OP> static action words(const instruction &i)
{
    switch (i.type) {
    case B16:
        return OP<uint16_t>::run;
    case B32:
        return OP<uint32_t>::run;
    case B64:
        return OP<uint64_t>::run;
    default:
        return nullptr;
    }
}

} // namespace cuptx

#endif
