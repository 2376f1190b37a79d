/* opcode_integer.cc - integer arithmetic, logic, shifts and bit fields. add, sub, neg, abs, min and
 * max also have their float types here (opcode_float.cc chooses). Source: PTX ISA 9.0, sections
 * "Integer Arithmetic", "Logic and Shift" instructions. Thread: a fiber's. */
#include "opcode.h"

#include "opcode_float.h"

namespace cuptx
{

template <class T> using bits_of = std::make_unsigned_t<T>;

/* Wrapping; 16-bit operands are promoted to int, where a product could overflow. */
template <class T> static T multiply(T a, T b)
{
    return (T)((uint64_t)a * (uint64_t)b);
}

template <class T> static T sum(T a, T b)
{
    return (T)((uint64_t)a + (uint64_t)b);
}

template <class T> struct add_op {
    static void run(thread_state &t, const instruction &i)
    {
        put<T>(t, i.dst[0], sum(get<T>(t, i.src[0]), get<T>(t, i.src[1])));
    }
};

template <class T> struct sub_op {
    static void run(thread_state &t, const instruction &i)
    {
        put<T>(t, i.dst[0], (T)((uint64_t)get<T>(t, i.src[0]) - (uint64_t)get<T>(t, i.src[1])));
    }
};

template <class T> struct mul_lo_op {
    static void run(thread_state &t, const instruction &i)
    {
        put<T>(t, i.dst[0], multiply(get<T>(t, i.src[0]), get<T>(t, i.src[1])));
    }
};

template <class T> struct mad_lo_op {
    static void run(thread_state &t, const instruction &i)
    {
        T product = multiply(get<T>(t, i.src[0]), get<T>(t, i.src[1]));
        put<T>(t, i.dst[0], sum(product, get<T>(t, i.src[2])));
    }
};

template <class T> static T high_half(T a, T b)
{
    using wide = std::conditional_t<std::is_signed<T>::value, __int128, unsigned __int128>;
    return (T)((wide)a * (wide)b >> (sizeof(T) * 8));
}

template <class T> struct mul_hi_op {
    static void run(thread_state &t, const instruction &i)
    {
        put<T>(t, i.dst[0], high_half(get<T>(t, i.src[0]), get<T>(t, i.src[1])));
    }
};

template <class T> struct mad_hi_op {
    static void run(thread_state &t, const instruction &i)
    {
        T high = high_half(get<T>(t, i.src[0]), get<T>(t, i.src[1]));
        put<T>(t, i.dst[0], sum(high, get<T>(t, i.src[2])));
    }
};

template <class T>
using twice = std::conditional_t<sizeof(T) == 2,
                                 std::conditional_t<std::is_signed<T>::value, int32_t, uint32_t>,
                                 std::conditional_t<std::is_signed<T>::value, int64_t, uint64_t>>;

template <class T> struct mul_wide_op {
    static void run(thread_state &t, const instruction &i)
    {
        using W = twice<T>;
        put<W>(t, i.dst[0], multiply((W)get<T>(t, i.src[0]), (W)get<T>(t, i.src[1])));
    }
};

template <class T> struct mad_wide_op {
    static void run(thread_state &t, const instruction &i)
    {
        using W = twice<T>;
        W product = multiply((W)get<T>(t, i.src[0]), (W)get<T>(t, i.src[1]));
        put<W>(t, i.dst[0], sum(product, get<W>(t, i.src[2])));
    }
};

/* Only 16 and 32 bits have a type twice as wide. */
template <template <class> class OP> static action widening(const instruction &i)
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
    default:
        return nullptr;
    }
}

/* The result of a division by zero is unspecified: no program of ours may see it. */
template <class T> static T divisor(thread_state &t, const instruction &i)
{
    T b = get<T>(t, i.src[1]);
    if (b == 0) {
        cuemu::fail(where(t, i), "integer division by zero");
    }
    return b;
}

template <class T> struct div_op {
    static void run(thread_state &t, const instruction &i)
    {
        T a = get<T>(t, i.src[0]), b = divisor<T>(t, i);
        bool minus_one = std::is_signed<T>::value && b == (T)-1;
        put<T>(t, i.dst[0], minus_one ? (T)(0 - (uint64_t)a) : (T)(a / b));
    }
};

template <class T> struct rem_op {
    static void run(thread_state &t, const instruction &i)
    {
        T a = get<T>(t, i.src[0]), b = divisor<T>(t, i);
        bool minus_one = std::is_signed<T>::value && b == (T)-1;
        put<T>(t, i.dst[0], minus_one ? (T)0 : (T)(a % b));
    }
};

