/* test_ptx_integer.cc - integer opcodes against arithmetic in 128 bits, in every type. Thread: one.
 */
#include <limits>

#include "ptx_rig.h"

typedef __int128 wide;

template <class T> static std::vector<T> samples()
{
    return {0,
            1,
            (T)-1,
            7,
            (T)-8,
            std::numeric_limits<T>::min(),
            std::numeric_limits<T>::max(),
            (T)0x5a3c96e1f00d7b42};
}

template <class T> static uint64_t word(T v)
{
    return (uint64_t)(std::make_unsigned_t<T>)v;
}

/* a op b for all pairs of samples; WANT computes in 128 bits, what does not fit is cut off. */
template <class T, class WANT>
static void pairs(ptx_batch *batch, const std::string &opcode, WANT want, int bits = sizeof(T) * 8,
                  bool by_zero = true)
{
    for (T a : samples<T>()) {
        for (T b : samples<T>()) {
            if (b != 0 || by_zero) {
                batch->add(opcode + " %x, %a, %b;", {word(a), word(b)},
                           (uint64_t)want((wide)a, (wide)b), bits);
            }
        }
    }
}

template <class T> static void arithmetic(const std::string &type)
{
    ptx_batch batch;
    const int bits = sizeof(T) * 8;
    pairs<T>(&batch, "add." + type, [](wide a, wide b) { return a + b; });
    pairs<T>(&batch, "sub." + type, [](wide a, wide b) { return a - b; });
    pairs<T>(&batch, "min." + type, [](wide a, wide b) { return a < b ? a : b; });
    pairs<T>(&batch, "max." + type, [](wide a, wide b) { return a > b ? a : b; });
    pairs<T>(
        &batch, "div." + type, [](wide a, wide b) { return a / b; }, bits, false);
    pairs<T>(
        &batch, "rem." + type, [](wide a, wide b) { return a % b; }, bits, false);
    auto product = [](wide a, wide b) {
        return (wide)((unsigned __int128)a * (unsigned __int128)b);
    };
    pairs<T>(&batch, "mul.lo." + type, product);
    auto high = [product](wide a, wide b) {
        return (wide)((unsigned __int128)product(a, b) >> (sizeof(T) * 8));
    };
    pairs<T>(&batch, "mul.hi." + type, high);
    for (T a : samples<T>()) {
        T b = (T)-3, c = 1000;
        std::vector<uint64_t> in = {word(a), word(b), word(c)};
        batch.add("mad.lo." + type + " %x, %a, %b, %c;", in, (uint64_t)(product(a, b) + c), bits);
        batch.add("mad.hi." + type + " %x, %a, %b, %c;", in, (uint64_t)(high(a, b) + c), bits);
        if (std::is_signed<T>::value) {
            batch.add("neg." + type + " %x, %a;", in, (uint64_t)(-(wide)a), bits);
            batch.add("abs." + type + " %x, %a;", in, (uint64_t)(a < 0 ? -(wide)a : (wide)a), bits);
        }
    }
    batch.run();
}

template <class T> static void widening(const std::string &type)
{
    ptx_batch batch;
    auto product = [](wide a, wide b) { return a * b; };
    pairs<T>(&batch, "mul.wide." + type, product, (int)sizeof(T) * 16);
    for (T a : samples<T>()) {
        batch.add("mad.wide." + type + " %x, %a, %b, %c;", {word(a), word((T)-9), 1u << 31},
                  (uint64_t)((wide)a * (wide)(T)-9 + ((wide)1 << 31)), (int)sizeof(T) * 16);
    }
    batch.run();
}

void test_integers()
{
    arithmetic<uint16_t>("u16");
    arithmetic<int16_t>("s16");
    arithmetic<uint32_t>("u32");
    arithmetic<int32_t>("s32");
    arithmetic<uint64_t>("u64");
    arithmetic<int64_t>("s64");
    widening<uint16_t>("u16");
    widening<int16_t>("s16");
    widening<uint32_t>("u32");
    widening<int32_t>("s32");
}

