/* state_file.c - see state_file.h. */
#include "core/state_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* Offsets in the header. */
enum {
    AT_MAGIC = 0,        /* "QTTT" and the kind's name */
    AT_CONTAINER = 8,    /* u32: version of this layout */
    AT_VERSION = 12,     /* u32: the kind's */
    AT_FINGERPRINT = 16, /* u64 */
    AT_BLOCKS = 24,      /* u32, and four bytes of zero */
    AT_TABLE = 32,       /* u64: where the table begins */
    AT_BYTES = 40,       /* u64: of the file */
    AT_TABLE_SUM = 48,   /* u64: xxh3 of the table */
    AT_HEAD_SUM = 56,    /* u64: xxh3 of the 56 bytes before */
    HEAD_BYTES = 64,
    ENTRY_BYTES = 16 /* of the table: u64 bytes, u64 xxh3 */
};
static const uint32_t CONTAINER = 1;
static const char TEMPORARY[] = ".writing";

static void put32(uint8_t *p, uint32_t x)
{
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(x >> (8 * i));
    }
}

static void put64(uint8_t *p, uint64_t x)
{
    put32(p, (uint32_t)x);
    put32(p + 4, (uint32_t)(x >> 32));
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const uint8_t *p)
{
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static tt_code make_path(char path[PATH_MAX], const char *folder, const char *name,
                         const char *suffix, tt_err *reterr)
{
    int n = snprintf(path, PATH_MAX, "%s/%s%s", folder, name, suffix);
    return n > 0 && n < PATH_MAX ? TT_OK : tt_fail(reterr, TT_E_IO, "the path is too long");
}

/* ---- folders ---- */

/* So that the name of a folder that was just made outlives a power cut. path is as it was after. */
static tt_code sync_parent(char *path, tt_err *reterr)
{
    char *slash = strrchr(path, '/');
    if (slash == NULL || slash == path) {
        return tt_state_sync_folder(slash == NULL ? "." : "/", reterr);
    }
    *slash = '\0';
    tt_code rc = tt_state_sync_folder(path, reterr);
    *slash = '/';
    return rc;
}

tt_code tt_state_make_folder(const char *path, tt_err *reterr)
{
    char part[PATH_MAX];
    struct stat st;
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part) {
        return tt_fail(reterr, TT_E_IO, "the path is too long");
    }
    for (char *c = part + 1;; c++) {
        if (*c != '/' && *c != '\0') {
            continue;
        }
        char end = *c;
        *c = '\0';
        bool made = mkdir(part, 0700) == 0;
        if (!made && errno != EEXIST && end == '\0') {
            return tt_fail(reterr, TT_E_IO, "cannot make the folder %s: %s", path, strerror(errno));
        }
        if (made && sync_parent(part, reterr) != TT_OK) {
            return TT_E_IO;
        }
        *c = end;
        if (end == '\0') {
            break;
        }
    }
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        return tt_fail(reterr, TT_E_IO, "%s is not a folder", path);
    }
    return TT_OK;
}

tt_code tt_state_sync_folder(const char *path, tt_err *reterr)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return tt_fail(reterr, TT_E_IO, "cannot open the folder %s: %s", path, strerror(errno));
    }
    int rc = fsync(fd), why = errno;
    close(fd);
    return rc == 0 ? TT_OK
                   : tt_fail(reterr, TT_E_IO, "cannot sync the folder %s: %s", path, strerror(why));
}

bool tt_state_is_temporary(const char *name)
{
    size_t n = strlen(name), k = sizeof TEMPORARY - 1;
    return n >= k && strcmp(name + n - k, TEMPORARY) == 0;
}

tt_code tt_state_remove(const char *folder, const char *name, tt_err *reterr)
{
    char path[PATH_MAX];
    tt_code rc = make_path(path, folder, name, "", reterr);
    if (rc == TT_OK && unlink(path) != 0 && errno != ENOENT) {
        rc = tt_fail(reterr, TT_E_IO, "cannot remove %s: %s", path, strerror(errno));
    }
    return rc;
}

/* ---- writing ---- */

struct tt_state_writer {
    int fd;
    char folder[PATH_MAX], path[PATH_MAX], temporary[PATH_MAX];
    tt_state_kind kind;
    uint64_t at; /* where the next block goes */
    uint8_t *table;
    int32_t n, cap;
};

static tt_code write_at(const tt_state_writer *w, uint64_t at, const void *p, size_t n,
                        tt_err *reterr)
{
    const char *c = p;
    while (n > 0) {
        ssize_t k = pwrite(w->fd, c, n, (off_t)at);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k <= 0) {
            return tt_fail(reterr, TT_E_IO, "cannot write %s: %s", w->temporary,
                           k == 0 ? "nothing was taken" : strerror(errno));
        }
        c += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return TT_OK;
}

