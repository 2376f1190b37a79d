/* test_ptx_float.cc - FP32 and cvt: exact values where there are any, roundings between two
 * neighbours, NaN, infinities, signed zeros. Thread: one. */
#include <cmath>

#include "ptx_reals.h"

static const float INF = INFINITY, TINY = 0x1p-130f;

static void minima(ptx_batch *batch)
{
    with_reals<float>(batch, "min.f32", {1, 2}, 1);
    with_reals<float>(batch, "max.f32", {1, 2}, 2);
    with_reals<float>(batch, "min.f32", {NAN, 2}, 2);
    with_reals<float>(batch, "max.f32", {-2, NAN}, -2);
    for (float sign : {1.0f, -1.0f}) {
        with_reals<float>(batch, "min.f32", {0.0f * sign, -0.0f * sign}, -0.0f);
        with_reals<float>(batch, "max.f32", {0.0f * sign, -0.0f * sign}, 0.0f);
    }
    with_reals<float>(batch, "neg.f32", {0}, -0.0f);
    with_reals<float>(batch, "neg.f32", {-INF}, INF);
    with_reals<float>(batch, "abs.f32", {-3}, 3);
    with_reals<float>(batch, "abs.f32", {-0.0f}, 0);
    with_reals<float>(batch, "copysign.f32", {-0.0f, 5}, -5);
    with_reals<float>(batch, "copysign.f32", {1, -7}, 7);
    with_reals<float>(batch, "add.sat.f32", {1, 1}, 1);
    with_reals<float>(batch, "add.sat.f32", {-1, -1}, 0);
    with_reals<float>(batch, "fma.rn.sat.f32", {INF, 0, 1}, 0);
}

static void functions(ptx_batch *batch)
{
    with_reals<float>(batch, "div.rn.f32", {1, 3}, 1.0f / 3.0f);
    with_reals<float>(batch, "div.rn.f32", {-1, 0}, -INF);
    with_reals<float>(batch, "div.full.f32", {6, 4}, 1.5f);
    with_reals<float>(batch, "div.approx.f32", {6, -4}, -1.5f);
    with_reals<float>(batch, "rcp.rn.f32", {3}, 1.0f / 3.0f);
    with_reals<float>(batch, "rcp.approx.f32", {-0.0f}, -INF);
    with_reals<float>(batch, "rcp.approx.ftz.f32", {TINY}, INF);
    with_reals<float>(batch, "sqrt.rn.f32", {9}, 3);
    with_reals<float>(batch, "sqrt.approx.f32", {0.25f}, 0.5f);
    with_reals<float>(batch, "rsqrt.approx.f32", {4}, 0.5f);
    with_reals<float>(batch, "rsqrt.approx.f32", {0}, INF);
    with_reals<float>(batch, "ex2.approx.f32", {3}, 8);
    with_reals<float>(batch, "ex2.approx.f32", {-130}, TINY);
    with_reals<float>(batch, "ex2.approx.ftz.f32", {-130}, 0);
    with_reals<float>(batch, "ex2.approx.f32", {-INF}, 0);
    with_reals<float>(batch, "lg2.approx.f32", {8}, 3);
    with_reals<float>(batch, "lg2.approx.f32", {0}, -INF);
    with_reals<float>(batch, "lg2.approx.ftz.f32", {TINY}, -INF);
    with_reals<float>(batch, "sin.approx.f32", {0}, 0);
    with_reals<float>(batch, "sin.approx.f32", {1.5707964f}, 1);
    with_reals<float>(batch, "cos.approx.f32", {0}, 1);
    with_reals<float>(batch, "tanh.approx.f32", {20}, 1);
    with_reals<float>(batch, "tanh.approx.f32", {-0.0f}, -0.0f);
    with_reals<float>(batch, "add.ftz.f32", {TINY, 0}, 0);
    with_reals<float>(batch, "mul.ftz.f32", {-0x1p-100f, 0x1p-100f}, -0.0f);
}

void test_floats()
{
    ptx_batch batch;
    check_roundings<float>(&batch, ".f32");
    minima(&batch);
    functions(&batch);
    batch.run();
}

/* ---- cvt ---- */

typedef __int128 wide;

static wide value_of(const integer_type &t, uint64_t bits)
{
    wide v = t.bits == 64 ? (wide)bits : (wide)(bits & (((uint64_t)1 << t.bits) - 1));
    return t.has_sign && (v >> (t.bits - 1) & 1) != 0 ? v - ((wide)1 << t.bits) : v;
}

static wide limit(const integer_type &t, wide v)
{
    wide low = t.has_sign ? -((wide)1 << (t.bits - 1)) : 0;
    wide high = ((wide)1 << (t.has_sign ? t.bits - 1 : t.bits)) - 1;
    return v < low ? low : v > high ? high : v;
}