template <class T> static void logic(const std::string &type)
{
    ptx_batch batch;
    const int bits = sizeof(T) * 8;
    pairs<T>(&batch, "and." + type, [](wide a, wide b) { return a & b; });
    pairs<T>(&batch, "or." + type, [](wide a, wide b) { return a | b; });
    pairs<T>(&batch, "xor." + type, [](wide a, wide b) { return a ^ b; });
    for (T a : samples<T>()) {
        batch.add("not." + type + " %x, %a;", {word(a)}, ~word(a), bits);
    }
    batch.run();
}

template <class T> static void shifts(const std::string &type)
{
    ptx_batch batch;
    const unsigned width = sizeof(T) * 8;
    for (T a : samples<T>()) {
        for (unsigned n : {0u, 1u, 5u, width - 1, width, width + 1, 0x80000000u}) {
            unsigned by = n < 120 ? n : 120;
            wide left = by >= width ? 0 : (wide)word(a) << by;
            batch.add("shl.b" + type.substr(1) + " %x, %a, %b;", {word(a), n}, (uint64_t)left,
                      (int)width);
            batch.add("shr." + type + " %x, %a, %b;", {word(a), n}, (uint64_t)((wide)a >> by),
                      (int)width);
        }
    }
    batch.run();
}

/* `n` bits of a from bit `at`, as the manual's text says it. */
template <class T> static T field(T a, unsigned at, unsigned n)
{
    const unsigned width = sizeof(T) * 8;
    if (n == 0) {
        return 0;
    }
    wide extended = std::is_signed<T>::value ? (wide)a : (wide)word(a);
    wide shifted = extended >> (at < 120 ? at : 120);
    if (n >= width) {
        return (T)shifted;
    }
    wide low = shifted & (((wide)1 << n) - 1);
    unsigned sign_at = at + n - 1 < width - 1 ? at + n - 1 : width - 1;
    bool negative = std::is_signed<T>::value && (extended >> sign_at & 1) != 0;
    return (T)(negative ? low | ~(((wide)1 << n) - 1) : low);
}

template <class T> static uint32_t top_bit(T a)
{
    const int last = (int)sizeof(T) * 8 - 1;
    /* Not a < 0: gcc 12 with -fsanitize=undefined takes it for false here. */
    uint64_t sign = std::is_signed<T>::value ? word(a) >> last & 1u : 0;
    for (int b = last; b >= 0; b--) {
        if ((word(a) >> b & 1u) != sign) {
            return (uint32_t)b;
        }
    }
    return ~0u;
}

template <class T> static void fields(const std::string &type)
{
    ptx_batch batch;
    const unsigned width = sizeof(T) * 8;
    const int bits = (int)width;
    const std::string b_type = "b" + type.substr(1);
    for (T a : samples<T>()) {
        for (unsigned at : {0u, 3u, width - 2, width}) {
            for (unsigned n : {0u, 1u, 8u, width}) {
                batch.add("bfe." + type + " %x, %a, %b, %c;", {word(a), at, n},
                          word(field(a, at, n)), bits);
                uint64_t mask = n == 64 ? ~0ull : (1ull << n) - 1, into = 0x123456789abcdef5;
                mask = at >= 64 ? 0 : mask << at;
                uint64_t moved = at >= 64 ? 0 : word(a) << at;
                batch.add("bfi." + b_type + " %x, %a, %b, %c, %d;", {word(a), into, at, n},
                          (into & ~mask) | (moved & mask), bits);
            }
        }
        uint32_t top = top_bit(a), count = 0;
        uint64_t turned = 0;
        for (unsigned b = 0; b < width; b++) {
            bool bit = (word(a) >> b & 1u) != 0;
            count += bit;
            turned |= (uint64_t)bit << (width - 1 - b);
        }
        uint32_t zeros = width - 1 - top_bit((std::make_unsigned_t<T>)a);
        batch.add("bfind." + type + " %x, %a;", {word(a)}, top, 32);
        batch.add("bfind.shiftamt." + type + " %x, %a;", {word(a)},
                  top == ~0u ? top : width - 1 - top, 32);
        batch.add("popc." + b_type + " %x, %a;", {word(a)}, count, 32);
        batch.add("clz." + b_type + " %x, %a;", {word(a)}, zeros, 32);
        batch.add("brev." + b_type + " %x, %a;", {word(a)}, turned, bits);
    }
    batch.run();
}

