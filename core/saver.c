/* saver.c - contexts that were prefilled, on their way to disk; see restore.h. The engine copies
 * pages between two steps, never more than the store's staging takes; a page that the pool gave to
 * somebody else meanwhile is not saved, nor is what follows it: a cache need not be complete. */
#include <stdlib.h>

#include "core/restore.h"
#include "core/sysinfo.h"

enum { MAX_WAITING = 64 };

struct tt_saver {
    tt_worker *w;             /* borrowed */
    tt_job *job[MAX_WAITING]; /* referenced, a ring */
    int32_t first, n;
    int32_t page;    /* of the first job's context, the next one */
    uint64_t parent; /* key of the page before it */
    size_t page_bytes;
};

tt_code tt_saver_create(tt_worker *w, tt_saver **ret_saver, tt_err *reterr)
{
    tt_saver *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory to save pages");
    }
    s->w = w;
    s->page_bytes = tt_kv_page_bytes(w->model, tt_kv_layer_of(w->kv, 0)->type);
    *ret_saver = s;
    return TT_OK;
}

static void next_job(tt_saver *s)
{
    tt_page_store_end(s->w->store);
    tt_job_unref(&s->job[s->first]);
    s->first = (s->first + 1) % MAX_WAITING;
    s->n--;
    s->page = 0;
}

void tt_saver_destroy(tt_saver **saver)
{
    tt_saver *s = *saver;
    *saver = NULL;
    while (s != NULL && s->n > 0) {
        next_job(s);
    }
    free(s);
}

void tt_saver_add(tt_saver *s, tt_job *job)
{
    if (s->n == MAX_WAITING || tt_page_store_room(s->w->store) == TT_PAGE_REFUSED) {
        return;
    }
    tt_job_ref(job);
    s->job[(s->first + s->n++) % MAX_WAITING] = job;
}

int32_t tt_saver_waiting(const tt_saver *s)
{
    return s->n;
}

/* Copies the page of this key from the pool to the store. False: it is not there any more, or
 * cannot be put. */
static bool copy_page(tt_saver *s, const tt_page_key *key)
{
    tt_err err;
    int32_t page = tt_kv_peek(s->w->kv, key);
    void *bytes = page >= 0 ? malloc(s->page_bytes) : NULL;
    if (bytes == NULL || tt_kv_read_page(s->w->kv, page, bytes, &err) != TT_OK ||
        !tt_page_store_put(s->w->store, key, bytes)) {
        free(bytes);
        return false;
    }
    return true;
}

/* One page of the first job. False: the disk is behind. */
static bool save_one(tt_saver *s)
{
    const tt_job_params *p = tt_job_get_params(s->job[s->first]);
    int32_t n = p->keep_context < p->n_prompt ? p->keep_context : p->n_prompt;
    if (s->page >= n / TT_PAGE_TOKENS) {
        next_job(s);
        return true;
    }
    s->parent = s->page == 0 ? tt_kv_root(p->adapter_scope) : s->parent;
    tt_page_key key = tt_seq_page_key(s->parent, 0, 0, p->prompt, p->decoded, s->page);
    if (tt_page_store_knows(s->w->store, &key)) {
        tt_page_store_end(s->w->store); /* what comes after it is another run */
    } else {
        tt_page_room room = tt_page_store_room(s->w->store);
        if (room == TT_PAGE_NO_ROOM) {
            return false;
        }
        if (room == TT_PAGE_REFUSED || !copy_page(s, &key)) {
            next_job(s);
            return true;
        }
    }
    s->parent = tt_page_key_hash(&key);
    s->page++;
    return true;
}

bool tt_saver_run(tt_saver *s, double seconds)
{
    double until = tt_sys_now() + seconds;
    while (s->n > 0) {
        if (!save_one(s)) {
            return false;
        }
        if (tt_sys_now() >= until) {
            return s->n > 0;
        }
    }
    return false;
}
