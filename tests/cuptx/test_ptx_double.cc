/* test_ptx_double.cc - FP64: exact values, roundings between two neighbours, values that FP32 would
 * lose, cvt from and to every type. Thread: one. */
#include <cmath>

#include "ptx_rig.h"

static const double ULP = 0x1p-52, INF = INFINITY;

static void with_doubles(ptx_batch *batch, const std::string &opcode, const std::vector<double> &in,
                         double want)
{
    std::vector<uint64_t> bits;
    const char *sources[] = {" %x, %a;", " %x, %a, %b;", " %x, %a, %b, %c;"};
    for (double d : in) {
        bits.push_back(bits_of_double(d));
    }
    batch->add(opcode + sources[in.size() - 1], bits, bits_of_double(want), 64);
}

/* 1 + 2^-53 lies between 1 and 1 + ULP, nearer to neither (even: 1); its negative likewise. */
static void roundings(ptx_batch *batch)
{
    const struct {
        const char *suffix;
        double up, down; /* of 1 + 2^-53 and of -(1 + 2^-53) */
    } modes[] = {{".f64", 1, -1},
                 {".rn.f64", 1, -1},
                 {".rz.f64", 1, -1},
                 {".rm.f64", 1, -1 - ULP},
                 {".rp.f64", 1 + ULP, -1}};
    const double half = 0x1p-53;
    for (const auto &m : modes) {
        const std::string s = m.suffix;
        with_doubles(batch, "add" + s, {1, half}, m.up);
        with_doubles(batch, "add" + s, {-1, -half}, m.down);
        with_doubles(batch, "sub" + s, {1, -half}, m.up);
        with_doubles(batch, "sub" + s, {-1, half}, m.down);
        /* (1 + 2 ULP) (1 - ULP) = 1 + ULP - 2 ULP^2, just under 1 + ULP. */
        double just_under = s == ".rz.f64" || s == ".rm.f64" ? 1.0 : 1 + ULP;
        with_doubles(batch, "mul" + s, {1 + 2 * ULP, 1 - ULP}, just_under);
        if (s != ".f64") {
            with_doubles(batch, "fma" + s, {half, 1, 1}, m.up);
            with_doubles(batch, "fma" + s, {half, -1, -1}, m.down);
        }
    }
    /* One rounding, not two: (1 + ULP)^2 - 1 - 2 ULP = ULP^2. */
    with_doubles(batch, "fma.rn.f64", {1 + ULP, 1 + ULP, -1 - 2 * ULP}, ULP * ULP);
}

static void functions(ptx_batch *batch)
{
    with_doubles(batch, "div.rn.f64", {1, 3}, 1.0 / 3.0);
    with_doubles(batch, "div.rn.f64", {-1, 0}, -INF);
    with_doubles(batch, "rcp.rn.f64", {3}, 1.0 / 3.0);
    with_doubles(batch, "sqrt.rn.f64", {2}, 0x1.6a09e667f3bcdp+0);
    with_doubles(batch, "min.f64", {1 + ULP, 1}, 1);
    with_doubles(batch, "max.f64", {1 + ULP, 1}, 1 + ULP);
    with_doubles(batch, "min.f64", {NAN, 2}, 2);
    with_doubles(batch, "max.f64", {-2, NAN}, -2);
    with_doubles(batch, "min.f64", {0.0, -0.0}, -0.0);
    with_doubles(batch, "max.f64", {-0.0, 0.0}, 0.0);
    with_doubles(batch, "neg.f64", {1e300}, -1e300);
    with_doubles(batch, "abs.f64", {-1e-300}, 1e-300);
    with_doubles(batch, "copysign.f64", {-0.0, 1e300}, -1e300);
    batch->add("mov.f64 %x, 0d3FF0000000000001;", {}, bits_of_double(1 + ULP), 64);
    batch->add("setp.ne.s32 %p, 1, 0; selp.f64 %x, %a, %b, %p;",
               {bits_of_double(1e300), bits_of_double(2)}, bits_of_double(1e300), 64);
}

struct integer_type {
    const char *name;
    int bits;
    bool has_sign;
};
static const integer_type INTEGERS[] = {{"u8", 8, false},   {"s8", 8, true},    {"u16", 16, false},
                                        {"s16", 16, true},  {"u32", 32, false}, {"s32", 32, true},
                                        {"u64", 64, false}, {"s64", 64, true}};

static double limit(const integer_type &t, double v)
{
    double low = t.has_sign ? -std::ldexp(1.0, t.bits - 1) : 0;
    double high = std::ldexp(1.0, t.has_sign ? t.bits - 1 : t.bits);
    return v < low ? low : v > high ? high : v;
}

static void conversions(ptx_batch *batch)
{
    for (const integer_type &t : INTEGERS) {
        std::string name = t.name;
        batch->add("cvt.rn.f64." + name + " %x, %a;", {101}, bits_of_double(101), 64);
        batch->add("cvt.rn.f64." + name + " %x, %a;", {~0ull},
                   bits_of_double(t.has_sign ? -1 : std::ldexp(1.0, t.bits) - (t.bits < 64)), 64);
        const std::pair<const char *, double> modes[] = {
            {"rni", 100}, {"rzi", 99}, {"rmi", 99}, {"rpi", 100}};
        for (const auto &mode : modes) {
            batch->add(std::string("cvt.") + mode.first + "." + name + ".f64 %x, %a;",
                       {bits_of_double(99.75)}, (uint64_t)mode.second, t.bits);
        }
        /* Out of range is the nearest end, except that NaN is not in any. */
        uint64_t top = t.has_sign ? (~0ull >> (65 - t.bits)) : (~0ull >> (64 - t.bits));
        batch->add("cvt.rzi." + name + ".f64 %x, %a;", {bits_of_double(1e300)}, top, t.bits);
        batch->add("cvt.rzi." + name + ".f64 %x, %a;", {bits_of_double(-1e300)},
                   t.has_sign ? top + 1 : 0, t.bits);
        batch->add("cvt.rzi." + name + ".f64 %x, %a;", {bits_of_double(-7)},
                   (uint64_t)(int64_t)limit(t, -7), t.bits);
    }
    batch->add("cvt.rni.s64.f64 %x, %a;", {bits_of_double(0x1p53 + 2)}, (1ull << 53) + 2, 64);
    batch->add("cvt.f64.f32 %x, %a;", {bits_of_float(0.1f)}, bits_of_double((double)0.1f), 64);
    /* 1 + 2^-24 + 2^-52 is just above the middle of two floats. */
    batch->add("cvt.rn.f32.f64 %x, %a;", {bits_of_double(1 + 0x1p-24 + ULP)},
               bits_of_float(1 + 0x1p-23f), 32);
    batch->add("cvt.rn.f32.f64 %x, %a;", {bits_of_double(1e300)}, bits_of_float(INFINITY), 32);
    with_doubles(batch, "cvt.rni.f64.f64", {0x1p52 - 0.5}, 0x1p52);
    with_doubles(batch, "cvt.rzi.f64.f64", {-2.5}, -2);
    with_doubles(batch, "cvt.rmi.f64.f64", {-2.5}, -3);
    with_doubles(batch, "cvt.rpi.f64.f64", {2.25}, 3);
}

void test_doubles()
{
    ptx_batch batch;
    roundings(&batch);
    functions(&batch);
    conversions(&batch);
    batch.run();
}