void tt_state_writer_abandon(tt_state_writer **writer)
{
    tt_state_writer *w = *writer;
    if (w == NULL) {
        return;
    }
    if (w->fd >= 0) {
        close(w->fd);
        unlink(w->temporary);
    }
    free(w->table);
    free(w);
    *writer = NULL;
}

tt_code tt_state_writer_open(const char *folder, const char *name, const tt_state_kind *kind,
                             tt_state_writer **ret_writer, tt_err *reterr)
{
    assert(strlen(kind->name) == 4);
    tt_state_writer *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory to write a file");
    }
    w->fd = -1;
    w->kind = *kind;
    w->at = HEAD_BYTES;
    tt_code rc = make_path(w->path, folder, name, "", reterr);
    rc = rc == TT_OK ? make_path(w->temporary, folder, name, TEMPORARY, reterr) : rc;
    if (rc == TT_OK) {
        snprintf(w->folder, sizeof w->folder, "%s", folder);
        w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (w->fd < 0) {
            rc = tt_fail(reterr, TT_E_IO, "cannot create %s: %s", w->temporary, strerror(errno));
        }
    }
    if (rc != TT_OK) {
        tt_state_writer_abandon(&w);
        return rc;
    }
    *ret_writer = w;
    return TT_OK;
}

tt_code tt_state_writer_add(tt_state_writer *w, const void *p, size_t n, tt_err *reterr)
{
    assert(w->n < TT_STATE_FILE_MAX_BLOCKS);
    if (w->n == w->cap) {
        int32_t cap = w->cap * 2 + 16;
        uint8_t *table = realloc(w->table, (size_t)cap * ENTRY_BYTES);
        if (table == NULL) {
            return tt_fail(reterr, TT_E_NOMEM, "no memory to write a file");
        }
        w->table = table;
        w->cap = cap;
    }
    uint8_t *entry = w->table + (size_t)w->n * ENTRY_BYTES;
    put64(entry, n);
    put64(entry + 8, XXH3_64bits(p, n));
    tt_code rc = write_at(w, w->at, p, n, reterr);
    if (rc == TT_OK) {
        w->at += n;
        w->n++;
    }
    return rc;
}

/* The header comes last: before it, the file begins with zeros. */
static tt_code write_ends(tt_state_writer *w, tt_err *reterr)
{
    uint8_t head[HEAD_BYTES] = {0};
    size_t n = (size_t)w->n * ENTRY_BYTES;
    memcpy(head + AT_MAGIC, "QTTT", 4);
    memcpy(head + AT_MAGIC + 4, w->kind.name, 4);
    put32(head + AT_CONTAINER, CONTAINER);
    put32(head + AT_VERSION, w->kind.version);
    put64(head + AT_FINGERPRINT, w->kind.fingerprint);
    put32(head + AT_BLOCKS, (uint32_t)w->n);
    put64(head + AT_TABLE, w->at);
    put64(head + AT_BYTES, w->at + n);
    put64(head + AT_TABLE_SUM, XXH3_64bits(w->table, n));
    put64(head + AT_HEAD_SUM, XXH3_64bits(head, AT_HEAD_SUM));
    tt_code rc = write_at(w, w->at, w->table, n, reterr);
    return rc == TT_OK ? write_at(w, 0, head, sizeof head, reterr) : rc;
}

/* Closes it in any case; a failure of close() is the disk's, too. */
static tt_code sync_and_close(tt_state_writer *w, tt_err *reterr)
{
    int rc = fsync(w->fd), why = errno;
    if (close(w->fd) != 0 && rc == 0) {
        rc = -1;
        why = errno;
    }
    w->fd = -1;
    return rc == 0 ? TT_OK
                   : tt_fail(reterr, TT_E_IO, "cannot sync %s: %s", w->temporary, strerror(why));
}

tt_code tt_state_writer_commit(tt_state_writer **writer, const char *name, uint64_t *ret_bytes,
                               tt_err *reterr)
{
    tt_state_writer *w = *writer;
    *writer = NULL;
    tt_code rc = name != NULL ? make_path(w->path, w->folder, name, "", reterr) : TT_OK;
    rc = rc == TT_OK ? write_ends(w, reterr) : rc;
    if (rc == TT_OK) {
        rc = sync_and_close(w, reterr);
        if (rc == TT_OK && rename(w->temporary, w->path) != 0) {
            rc = tt_fail(reterr, TT_E_IO, "cannot rename %s: %s", w->temporary, strerror(errno));
        }
        if (rc != TT_OK) {
            unlink(w->temporary);
        }
        rc = rc == TT_OK ? tt_state_sync_folder(w->folder, reterr) : rc;
    }
    if (rc == TT_OK && ret_bytes != NULL) {
        *ret_bytes = w->at + (uint64_t)w->n * ENTRY_BYTES;
    }
    tt_state_writer_abandon(&w);
    return rc;
}

