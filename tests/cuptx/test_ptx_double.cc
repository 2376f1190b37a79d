/* test_ptx_double.cc - FP64: exact values, roundings between two neighbours, values that FP32 would
 * lose, cvt from and to every type. Thread: one. */
#include <cmath>

#include "ptx_reals.h"

static const double ULP = 0x1p-52, INF = INFINITY;

static void functions(ptx_batch *batch)
{
    with_reals<double>(batch, "div.rn.f64", {1, 3}, 1.0 / 3.0);
    with_reals<double>(batch, "div.rn.f64", {-1, 0}, -INF);
    with_reals<double>(batch, "rcp.rn.f64", {3}, 1.0 / 3.0);
    with_reals<double>(batch, "sqrt.rn.f64", {2}, 0x1.6a09e667f3bcdp+0);
    with_reals<double>(batch, "min.f64", {1 + ULP, 1}, 1);
    with_reals<double>(batch, "max.f64", {1 + ULP, 1}, 1 + ULP);
    with_reals<double>(batch, "min.f64", {NAN, 2}, 2);
    with_reals<double>(batch, "max.f64", {-2, NAN}, -2);
    with_reals<double>(batch, "min.f64", {0.0, -0.0}, -0.0);
    with_reals<double>(batch, "max.f64", {-0.0, 0.0}, 0.0);
    with_reals<double>(batch, "neg.f64", {1e300}, -1e300);
    with_reals<double>(batch, "abs.f64", {-1e-300}, 1e-300);
    with_reals<double>(batch, "copysign.f64", {-0.0, 1e300}, -1e300);
    batch->add("mov.f64 %x, 0d3FF0000000000001;", {}, bits_of_double(1 + ULP), 64);
    batch->add("setp.ne.s32 %p, 1, 0; selp.f64 %x, %a, %b, %p;",
               {bits_of_double(1e300), bits_of_double(2)}, bits_of_double(1e300), 64);
}

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
    with_reals<double>(batch, "cvt.rni.f64.f64", {0x1p52 - 0.5}, 0x1p52);
    with_reals<double>(batch, "cvt.rzi.f64.f64", {-2.5}, -2);
    with_reals<double>(batch, "cvt.rmi.f64.f64", {-2.5}, -3);
    with_reals<double>(batch, "cvt.rpi.f64.f64", {2.25}, 3);
}

void test_doubles()
{
    ptx_batch batch;
    check_roundings<double>(&batch, ".f64");
    functions(&batch);
    conversions(&batch);
    batch.run();
}
