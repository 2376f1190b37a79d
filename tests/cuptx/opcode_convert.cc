/* opcode_convert.cc - cvt between the integer types, f64, f32, f16 and bf16. Source: PTX ISA 9.0,
 * "cvt". Thread: a fiber's. */
#include "opcode.h"

#include <cmath>
#include <limits>

#include "cuda_bf16.h"
#include "cuda_fp16.h"

namespace cuptx
{

/* 16-bit floats as they lie in a register. */
struct bits_bf16 {
    uint16_t x;
};
struct bits_f16 {
    uint16_t x;
};

static float to_float(float x)
{
    return x;
}

static double to_float(double x)
{
    return x;
}

static float to_float(bits_bf16 h)
{
    return __bfloat162float({h.x});
}

static float to_float(bits_f16 h)
{
    return __half2float({h.x});
}

static uint16_t to_bf16(float x)
{
    return __float2bfloat16_rn(x).x;
}

static uint16_t to_f16(float x)
{
    return __float2half_rn(x).x;
}

template <class T> static T to_whole(const instruction &i, T x)
{
    switch (i.flags & (M_RN | M_RZ | M_RM | M_RP)) {
    case M_RZ:
        return std::trunc(x);
    case M_RM:
        return std::floor(x);
    case M_RP:
        return std::ceil(x);
    default:
        return std::nearbyint(x);
    }
}

template <class T> static T limited(__int128 v)
{
    const __int128 low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
    return (T)(v < low ? low : v > high ? high : v);
}

template <class TO, class FROM> struct integer_to_integer {
    static void run(thread_state &t, const instruction &i)
    {
        FROM v = get<FROM>(t, i.src[0]);
        put<TO>(t, i.dst[0], (i.flags & M_SAT) != 0 ? limited<TO>(v) : (TO)v);
    }
    static bool takes(uint64_t flags)
    {
        return (flags & ~(uint64_t)M_SAT) == 0;
    }
};

/* Out of range is the nearest end of the range. */
template <class TO, class FROM> struct float_to_integer {
    static void run(thread_state &t, const instruction &i)
    {
        auto v = to_whole(i, to_float(get<FROM>(t, i.src[0])));
        const auto bound = std::ldexp(decltype(v)(1), (int)sizeof(TO) * 8);
        if (std::isnan(v)) {
            put<TO>(t, i.dst[0], sizeof(TO) == 8 ? (TO)((uint64_t)1 << 63) : (TO)0);
        } else if (std::fabs(v) >= bound) {
            put<TO>(t, i.dst[0],
                    v < 0 ? std::numeric_limits<TO>::min() : std::numeric_limits<TO>::max());
        } else {
            put<TO>(t, i.dst[0], limited<TO>((__int128)v));
        }
    }
    static bool takes(uint64_t flags)
    {
        return (flags & M_TO_INTEGER) != 0;
    }
};

template <class TO, class FROM> struct integer_to_float {
    static void run(thread_state &t, const instruction &i)
    {
        put<TO>(t, i.dst[0], (TO)get<FROM>(t, i.src[0]));
    }
    static bool takes(uint64_t flags)
    {
        return flags == M_RN;
    }
};

template <class TO, class FROM> static void float_to_float(thread_state &t, const instruction &i)
{
    TO v = (TO)to_float(get<FROM>(t, i.src[0]));
    if ((i.flags & M_TO_INTEGER) != 0) {
        v = to_whole(i, v);
    }
    if ((i.flags & M_SAT) != 0) {
        v = v > 0 ? (v < 1 ? v : TO(1)) : TO(0); /* NaN becomes 0 */
    }
    put<TO>(t, i.dst[0], v);
}

template <uint16_t (*F)(float)> static void float_to_half(thread_state &t, const instruction &i)
{
    put<uint16_t>(t, i.dst[0], F(get<float>(t, i.src[0])));
}

/* The first source becomes the upper half. */
template <uint16_t (*F)(float)> static void float_to_halves(thread_state &t, const instruction &i)
{
    uint32_t high = F(get<float>(t, i.src[0])), low = F(get<float>(t, i.src[1]));
    put<uint32_t>(t, i.dst[0], high << 16 | low);
}

template <class CVT> static action if_taken(const instruction &i)
{
    return CVT::takes(i.flags) ? CVT::run : nullptr;
}

template <class TO> static action to_integer_choice(const instruction &i)
{
    switch (i.from) {
    case U8:
        return if_taken<integer_to_integer<TO, uint8_t>>(i);
    case S8:
        return if_taken<integer_to_integer<TO, int8_t>>(i);
    case U16:
        return if_taken<integer_to_integer<TO, uint16_t>>(i);
    case S16:
        return if_taken<integer_to_integer<TO, int16_t>>(i);
    case U32:
        return if_taken<integer_to_integer<TO, uint32_t>>(i);
    case S32:
        return if_taken<integer_to_integer<TO, int32_t>>(i);
    case U64:
        return if_taken<integer_to_integer<TO, uint64_t>>(i);
    case S64:
        return if_taken<integer_to_integer<TO, int64_t>>(i);
    case F32:
        return if_taken<float_to_integer<TO, float>>(i);
    case F64:
        return if_taken<float_to_integer<TO, double>>(i);
    case F16:
        return if_taken<float_to_integer<TO, bits_f16>>(i);
    case BF16:
        return if_taken<float_to_integer<TO, bits_bf16>>(i);
    default:
        return nullptr;
    }
}

template <class TO> static action from_integer_choice(const instruction &i)
{
    switch (i.from) {
    case U8:
        return if_taken<integer_to_float<TO, uint8_t>>(i);
    case S8:
        return if_taken<integer_to_float<TO, int8_t>>(i);
    case U16:
        return if_taken<integer_to_float<TO, uint16_t>>(i);
    case S16:
        return if_taken<integer_to_float<TO, int16_t>>(i);
    case U32:
        return if_taken<integer_to_float<TO, uint32_t>>(i);
    case S32:
        return if_taken<integer_to_float<TO, int32_t>>(i);
    case U64:
        return if_taken<integer_to_float<TO, uint64_t>>(i);
    case S64:
        return if_taken<integer_to_float<TO, int64_t>>(i);
    default:
        return nullptr;
    }
}

static action to_float_choice(const instruction &i)
{
    switch (i.from) {
    case F32:
        return (i.flags & (M_TO_INTEGER | M_SAT)) != 0 ? float_to_float<float, float> : nullptr;
    case F64: /* of the roundings only the processor's own */
        return i.flags == M_RN ? float_to_float<float, double> : nullptr;
    case F16:
        return i.flags == 0 ? float_to_float<float, bits_f16> : nullptr;
    case BF16:
        return i.flags == 0 ? float_to_float<float, bits_bf16> : nullptr;
    default:
        return from_integer_choice<float>(i);
    }
}

static action to_double_choice(const instruction &i)
{
    switch (i.from) {
    case F32:
        return i.flags == 0 ? float_to_float<double, float> : nullptr;
    case F64:
        return (i.flags & M_TO_INTEGER) != 0 ? float_to_float<double, double> : nullptr;
    default:
        return from_integer_choice<double>(i);
    }
}

static action convert(const instruction &i)
{
    switch (i.type) {
    case U8:
        return to_integer_choice<uint8_t>(i);
    case S8:
        return to_integer_choice<int8_t>(i);
    case U16:
        return to_integer_choice<uint16_t>(i);
    case S16:
        return to_integer_choice<int16_t>(i);
    case U32:
        return to_integer_choice<uint32_t>(i);
    case S32:
        return to_integer_choice<int32_t>(i);
    case U64:
        return to_integer_choice<uint64_t>(i);
    case S64:
        return to_integer_choice<int64_t>(i);
    case F32:
        return to_float_choice(i);
    case F64:
        return to_double_choice(i);
    case F16:
        return i.from == F32 && i.flags == M_RN ? float_to_half<to_f16> : nullptr;
    case BF16:
        return i.from == F32 && i.flags == M_RN ? float_to_half<to_bf16> : nullptr;
    default:
        return nullptr;
    }
}

template <action RUN> static action pair(const instruction &i)
{
    return i.type == F32 && i.n_src == 2 ? RUN : nullptr;
}

static const opcode rows[] = {
    {"cvt", M_RN | M_RZ | M_RM | M_RP | M_TO_INTEGER | M_SAT, RESULT, 0, convert},
    {"cvt.rn.bf16x2", 0, RESULT, 0, pair<float_to_halves<to_bf16>>},
    {"cvt.rn.f16x2", 0, RESULT, 0, pair<float_to_halves<to_f16>>},
};

opcode_rows convert_opcodes()
{
    return {rows, sizeof rows / sizeof *rows};
}

} // namespace cuptx
