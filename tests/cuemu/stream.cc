/* stream.cc - streams and events. An operation is queued and runs when something legally forces it:
 * a synchronisation of its stream or of an event behind it, a wait of another stream that runs, a
 * free. So a synchronisation that the host code forgot gives stale data every time, not now and
 * then. The legacy default stream is rejected: it orders everything with everything and hides such
 * mistakes; blocking calls without a stream use it (enqueue_legacy). Thread: any, under api_lock.
 */
#include "runtime.h"

#include <chrono>
#include <deque>
#include <memory>

struct CUstream_st {
    std::deque<std::function<void()>> ops;
    uint64_t n_queued, n_done;
    int device;
    bool non_blocking, legacy, destroyed;
};

/* Where in a stream it was recorded last; when that was reached. */
struct CUevent_st {
    CUstream_st *stream;
    uint64_t position;
    std::shared_ptr<double> reached_ms;
    int device;
    bool timed, destroyed;
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

static std::vector<CUevent_st *> &all_events()
{
    static auto &list = *new std::vector<CUevent_st *>;
    return list;
}

/* What is queued behind a sticky error is lost. */
static void run_until(CUstream_st *s, uint64_t position)
{
    if (s->n_done >= position) {
        return;
    }
    open_device();
    while (s->n_done < position) {
        std::function<void()> op = std::move(s->ops.front());
        s->ops.pop_front();
        s->n_done++;
        if (!is_dead()) {
            op();
        }
    }
    close_device();
}

void drain_device(int device)
{
    for (CUstream_st *s : all_streams()) {
        if (s->device == device) {
            run_until(s, s->n_queued);
        }
    }
}

void drain_stream(cudaStream_t s)
{
    run_until(s, s->n_queued);
}

int device_of(cudaStream_t s)
{
    return s->device;
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

static void check_event(const CUevent_st *e)
{
    if (e->destroyed) {
        fail(STREAM, "use of a destroyed event");
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

/* Everything that is in these streams of a device now, when the operation runs. */
static std::function<void()> behind(int device, bool legacy, std::function<void()> op)
{
    std::vector<std::pair<CUstream_st *, uint64_t>> before;
    for (CUstream_st *s : all_streams()) {
        if (s->device == device && s->legacy == legacy && !s->non_blocking &&
            s->n_done < s->n_queued) {
            before.emplace_back(s, s->n_queued);
        }
    }
    return before.empty() ? op : [before, op] {
        for (const auto &b : before) {
            run_until(b.first, b.second);
        }
        op();
    };
}

static void push(CUstream_st *s, std::function<void()> op)
{
    s->ops.push_back(s->non_blocking ? std::move(op)
                                     : behind(s->device, !s->legacy, std::move(op)));
    s->n_queued++;
    if (conf().streams == 0) {
        run_until(s, s->n_queued);
    } else if (conf().streams >= 2) {
        run_some();
    }
}

cudaError_t enqueue(cudaStream_t s, std::function<void()> op)
{
    std::lock_guard<std::recursive_mutex> guard(api_lock);
    check_stream(s);
    push(s, std::move(op));
    return cudaSuccess;
}

static CUstream_st *legacy_stream(int device)
{
    for (CUstream_st *s : all_streams()) {
        if (s->legacy && s->device == device) {
            return s;
        }
    }
    CUstream_st *s = new CUstream_st();
    s->legacy = true;
    s->device = device;
    all_streams().push_back(s);
    return s;
}

cudaError_t enqueue_legacy(std::function<void()> op, bool wait)
{
    std::lock_guard<std::recursive_mutex> guard(api_lock);
    CUstream_st *s = legacy_stream(current_device());
    push(s, std::move(op));
    if (wait) {
        run_until(s, s->n_queued);
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
    s->device = current_device();
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

/* Does not wait: what is in it runs when it may. */
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    api_wait call;
    check_stream(s);
    s->destroyed = true;
    n_live_objects--;
    return call.err;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    api_wait call;
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
    api_wait call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    drain_device(current_device());
    return cudaSuccess;
}

/* The position counts at the time of the call; an event recorded again later changes nothing. */
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    api_call call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    check_event(e);
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
    e->device = current_device();
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
    check_stream(s);
    check_event(e);
    if (e->device != s->device) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    auto reached = std::make_shared<double>(-1.0);
    e->reached_ms = reached;
    e->stream = s;
    e->position = s->n_queued + 1;
    return enqueue(s, [reached] { *reached = now_ms(); });
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    api_wait call;
    if (call.err != cudaSuccess) {
        return call.err;
    }
    check_event(e);
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
    check_event(e);
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
    check_event(from);
    check_event(to);
    if (!from->timed || !to->timed || from->stream == nullptr || to->stream == nullptr) {
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
    check_event(e);
    e->destroyed = true; /* never freed: reachable, so that its use is seen */
    all_events().push_back(e);
    n_live_objects--;
    return call.err;
}
}