static void between_integers(ptx_batch *batch)
{
    for (const integer_type &to : INTEGERS) {
        for (const integer_type &from : INTEGERS) {
            for (uint64_t a : {0x0ull, 0x7full, 0xffull, 0x8000ull, 0x89abcdef01234567ull, ~0ull}) {
                std::string types = std::string(to.name) + "." + from.name + " %x, %a;";
                wide v = value_of(from, a);
                batch->add("cvt." + types, {a}, (uint64_t)v, to.bits);
                batch->add("cvt.sat." + types, {a}, (uint64_t)limit(to, v), to.bits);
            }
        }
    }
}

static uint64_t bf16_bits(float f) /* of a float that is one */
{
    return bits_of_float(f) >> 16;
}

static void floats_to_integers(ptx_batch *batch)
{
    const struct {
        float v, rn, rz, rm, rp;
    } values[] = {{2.5f, 2, 2, 2, 3},
                  {3.5f, 4, 3, 3, 4},
                  {-2.5f, -2, -2, -3, -2},
                  {-0.75f, -1, 0, -1, 0},
                  {100, 100, 100, 100, 100}};
    for (const integer_type &to : INTEGERS) {
        for (const auto &v : values) {
            const std::pair<const char *, float> modes[] = {
                {"rni", v.rn}, {"rzi", v.rz}, {"rmi", v.rm}, {"rpi", v.rp}};
            for (const auto &mode : modes) {
                std::string begin = std::string("cvt.") + mode.first + "." + to.name;
                uint64_t want = (uint64_t)limit(to, (wide)mode.second);
                batch->add(begin + ".f32 %x, %a;", {bits_of_float(v.v)}, want, to.bits);
                batch->add(begin + ".bf16 %x, %a;", {bf16_bits(v.v)}, want, to.bits);
            }
        }
        std::string rni = std::string("cvt.rni.") + to.name;
        batch->add(rni + ".f16 %x, %a;", {0x4100}, 2, to.bits); /* 2.5 */
        batch->add(rni + ".f32 %x, %a;", {bits_of_float(1e30f)}, (uint64_t)limit(to, (wide)1 << 90),
                   to.bits);
        batch->add(rni + ".f32 %x, %a;", {bits_of_float(-INF)},
                   (uint64_t)limit(to, -((wide)1 << 90)), to.bits);
        batch->add(rni + ".f32 %x, %a;", {bits_of_float(NAN)}, to.bits == 64 ? 1ull << 63 : 0,
                   to.bits);
    }
}

static void to_floats(ptx_batch *batch)
{
    for (const integer_type &from : INTEGERS) {
        for (uint64_t a : {0x0ull, 0x5full, 0xffull, 0x8001ull, 0x01000001ull, 0xffffff7full}) {
            wide v = value_of(from, a);
            batch->add(std::string("cvt.rn.f32.") + from.name + " %x, %a;", {a},
                       bits_of_float((float)v), 32);
        }
    }
    with_reals<float>(batch, "cvt.rni.f32.f32", {2.5f}, 2);
    with_reals<float>(batch, "cvt.rzi.f32.f32", {-2.5f}, -2);
    with_reals<float>(batch, "cvt.rmi.f32.f32", {-2.5f}, -3);
    with_reals<float>(batch, "cvt.rpi.f32.f32", {2.25f}, 3);
    with_reals<float>(batch, "cvt.sat.f32.f32", {1.5f}, 1);
    with_reals<float>(batch, "cvt.sat.f32.f32", {-1.5f}, 0);
    with_reals<float>(batch, "cvt.sat.f32.f32", {NAN}, 0);
    with_reals<float>(batch, "cvt.sat.f32.f32", {0.25f}, 0.25f);
    batch->add("cvt.f32.f16 %x, %a;", {0xc100}, bits_of_float(-2.5f), 32);
    batch->add("cvt.f32.f16 %x, %a;", {0x0001}, bits_of_float(0x1p-24f), 32);
    batch->add("cvt.f32.bf16 %x, %a;", {0xc020}, bits_of_float(-2.5f), 32);
    batch->add("cvt.rn.f16.f32 %x, %a;", {bits_of_float(-2.5f)}, 0xc100, 16);
    batch->add("cvt.rn.f16.f32 %x, %a;", {bits_of_float(1e9f)}, 0x7c00, 16);
    batch->add("cvt.rn.bf16.f32 %x, %a;", {0x3f808000}, 0x3f80, 16); /* half way: to even */
    batch->add("cvt.rn.bf16.f32 %x, %a;", {0x3f818000}, 0x3f82, 16);
    batch->add("cvt.rn.bf16x2.f32 %x, %a, %b;", {bits_of_float(1), bits_of_float(-2.5f)},
               0x3f80c020, 32);
    batch->add("cvt.rn.f16x2.f32 %x, %a, %b;", {bits_of_float(1), bits_of_float(-2.5f)}, 0x3c00c100,
               32);
}

void test_conversions()
{
    ptx_batch batch;
    between_integers(&batch);
    floats_to_integers(&batch);
    to_floats(&batch);
    batch.run();
}
