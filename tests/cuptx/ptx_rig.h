/* ptx_rig.h - what the tests of the interpreter share: hand-written PTX, run on the stand-in's
 * streams and memory. Thread: one. */
#ifndef CUPTX_PTX_RIG_H
#define CUPTX_PTX_RIG_H

#include <set>

#include "ptx.h"
#include "test_kit.h"

/* Instructions that turn %a, %b, %c, %d into %x; registers of every name and type may be used. */
class ptx_batch
{
  public:
    /* want: what the low `bits` of %x have to be. */
    void add(const std::string &code, const std::vector<uint64_t> &in, uint64_t want, int bits);
    /* One kernel of all cases; a wrong one is printed and fails the test. */
    void run();

  private:
    struct one {
        std::string code;
        uint64_t in[4], want;
        int bits;
    };
    std::vector<one> cases_;
};

/* A module of one kernel `k` with the parameters given, launched once. The rest of the text. */
void ptx_launch(const std::string &module_text, dim3 grid, dim3 block, size_t dynamic_bytes,
                std::vector<void *> args);
/* The same around a body, with parameters `in` and `out` in %in and %out. declarations: in front of
 * the kernel. */
std::string ptx_kernel(const std::string &body, const std::string &declarations = "");
/* Runs it on n_out words of 32 bits, which begin as 0, and returns them. */
std::vector<uint32_t> ptx_words(const std::string &text, const std::vector<uint32_t> &in,
                                size_t n_out, int n_threads, size_t dynamic_bytes = 0);
/* The program ends, with this sentence, when the body runs in one thread. */
void ptx_expect_abort(const char *sentence, const std::string &body,
                      const std::string &declarations = "");

/* Rows of the opcode table, and types they take, that no kernel so far had. Prints and counts. */
int ptx_untested();

static inline uint64_t bits_of_float(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline uint64_t bits_of_double(double d)
{
    uint64_t u;
    memcpy(&u, &d, sizeof u);
    return u;
}

static inline float float_of_bits(uint64_t bits)
{
    uint32_t u = (uint32_t)bits;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* test_ptx_*.cc */
void test_integers();
void test_bits();
void test_floats();
void test_doubles();
void test_conversions();
void test_comparisons();
void test_moves_and_jumps();
void test_loads_and_stores();
void test_atomics();
void test_addresses();
void test_async_copies();
void test_shuffles();
void test_barriers();
void test_matrices();

#endif