template <class T> struct min_op {
    static void run(thread_state &t, const instruction &i)
    {
        T a = get<T>(t, i.src[0]), b = get<T>(t, i.src[1]);
        put<T>(t, i.dst[0], a < b ? a : b);
    }
};

template <class T> struct max_op {
    static void run(thread_state &t, const instruction &i)
    {
        T a = get<T>(t, i.src[0]), b = get<T>(t, i.src[1]);
        put<T>(t, i.dst[0], a > b ? a : b);
    }
};

template <class T> struct neg_op {
    static void run(thread_state &t, const instruction &i)
    {
        put<T>(t, i.dst[0], (T)(0 - (uint64_t)get<T>(t, i.src[0])));
    }
};

template <class T> struct abs_op {
    static void run(thread_state &t, const instruction &i)
    {
        T a = get<T>(t, i.src[0]);
        put<T>(t, i.dst[0], a < 0 ? (T)(0 - (uint64_t)a) : a);
    }
};

template <class T> struct not_op {
    static void run(thread_state &t, const instruction &i)
    {
        put<T>(t, i.dst[0], (T)~get<T>(t, i.src[0]));
    }
};

enum logic { LOGIC_AND, LOGIC_OR, LOGIC_XOR, LOGIC_NOT };

template <class T> struct logic_op {
    static void run(thread_state &t, const instruction &i)
    {
        T a = get<T>(t, i.src[0]), b = get<T>(t, i.src[1]);
        put<T>(t, i.dst[0], (T)(i.mode == LOGIC_AND ? a & b : i.mode == LOGIC_OR ? a | b : a ^ b));
    }
};

static void logic_of_predicates(thread_state &t, const instruction &i)
{
    bool a = predicate_of(t, i, 0), b = i.n_src > 1 && predicate_of(t, i, 1);
    bool all[] = {a && b, a || b, a != b, !a};
    t.r[i.dst[0]] = all[i.mode];
}

/* Amounts beyond the width shift everything out. */
template <class T> struct shl_op {
    static void run(thread_state &t, const instruction &i)
    {
        uint32_t n = get<uint32_t>(t, i.src[1]);
        uint64_t a = get<T>(t, i.src[0]);
        put<T>(t, i.dst[0], n >= sizeof(T) * 8 ? (T)0 : (T)(a << n));
    }
};

template <class T> struct shr_op {
    static void run(thread_state &t, const instruction &i)
    {
        uint32_t n = get<uint32_t>(t, i.src[1]), last = sizeof(T) * 8 - 1;
        T a = get<T>(t, i.src[0]);
        if (n > last && !std::is_signed<T>::value) {
            put<T>(t, i.dst[0], 0);
        } else {
            put<T>(t, i.dst[0], (T)(a >> (n < last ? n : last)));
        }
    }
};

enum funnel { FUNNEL_LEFT = 1, FUNNEL_CLAMP = 2 };

static void funnel_shift(thread_state &t, const instruction &i)
{
    uint64_t both = get<uint32_t>(t, i.src[0]) | (uint64_t)get<uint32_t>(t, i.src[1]) << 32;
    uint32_t n = get<uint32_t>(t, i.src[2]);
    n = (i.mode & FUNNEL_CLAMP) != 0 ? (n < 32 ? n : 32) : n & 31;
    put<uint32_t>(t, i.dst[0],
                  (uint32_t)((i.mode & FUNNEL_LEFT) != 0 ? both << n >> 32 : both >> n));
}

template <class T> struct bfe_op {
    static void run(thread_state &t, const instruction &i)
    {
        using U = bits_of<T>;
        const unsigned width = sizeof(T) * 8;
        U a = get<U>(t, i.src[0]);
        unsigned at = get<uint8_t>(t, i.src[1]), n = get<uint8_t>(t, i.src[2]);
        unsigned top = at + n - 1 < width - 1 ? at + n - 1 : width - 1;
        bool fill = std::is_signed<T>::value && n != 0 && (a >> top & 1u) != 0;
        U value = 0;
        for (unsigned b = 0; b < width; b++) {
            bool bit = b < n && at + b < width ? (a >> (at + b) & 1u) != 0 : fill;
            value |= (U)bit << b;
        }
        put<T>(t, i.dst[0], (T)value);
    }
};

