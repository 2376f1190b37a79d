/* page_store_scan.c - what the page store finds on disk when it is opened. Thread: the engine's,
 * before the store's own run. See page_store_priv.h. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/page_store_priv.h"

typedef struct found {
    tt_run *run; /* WRITING as yet */
    uint64_t name, bytes;
    struct timespec used;
} found;

typedef struct scan {
    tt_page_store *s;
    found *list; /* owned */
    size_t n, cap;
    int64_t n_foreign;
} scan;

static tt_code no_memory(tt_err *reterr)
{
    return tt_fail(reterr, TT_E_NOMEM, "no memory for the index of pages on disk");
}

static tt_code keep(scan *c, const found *f, tt_err *reterr)
{
    if (c->n == c->cap) {
        size_t cap = 2 * c->cap + 64;
        found *list = realloc(c->list, cap * sizeof *list);
        if (list == NULL) {
            return no_memory(reterr);
        }
        c->list = list;
        c->cap = cap;
    }
    c->list[c->n++] = *f;
    return TT_OK;
}

/* A run of ours: its keys go into the index. *ret_why: why it cannot be used. */
static tt_code read_run(tt_page_store *s, const char *name, tt_run *run, tt_err *ret_why)
{
    tt_run_key keys[TT_RUN_PAGES];
    tt_state_reader *r = NULL;
    int32_t n = 0;
    tt_code rc =
        tt_run_open(s->folder, name, s->opt.fingerprint, s->page_bytes, &r, keys, &n, ret_why);
    tt_state_reader_close(&r);
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        tt_page_index_add(&s->index, run, keys[i].hash);
    }
    return rc;
}

static tt_code scan_run(scan *c, uint64_t fingerprint, const char *folder, const char *name,
                        tt_err *reterr)
{
    char path[PATH_MAX + 300];
    struct stat st;
    tt_page_store *s = c->s;
    tt_err why = {0}, gone;
    found f = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!tt_run_parse_name(name, &f.name) || stat(path, &st) != 0) {
        return TT_OK; /* nobody of ours wrote it */
    }
    f.bytes = (uint64_t)st.st_size;
    f.used = st.st_mtim;
    f.run = tt_page_index_begin(fingerprint);
    if (f.run == NULL) {
        return no_memory(reterr);
    }
    bool ours = fingerprint == s->opt.fingerprint;
    tt_code rc = ours ? read_run(s, name, f.run, &why) : TT_OK;
    c->n_foreign += !ours;
    if (rc == TT_E_IO) { /* not damaged for all that is known: it counts, and has no keys */
        s->stats.corrupt_runs++;
        tt_page_store_warn(s, "K/V pages on disk are left alone until the next start: %s", why.msg);
    }
    if (rc == TT_OK || rc == TT_E_IO) {
        rc = keep(c, &f, reterr);
        if (rc == TT_OK) {
            return TT_OK;
        }
        tt_page_index_forget(&s->index, f.run);
        return rc;
    }
    tt_page_index_forget(&s->index, f.run);
    if (rc == TT_E_NOMEM) {
        *reterr = why;
        return rc;
    }
    s->stats.corrupt_runs++;
    tt_state_remove(folder, name, &gone);
    tt_page_store_warn(s, "K/V pages on disk are dropped and will be recomputed: %s", why.msg);
    return TT_OK;
}

static tt_code scan_folder(scan *c, uint64_t fingerprint, tt_err *reterr)
{
    char folder[PATH_MAX];
    tt_err why;
    tt_code rc = TT_OK;
    tt_page_store_folder(c->s, fingerprint, folder);
    DIR *d = opendir(folder);
    if (d == NULL) {
        return TT_OK;
    }
    for (struct dirent *e; rc == TT_OK && (e = readdir(d)) != NULL;) {
        if (tt_state_is_temporary(e->d_name)) {
            (void)tt_state_remove(folder, e->d_name, &why); /* a crash's */
        } else {
            rc = scan_run(c, fingerprint, folder, e->d_name, reterr);
        }
    }
    closedir(d);
    if (fingerprint != c->s->opt.fingerprint) {
        rmdir(folder); /* when nothing is left in it */
    }
    return rc;
}

static bool parse_folder(const char *name, uint64_t *ret)
{
    if (strlen(name) != 16 || strspn(name, "0123456789abcdef") != 16) {
        return false;
    }
    *ret = strtoull(name, NULL, 16);
    return true;
}

static int by_use(const void *a, const void *b)
{
    const found *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec) {
        return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    }
    if (x->used.tv_nsec != y->used.tv_nsec) {
        return x->used.tv_nsec < y->used.tv_nsec ? -1 : 1;
    }
    return (x->name > y->name) - (x->name < y->name);
}

tt_code tt_page_store_scan(tt_page_store *s, tt_err *reterr)
{
    scan c = {.s = s};
    tt_err why;
    tt_code rc = TT_OK;
    if (tt_state_make_folder(s->folder, &why) != TT_OK) {
        tt_page_store_warn(s, "K/V pages are not saved: %s", why.msg);
    }
    DIR *d = opendir(s->root);
    for (struct dirent *e; d != NULL && rc == TT_OK && (e = readdir(d)) != NULL;) {
        uint64_t fingerprint;
        if (parse_folder(e->d_name, &fingerprint)) {
            rc = scan_folder(&c, fingerprint, reterr);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    if (c.n > 1) {
        qsort(c.list, c.n, sizeof *c.list, by_use);
    }
    for (size_t i = 0; i < c.n; i++) {
        tt_page_index_ready(&s->index, c.list[i].run, c.list[i].name, c.list[i].bytes);
    }
    if (rc == TT_OK && c.n_foreign > 0) {
        tt_page_store_warn(s,
                           "%lld runs of K/V pages in %s are of another model or build: they are "
                           "not used",
                           (long long)c.n_foreign, s->root);
    }
    free(c.list);
    return rc;
}

void tt_page_store_keep_order(tt_page_store *s)
{
    struct timespec t[2];
    clock_gettime(CLOCK_REALTIME, &t[1]);
    for (tt_run *r = s->index.first; r != NULL; r = r->next) {
        char folder[PATH_MAX], name[TT_RUN_NAME_BYTES], path[PATH_MAX + 300];
        if (!r->used) {
            continue;
        }
        tt_page_store_folder(s, r->fingerprint, folder);
        tt_run_name(name, r->name);
        snprintf(path, sizeof path, "%s/%s", folder, name);
        t[1].tv_nsec += t[1].tv_nsec < 999999999; /* the clock of files is too coarse to tell */
        t[0] = t[1];
        utimensat(AT_FDCWD, path, t, 0);
    }
}
