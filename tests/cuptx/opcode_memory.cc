/* opcode_memory.cc - loads, stores, atomics, conversion of addresses, cp.async. Source: PTX ISA
 * 9.0, "Data Movement and Conversion", "atom", "red". Thread: a fiber's. */
#include "opcode.h"

namespace cuptx
{

static uint64_t address_of(const thread_state &t, const instruction &i, int n)
{
    return t.r[i.src[n]] + (uint64_t)i.offset[n];
}

template <class T> struct load_op {
    static void run(thread_state &t, const instruction &i)
    {
        size_t n = (size_t)i.n_dst;
        const char *p = locate(t, i, address_of(t, i, 0), sizeof(T) * n);
        for (size_t k = 0; k < n; k++) {
            T v;
            memcpy(&v, p + k * sizeof v, sizeof v);
            put<T>(t, i.dst[k], v);
        }
    }
};

template <class T> struct store_op {
    static void run(thread_state &t, const instruction &i)
    {
        size_t n = (size_t)i.n_src - 1;
        char *p = locate(t, i, address_of(t, i, 0), sizeof(T) * n);
        for (size_t k = 0; k < n; k++) {
            T v = get<T>(t, i.src[1 + k]);
            memcpy(p + k * sizeof v, &v, sizeof v);
        }
    }
};

template <template <class> class OP> static action any_size(const instruction &i)
{
    switch (i.type) {
    case U8:
    case B8:
        return OP<uint8_t>::run;
    case S8:
        return OP<int8_t>::run;
    case B16:
    case B32:
    case B64:
        return words<OP>(i);
    case F32:
        return OP<float>::run;
    case F64:
        return OP<double>::run;
    default:
        return integers<OP>(i);
    }
}

static bool vector_fits(const instruction &i, int n)
{
    return (i.flags & M_VECTOR) != 0 ? n == 2 || n == 4 : n == 1;
}

static action load_choice(const instruction &i)
{
    return i.n_src == 1 && vector_fits(i, i.n_dst) ? any_size<load_op>(i) : nullptr;
}

static action store_choice(const instruction &i)
{
    bool writable = (i.flags & (M_PARAM | M_CONST)) == 0;
    return writable && vector_fits(i, i.n_src - 1) ? any_size<store_op>(i) : nullptr;
}

/* ---- atomics ---- */

template <class T> static T combined(const instruction &i, T old, T a, T b)
{
    const uint64_t what = i.flags & (M_ADD | M_MIN | M_MAX | M_EXCH | M_CAS | M_AND | M_OR | M_XOR);
    switch (what) {
    case M_ADD:
        if constexpr (std::is_integral<T>::value) {
            return (T)((uint64_t)old + (uint64_t)a);
        }
        return old + a;
    case M_MIN:
        return old < a ? old : a;
    case M_MAX:
        return old > a ? old : a;
    case M_EXCH:
        return a;
    case M_CAS:
        return old == a ? b : old;
    default:
        break;
    }
    if constexpr (std::is_integral<T>::value) {
        return what == M_AND ? old & a : what == M_OR ? old | a : old ^ a;
    }
    return old;
}

/* Blocks may run on several OS threads. */
template <class T> struct atomic_op {
    static void run(thread_state &t, const instruction &i)
    {
        using bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
        auto *p = reinterpret_cast<bits *>(locate(t, i, address_of(t, i, 0), sizeof(T)));
        T a = get<T>(t, i.src[1]), b = i.n_src > 2 ? get<T>(t, i.src[2]) : T(), old, v;
        bits old_bits = __atomic_load_n(p, __ATOMIC_RELAXED), new_bits;
        do {
            memcpy(&old, &old_bits, sizeof old);
            v = combined<T>(i, old, a, b);
            memcpy(&new_bits, &v, sizeof v);
        } while (!__atomic_compare_exchange_n(p, &old_bits, new_bits, false, __ATOMIC_RELAXED,
                                              __ATOMIC_RELAXED));
        if (i.n_dst > 0) {
            put<T>(t, i.dst[0], old);
        }
    }
};

static action atomic_choice(const instruction &i)
{
    const uint64_t what = i.flags & (M_ADD | M_MIN | M_MAX | M_EXCH | M_CAS | M_AND | M_OR | M_XOR);
    bool one = what != 0 && (what & (what - 1)) == 0;
    if (!one || i.n_src != ((what & M_CAS) != 0 ? 3 : 2)) {
        return nullptr;
    }
    const bool bits = (what & (M_ADD | M_MIN | M_MAX)) == 0;
    switch (i.type) {
    case F32:
        return what == M_ADD ? atomic_op<float>::run : nullptr;
    case B32:
        return bits ? atomic_op<uint32_t>::run : nullptr;
    case B64:
        return bits ? atomic_op<uint64_t>::run : nullptr;
    case U32:
        return bits ? nullptr : atomic_op<uint32_t>::run;
    case S32:
        return bits ? nullptr : atomic_op<int32_t>::run;
    case U64:
        return bits ? nullptr : atomic_op<uint64_t>::run;
    default:
        return nullptr;
    }
}

/* ---- addresses ---- */

template <uint64_t WINDOW> static void to_generic(thread_state &t, const instruction &i)
{
    t.r[i.dst[0]] = t.r[i.src[0]] + WINDOW;
}

template <uint64_t WINDOW> static void from_generic(thread_state &t, const instruction &i)
{
    uint64_t address = t.r[i.src[0]];
    if ((address & WINDOW_MASK) != WINDOW) {
        cuemu::fail(where(t, i), "generic address %#llx is not of this space",
                    (unsigned long long)address);
    }
    t.r[i.dst[0]] = address - WINDOW;
}

template <action RUN> static action of_64_bits(const instruction &i)
{
    return i.type == U64 ? RUN : nullptr;
}

/* ---- cp.async ---- */

static void copy_async(thread_state &t, const instruction &i)
{
    size_t n = (size_t)t.r[i.src[2]];
    size_t n_valid = i.n_src > 3 ? get<uint32_t>(t, i.src[3]) : n;
    bool size_ok = n == 16 || (i.mode == 0 && (n == 4 || n == 8));
    if (!size_ok || n_valid > n) {
        cuemu::fail(where(t, i), "cp.async of %zu of %zu bytes", n_valid, n);
    }
    char *dst = locate_shared(t, i, (uint32_t)address_of(t, i, 0), n);
    uint64_t from = address_of(t, i, 1);
    instruction global = i;
    global.flags = M_GLOBAL;
    const void *src = reinterpret_cast<const void *>(from);
    if (n_valid == n) {
        src = locate(t, global, from, n);
    } else {
        for (size_t k = 0; k < n_valid; k++) {
            locate(t, global, from + k, 1);
        }
    }
    cuemu::async_copy(dst, src, n, n_valid, where(t, i));
}

static void commit_async(thread_state &, const instruction &)
{
    cuemu::async_commit();
}

static void wait_async(thread_state &t, const instruction &i)
{
    cuemu::async_wait((int)t.r[i.src[0]]);
}

static void wait_all_async(thread_state &, const instruction &)
{
    cuemu::async_commit();
    cuemu::async_wait(0);
}

template <action RUN, int N_SRC, int MORE> static action with_sources(const instruction &i)
{
    return i.n_src >= N_SRC && i.n_src <= N_SRC + MORE ? RUN : nullptr;
}

static const uint64_t SPACES = M_GLOBAL | M_SHARED | M_LOCAL | M_PARAM | M_CONST;
static const uint64_t ATOMIC =
    M_GLOBAL | M_SHARED | M_CACHE | M_ADD | M_MIN | M_MAX | M_EXCH | M_CAS | M_AND | M_OR | M_XOR;

static const opcode rows[] = {
    {"ld", SPACES | M_CACHE | M_VECTOR, RESULT, 0, load_choice},
    {"st", SPACES | M_CACHE | M_VECTOR, SOURCES, 0, store_choice},
    {"atom", ATOMIC, RESULT, 0, atomic_choice},
    {"red", ATOMIC, SOURCES, 0, atomic_choice},
    {"cvta.global", 0, RESULT, 0, of_64_bits<to_generic<0>>},
    {"cvta.const", 0, RESULT, 0, of_64_bits<to_generic<0>>},
    {"cvta.shared", 0, RESULT, 0, of_64_bits<to_generic<SHARED_WINDOW>>},
    {"cvta.local", 0, RESULT, 0, of_64_bits<to_generic<LOCAL_WINDOW>>},
    {"cvta.param", 0, RESULT, 0, of_64_bits<to_generic<PARAM_WINDOW>>},
    {"cvta.to.global", 0, RESULT, 0, of_64_bits<from_generic<0>>},
    {"cvta.to.const", 0, RESULT, 0, of_64_bits<from_generic<0>>},
    {"cvta.to.shared", 0, RESULT, 0, of_64_bits<from_generic<SHARED_WINDOW>>},
    {"cvta.to.local", 0, RESULT, 0, of_64_bits<from_generic<LOCAL_WINDOW>>},
    {"cvta.to.param", 0, RESULT, 0, of_64_bits<from_generic<PARAM_WINDOW>>},
    {"cp.async.ca.shared.global", M_CACHE, SOURCES, 0, with_sources<copy_async, 3, 1>},
    {"cp.async.cg.shared.global", M_CACHE, SOURCES, 1, with_sources<copy_async, 3, 1>},
    {"cp.async.commit_group", 0, NOTHING, 0, with_sources<commit_async, 0, 0>},
    {"cp.async.wait_group", 0, SOURCES, 0, with_sources<wait_async, 1, 0>},
    {"cp.async.wait_all", 0, NOTHING, 0, with_sources<wait_all_async, 0, 0>},
};

opcode_rows memory_opcodes()
{
    return {rows, sizeof rows / sizeof *rows};
}

} // namespace cuptx
