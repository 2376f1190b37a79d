/* opcode_float.cc - FP32 arithmetic. The basic operations round as the instruction says; what PTX
 * calls approximate is computed to within a rounding, so it differs from hardware by a few ulp.
 * There is no FP64: kernels have none (docs/cuda.md). Source: PTX ISA 9.0, "Floating-Point
 * Instructions". Compiled so that the compiler neither contracts nor moves across the change of the
 * rounding mode. Thread: a fiber's. */
#include "opcode_float.h"

#include <cfenv>
#include <cmath>

namespace cuptx
{

static float flushed(float x)
{
    return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x;
}

static float input(const thread_state &t, const instruction &i, int n)
{
    float x = get<float>(t, i.src[n]);
    return (i.flags & M_FTZ) != 0 ? flushed(x) : x;
}

static void output(thread_state &t, const instruction &i, float x)
{
    if ((i.flags & M_SAT) != 0) {
        x = x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; /* NaN becomes 0 */
    }
    put<float>(t, i.dst[0], (i.flags & M_FTZ) != 0 ? flushed(x) : x);
}

enum arithmetic { ADD, SUB, MUL, FMA };

static float exactly_rounded(arithmetic op, float a, float b, float c)
{
    switch (op) {
    case ADD:
        return a + b;
    case SUB:
        return a - b;
    case MUL:
        return a * b;
    case FMA:
        return fmaf(a, b, c);
    }
    return NAN;
}

template <arithmetic OP> static void nearest(thread_state &t, const instruction &i)
{
    float c = OP == FMA ? input(t, i, 2) : 0;
    output(t, i, exactly_rounded(OP, input(t, i, 0), input(t, i, 1), c));
}

/* Rounding towards zero, up or down: the processor does it, as long as the operands are read and
 * the result is written between the two calls. */
template <arithmetic OP, int MODE> static void directed(thread_state &t, const instruction &i)
{
    volatile float a = input(t, i, 0), b = input(t, i, 1), c = OP == FMA ? input(t, i, 2) : 0;
    fesetround(MODE);
    volatile float x = exactly_rounded(OP, a, b, c);
    fesetround(FE_TONEAREST);
    output(t, i, x);
}

template <arithmetic OP> static action rounded(const instruction &i)
{
    switch (i.flags & (M_RN | M_RZ | M_RM | M_RP)) {
    case 0:
    case M_RN:
        return nearest<OP>;
    case M_RZ:
        return directed<OP, FE_TOWARDZERO>;
    case M_RM:
        return directed<OP, FE_DOWNWARD>;
    case M_RP:
        return directed<OP, FE_UPWARD>;
    default:
        return nullptr;
    }
}

/* A number beats NaN; -0 is less than +0. */
static float smaller(float a, float b)
{
    if (std::isnan(a) || std::isnan(b)) {
        return std::isnan(a) ? b : a;
    }
    return a < b || (a == b && std::signbit(a)) ? a : b;
}

static float larger(float a, float b)
{
    if (std::isnan(a) || std::isnan(b)) {
        return std::isnan(a) ? b : a;
    }
    return a > b || (a == b && std::signbit(b)) ? a : b;
}

template <float (*F)(float, float)> static void binary(thread_state &t, const instruction &i)
{
    output(t, i, F(input(t, i, 0), input(t, i, 1)));
}

template <float (*F)(float)> static void unary(thread_state &t, const instruction &i)
{
    output(t, i, F(input(t, i, 0)));
}

static float divided(float a, float b)
{
    return a / b;
}

static float negated(float x)
{
    return -x;
}

static float without_sign(float x)
{
    return std::fabs(x);
}

/* copysign.f32 d, a, b: the sign of a, the rest of b. */
static float with_sign(float a, float b)
{
    return std::copysign(b, a);
}

static float inverse(float x)
{
    return 1.0f / x;
}

static float root(float x)
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
    return (i.flags & (M_RN | M_APPROX)) != 0 ? binary<divided> : nullptr;
}

action float_min(const instruction &)
{
    return binary<smaller>;
}

action float_max(const instruction &)
{
    return binary<larger>;
}

action float_neg(const instruction &)
{
    return unary<negated>;
}

action float_abs(const instruction &)
{
    return unary<without_sign>;
}

/* An operation that has to say how exact it is. */
template <action RUN, uint64_t ALLOWED> static action exactness(const instruction &i)
{
    return i.type == F32 && (i.flags & ALLOWED) != 0 ? RUN : nullptr;
}

template <action RUN> static action plain(const instruction &i)
{
    return i.type == F32 ? RUN : nullptr;
}

static const uint64_t EXACT_OR_NOT = M_RN | M_APPROX;

static const opcode rows[] = {
    {"fma", M_RN | M_RZ | M_RM | M_RP | M_FTZ | M_SAT, RESULT, 0, only_float<rounded<FMA>>},
    {"copysign", 0, RESULT, 0, plain<binary<with_sign>>},
    {"rcp", EXACT_OR_NOT | M_FTZ, RESULT, 0, exactness<unary<inverse>, EXACT_OR_NOT>},
    {"sqrt", EXACT_OR_NOT | M_FTZ, RESULT, 0, exactness<unary<root>, EXACT_OR_NOT>},
    {"rsqrt", M_APPROX | M_FTZ, RESULT, 0, exactness<unary<inverse_root>, M_APPROX>},
    {"ex2", M_APPROX | M_FTZ, RESULT, 0, exactness<unary<power_of_two>, M_APPROX>},
    {"lg2", M_APPROX | M_FTZ, RESULT, 0, exactness<unary<log_of_two>, M_APPROX>},
    {"sin", M_APPROX | M_FTZ, RESULT, 0, exactness<unary<sine>, M_APPROX>},
    {"cos", M_APPROX | M_FTZ, RESULT, 0, exactness<unary<cosine>, M_APPROX>},
    {"tanh", M_APPROX, RESULT, 0, exactness<unary<hyperbolic_tangent>, M_APPROX>},
};

opcode_rows float_opcodes()
{
    return {rows, sizeof rows / sizeof *rows};
}

} // namespace cuptx
