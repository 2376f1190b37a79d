/* page_store_io.c - the page store's two threads: a reader, whom requests wait for, and a writer,
 * whom nobody waits for. See page_store_priv.h for the lock. */
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "core/page_store_priv.h"
#include "core/sysinfo.h"

static const double RETRY_SECONDS = 10;

static void wake(const tt_page_store *s)
{
    if (s->opt.wake != NULL) {
        s->opt.wake(s->opt.wake_arg);
    }
}

/* ---- dropping runs ---- */

/* A run that index_drop() was called for loses its file. Without right to do so it is forgotten all
 * the same: the next start finds it. */
static void remove_run(tt_page_store *s, tt_run *r)
{
    char folder[PATH_MAX], name[TT_RUN_NAME_BYTES];
    tt_err err;
    tt_page_store_folder(s, r->fingerprint, folder);
    tt_run_name(name, r->name);
    if (tt_state_remove(folder, name, &err) != TT_OK) {
        tt_page_store_warn(s, "%s", err.msg);
    }
    pthread_mutex_lock(&s->mutex);
    tt_page_index_forget(&s->index, r);
    pthread_mutex_unlock(&s->mutex);
}

/* The least recently used run goes; false: there is none. */
static bool evict_one(tt_page_store *s)
{
    pthread_mutex_lock(&s->mutex);
    tt_run *r = s->index.first;
    if (r != NULL) {
        tt_page_index_drop(&s->index, r);
        s->stats.evicted_runs++;
    }
    pthread_mutex_unlock(&s->mutex);
    if (r != NULL) {
        remove_run(s, r);
    }
    return r != NULL;
}

static bool over_budget(tt_page_store *s, uint64_t more)
{
    pthread_mutex_lock(&s->mutex);
    uint64_t bytes = s->index.bytes;
    pthread_mutex_unlock(&s->mutex);
    return more > s->opt.max_bytes || bytes > s->opt.max_bytes - more;
}

void tt_page_store_evict(tt_page_store *s, uint64_t more)
{
    while (over_budget(s, more) && evict_one(s)) {
    }
}

/* ---- the reader ---- */

/* How many of the fetch's pages one run has from where it begins, and where that is. The mutex is
 * held. */
static int32_t find_run(tt_page_store *s, const tt_page_fetch *f, char name[TT_RUN_NAME_BYTES],
                        int32_t *ret_first)
{
    int32_t i, n = 0;
    tt_run *r = tt_page_index_find(&s->index, f->key[0].hash, &i);
    if (r == NULL || r->state != TT_RUN_READY) {
        return 0;
    }
    while (n < f->n_keys && i + n < r->n && r->entry[i + n].hash == f->key[n].hash) {
        n++;
    }
    size_t most = s->opt.staging_bytes / s->page_bytes;
    n = (size_t)n > most ? (int32_t)(most > 0 ? most : 1) : n;
    tt_run_name(name, r->name);
    tt_page_index_use(&s->index, r);
    *ret_first = i;
    return n;
}

