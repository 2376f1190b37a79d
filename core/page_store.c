/* page_store.c - what the engine's thread calls, see page_store.h. */
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/page_store_priv.h"
#include "core/sysinfo.h"

static const size_t STAGING = (size_t)64 << 20, RESERVE = (size_t)64 << 20;

void tt_page_store_warn(tt_page_store *s, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    if (s->opt.warn == NULL) {
        return;
    }
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    s->opt.warn(s->opt.warn_arg, text);
}

void tt_page_store_folder(const tt_page_store *s, uint64_t fingerprint, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%.*s/%016" PRIx64, PATH_MAX - 32, s->root, fingerprint);
}

/* ---- life ---- */

static void destroy(tt_page_store *s)
{
    tt_page_index_finish(&s->index);
    pthread_cond_destroy(&s->to_read);
    pthread_cond_destroy(&s->to_write);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

static tt_code start_threads(tt_page_store *s, tt_err *reterr)
{
    s->reading = pthread_create(&s->reader, NULL, tt_page_store_read_thread, s) == 0;
    s->writing = s->reading && pthread_create(&s->writer, NULL, tt_page_store_write_thread, s) == 0;
    return s->writing ? TT_OK
                      : tt_fail(reterr, TT_E_NOMEM, "cannot start the threads of the page store");
}

tt_code tt_page_store_open(const tt_page_store_options *opt, tt_page_store **ret_store,
                           tt_err *reterr)
{
    assert(opt->page_bytes > 0);
    tt_page_store *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the page store");
    }
    s->opt = *opt;
    s->opt.staging_bytes = opt->staging_bytes > 0 ? opt->staging_bytes : STAGING;
    s->opt.reserve_bytes = opt->reserve_bytes > 0 ? opt->reserve_bytes : RESERVE;
    s->page_bytes = opt->page_bytes;
    s->puts_tail = &s->puts;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->to_read, NULL);
    pthread_cond_init(&s->to_write, NULL);
    snprintf(s->root, sizeof s->root, "%s", opt->folder);
    tt_page_store_folder(s, opt->fingerprint, s->folder);
    s->opt.folder = s->folder;
    tt_code rc = tt_page_index_init(&s->index, reterr);
    rc = rc == TT_OK ? tt_page_store_scan(s, reterr) : rc;
    if (rc == TT_OK) {
        tt_page_store_evict(s, 0);
        rc = start_threads(s, reterr);
    }
    if (rc != TT_OK) {
        tt_page_store_close(&s);
        return rc;
    }
    *ret_store = s;
    return TT_OK;
}

void tt_page_store_close(tt_page_store **store)
{
    tt_page_store *s = *store;
    *store = NULL;
    if (s == NULL) {
        return;
    }
    pthread_mutex_lock(&s->mutex);
    s->stopping = true;
    pthread_cond_signal(&s->to_read);
    pthread_cond_signal(&s->to_write);
    pthread_mutex_unlock(&s->mutex);
    if (s->reading) {
        pthread_join(s->reader, NULL);
    }
    if (s->writing) {
        pthread_join(s->writer, NULL);
    }
    assert(s->fetch_first == NULL && s->puts == NULL);
    tt_page_store_keep_order(s);
    destroy(s);
}

bool tt_page_store_has(tt_page_store *s, const tt_page_key *key)
{
    int32_t i;
    uint64_t hash = tt_page_key_hash(key);
    pthread_mutex_lock(&s->mutex);
    const tt_run *r = tt_page_index_find(&s->index, hash, &i);
    bool has = r != NULL && r->state == TT_RUN_READY;
    pthread_mutex_unlock(&s->mutex);
    return has;
}

tt_page_store_stats tt_page_store_get_stats(tt_page_store *s)
{
    pthread_mutex_lock(&s->mutex);
    tt_page_store_stats st = s->stats;
    st.runs = s->index.n_runs;
    st.bytes = (int64_t)s->index.bytes;
    pthread_mutex_unlock(&s->mutex);
    return st;
}

/* ---- saving ---- */

/* The mutex is held. */
static tt_page_room room(const tt_page_store *s)
{
    if (TT_RUN_PAGES * (uint64_t)s->page_bytes > s->opt.max_bytes ||
        (s->retry_at > 0 && tt_sys_now() < s->retry_at)) {
        return TT_PAGE_REFUSED;
    }
    bool fits = s->put_bytes == 0 || s->put_bytes + s->page_bytes <= s->opt.staging_bytes;
    return fits ? TT_PAGE_ROOM : TT_PAGE_NO_ROOM;
}

tt_page_room tt_page_store_room(tt_page_store *s)
{
    pthread_mutex_lock(&s->mutex);
    tt_page_room is = room(s);
    s->put_waited = s->put_waited || is == TT_PAGE_NO_ROOM;
    pthread_mutex_unlock(&s->mutex);
    return is;
}

bool tt_page_store_knows(tt_page_store *s, const tt_page_key *key)
{
    int32_t i;
    uint64_t hash = tt_page_key_hash(key);
    pthread_mutex_lock(&s->mutex);
    tt_run *r = tt_page_index_find(&s->index, hash, &i);
    if (r != NULL) {
        tt_page_index_use(&s->index, r);
    }
    pthread_mutex_unlock(&s->mutex);
    return r != NULL;
}

