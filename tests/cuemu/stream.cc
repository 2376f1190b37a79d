/* stream.cc - streams and events. An operation is queued and runs when something legally forces it:
 * a synchronisation of its stream or of an event behind it, a wait of another stream that runs, a
 * free. So a synchronisation that the host code forgot gives stale data every time, not now and
 * then. The legacy default stream is rejected: it orders everything with everything and hides such
 * mistakes. Thread: any, under api_lock. */
#include "runtime.h"

#include <chrono>
#include <deque>
#include <memory>

struct CUstream_st {
    std::deque<std::function<void()>> ops;
    uint64_t n_queued, n_done;
    bool non_blocking, destroyed;
};

/* Where in a stream it was recorded last; when that was reached. */
struct CUevent_st {
    CUstream_st *stream;
    uint64_t position;
    std::shared_ptr<double> reached_ms;
    bool timed;
};

namespace cuemu
{

static const place STREAM = {"stream", 0};

/* Destroyed ones too, so that their use is seen. Never freed: reachable at exit. */
static std::vector<CUstream_st *> &all_streams()
{
    static auto &list = *new std::vector<CUstream_st *>;
    return list;
}

static void run_until(CUstream_st *s, uint64_t position)
{
    while (s->n_done < position) {
        std::function<void()> op = std::move(s->ops.front());
        s->ops.pop_front();
        s->n_done++;
        open_device();
        op();
        close_device();
    }
}

void drain_streams(bool blocking_only)
{
    for (CUstream_st *s : all_streams()) {
        if (!blocking_only || !s->non_blocking) {
            run_until(s, s->n_queued);
        }
    }
}

void drain_stream(cudaStream_t s)
{
    run_until(s, s->n_queued);
}

static void check_stream(const CUstream_st *s)
{
    if (s == nullptr) {
        fail(STREAM, "the legacy default stream is not used in this project");
    }
    if (s->destroyed) {
        fail(STREAM, "use of a destroyed stream");
    }
}

/* Some operations of some streams, as a device that is sometimes fast would have run them. */
static void run_some()
{
    static uint64_t random = 0x9E3779B97F4A7C15ull + (uint64_t)conf().streams * 7919;
    while ((next_random(&random) & 1) != 0) {
        CUstream_st *s = all_streams()[next_random(&random) % all_streams().size()];
        if (s->n_done < s->n_queued) {
            run_until(s, s->n_done + 1);
        }
    }
}

cudaError_t enqueue(cudaStream_t s, std::function<void()> op)
{
    std::lock_guard<std::recursive_mutex> guard(api_lock);
    check_stream(s);
    s->ops.push_back(std::move(op));
    s->n_queued++;
    if (conf().streams == 0) {
        run_until(s, s->n_queued);
    } else if (conf().streams >= 2) {
        run_some();
    }
    return cudaSuccess;
}

static double now_ms()
{
    using namespace std::chrono;
    return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

} // namespace cuemu

using namespace cuemu;

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    CUstream_st *s = new CUstream_st();
    s->non_blocking = (flags & cudaStreamNonBlocking) != 0;
    all_streams().push_back(s);
    n_live_objects++;
    *stream = s;
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    api_call call;
    check_stream(s);
    drain_stream(s);
    s->destroyed = true;
    n_live_objects--;
    return call.err;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    check_stream(s);
    drain_stream(s);
    return cudaSuccess;
}

/* Asked often enough, a stream gets on. */
cudaError_t cudaStreamQuery(cudaStream_t s)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    check_stream(s);
    if (s->n_done == s->n_queued) {
        return cudaSuccess;
    }
    run_until(s, s->n_done + 1);
    return cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    drain_streams(false);
    return cudaSuccess;
}

/* The position counts at the time of the call; an event recorded again later changes nothing. */
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    CUstream_st *other = e->stream;
    uint64_t position = e->position;
    if (other == nullptr) {
        return cudaSuccess;
    }
    return enqueue(s, [other, position] { run_until(other, position); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    CUevent_st *e = new CUevent_st();
    e->reached_ms = std::make_shared<double>(-1.0);
    e->timed = (flags & cudaEventDisableTiming) == 0;
    n_live_objects++;
    *event = e;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    auto reached = std::make_shared<double>(-1.0);
    e->reached_ms = reached;
    check_stream(s);
    e->stream = s;
    e->position = s->n_queued + 1;
    return enqueue(s, [reached] { *reached = now_ms(); });
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    if (e->stream != nullptr) {
        run_until(e->stream, e->position);
    }
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    if (e->stream == nullptr || e->stream->n_done >= e->position) {
        return cudaSuccess;
    }
    run_until(e->stream, e->stream->n_done + 1);
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    if (!from->timed || !to->timed) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    if (*from->reached_ms < 0 || *to->reached_ms < 0) {
        return remember(cudaErrorNotReady);
    }
    *ms = (float)(*to->reached_ms - *from->reached_ms);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    api_call call;
    delete e;
    n_live_objects--;
    return call.err;
}
}