/* Reads n pages from the run's page `first` on. *ret_n: those that are what was asked for. */
static tt_code read_pages(tt_page_store *s, tt_page_fetch *f, const char *name, int32_t first,
                          int32_t n, int32_t *ret_n, tt_err *reterr)
{
    tt_run_key keys[TT_RUN_PAGES];
    tt_state_reader *r = NULL;
    int32_t in_run = 0, i = 0;
    *ret_n = 0;
    f->bytes = malloc((size_t)n * s->page_bytes);
    tt_code rc = f->bytes == NULL ? tt_fail(reterr, TT_E_NOMEM, "no memory to read pages")
                                  : tt_run_open(s->folder, name, s->opt.fingerprint, s->page_bytes,
                                                &r, keys, &in_run, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    for (; rc == TT_OK && i < n && first + i < in_run; i++) {
        if (!tt_run_key_equal(&keys[first + i], &f->key[i])) {
            break; /* another page of the same hash */
        }
        rc = tt_state_reader_read(r, first + i, f->bytes + (size_t)i * s->page_bytes, s->page_bytes,
                                  reterr);
        *ret_n += rc == TT_OK;
    }
    tt_state_reader_touch(r);
    tt_state_reader_close(&r);
    return rc;
}

/* What could not be read must not be asked for again. Its file goes only when that is damaged: one
 * that the system does not give now may be whole, and is looked at when the store is opened. */
static void drop_run(tt_page_store *s, const tt_page_fetch *f, const char *name, const tt_err *why)
{
    int32_t i;
    uint64_t last = 0;
    tt_run_parse_name(name, &last);
    pthread_mutex_lock(&s->mutex);
    tt_run *r = tt_page_index_find(&s->index, f->key[0].hash, &i);
    bool is = r != NULL && r->state == TT_RUN_READY && r->name == last;
    bool damaged = why->code == TT_E_INVALID;
    if (is) {
        tt_page_index_drop(&s->index, r);
        s->stats.corrupt_runs++;
    }
    if (is && !damaged) {
        tt_page_index_forget(&s->index, r);
    }
    pthread_mutex_unlock(&s->mutex);
    if (is && damaged) {
        remove_run(s, r);
        tt_page_store_warn(s, "K/V pages on disk are dropped and will be recomputed: %s", why->msg);
    } else if (is) {
        tt_page_store_warn(s, "K/V pages on disk are left alone until the next start: %s",
                           why->msg);
    }
}

/* The next fetch to be served, with room for it; NULL: stop. The mutex is held. */
static tt_page_fetch *next_fetch(tt_page_store *s)
{
    for (;;) {
        tt_page_fetch *f = s->fetch_first;
        while (f != NULL && f->state != TT_FETCH_QUEUED) {
            f = f->next;
        }
        if (s->stopping) {
            return NULL;
        }
        /* the most that it can come to; one page is always possible */
        size_t need = f != NULL ? (size_t)f->n_keys * s->page_bytes : 0;
        if (f != NULL && (s->fetch_bytes == 0 || s->fetch_bytes + need <= s->opt.staging_bytes)) {
            return f;
        }
        pthread_cond_wait(&s->to_read, &s->mutex);
    }
}

static void serve_fetch(tt_page_store *s, tt_page_fetch *f)
{
    char name[TT_RUN_NAME_BYTES];
    tt_err err = {0};
    int32_t first = 0, got = 0, n = find_run(s, f, name, &first);
    f->state = TT_FETCH_READING;
    f->staged = (size_t)n * s->page_bytes;
    s->fetch_bytes += f->staged;
    pthread_mutex_unlock(&s->mutex);
    tt_code rc = n > 0 ? read_pages(s, f, name, first, n, &got, &err) : TT_OK;
    if (rc != TT_OK && rc != TT_E_NOMEM) {
        drop_run(s, f, name, &err);
    }
    pthread_mutex_lock(&s->mutex);
    s->stats.read_bytes += (uint64_t)got * s->page_bytes;
    f->n_pages = got;
    f->state = TT_FETCH_DONE;
    if (f->refs == 0) {
        tt_page_fetch_release(f);
    }
    pthread_mutex_unlock(&s->mutex);
    wake(s);
    pthread_mutex_lock(&s->mutex);
}

void *tt_page_store_read_thread(void *store)
{
    tt_page_store *s = store;
    tt_page_fetch *f;
    pthread_mutex_lock(&s->mutex);
    while ((f = next_fetch(s)) != NULL) {
        serve_fetch(s, f);
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* ---- the writer ---- */

typedef struct writing {
    tt_run *run; /* NULL = none */
    tt_state_writer *file;
    tt_run_key keys[TT_RUN_PAGES];
    int32_t n;
    bool failed;
} writing;

static void fail_run(tt_page_store *s, writing *w, const tt_err *why)
{
    tt_state_writer_abandon(&w->file);
    w->failed = true;
    pthread_mutex_lock(&s->mutex);
    bool news = s->retry_at == 0 || tt_sys_now() > s->retry_at + RETRY_SECONDS;
    s->stats.write_failures++;
    s->retry_at = tt_sys_now() + RETRY_SECONDS;
    pthread_mutex_unlock(&s->mutex);
    if (news) {
        tt_page_store_warn(s, "K/V pages are not saved: %s", why->msg);
    }
}

/* Makes room in the budget and on the disk for a whole run. */
static tt_code make_room(tt_page_store *s, tt_err *reterr)
{
    struct statvfs fs;
    uint64_t run = (uint64_t)TT_RUN_PAGES * s->page_bytes, before = 0;
    tt_page_store_evict(s, run < s->opt.max_bytes ? run : 0);
    do {
        if (statvfs(s->folder, &fs) != 0 ||
            (uint64_t)fs.f_bavail * fs.f_frsize >= run + s->opt.reserve_bytes) {
            return TT_OK;
        }
        if (before > 0 && fs.f_bavail <= before) {
            break; /* somebody else fills it: all runs together would not help */
        }
        before = fs.f_bavail;
    } while (evict_one(s));
    return tt_fail(reterr, TT_E_IO, "less than %llu MiB are free on the disk of %s",
                   (unsigned long long)((run + s->opt.reserve_bytes) >> 20), s->folder);
}

static tt_code begin_file(tt_page_store *s, writing *w, uint64_t first_key, tt_err *reterr)
{
    tt_code rc = tt_state_make_folder(s->folder, reterr);
    rc = rc == TT_OK ? make_room(s, reterr) : rc;
    return rc == TT_OK ? tt_run_create(s->folder, first_key, s->opt.fingerprint, &w->file, reterr)
                       : rc;
}

/* The run is complete, or given up. */
static void end_run(tt_page_store *s, writing *w)
{
    tt_err err;
    uint64_t bytes = 0;
    if (w->run == NULL) {
        return;
    }
    if (!w->failed && tt_run_commit(&w->file, w->keys, w->n, &bytes, &err) != TT_OK) {
        fail_run(s, w, &err);
    }
    pthread_mutex_lock(&s->mutex);
    if (w->failed) {
        tt_page_index_forget(&s->index, w->run);
    } else {
        tt_page_index_ready(&s->index, w->run, w->keys[w->n - 1].hash, bytes);
        s->stats.written_bytes += (uint64_t)w->n * s->page_bytes;
        s->retry_at = 0;
    }
    pthread_mutex_unlock(&s->mutex);
    tt_page_store_evict(s, 0);
    w->run = NULL;
}

static void write_page(tt_page_store *s, writing *w, const tt_page_put *p)
{
    tt_err err;
    if (w->run != p->run) {
        end_run(s, w); /* its end could not be told */
        *w = (writing){.run = p->run};
        if (begin_file(s, w, p->key.hash, &err) != TT_OK) {
            fail_run(s, w, &err);
        }
    }
    if (w->failed) {
        return;
    }
    w->keys[w->n++] = p->key;
    if (tt_state_writer_add(w->file, p->bytes, s->page_bytes, &err) != TT_OK) {
        fail_run(s, w, &err);
    }
}

/* NULL: stop, all is done. */
static tt_page_put *next_put(tt_page_store *s)
{
    pthread_mutex_lock(&s->mutex);
    while (s->puts == NULL && !s->stopping) {
        pthread_cond_wait(&s->to_write, &s->mutex);
    }
    tt_page_put *p = s->puts;
    if (p != NULL) {
        s->puts = p->next;
        s->puts_tail = s->puts != NULL ? s->puts_tail : &s->puts;
    }
    pthread_mutex_unlock(&s->mutex);
    return p;
}

/* True: somebody waits for the room. */
static bool free_put(tt_page_store *s, tt_page_put *p)
{
    pthread_mutex_lock(&s->mutex);
    s->put_bytes -= p->bytes != NULL ? s->page_bytes : 0;
    bool waited = s->put_waited && p->bytes != NULL;
    s->put_waited = s->put_waited && !waited;
    pthread_mutex_unlock(&s->mutex);
    free(p->bytes);
    free(p);
    return waited;
}

void *tt_page_store_write_thread(void *store)
{
    tt_page_store *s = store;
    writing w = {0};
    tt_page_put *p;
    while ((p = next_put(s)) != NULL) {
        if (p->bytes != NULL) {
            write_page(s, &w, p);
        } else if (w.run == p->run) {
            end_run(s, &w);
        }
        if (free_put(s, p)) {
            wake(s);
        }
    }
    end_run(s, &w);
    return NULL;
}