/* The mutex is held. */
static void queue(tt_page_store *s, tt_page_put *p)
{
    *s->puts_tail = p;
    s->puts_tail = &p->next;
    pthread_cond_signal(&s->to_write);
}

static bool put(tt_page_store *s, tt_page_put *p)
{
    if (room(s) != TT_PAGE_ROOM) {
        return false;
    }
    s->open = s->open != NULL ? s->open : tt_page_index_begin(s->opt.fingerprint);
    if (s->open == NULL) {
        return false;
    }
    assert(s->open->n == 0 || s->open->entry[s->open->n - 1].hash == p->key.parent);
    tt_page_index_add(&s->index, s->open, p->key.hash);
    p->run = s->open;
    s->put_bytes += s->page_bytes;
    queue(s, p);
    return true;
}

bool tt_page_store_put(tt_page_store *s, const tt_page_key *key, void *bytes)
{
    tt_page_put *p = calloc(1, sizeof *p);
    bool done = false;
    if (p != NULL) {
        tt_run_key_copy(&p->key, key);
        p->bytes = bytes;
        pthread_mutex_lock(&s->mutex);
        done = put(s, p);
        pthread_mutex_unlock(&s->mutex);
    }
    if (!done) {
        free(p);
    }
    if (!done || s->open->n == TT_RUN_PAGES) {
        tt_page_store_end(s);
    }
    return done;
}

/* Without memory for the order the run stays open; the next one is told apart by its pages. */
void tt_page_store_end(tt_page_store *s)
{
    tt_page_put *p = s->open != NULL ? calloc(1, sizeof *p) : NULL;
    if (s->open == NULL) {
        return;
    }
    pthread_mutex_lock(&s->mutex);
    if (p != NULL) {
        p->run = s->open;
        queue(s, p);
    }
    s->open = NULL;
    pthread_mutex_unlock(&s->mutex);
}

/* ---- fetching ---- */

static tt_page_fetch *shared(tt_page_store *s, uint64_t hash)
{
    tt_page_fetch *f = s->fetch_first;
    while (f != NULL && (f->key[0].hash != hash || f->refs == 0 ||
                         (f->state == TT_FETCH_DONE && f->n_pages == 0))) {
        f = f->next;
    }
    return f;
}

static bool readable(const tt_page_store *s, uint64_t hash)
{
    int32_t i;
    const tt_run *r = tt_page_index_find(&s->index, hash, &i);
    return r != NULL && r->state == TT_RUN_READY;
}

tt_page_fetch *tt_page_store_fetch(tt_page_store *s, const tt_page_key *keys, int32_t n)
{
    uint64_t hash = tt_page_key_hash(&keys[0]);
    n = n < TT_RUN_PAGES ? n : TT_RUN_PAGES;
    pthread_mutex_lock(&s->mutex);
    bool there = readable(s, hash);
    tt_page_fetch *f = there ? shared(s, hash) : NULL;
    if (f != NULL) {
        f->refs++;
    }
    pthread_mutex_unlock(&s->mutex);
    if (!there || f != NULL) {
        return f;
    }
    f = calloc(1, sizeof *f);
    if (f == NULL) {
        return NULL;
    }
    f->store = s;
    f->refs = 1;
    f->n_keys = n;
    for (int32_t i = 0; i < n; i++) {
        tt_run_key_copy(&f->key[i], &keys[i]);
    }
    pthread_mutex_lock(&s->mutex);
    f->prev = s->fetch_last;
    *(s->fetch_last != NULL ? &s->fetch_last->next : &s->fetch_first) = f;
    s->fetch_last = f;
    pthread_cond_signal(&s->to_read);
    pthread_mutex_unlock(&s->mutex);
    return f;
}

bool tt_page_fetch_done(tt_page_fetch *f)
{
    pthread_mutex_lock(&f->store->mutex);
    bool done = f->state == TT_FETCH_DONE;
    pthread_mutex_unlock(&f->store->mutex);
    return done;
}

int32_t tt_page_fetch_pages(const tt_page_fetch *f)
{
    return f->n_pages;
}

const void *tt_page_fetch_bytes(const tt_page_fetch *f, const tt_page_key *key)
{
    tt_run_key want;
    tt_run_key_copy(&want, key);
    for (int32_t i = 0; i < f->n_pages; i++) {
        if (tt_run_key_equal(&f->key[i], &want)) {
            return f->bytes + (size_t)i * f->store->page_bytes;
        }
    }
    return NULL;
}

void tt_page_fetch_release(tt_page_fetch *f)
{
    tt_page_store *s = f->store;
    *(f->prev != NULL ? &f->prev->next : &s->fetch_first) = f->next;
    *(f->next != NULL ? &f->next->prev : &s->fetch_last) = f->prev;
    s->fetch_bytes -= f->staged;
    pthread_cond_signal(&s->to_read); /* there is room for another */
    free(f->bytes);
    free(f);
}

void tt_page_fetch_free(tt_page_fetch **fetch)
{
    tt_page_fetch *f = *fetch;
    *fetch = NULL;
    if (f == NULL) {
        return;
    }
    tt_page_store *s = f->store;
    pthread_mutex_lock(&s->mutex);
    if (--f->refs == 0 && f->state != TT_FETCH_READING) {
        tt_page_fetch_release(f);
    }
    pthread_mutex_unlock(&s->mutex);
}