template <class T> struct bfi_op {
    static void run(thread_state &t, const instruction &i)
    {
        const unsigned width = sizeof(T) * 8;
        T a = get<T>(t, i.src[0]), b = get<T>(t, i.src[1]);
        unsigned at = get<uint8_t>(t, i.src[2]), n = get<uint8_t>(t, i.src[3]);
        for (unsigned j = 0; j < n && at + j < width; j++) {
            b = (T)((b & ~((T)1 << (at + j))) | ((a >> j & 1u) << (at + j)));
        }
        put<T>(t, i.dst[0], b);
    }
};

/* The default mode: each nibble names a byte of {b, a}; its top bit asks for the byte's sign. */
static void permute_bytes(thread_state &t, const instruction &i)
{
    uint64_t both = get<uint32_t>(t, i.src[0]) | (uint64_t)get<uint32_t>(t, i.src[1]) << 32;
    uint32_t choice = get<uint32_t>(t, i.src[2]), value = 0;
    for (unsigned k = 0; k < 4; k++) {
        unsigned nibble = choice >> (4 * k) & 15u;
        uint32_t byte = both >> (8 * (nibble & 7u)) & 255u;
        if ((nibble & 8u) != 0) {
            byte = (byte & 128u) != 0 ? 255u : 0;
        }
        value |= byte << (8 * k);
    }
    put<uint32_t>(t, i.dst[0], value);
}

template <class T> struct popc_op {
    static void run(thread_state &t, const instruction &i)
    {
        put<uint32_t>(t, i.dst[0], (uint32_t)__builtin_popcountll(get<T>(t, i.src[0])));
    }
};

template <class T> struct clz_op {
    static void run(thread_state &t, const instruction &i)
    {
        T a = get<T>(t, i.src[0]);
        uint32_t width = sizeof(T) * 8;
        put<uint32_t>(t, i.dst[0], a == 0 ? width : (uint32_t)__builtin_clzll(a) - (64 - width));
    }
};

template <class T> struct brev_op {
    static void run(thread_state &t, const instruction &i)
    {
        const unsigned width = sizeof(T) * 8;
        T a = get<T>(t, i.src[0]), value = 0;
        for (unsigned b = 0; b < width; b++) {
            value |= (a >> b & 1u) << (width - 1 - b);
        }
        put<T>(t, i.dst[0], value);
    }
};

/* The place of the highest bit that differs from the sign; with shiftamt, its distance from the
 * top. */
template <class T> struct bfind_op {
    static void run(thread_state &t, const instruction &i)
    {
        T a = get<T>(t, i.src[0]);
        bits_of<T> bits = (bits_of<T>)(std::is_signed<T>::value && a < 0 ? ~a : a);
        uint32_t top = bits == 0 ? ~0u : 63u - (uint32_t)__builtin_clzll(bits);
        bool from_top = i.mode != 0 && bits != 0;
        put<uint32_t>(t, i.dst[0], from_top ? (uint32_t)sizeof(T) * 8 - 1 - top : top);
    }
};

template <class A, class B> static void dot4(thread_state &t, const instruction &i)
{
    uint32_t a = get<uint32_t>(t, i.src[0]), b = get<uint32_t>(t, i.src[1]);
    uint32_t value = get<uint32_t>(t, i.src[2]);
    for (unsigned k = 0; k < 4; k++) {
        value += (uint32_t)((A)(a >> (8 * k)) * (B)(b >> (8 * k)));
    }
    put<uint32_t>(t, i.dst[0], value);
}

/* Any function of three inputs: bit n of the table for n = a b c. */
static void lop3(thread_state &t, const instruction &i)
{
    uint32_t a = get<uint32_t>(t, i.src[0]), b = get<uint32_t>(t, i.src[1]);
    uint32_t c = get<uint32_t>(t, i.src[2]), table = get<uint32_t>(t, i.src[3]), value = 0;
    for (unsigned bit = 0; bit < 32; bit++) {
        unsigned n = (a >> bit & 1u) << 2 | (b >> bit & 1u) << 1 | (c >> bit & 1u);
        value |= (table >> n & 1u) << bit;
    }
    put<uint32_t>(t, i.dst[0], value);
}

/* ---- choosing ---- */

template <template <class> class OP, action (*FLOAT)(const instruction &)>
static action number(const instruction &i)
{
    return is_float(i) ? FLOAT(i) : i.flags != 0 ? nullptr : integers<OP>(i);
}

