/* page_index.c - see page_index.h. A chained hash table whose entries lie in the runs. */
#include "core/page_index.h"

#include <assert.h>
#include <stdlib.h>

enum { FIRST_BUCKETS = 256 };

tt_code tt_page_index_init(tt_page_index *x, tt_err *reterr)
{
    *x = (tt_page_index){.n_buckets = FIRST_BUCKETS};
    x->bucket = calloc(x->n_buckets, sizeof(tt_run_entry *));
    return x->bucket != NULL ? TT_OK : tt_fail(reterr, TT_E_NOMEM, "no memory for an index");
}

void tt_page_index_finish(tt_page_index *x)
{
    for (tt_run *r = x->first, *next; r != NULL; r = next) {
        next = r->next;
        free(r);
    }
    free(x->bucket);
    *x = (tt_page_index){0};
}

static tt_run_entry **bucket_of(const tt_page_index *x, uint64_t hash)
{
    return &x->bucket[hash & (x->n_buckets - 1)];
}

/* Without memory for more buckets the chains get longer. */
static void grow(tt_page_index *x)
{
    tt_page_index more = *x;
    more.n_buckets = 2 * x->n_buckets;
    more.bucket = calloc(more.n_buckets, sizeof(tt_run_entry *));
    if (more.bucket == NULL) {
        return;
    }
    for (size_t i = 0; i < x->n_buckets; i++) {
        for (tt_run_entry *e = x->bucket[i], *next; e != NULL; e = next) {
            next = e->next;
            tt_run_entry **at = bucket_of(&more, e->hash);
            e->next = *at;
            *at = e;
        }
    }
    free(x->bucket);
    *x = more;
}

tt_run *tt_page_index_begin(uint64_t fingerprint)
{
    tt_run *r = calloc(1, sizeof *r);
    if (r != NULL) {
        r->state = TT_RUN_WRITING;
        r->fingerprint = fingerprint;
    }
    return r;
}

void tt_page_index_add(tt_page_index *x, tt_run *r, uint64_t hash)
{
    assert(r->state == TT_RUN_WRITING && r->n < TT_RUN_PAGES);
    if (x->n_entries >= x->n_buckets) {
        grow(x);
    }
    tt_run_entry *e = &r->entry[r->n++], **at = bucket_of(x, hash);
    *e = (tt_run_entry){.hash = hash, .next = *at, .run = r};
    *at = e;
    x->n_entries++;
}

static void append(tt_page_index *x, tt_run *r)
{
    r->prev = x->last;
    r->next = NULL;
    *(x->last != NULL ? &x->last->next : &x->first) = r;
    x->last = r;
}

static void unlink_run(tt_page_index *x, tt_run *r)
{
    *(r->prev != NULL ? &r->prev->next : &x->first) = r->next;
    *(r->next != NULL ? &r->next->prev : &x->last) = r->prev;
    r->prev = r->next = NULL;
}

void tt_page_index_ready(tt_page_index *x, tt_run *r, uint64_t name, uint64_t bytes)
{
    assert(r->state == TT_RUN_WRITING);
    r->state = TT_RUN_READY;
    r->name = name;
    r->bytes = bytes;
    x->n_runs++;
    x->bytes += bytes;
    append(x, r);
}

void tt_page_index_drop(tt_page_index *x, tt_run *r)
{
    assert(r->state == TT_RUN_READY);
    unlink_run(x, r);
    r->state = TT_RUN_DROPPING;
    x->n_runs--;
    x->bytes -= r->bytes;
}

void tt_page_index_forget(tt_page_index *x, tt_run *r)
{
    assert(r->state != TT_RUN_READY);
    for (int32_t i = 0; i < r->n; i++) {
        tt_run_entry **at = bucket_of(x, r->entry[i].hash);
        while (*at != &r->entry[i]) {
            at = &(*at)->next;
        }
        *at = r->entry[i].next;
        x->n_entries--;
    }
    free(r);
}

void tt_page_index_use(tt_page_index *x, tt_run *r)
{
    if (r->state == TT_RUN_READY) {
        r->used = true;
        unlink_run(x, r);
        append(x, r);
    }
}

tt_run *tt_page_index_find(const tt_page_index *x, uint64_t hash, int32_t *ret_i)
{
    tt_run *found = NULL;
    for (tt_run_entry *e = *bucket_of(x, hash); e != NULL; e = e->next) {
        if (e->hash == hash && (found == NULL || e->run->state == TT_RUN_READY)) {
            found = e->run;
            *ret_i = (int32_t)(e - e->run->entry);
            if (found->state == TT_RUN_READY) {
                break;
            }
        }
    }
    return found;
}
