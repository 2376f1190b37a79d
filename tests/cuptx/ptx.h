/* ptx.h - PTX as the interpreter holds it: a module of kernels, a kernel's instructions with their
 * operands as slots of a register file, one thread that runs them. Names and meanings: PTX ISA 9.0.
 *
 * A slot is 64 bits whatever the type; values lie in the low bits, signed ones are sign-extended.
 * Special registers, constants and the virtual registers of the text all are slots.
 * Thread: a module is read-only once loaded (but for its marks of coverage); a thread_state belongs
 * to one fiber. */
#ifndef CUPTX_PTX_H
#define CUPTX_PTX_H

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime.h"

namespace cuptx
{

enum scalar {
    NO_TYPE,
    U8,
    S8,
    B8,
    U16,
    S16,
    B16,
    U32,
    S32,
    B32,
    U64,
    S64,
    B64,
    F16,
    BF16,
    F32,
    F64,
    PRED
};

/* What may stand between an opcode's name and its types. */
enum modifier : uint64_t {
    M_RN = 1u << 0,
    M_RZ = 1u << 1,
    M_RM = 1u << 2,
    M_RP = 1u << 3,
    M_TO_INTEGER = 1u << 4, /* rni, rzi, rmi, rpi: with one of the four above */
    M_FTZ = 1u << 5,
    M_SAT = 1u << 6,
    M_APPROX = 1u << 7,
    M_AND = 1u << 8,
    M_OR = 1u << 9,
    M_XOR = 1u << 10,
    M_GLOBAL = 1u << 11,
    M_SHARED = 1u << 12,
    M_LOCAL = 1u << 13,
    M_PARAM = 1u << 14,
    M_CONST = 1u << 15,
    M_CACHE = 1u << 16, /* hints and kinds of caching, volatile, relaxed, scopes */
    M_VECTOR = 1u << 17,
    M_ADD = 1u << 18,
    M_MIN = 1u << 19,
    M_MAX = 1u << 20,
    M_EXCH = 1u << 21,
    M_CAS = 1u << 22,
    M_TRANS = 1u << 23,
    M_UNI = 1u << 24,
    M_ALIGNED = 1u << 25
};

enum { MAX_RESULTS = 4, MAX_SOURCES = 12 };

struct thread_state;
struct instruction;
typedef void (*action)(thread_state &t, const instruction &i);

struct instruction {
    action run;
    int dst[MAX_RESULTS], src[MAX_SOURCES];
    int n_dst, n_src;
    int second; /* predicate of `d|p`, or -1 */
    int guard;  /* @p, or -1 */
    bool guard_negated;
    unsigned negated;  /* a bit for each src written !p */
    int target;        /* of a branch: an instruction; of brx: a table */
    int64_t offset[2]; /* of the first and second address operand */
    uint64_t flags;    /* modifiers */
    unsigned mode;     /* which of the operations that share an action */
    scalar type, from;
    int line; /* of the PTX text */
};

/* Special registers have the first slots; then constants; then the text's registers. */
enum special {
    TID_X,
    TID_Y,
    TID_Z,
    NTID_X,
    NTID_Y,
    NTID_Z,
    CTAID_X,
    CTAID_Y,
    CTAID_Z,
    NCTAID_X,
    NCTAID_Y,
    NCTAID_Z,
    LANEID,
    WARPID,
    SINK, /* results written to _ */
    N_SPECIALS
};

struct extent {
    size_t at, n_bytes;
};

enum : uint8_t { EXECUTED = 1, SKIPPED = 2 }; /* marks of coverage; skipped: its guard was false */

struct kernel {
    std::string name;
    std::vector<instruction> code;
    std::vector<std::string> text; /* of each instruction */
    std::vector<uint8_t> marks;    /* of each instruction */
    std::vector<uint64_t> constants;
    int n_slots;
    std::vector<extent> params;
    size_t param_bytes;
    std::vector<extent> shared; /* static arrays, with gaps between that nothing may touch */
    size_t shared_bytes;        /* their end; dynamic shared memory begins at dynamic_at */
    size_t dynamic_at;
    size_t local_bytes;
    unsigned max_threads;                 /* .maxntid, or 0 */
    std::vector<std::vector<int>> tables; /* of brx.idx */
};

struct module {
    std::string name; /* for messages */
    std::vector<std::unique_ptr<kernel>> kernels;
    std::vector<std::pair<char *, size_t>> variables; /* .global and .const, initialised */
    module() = default;
    module(const module &) = delete;
    ~module();
    kernel *find(const std::string &kernel_name) const;
};

/* Parses the text; what is not understood ends the program with the line. */
std::unique_ptr<module> module_parse(const std::string &name, const std::string &text);

/* Addresses of shared, local and parameter space are offsets; as generic addresses they lie in
 * windows that no pointer of the host's is in. */
enum : uint64_t {
    WINDOW_MASK = 0xff00000000000000u,
    SHARED_WINDOW = 0x0100000000000000u,
    LOCAL_WINDOW = 0x0200000000000000u,
    PARAM_WINDOW = 0x0300000000000000u
};

struct thread_state {
    uint64_t *r;
    int pc; /* of the next instruction; negative: the thread ends */
    const kernel *k;
    const module *m;
    const char *params;
    char *local, *shared, *dynamic;
    size_t dynamic_bytes;
    const char *known; /* device memory that was looked up last */
    size_t known_bytes;
};

static inline cuemu::place where(const thread_state &t, const instruction &i)
{
    return {t.k->name.c_str(), i.line};
}

template <class T> static inline T get(const thread_state &t, int slot)
{
    T v;
    memcpy(&v, &t.r[slot], sizeof v);
    return v;
}

template <class T> static inline void put(thread_state &t, int slot, T v)
{
    if constexpr (std::is_integral<T>::value) {
        t.r[slot] = (uint64_t)(std::conditional_t<std::is_signed<T>::value, int64_t, uint64_t>)v;
    } else {
        t.r[slot] = 0;
        memcpy(&t.r[slot], &v, sizeof v);
    }
}

static inline bool predicate(const thread_state &t, int slot)
{
    return (t.r[slot] & 1) != 0;
}

/* A source that may be written !p. */
static inline bool predicate_of(const thread_state &t, const instruction &i, int n)
{
    return predicate(t, i.src[n]) != ((i.negated >> n & 1u) != 0);
}

/* Where an address of a space (or a generic one) lies, n_bytes from it; ends the program when that
 * is not memory of this thread's, its block's or the device's, or not aligned. (address.cc) */
char *locate_shared(thread_state &t, const instruction &i, uint64_t offset, size_t n_bytes);
char *locate(thread_state &t, const instruction &i, uint64_t address, size_t n_bytes);

/* The interpreter: what a launch queues. args: one pointer for each parameter. */
std::function<void()> kernel_body(const module *m, const kernel *k, void **args,
                                  size_t dynamic_bytes);

} // namespace cuptx

#endif
