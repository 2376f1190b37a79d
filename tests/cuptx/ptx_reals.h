/* ptx_reals.h - what test_ptx_float.cc and test_ptx_double.cc share: cases of FP32 and FP64 by one
 * template, the integer types that both convert to and from. Thread: one. */
#ifndef CUPTX_PTX_REALS_H
#define CUPTX_PTX_REALS_H

#include <limits>

#include "ptx_rig.h"

static inline uint64_t bits_of_real(float f)
{
    return bits_of_float(f);
}

static inline uint64_t bits_of_real(double d)
{
    return bits_of_double(d);
}

/* One, two or three operands. */
template <class T>
static void with_reals(ptx_batch *batch, const std::string &opcode, const std::vector<T> &in,
                       T want)
{
    std::vector<uint64_t> bits;
    const char *sources[] = {" %x, %a;", " %x, %a, %b;", " %x, %a, %b, %c;"};
    for (T v : in) {
        bits.push_back(bits_of_real(v));
    }
    batch->add(opcode + sources[in.size() - 1], bits, bits_of_real(want), (int)sizeof(T) * 8);
}

/* 1 + half a ULP lies between 1 and 1 + ULP, nearer to neither (even: 1); its negative likewise.
 * type: ".f32". */
template <class T> static void check_roundings(ptx_batch *batch, const std::string &type)
{
    const T ulp = std::numeric_limits<T>::epsilon(), half = ulp / 2;
    const struct {
        const char *rounding;
        T up, down; /* of 1 + half and of -(1 + half) */
    } modes[] = {
        {"", 1, -1}, {".rn", 1, -1}, {".rz", 1, -1}, {".rm", 1, -1 - ulp}, {".rp", 1 + ulp, -1}};
    for (const auto &m : modes) {
        const std::string rounding = m.rounding, s = rounding + type;
        with_reals<T>(batch, "add" + s, {1, half}, m.up);
        with_reals<T>(batch, "add" + s, {-1, -half}, m.down);
        with_reals<T>(batch, "sub" + s, {1, -half}, m.up);
        with_reals<T>(batch, "sub" + s, {-1, half}, m.down);
        /* (1 + 2 ULP) (1 - ULP) = 1 + ULP - 2 ULP^2, just under 1 + ULP. */
        T just_under = rounding == ".rz" || rounding == ".rm" ? 1 : 1 + ulp;
        with_reals<T>(batch, "mul" + s, {1 + 2 * ulp, 1 - ulp}, just_under);
        if (!rounding.empty()) {
            with_reals<T>(batch, "fma" + s, {half, 1, 1}, m.up);
            with_reals<T>(batch, "fma" + s, {half, -1, -1}, m.down);
        }
    }
    /* One rounding, not two: (1 + ULP)^2 - 1 - 2 ULP = ULP^2. */
    with_reals<T>(batch, "fma.rn" + type, {1 + ulp, 1 + ulp, -1 - 2 * ulp}, ulp * ulp);
}

struct integer_type {
    const char *name;
    int bits;
    bool has_sign;
};
static const integer_type INTEGERS[] = {{"u8", 8, false},   {"s8", 8, true},    {"u16", 16, false},
                                        {"s16", 16, true},  {"u32", 32, false}, {"s32", 32, true},
                                        {"u64", 64, false}, {"s64", 64, true}};

#endif
