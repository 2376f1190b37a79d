/* kernel_rig.h - what the tests of the real kernels share: the reference table, contents that exist
 * on both sides, comparison. Thread: one. */
#ifndef CUEMU_KERNEL_RIG_H
#define CUEMU_KERNEL_RIG_H

#include <cmath>
#include <kernels/cuda/launch_cuda.h>

#include "test_kit.h"

extern "C" {
#include "kernels/lane.h"
#include "kernels/ref/ref.h"
}

/* The reference table with a lane; its memory is the host's. */
struct reference {
    tt_ops ops = {};
    tt_lane *lane = nullptr;
    reference()
    {
        tt_err err;
        tt_lane_options opt = {};
        opt.n_threads = 1;
        tt_ops_init_lane(&ops);
        tt_ops_init_ref(&ops);
        CHECK(ops.lane_create(&ops, &opt, &lane, &err) == TT_OK);
    }
    ~reference()
    {
        tt_err err;
        CHECK(ops.lane_sync(lane, &err) == TT_OK);
        ops.lane_destroy(&lane);
    }
    reference(const reference &) = delete;
};

/* The same contents twice: for the reference, and on the device. */
template <class T> struct twin {
    std::vector<T> host;
    kit_array<T> device;
    explicit twin(std::vector<T> v) : host(std::move(v)), device(host)
    {
    }
    tt_dev at_host()
    {
        return tt_addr(host.data());
    }
    tt_dev at_device()
    {
        return tt_addr(device.p);
    }
};

static inline std::vector<float> random_floats(kit_random *rnd, size_t n, float scale = 1)
{
    std::vector<float> v(n);
    for (float &x : v) {
        /* The residual stream of real models has outliers. */
        x = rnd->uniform() * scale * (rnd->below(97) == 0 ? 50.0f : 1.0f);
    }
    return v;
}

static inline std::vector<float> nothing(size_t n)
{
    return std::vector<float>(n, NAN);
}

/* Normalised squared error of what the device has; NaN in the one must be NaN in the other. usual:
 * an element's size by the making of the inputs, where terms may cancel. */
static inline double nmse(const std::vector<float> &got, const std::vector<float> &want,
                          double usual = 0)
{
    double error = 0, size = 1e-30;
    for (size_t i = 0; i < want.size(); i++) {
        if (std::isnan(got[i]) != std::isnan(want[i])) {
            return INFINITY;
        }
        if (!std::isnan(want[i])) {
            double d = (double)got[i] - (double)want[i];
            error += d * d;
            size += (double)want[i] * (double)want[i];
        }
    }
    return error / fmax(size, usual * usual * (double)want.size());
}

static inline void check_close(const char *what, twin<float> *t, double limit = 1e-12,
                               double usual = 0)
{
    double e = nmse(t->device.get(), t->host, usual);
    if (!(e <= limit)) {
        printf("%s: error %g, at most %g\n", what, e, limit);
        kit_check(false, what, cuemu::here());
    }
}

/* test_rope.cc */
void test_rope();
void test_rope_q_alone();
void test_rope_bytes();

#ifdef CUEMU
/* Makes each runtime call of `what` fail in turn: every failure comes back (one of cuBLAS may be
 * `other`), the last round is without one. Then s, which each round has used, works. Returns the
 * calls there are. */
static inline int check_faults(kit_stream *s, const std::function<cudaError_t()> &what,
                               cudaError_t other = cudaErrorLaunchFailure)
{
    for (int n = 0; n < 100; n++) {
        cuemu_fail_after(n, cudaErrorLaunchFailure);
        cudaError_t err = what();
        cuemu_fail_after(-1, cudaSuccess);
        s->sync();
        cudaGetLastError();
        if (err == cudaSuccess) {
            return n;
        }
        CHECK(err == cudaErrorLaunchFailure || err == other);
    }
    kit_check(false, "no end of failures", cuemu::here());
    return 100;
}
#endif

#endif