template <template <class> class OP, action (*FLOAT)(const instruction &)>
static action signed_number(const instruction &i)
{
    bool has_sign = is_float(i) || i.type == S16 || i.type == S32 || i.type == S64;
    return has_sign ? number<OP, FLOAT>(i) : nullptr;
}

template <template <class> class OP> static action logic_choice(const instruction &i)
{
    return i.type == PRED ? logic_of_predicates : words<OP>(i);
}

template <template <class> class OP> static action wide_words(const instruction &i)
{
    return i.type == B16 ? nullptr : words<OP>(i);
}

template <template <class> class OP> static action wide_integers(const instruction &i)
{
    return i.type == U16 || i.type == S16 ? nullptr : integers<OP>(i);
}

template <action RUN, scalar TYPE> static action only(const instruction &i)
{
    return i.type == TYPE ? RUN : nullptr;
}

static action dot4_choice(const instruction &i)
{
    if (i.type == S32) {
        return i.from == S32   ? dot4<int8_t, int8_t>
               : i.from == U32 ? dot4<int8_t, uint8_t>
                               : nullptr;
    }
    return i.type != U32   ? nullptr
           : i.from == U32 ? dot4<uint8_t, uint8_t>
           : i.from == S32 ? dot4<uint8_t, int8_t>
                           : nullptr;
}

static const uint64_t ROUNDED = M_RN | M_RZ | M_RM | M_RP | M_FTZ | M_SAT;

static const opcode rows[] = {
    {"add", ROUNDED, RESULT, 0, number<add_op, float_add>},
    {"sub", ROUNDED, RESULT, 0, number<sub_op, float_sub>},
    {"mul", ROUNDED, RESULT, 0, float_mul},
    {"mul.lo", 0, RESULT, 0, integers<mul_lo_op>},
    {"mul.hi", 0, RESULT, 0, integers<mul_hi_op>},
    {"mul.wide", 0, RESULT, 0, widening<mul_wide_op>},
    {"mad.lo", 0, RESULT, 0, integers<mad_lo_op>},
    {"mad.hi", 0, RESULT, 0, integers<mad_hi_op>},
    {"mad.wide", 0, RESULT, 0, widening<mad_wide_op>},
    {"div", M_RN | M_APPROX | M_FTZ, RESULT, 0, number<div_op, float_div>},
    {"rem", 0, RESULT, 0, integers<rem_op>},
    {"min", M_FTZ, RESULT, 0, number<min_op, float_min>},
    {"max", M_FTZ, RESULT, 0, number<max_op, float_max>},
    {"neg", M_FTZ, RESULT, 0, signed_number<neg_op, float_neg>},
    {"abs", M_FTZ, RESULT, 0, signed_number<abs_op, float_abs>},
    {"and", 0, RESULT, LOGIC_AND, logic_choice<logic_op>},
    {"or", 0, RESULT, LOGIC_OR, logic_choice<logic_op>},
    {"xor", 0, RESULT, LOGIC_XOR, logic_choice<logic_op>},
    {"not", 0, RESULT, LOGIC_NOT, logic_choice<not_op>},
    {"shl", 0, RESULT, 0, words<shl_op>},
    {"shr", 0, RESULT, 0, integers<shr_op>},
    {"shf.l.wrap", 0, RESULT, FUNNEL_LEFT, only<funnel_shift, B32>},
    {"shf.l.clamp", 0, RESULT, FUNNEL_LEFT | FUNNEL_CLAMP, only<funnel_shift, B32>},
    {"shf.r.wrap", 0, RESULT, 0, only<funnel_shift, B32>},
    {"shf.r.clamp", 0, RESULT, FUNNEL_CLAMP, only<funnel_shift, B32>},
    {"bfe", 0, RESULT, 0, wide_integers<bfe_op>},
    {"bfi", 0, RESULT, 0, wide_words<bfi_op>},
    {"prmt", 0, RESULT, 0, only<permute_bytes, B32>},
    {"popc", 0, RESULT, 0, wide_words<popc_op>},
    {"clz", 0, RESULT, 0, wide_words<clz_op>},
    {"brev", 0, RESULT, 0, wide_words<brev_op>},
    {"bfind", 0, RESULT, 0, wide_integers<bfind_op>},
    {"bfind.shiftamt", 0, RESULT, 1, wide_integers<bfind_op>},
    {"dp4a", 0, RESULT, 0, dot4_choice},
    {"lop3", 0, RESULT, 0, only<lop3, B32>},
};

opcode_rows integer_opcodes()
{
    return {rows, sizeof rows / sizeof *rows};
}

} // namespace cuptx
