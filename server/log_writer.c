/* log_writer.c - see log_writer.h. Two buffers: callers fill one, the thread writes the other. */
#include "server/log_writer.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/log.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER; /* something to write, or an end */
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER; /* the thread has ended */

/* Guarded by the mutex. */
static pthread_t thread;
static tt_buf waiting;
static size_t max_waiting;
static bool running, stopping, ended;
static uint64_t n_dropped, n_told;

static void write_out(const char *p, size_t n)
{
    while (n > 0) {
        ssize_t w = write(STDERR_FILENO, p, n);
        if (w < 0 && (errno == EINTR || errno == EAGAIN)) {
            if (errno == EAGAIN) { /* somebody else has made it non-blocking */
                nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
            }
            continue;
        }
        if (w <= 0) {
            return; /* nobody reads the log: the server goes on */
        }
        p += w;
        n -= (size_t)w;
    }
}

static void *run(void *arg)
{
    tt_buf mine = {0};
    (void)arg;
    pthread_mutex_lock(&mutex);
    for (;;) {
        while (waiting.n == 0 && !stopping) {
            pthread_cond_wait(&work, &mutex);
        }
        if (waiting.n == 0) {
            break;
        }
        tt_buf swap = waiting;
        uint64_t lost = n_dropped - n_told;
        waiting = mine;
        mine = swap;
        n_told = n_dropped;
        pthread_mutex_unlock(&mutex);
        if (lost > 0) { /* they came after what is in `mine`, or in the midst of it */
            tt_log_write_dropped(&mine, lost);
        }
        write_out(mine.p, mine.n);
        tt_buf_clear(&mine);
        pthread_mutex_lock(&mutex);
    }
    tt_buf_finish(&mine);
    ended = true;
    pthread_cond_broadcast(&idle);
    pthread_mutex_unlock(&mutex);
    return NULL;
}

tt_code tt_log_writer_start(size_t max_bytes, tt_err *reterr)
{
    tt_code rc = TT_OK;
    pthread_mutex_lock(&mutex);
    if (!running) {
        max_waiting = max_bytes;
        stopping = ended = false;
        running = pthread_create(&thread, NULL, run, NULL) == 0;
        rc = running ? TT_OK : tt_fail(reterr, TT_E_INTERNAL, "no thread for the log");
    }
    pthread_mutex_unlock(&mutex);
    return rc;
}

void tt_log_writer_stop(double seconds)
{
    struct timespec until;
    int rc = 0;
    pthread_mutex_lock(&mutex);
    if (!running) {
        pthread_mutex_unlock(&mutex);
        return;
    }
    stopping = true;
    pthread_cond_signal(&work);
    clock_gettime(CLOCK_REALTIME, &until);
    double at = (double)until.tv_sec + (double)until.tv_nsec * 1e-9 + seconds;
    until.tv_sec = (time_t)at;
    until.tv_nsec = (long)((at - (double)until.tv_sec) * 1e9);
    while (!ended && rc == 0) {
        rc = pthread_cond_timedwait(&idle, &mutex, &until);
    }
    bool done = ended;
    running = !done; /* a thread that hangs in write() keeps its place: the process is ending */
    pthread_mutex_unlock(&mutex);
    if (done) {
        pthread_join(thread, NULL);
        tt_buf_finish(&waiting);
    }
}

void tt_log_writer_put(const char *line, size_t n)
{
    pthread_mutex_lock(&mutex);
    bool direct = !running;
    if (!direct) {
        bool was_empty = waiting.n == 0;
        if (waiting.n + n > max_waiting || !tt_buf_reserve(&waiting, n)) {
            waiting.failed = false; /* no memory is no more than a full buffer */
            n_dropped++;
        } else {
            tt_buf_put(&waiting, line, n);
        }
        if (was_empty) {
            pthread_cond_signal(&work);
        }
    }
    pthread_mutex_unlock(&mutex);
    if (direct) {
        write_out(line, n);
    }
}

uint64_t tt_log_writer_dropped(void)
{
    pthread_mutex_lock(&mutex);
    uint64_t n = n_dropped;
    pthread_mutex_unlock(&mutex);
    return n;
}
