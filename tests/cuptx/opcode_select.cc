/* opcode_select.cc - comparison, selection, moves and jumps. Source: PTX ISA 9.0, "Comparison and
 * Selection", "Control Flow" instructions, "mov". Thread: a fiber's. */
#include "opcode.h"

namespace cuptx
{

/* The last six: true also where one operand is NaN. */
enum comparison { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM, NOT_NUM };

template <class T> static bool ordered(unsigned mode, T a, T b)
{
    switch (mode) {
    case EQ:
        return a == b;
    case NE:
        return a != b;
    case LT:
        return a < b;
    case LE:
        return a <= b;
    case GT:
        return a > b;
    default:
        return a >= b;
    }
}

template <class T> static bool float_compared(unsigned mode, T a, T b)
{
    bool unordered = a != a || b != b;
    if (mode == NUM || mode == NOT_NUM) {
        return unordered == (mode == NOT_NUM);
    }
    return mode >= EQU ? unordered || ordered(mode - EQU, a, b) : !unordered && ordered(mode, a, b);
}

template <class T> static bool compared(unsigned mode, T a, T b)
{
    if constexpr (std::is_floating_point<T>::value) {
        return float_compared(mode, a, b);
    }
    return ordered(mode, a, b);
}

/* setp.cmp.bool p|q, a, b, c: p = cmp bool c, q = !cmp bool c. */
static bool combined(const instruction &i, bool value, bool c)
{
    if ((i.flags & M_AND) != 0) {
        return value && c;
    }
    return (i.flags & M_OR) != 0 ? value || c : value != c;
}

template <class T> struct setp_op {
    static void run(thread_state &t, const instruction &i)
    {
        bool p = compared(i.mode, get<T>(t, i.src[0]), get<T>(t, i.src[1])), q = !p;
        if (i.n_src == 3) {
            bool c = predicate_of(t, i, 2);
            p = combined(i, p, c);
            q = combined(i, q, c);
        }
        t.r[i.dst[0]] = p;
        if (i.second >= 0) {
            t.r[i.second] = q;
        }
    }
};

static action setp_choice(const instruction &i)
{
    bool combines = (i.flags & (M_AND | M_OR | M_XOR)) != 0;
    if (i.n_src != (combines ? 3 : 2)) {
        return nullptr;
    }
    if (i.type == F32) {
        return setp_op<float>::run;
    }
    if (i.type == F64) {
        return setp_op<double>::run;
    }
    if (i.type == B16 || i.type == B32 || i.type == B64) {
        return i.mode <= NE ? words<setp_op>(i) : nullptr;
    }
    return i.mode <= GE ? integers<setp_op>(i) : nullptr;
}

/* lo, ls, hi, hs: of unsigned numbers alone. */
static action setp_unsigned(const instruction &i)
{
    return i.type == U16 || i.type == U32 || i.type == U64 ? setp_choice(i) : nullptr;
}

static void select(thread_state &t, const instruction &i)
{
    t.r[i.dst[0]] = t.r[predicate_of(t, i, 2) ? i.src[0] : i.src[1]];
}

static void move(thread_state &t, const instruction &i)
{
    t.r[i.dst[0]] = t.r[i.src[0]];
}

static void move_predicate(thread_state &t, const instruction &i)
{
    t.r[i.dst[0]] = predicate_of(t, i, 0);
}

static unsigned bits_in(scalar t)
{
    return t == B16 ? 16 : t == B32 ? 32 : t == B64 ? 64 : 0;
}

/* mov.b32 d, {a, b}: the first is the lowest. */
static void pack(thread_state &t, const instruction &i)
{
    unsigned width = bits_in(i.type) / (unsigned)i.n_src;
    uint64_t value = 0;
    for (int k = 0; k < i.n_src; k++) {
        value |= (t.r[i.src[k]] & (((uint64_t)1 << width) - 1)) << ((unsigned)k * width);
    }
    t.r[i.dst[0]] = value;
}

static void unpack(thread_state &t, const instruction &i)
{
    unsigned width = bits_in(i.type) / (unsigned)i.n_dst;
    uint64_t value = t.r[i.src[0]];
    for (int k = 0; k < i.n_dst; k++) {
        t.r[i.dst[k]] = value >> ((unsigned)k * width) & (((uint64_t)1 << width) - 1);
    }
}

static action move_choice(const instruction &i)
{
    if (i.type == PRED) {
        return move_predicate;
    }
    if (i.n_src == 1 && i.n_dst == 1) {
        return i.type != NO_TYPE ? move : nullptr;
    }
    if (bits_in(i.type) == 0 || (i.n_src > 1 && i.n_dst > 1)) {
        return nullptr;
    }
    return i.n_src > 1 ? pack : unpack;
}

static void branch(thread_state &t, const instruction &i)
{
    t.pc = i.target;
}

static void branch_by_index(thread_state &t, const instruction &i)
{
    const std::vector<int> &table = t.k->tables[(size_t)i.target];
    uint32_t n = get<uint32_t>(t, i.src[0]);
    if (n >= table.size()) {
        cuemu::fail(where(t, i), "brx.idx: %u of a table of %zu", n, table.size());
    }
    t.pc = table[n];
}

static void finish(thread_state &t, const instruction &)
{
    t.pc = -1;
}

static void trap(thread_state &t, const instruction &i)
{
    cuemu::fail(where(t, i), "trap");
}

template <action RUN> static action always(const instruction &)
{
    return RUN;
}

static const uint64_t COMBINE = M_AND | M_OR | M_XOR;

static const opcode rows[] = {
    {"setp.eq", COMBINE, RESULT, EQ, setp_choice},
    {"setp.ne", COMBINE, RESULT, NE, setp_choice},
    {"setp.lt", COMBINE, RESULT, LT, setp_choice},
    {"setp.le", COMBINE, RESULT, LE, setp_choice},
    {"setp.gt", COMBINE, RESULT, GT, setp_choice},
    {"setp.ge", COMBINE, RESULT, GE, setp_choice},
    {"setp.lo", COMBINE, RESULT, LT, setp_unsigned},
    {"setp.ls", COMBINE, RESULT, LE, setp_unsigned},
    {"setp.hi", COMBINE, RESULT, GT, setp_unsigned},
    {"setp.hs", COMBINE, RESULT, GE, setp_unsigned},
    {"setp.equ", COMBINE, RESULT, EQU, setp_choice},
    {"setp.neu", COMBINE, RESULT, NEU, setp_choice},
    {"setp.ltu", COMBINE, RESULT, LTU, setp_choice},
    {"setp.leu", COMBINE, RESULT, LEU, setp_choice},
    {"setp.gtu", COMBINE, RESULT, GTU, setp_choice},
    {"setp.geu", COMBINE, RESULT, GEU, setp_choice},
    {"setp.num", COMBINE, RESULT, NUM, setp_choice},
    {"setp.nan", COMBINE, RESULT, NOT_NUM, setp_choice},
    {"selp", 0, RESULT, 0, always<select>},
    {"mov", 0, RESULT, 0, move_choice},
    {"bra", M_UNI, JUMP, 0, always<branch>},
    {"brx.idx", M_UNI, JUMP_BY, 0, always<branch_by_index>},
    {"ret", M_UNI, NOTHING, 0, always<finish>},
    {"exit", 0, NOTHING, 0, always<finish>},
    {"trap", 0, NOTHING, 0, always<trap>},
};

opcode_rows select_opcodes()
{
    return {rows, sizeof rows / sizeof *rows};
}

} // namespace cuptx
