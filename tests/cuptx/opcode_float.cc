/* opcode_float.cc - FP32 and FP64 arithmetic. The basic operations round as the instruction says;
 * what PTX calls approximate is computed to within a rounding, so it differs from hardware by a few
 * ulp. Source: PTX ISA 9.0, "Floating-Point Instructions". Compiled so that the compiler neither
 * contracts nor moves across the change of the rounding mode. Thread: a fiber's. */
#include "opcode_float.h"

#include <cfenv>
#include <cmath>

namespace cuptx
{

template <class T> static T flushed(T x)
{
    return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(T(0), x) : x;
}

template <class T> static T input(const thread_state &t, const instruction &i, int n)
{
    T x = get<T>(t, i.src[n]);
    return (i.flags & M_FTZ) != 0 ? flushed(x) : x;
}

template <class T> static void output(thread_state &t, const instruction &i, T x)
{
    if ((i.flags & M_SAT) != 0) {
        x = x > 0 ? (x < 1 ? x : T(1)) : T(0); /* NaN becomes 0 */
    }
    put<T>(t, i.dst[0], (i.flags & M_FTZ) != 0 ? flushed(x) : x);
}

enum arithmetic { ADD, SUB, MUL, FMA };

template <class T> static T exactly_rounded(arithmetic op, T a, T b, T c)
{
    switch (op) {
    case ADD:
        return a + b;
    case SUB:
        return a - b;
    case MUL:
        return a * b;
    case FMA:
        return std::fma(a, b, c);
    }
    return NAN;
}

template <class T, arithmetic OP> static void nearest(thread_state &t, const instruction &i)
{
    T c = OP == FMA ? input<T>(t, i, 2) : T(0);
    output(t, i, exactly_rounded(OP, input<T>(t, i, 0), input<T>(t, i, 1), c));
}

/* Rounding towards zero, up or down: the processor does it, as long as the operands are read and
 * the result is written between the two calls. */
template <class T, arithmetic OP, int MODE>
static void directed(thread_state &t, const instruction &i)
{
    volatile T a = input<T>(t, i, 0), b = input<T>(t, i, 1);
    volatile T c = OP == FMA ? input<T>(t, i, 2) : T(0);
    fesetround(MODE);
    volatile T x = exactly_rounded<T>(OP, a, b, c);
    fesetround(FE_TONEAREST);
    output<T>(t, i, x);
}

template <class T, arithmetic OP> static action rounded_of(const instruction &i)
{
    switch (i.flags & (M_RN | M_RZ | M_RM | M_RP)) {
    case 0:
    case M_RN:
        return nearest<T, OP>;
    case M_RZ:
        return directed<T, OP, FE_TOWARDZERO>;
    case M_RM:
        return directed<T, OP, FE_DOWNWARD>;
    case M_RP:
        return directed<T, OP, FE_UPWARD>;
    default:
        return nullptr;
    }
}

/* FP64 has no .ftz, .sat or .approx. */
template <action IN_FLOAT, action IN_DOUBLE> static action either(const instruction &i)
{
    if (i.type == F64) {
        return (i.flags & (M_FTZ | M_SAT | M_APPROX)) == 0 ? IN_DOUBLE : nullptr;
    }
    return i.type == F32 ? IN_FLOAT : nullptr;
}

template <arithmetic OP> static action rounded(const instruction &i)
{
    if (i.type == F64) {
        return (i.flags & (M_FTZ | M_SAT)) == 0 ? rounded_of<double, OP>(i) : nullptr;
    }
    return i.type == F32 ? rounded_of<float, OP>(i) : nullptr;
}

/* A number beats NaN; -0 is less than +0. */
template <class T> static T smaller(T a, T b)
{
    if (std::isnan(a) || std::isnan(b)) {
        return std::isnan(a) ? b : a;
    }
    return a < b || (a == b && std::signbit(a)) ? a : b;
}

template <class T> static T larger(T a, T b)
{
    if (std::isnan(a) || std::isnan(b)) {
        return std::isnan(a) ? b : a;
    }
    return a > b || (a == b && std::signbit(b)) ? a : b;
}

template <class T, T (*F)(T, T)> static void binary(thread_state &t, const instruction &i)
{
    output(t, i, F(input<T>(t, i, 0), input<T>(t, i, 1)));
}

template <class T, T (*F)(T)> static void unary(thread_state &t, const instruction &i)
{
    output(t, i, F(input<T>(t, i, 0)));
}

template <class T> static T divided(T a, T b)
{
    return a / b;
}

template <class T> static T negated(T x)
{
    return -x;
}

template <class T> static T without_sign(T x)
{
    return std::fabs(x);
}

/* copysign d, a, b: the sign of a, the rest of b. */
template <class T> static T with_sign(T a, T b)
{
    return std::copysign(b, a);
}

template <class T> static T inverse(T x)
{
    return T(1) / x;
}

template <class T> static T root(T x)
{
    return std::sqrt(x);
}

static float inverse_root(float x)
{
    return (float)(1.0 / std::sqrt((double)x));
}

static float power_of_two(float x)
{
    return (float)std::exp2((double)x);
}

static float log_of_two(float x)
{
    return (float)std::log2((double)x);
}

static float sine(float x)
{
    return (float)std::sin((double)x);
}

static float cosine(float x)
{
    return (float)std::cos((double)x);
}

static float hyperbolic_tangent(float x)
{
    return (float)std::tanh((double)x);
}

action float_add(const instruction &i)
{
    return rounded<ADD>(i);
}

action float_sub(const instruction &i)
{
    return rounded<SUB>(i);
}

action float_mul(const instruction &i)
{
    return rounded<MUL>(i);
}

action float_div(const instruction &i)
{
    bool says_how = (i.flags & (M_RN | M_APPROX)) != 0;
    return says_how ? either<binary<float, divided>, binary<double, divided>>(i) : nullptr;
}

action float_min(const instruction &i)
{
    return either<binary<float, smaller>, binary<double, smaller>>(i);
}

action float_max(const instruction &i)
{
    return either<binary<float, larger>, binary<double, larger>>(i);
}

action float_neg(const instruction &i)
{
    return either<unary<float, negated>, unary<double, negated>>(i);
}

action float_abs(const instruction &i)
{
    return either<unary<float, without_sign>, unary<double, without_sign>>(i);
}

/* An operation that has to say how exact it is. */
template <action IN_FLOAT, action IN_DOUBLE> static action exact_or_not(const instruction &i)
{
    return (i.flags & (M_RN | M_APPROX)) != 0 ? either<IN_FLOAT, IN_DOUBLE>(i) : nullptr;
}

/* There are such operations in FP64 too, but what they compute is only bounded. */
template <float (*F)(float)> static action approximate(const instruction &i)
{
    return i.type == F32 && (i.flags & M_APPROX) != 0 ? unary<float, F> : nullptr;
}

static const uint64_t EXACT_OR_NOT = M_RN | M_APPROX | M_FTZ;

static const opcode rows[] = {
    {"fma", M_RN | M_RZ | M_RM | M_RP | M_FTZ | M_SAT, RESULT, 0, rounded<FMA>},
    {"copysign", 0, RESULT, 0, either<binary<float, with_sign>, binary<double, with_sign>>},
    {"rcp", EXACT_OR_NOT, RESULT, 0, exact_or_not<unary<float, inverse>, unary<double, inverse>>},
    {"sqrt", EXACT_OR_NOT, RESULT, 0, exact_or_not<unary<float, root>, unary<double, root>>},
    {"rsqrt", M_APPROX | M_FTZ, RESULT, 0, approximate<inverse_root>},
    {"ex2", M_APPROX | M_FTZ, RESULT, 0, approximate<power_of_two>},
    {"lg2", M_APPROX | M_FTZ, RESULT, 0, approximate<log_of_two>},
    {"sin", M_APPROX | M_FTZ, RESULT, 0, approximate<sine>},
    {"cos", M_APPROX | M_FTZ, RESULT, 0, approximate<cosine>},
    {"tanh", M_APPROX, RESULT, 0, approximate<hyperbolic_tangent>},
};

opcode_rows float_opcodes()
{
    return {rows, sizeof rows / sizeof *rows};
}

} // namespace cuptx