static void words_of_32()
{
    ptx_batch batch;
    const uint64_t a = 0x80a1b2c3, b = 0x7f015509;
    batch.add("prmt.b32 %x, %a, %b, 0x7531;", {a, b}, 0x7f5580b2, 32);
    batch.add("prmt.b32 %x, %a, %b, 0x3210;", {a, b}, a, 32);
    batch.add("prmt.b32 %x, %a, %b, 0xba98;", {a, b}, 0xffffffff, 32); /* signs of a's bytes */
    batch.add("prmt.b32 %x, %a, %b, 0xfedc;", {a, b}, 0, 32);
    batch.add("shf.l.wrap.b32 %x, %a, %b, %c;", {a, b, 36}, 0xf0155098, 32);
    batch.add("shf.l.clamp.b32 %x, %a, %b, %c;", {a, b, 36}, a, 32);
    batch.add("shf.r.wrap.b32 %x, %a, %b, %c;", {a, b, 36}, 0x980a1b2c, 32);
    batch.add("shf.r.clamp.b32 %x, %a, %b, %c;", {a, b, 36}, b, 32);
    batch.add("dp4a.s32.s32 %x, %a, %b, %c;", {0xff02807f, 0x02fd0180, 5},
              (uint64_t)(-1 * 2 + 2 * -3 + -128 * 1 + 127 * -128 + 5), 32);
    batch.add("dp4a.u32.u32 %x, %a, %b, %c;", {0xff02807f, 0x02fd0180, 5},
              255 * 2 + 2 * 253 + 128 * 1 + 127 * 128 + 5, 32);
    batch.add("dp4a.s32.u32 %x, %a, %b, %c;", {0xff02807f, 0x02fd0180, 5},
              (uint64_t)(-1 * 2 + 2 * 253 + -128 * 1 + 127 * 128 + 5), 32);
    batch.add("dp4a.u32.s32 %x, %a, %b, %c;", {0xff02807f, 0x02fd0180, 5},
              (uint64_t)(255 * 2 + 2 * -3 + 128 * 1 + 127 * -128 + 5), 32);
    batch.add("lop3.b32 %x, %a, %b, %c, 0xe8;", {a, b, 0x0ff0},
              (a & b) | (a & 0x0ff0) | (b & 0x0ff0), 32); /* majority */
    batch.add("lop3.b32 %x, %a, %b, %c, 0x96;", {a, b, 0x0ff0}, a ^ b ^ 0x0ff0, 32);
    batch.run();
}

static void predicates()
{
    ptx_batch batch;
    for (uint64_t a = 0; a < 2; a++) {
        for (uint64_t b = 0; b < 2; b++) {
            std::string begin = "setp.ne.u32 %p, %a, 0; setp.ne.u32 %q, %b, 0; ";
            const std::string end = " selp.u32 %x, 1, 0, %z;";
            batch.add(begin + "and.pred %z, %p, %q;" + end, {a, b}, a & b, 32);
            batch.add(begin + "or.pred %z, %p, !%q;" + end, {a, b}, a | (b ^ 1), 32);
            batch.add(begin + "xor.pred %z, %p, %q;" + end, {a, b}, a ^ b, 32);
            batch.add(begin + "not.pred %z, %p;" + end, {a, b}, a ^ 1, 32);
            batch.add(begin + "mov.pred %z, %p;" + end, {a, b}, a, 32);
        }
    }
    batch.run();
}

void test_bits()
{
    logic<uint16_t>("b16");
    logic<uint32_t>("b32");
    logic<uint64_t>("b64");
    shifts<uint16_t>("u16");
    shifts<int16_t>("s16");
    shifts<uint32_t>("u32");
    shifts<int32_t>("s32");
    shifts<uint64_t>("u64");
    shifts<int64_t>("s64");
    fields<uint32_t>("u32");
    fields<int32_t>("s32");
    fields<uint64_t>("u64");
    fields<int64_t>("s64");
    words_of_32();
    predicates();
}