tt_code tt_state_file_write(const char *folder, const char *name, const tt_state_kind *kind,
                            const tt_state_block *blocks, int32_t n, tt_err *reterr)
{
    tt_state_writer *w = NULL;
    tt_code rc = tt_state_writer_open(folder, name, kind, &w, reterr);
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        rc = tt_state_writer_add(w, blocks[i].p, blocks[i].n, reterr);
    }
    rc = rc == TT_OK ? tt_state_writer_commit(&w, NULL, NULL, reterr) : rc;
    tt_state_writer_abandon(&w);
    return rc;
}

/* ---- reading ---- */

typedef struct entry {
    uint64_t at, n, sum;
} entry;

struct tt_state_reader {
    int fd;
    uint64_t bytes;
    int32_t n;
    entry *blocks; /* [n] */
    char name[NAME_MAX + 1];
    tt_state_kind kind; /* as the file says */
};

static tt_code read_at(const tt_state_reader *r, uint64_t at, void *dst, size_t n, tt_err *reterr)
{
    char *c = dst;
    while (n > 0) {
        ssize_t k = pread(r->fd, c, n, (off_t)at);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k < 0) {
            return tt_fail(reterr, TT_E_IO, "cannot read %s: %s", r->name, strerror(errno));
        }
        if (k == 0) {
            return tt_fail(reterr, TT_E_INVALID, "%s is cut short", r->name);
        }
        c += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return TT_OK;
}

/* kind NULL: any. */
static tt_code check_head(tt_state_reader *r, const uint8_t *head, const tt_state_kind *kind,
                          tt_err *reterr)
{
    tt_state_kind *is = &r->kind;
    uint64_t n = get32(head + AT_BLOCKS), table = get64(head + AT_TABLE);
    if (get64(head + AT_HEAD_SUM) != XXH3_64bits(head, AT_HEAD_SUM)) {
        return tt_fail(reterr, TT_E_INVALID, "%s has a damaged header", r->name);
    }
    memcpy(is->name, head + 4, 4);
    is->version = get32(head + AT_VERSION);
    is->fingerprint = get64(head + AT_FINGERPRINT);
    if (memcmp(head, "QTTT", 4) != 0 || get32(head + AT_CONTAINER) != CONTAINER ||
        (kind != NULL && (memcmp(is->name, kind->name, 4) != 0 || is->version != kind->version))) {
        return tt_fail(reterr, TT_E_INVALID, "%s is of another kind or version", r->name);
    }
    if (kind != NULL && is->fingerprint != kind->fingerprint) {
        return tt_fail(reterr, TT_E_INVALID, "%s was made by another model or build", r->name);
    }
    if (n > TT_STATE_FILE_MAX_BLOCKS || get64(head + AT_BYTES) != r->bytes || table > r->bytes ||
        table < HEAD_BYTES || r->bytes - table != n * ENTRY_BYTES) {
        return tt_fail(reterr, TT_E_INVALID, "%s is cut short or too long", r->name);
    }
    r->n = (int32_t)n;
    return TT_OK;
}

static tt_code check_table(tt_state_reader *r, const uint8_t *head, const uint8_t *table,
                           tt_err *reterr)
{
    uint64_t at = HEAD_BYTES, end = get64(head + AT_TABLE);
    bool fits = XXH3_64bits(table, (size_t)r->n * ENTRY_BYTES) == get64(head + AT_TABLE_SUM);
    for (int32_t i = 0; fits && i < r->n; i++) {
        const uint8_t *e = table + (size_t)i * ENTRY_BYTES;
        r->blocks[i] = (entry){.at = at, .n = get64(e), .sum = get64(e + 8)};
        fits = r->blocks[i].n <= end - at;
        at += fits ? r->blocks[i].n : 0;
    }
    return fits && at == end ? TT_OK
                             : tt_fail(reterr, TT_E_INVALID, "%s has a damaged table", r->name);
}

