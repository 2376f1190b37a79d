/* bench_restore.c - what a context costs that comes back from disk, against reading it again; see
 * bench.h. Each time is taken on an engine of its own, so that memory holds nothing of it. Thread:
 * the caller's. */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/bench_priv.h"
#include "core/sysinfo.h"

enum { MAX_TIMES = 3 };

/* A folder of folders of files. */
static void remove_folder(const char *folder, int depth)
{
    char path[PATH_MAX];
    DIR *d = opendir(folder);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        int n = snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] == '.' || n < 0 || n >= (int)sizeof path) {
            continue;
        }
        if (unlink(path) != 0 && depth > 0) {
            remove_folder(path, depth - 1);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    rmdir(folder);
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
}

static tt_code start(const tt_engine_options *o, tt_engine **ret, tt_err *reterr)
{
    tt_engine_state state;
    tt_code rc = tt_engine_create(o, ret, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    while ((state = tt_engine_get_state(*ret, reterr)) == TT_ENGINE_LOADING) {
        nap();
    }
    return state == TT_ENGINE_READY ? TT_OK : reterr->code;
}

static tt_code prefill(tt_engine *e, const int32_t *ids, int32_t n, tt_err *reterr)
{
    tt_job_params p = {.kind = TT_JOB_PREFILL,
                       .prompt = ids,
                       .n_prompt = n,
                       .keep_context = n,
                       .n_logprobs = -1,
                       .n_prompt_logprobs = -1};
    tt_job *job = NULL;
    tt_code rc = tt_job_create(&p, NULL, NULL, &job, reterr);
    rc = rc == TT_OK ? tt_engine_submit(e, job, reterr) : rc;
    for (bool over = rc != TT_OK; !over;) {
        tt_event *ev = tt_job_next(job);
        if (ev == NULL) {
            nap();
            continue;
        }
        over = ev->type == TT_EV_DONE || ev->type == TT_EV_ERROR;
        if (ev->type == TT_EV_ERROR) {
            *reterr = ev->u.error;
            rc = reterr->code;
        }
        tt_event_free(ev);
    }
    tt_job_unref(&job);
    return rc;
}

/* Seconds of a prefill on a fresh engine, and how many of its tokens came from disk. What is saved
 * is on disk when this returns. */
static tt_code measure(const tt_engine_options *o, const int32_t *ids, int32_t n, double *ret,
                       uint64_t *ret_restored, tt_err *reterr)
{
    tt_engine *e = NULL;
    tt_engine_stats st = {0};
    tt_code rc = start(o, &e, reterr);
    rc = rc == TT_OK ? prefill(e, ids + n, 128, reterr) : rc; /* workspaces, threads */
    double t0 = tt_sys_now();
    rc = rc == TT_OK ? prefill(e, ids, n, reterr) : rc;
    *ret = tt_sys_now() - t0;
    if (e != NULL) {
        tt_engine_get_stats(e, &st);
        *ret_restored = st.restored_tokens;
        tt_engine_destroy(&e);
    }
    return rc;
}

static tt_code take_times(tt_bench *b, const tt_engine_options *opt, const char *folder,
                          const int32_t *ids, int32_t n, tt_err *reterr)
{
    double run[MAX_TIMES], back[MAX_TIMES];
    char name[64];
    tt_engine_options with = *opt;
    uint64_t restored = 0;
    int32_t times = b->repeat < MAX_TIMES ? b->repeat : MAX_TIMES;
    with.page_folder = folder;
    with.page_store_bytes = (uint64_t)1 << 40;
    tt_code rc = TT_OK;
    for (int32_t i = 0; rc == TT_OK && i < times; i++) {
        rc = measure(opt, ids, n, &run[i], &restored, reterr);
    }
    for (int32_t i = -1; rc == TT_OK && i < times; i++) { /* the first writes */
        rc = measure(&with, ids, n, &back[i < 0 ? 0 : i], &restored, reterr);
    }
    if (rc == TT_OK && restored < (uint64_t)(n / TT_PAGE_TOKENS * TT_PAGE_TOKENS)) {
        rc = tt_fail(reterr, TT_E_IO, "the context did not come back from %s", folder);
    }
    if (rc == TT_OK) {
        double a = tt_bench_median(run, times), c = tt_bench_median(back, times);
        snprintf(name, sizeof name, "context of %d prefilled", n);
        tt_bench_add(b, name, "s", a, TT_LIMIT_NONE, 0);
        snprintf(name, sizeof name, "context of %d restored from disk", n);
        tt_bench_add(b, name, "s", c, TT_LIMIT_NONE, 0);
        tt_bench_add(b, "  of its prefill", "%", 100 * c / a, TT_LIMIT_NONE, 0);
    }
    return rc;
}

tt_code tt_bench_restore(tt_bench *b, const tt_engine_options *opt, const int32_t *ids, int32_t n,
                         tt_err *reterr)
{
    char folder[PATH_MAX];
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/qttt-bench-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(folder) == NULL) {
        return tt_fail(reterr, TT_E_IO, "cannot make a folder for pages in %s",
                       base != NULL ? base : "/tmp");
    }
    tt_code rc = take_times(b, opt, folder, ids, n, reterr);
    remove_folder(folder, 1);
    return rc;
}