static tt_code read_ends(tt_state_reader *r, const tt_state_kind *kind, tt_err *reterr)
{
    uint8_t head[HEAD_BYTES];
    tt_code rc = read_at(r, 0, head, sizeof head, reterr);
    rc = rc == TT_OK ? check_head(r, head, kind, reterr) : rc;
    if (rc != TT_OK) {
        return rc;
    }
    size_t n = (size_t)r->n * ENTRY_BYTES;
    uint8_t *table = malloc(n + 1);
    r->blocks = calloc((size_t)r->n + 1, sizeof *r->blocks);
    if (table == NULL || r->blocks == NULL) {
        rc = tt_fail(reterr, TT_E_NOMEM, "no memory to read %s", r->name);
    }
    rc = rc == TT_OK ? read_at(r, get64(head + AT_TABLE), table, n, reterr) : rc;
    rc = rc == TT_OK ? check_table(r, head, table, reterr) : rc;
    free(table);
    return rc;
}

static tt_code open_file(tt_state_reader *r, const char *path, tt_err *reterr)
{
    struct stat st;
    /* O_NONBLOCK: a FIFO of that name must not hang the thread */
    r->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (r->fd < 0 || fstat(r->fd, &st) != 0) {
        bool passes = errno == EMFILE || errno == ENFILE || errno == ENOMEM; /* not the file's */
        return tt_fail(reterr, passes ? TT_E_NOMEM : TT_E_IO, "cannot open %s: %s", r->name,
                       strerror(errno));
    }
    if (!S_ISREG(st.st_mode) || st.st_size < HEAD_BYTES) {
        return tt_fail(reterr, TT_E_INVALID, "%s is no file of state", r->name);
    }
    r->bytes = (uint64_t)st.st_size;
    return TT_OK;
}

tt_code tt_state_reader_open(const char *folder, const char *name, const tt_state_kind *kind,
                             tt_state_reader **ret_reader, tt_err *reterr)
{
    assert(kind == NULL || strlen(kind->name) == 4);
    char path[PATH_MAX];
    tt_state_reader *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory to read %s", name);
    }
    r->fd = -1;
    snprintf(r->name, sizeof r->name, "%s", name);
    tt_code rc = make_path(path, folder, name, "", reterr);
    rc = rc == TT_OK ? open_file(r, path, reterr) : rc;
    rc = rc == TT_OK ? read_ends(r, kind, reterr) : rc;
    if (rc != TT_OK) {
        tt_state_reader_close(&r);
        return rc;
    }
    *ret_reader = r;
    return TT_OK;
}

int32_t tt_state_reader_blocks(const tt_state_reader *r)
{
    return r->n;
}

uint64_t tt_state_reader_block_bytes(const tt_state_reader *r, int32_t block)
{
    assert(block >= 0 && block < r->n);
    return r->blocks[block].n;
}

uint64_t tt_state_reader_bytes(const tt_state_reader *r)
{
    return r->bytes;
}

tt_code tt_state_reader_read(tt_state_reader *r, int32_t block, void *dst, size_t n, tt_err *reterr)
{
    assert(block >= 0 && block < r->n);
    const entry *e = &r->blocks[block];
    if (e->n != n) {
        return tt_fail(reterr, TT_E_INVALID, "block %d of %s has %llu bytes instead of %zu", block,
                       r->name, (unsigned long long)e->n, n);
    }
    tt_code rc = read_at(r, e->at, dst, n, reterr);
    if (rc == TT_OK && XXH3_64bits(dst, n) != e->sum) {
        rc = tt_fail(reterr, TT_E_INVALID, "block %d of %s is damaged", block, r->name);
    }
    return rc;
}

static tt_code check_block(tt_state_reader *r, int32_t block, tt_err *reterr)
{
    size_t n = (size_t)r->blocks[block].n; /* at most the file's */
    void *p = malloc(n + 1);
    tt_code rc = p != NULL ? tt_state_reader_read(r, block, p, n, reterr)
                           : tt_fail(reterr, TT_E_NOMEM, "no memory to read %s", r->name);
    free(p);
    return rc;
}

tt_code tt_state_file_check(const char *folder, const char *name, tt_state_kind *ret_kind,
                            uint64_t *ret_bytes, tt_err *reterr)
{
    tt_state_reader *r = NULL;
    tt_code rc = tt_state_reader_open(folder, name, NULL, &r, reterr);
    for (int32_t i = 0; rc == TT_OK && i < r->n; i++) {
        rc = check_block(r, i, reterr);
    }
    if (rc == TT_OK) {
        *ret_kind = r->kind;
        *ret_bytes = r->bytes;
    }
    tt_state_reader_close(&r);
    return rc;
}

void tt_state_reader_touch(tt_state_reader *r)
{
    futimens(r->fd, NULL);
}

void tt_state_reader_close(tt_state_reader **reader)
{
    tt_state_reader *r = *reader;
    if (r == NULL) {
        return;
    }
    if (r->fd >= 0) {
        close(r->fd);
    }
    free(r->blocks);
    free(r);
    *reader = NULL;
}
