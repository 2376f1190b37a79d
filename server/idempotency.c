/* idempotency.c - see idempotency.h. A hash table of chains over a list in order of begin: the
 * head expires first, and is the first to give way. */
#include "server/idempotency.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "server/hex.h"

struct tt_idem_entry {
    tt_idem_entry *chain;       /* of its bucket */
    tt_idem_entry *prev, *next; /* by age */
    uint64_t hash;              /* of the name */
    XXH128_hash_t body;
    double begun;
    bool running;
    size_t n_result; /* bytes behind result */
    char *result;    /* owned: header values and body, or NULL */
    tt_idem_result head;
    size_t n_name;
    char name[]; /* [n_name] scope, method, path, of, key, each with its NUL */
};

struct tt_idem {
    tt_idem_options opt;
    tt_idem_entry **buckets; /* owned [n_buckets] */
    size_t n_buckets;        /* a power of two */
    tt_idem_entry *first, *last;
    tt_idem_stats stats;
};

tt_code tt_idem_create(const tt_idem_options *opt, tt_idem **ret_store, tt_err *reterr)
{
    tt_idem *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    s->opt = *opt;
    s->opt.ttl_seconds = opt->ttl_seconds > 0 ? opt->ttl_seconds : 86400;
    s->opt.max_entries = opt->max_entries > 0 ? opt->max_entries : 4096;
    s->opt.max_bytes = opt->max_bytes > 0 ? opt->max_bytes : (size_t)16 << 20;
    for (s->n_buckets = 16; s->n_buckets < (size_t)s->opt.max_entries; s->n_buckets *= 2) {
    }
    s->buckets = calloc(s->n_buckets, sizeof *s->buckets);
    if (s->buckets == NULL) {
        tt_idem_destroy(&s);
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    *ret_store = s;
    return TT_OK;
}

static size_t bytes_of(const tt_idem_entry *e)
{
    return sizeof *e + e->n_name + e->n_result;
}

/* Takes an entry out of table and list, and frees it. */
static void drop(tt_idem *s, tt_idem_entry *e)
{
    tt_idem_entry **at = &s->buckets[e->hash & (s->n_buckets - 1)];
    while (*at != e) {
        at = &(*at)->chain;
    }
    *at = e->chain;
    *(e->prev != NULL ? &e->prev->next : &s->first) = e->next;
    *(e->next != NULL ? &e->next->prev : &s->last) = e->prev;
    s->stats.entries--;
    s->stats.running -= e->running;
    s->stats.bytes -= bytes_of(e);
    if (!e->running && s->opt.dropped != NULL) {
        tt_idem_image im;
        tt_idem_get_image(s, e, &e->head, &im);
        s->opt.dropped(s->opt.arg, &im);
    }
    free(e->result);
    free(e);
}

void tt_idem_destroy(tt_idem **store)
{
    tt_idem *s = *store;
    if (s == NULL) {
        return;
    }
    s->opt.dropped = NULL; /* what is kept outside stays */
    while (s->first != NULL) {
        drop(s, s->first);
    }
    free(s->buckets);
    free(s);
    *store = NULL;
}

static void expire(tt_idem *s, double now)
{
    for (tt_idem_entry *e = s->first, *next; e != NULL && now - e->begun >= s->opt.ttl_seconds;
         e = next) {
        next = e->next;
        if (!e->running) {
            drop(s, e);
        }
    }
}

/* Drops the oldest finished entries other than `keep` until n_entries and n_bytes more fit. */
static bool make_room(tt_idem *s, int32_t n_entries, size_t n_bytes, const tt_idem_entry *keep)
{
    tt_idem_entry *e = s->first, *next;
    while (s->stats.entries + n_entries > s->opt.max_entries ||
           s->stats.bytes + n_bytes > s->opt.max_bytes) {
        while (e != NULL && (e->running || e == keep)) {
            e = e->next;
        }
        if (e == NULL) {
            return false;
        }
        next = e->next;
        drop(s, e);
        e = next;
    }
    return true;
}

/* The name of a request as one run of bytes: its parts, each with its NUL. */
static void put_name(char *out, const tt_idem_request *r)
{
    const char *const parts[] = {r->scope, r->method, r->path, r->of, r->key};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t n = strlen(parts[i]) + 1;
        memcpy(out, parts[i], n);
        out += n;
    }
}

static tt_idem_entry *create_entry(const tt_idem_request *r)
{
    size_t n =
        strlen(r->scope) + strlen(r->method) + strlen(r->path) + strlen(r->of) + strlen(r->key) + 5;
    tt_idem_entry *e = calloc(1, sizeof *e + n);
    if (e != NULL) {
        e->n_name = n;
        put_name(e->name, r);
        e->hash = XXH3_64bits(e->name, n);
        e->body = XXH3_128bits(r->n_body > 0 ? r->body : "", r->n_body);
    }
    return e;
}

static tt_idem_entry *find(const tt_idem *s, const tt_idem_entry *like)
{
    tt_idem_entry *e = s->buckets[like->hash & (s->n_buckets - 1)];
    while (e != NULL && (e->hash != like->hash || e->n_name != like->n_name ||
                         memcmp(e->name, like->name, e->n_name) != 0)) {
        e = e->chain;
    }
    return e;
}

static void insert(tt_idem *s, tt_idem_entry *e)
{
    tt_idem_entry **bucket = &s->buckets[e->hash & (s->n_buckets - 1)];
    tt_idem_entry *before = s->last; /* the youngest that is older */
    while (before != NULL && before->begun > e->begun) {
        before = before->prev;
    }
    e->chain = *bucket;
    *bucket = e;
    e->prev = before;
    e->next = before != NULL ? before->next : s->first;
    *(before != NULL ? &before->next : &s->first) = e;
    *(e->next != NULL ? &e->next->prev : &s->last) = e;
    s->stats.entries++;
    s->stats.running += e->running;
    s->stats.bytes += bytes_of(e);
}

tt_code tt_idem_begin(tt_idem *s, const tt_idem_request *r, double now, tt_idem_entry **ret_entry,
                      tt_idem_result *ret_result, tt_err *reterr)
{
    tt_idem_entry *fresh = create_entry(r);
    if (fresh == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    expire(s, now);
    tt_idem_entry *known = find(s, fresh);
    if (known != NULL) {
        bool same = XXH128_isEqual(known->body, fresh->body);
        free(fresh);
        if (!same) {
            return (tt_code)TT_IDEM_OTHER_BODY;
        }
        if (known->running) {
            return (tt_code)TT_IDEM_RUNNING;
        }
        *ret_result = known->head;
        return (tt_code)TT_IDEM_STORED;
    }
    if (!make_room(s, 1, bytes_of(fresh), NULL)) {
        free(fresh);
        return tt_fail(reterr, TT_E_BUSY, "too many requests with an Idempotency-Key are running");
    }
    fresh->begun = now;
    fresh->running = true;
    insert(s, fresh);
    *ret_entry = fresh;
    return (tt_code)TT_IDEM_NEW;
}

static size_t result_bytes(const tt_idem_result *r)
{
    size_t n = r->n_body + (r->content_type != NULL ? strlen(r->content_type) + 1 : 0);
    for (int i = 0; i < r->n_headers; i++) {
        n += strlen(r->headers[i].name) + strlen(r->headers[i].value) + 2;
    }
    return n;
}

/* Copies text to *p, moves *p on. */
static const char *copy_text(char **p, const char *text)
{
    size_t n = strlen(text) + 1;
    char *at = *p;
    memcpy(at, text, n);
    *p += n;
    return at;
}

/* One block of texts and body; head points into it. */
static bool copy_result(tt_idem_entry *e, const tt_idem_result *r, size_t n)
{
    char *p = malloc(n > 0 ? n : 1);
    if (p == NULL) {
        return false;
    }
    e->result = p;
    e->n_result = n;
    e->head = *r;
    if (r->content_type != NULL) {
        e->head.content_type = copy_text(&p, r->content_type);
    }
    for (int i = 0; i < r->n_headers; i++) {
        e->head.headers[i].name = copy_text(&p, r->headers[i].name);
        e->head.headers[i].value = copy_text(&p, r->headers[i].value);
    }
    if (r->n_body > 0) {
        memcpy(p, r->body, r->n_body);
    }
    e->head.body = p;
    return true;
}

void tt_idem_finish(tt_idem *s, tt_idem_entry *e, const tt_idem_result *result)
{
    size_t n = result_bytes(result);
    assert(e->running && result->n_headers <= TT_IDEM_MAX_HEADERS);
    e->running = false;
    s->stats.running--;
    if (n <= s->opt.max_bytes / 4 && make_room(s, 0, n, e) && copy_result(e, result, n)) {
        s->stats.bytes += n;
    } else {
        e->head = (tt_idem_result){0};
    }
}

void tt_idem_get_image(const tt_idem *s, const tt_idem_entry *e, const tt_idem_result *result,
                       tt_idem_image *ret)
{
    XXH128_canonical_t hash;
    XXH128_canonicalFromHash(&hash, XXH3_128bits(e->name, e->n_name));
    tt_hex_write(hash.digest, sizeof hash.digest, ret->id);
    XXH128_canonicalFromHash(&hash, e->body);
    memcpy(ret->body, hash.digest, sizeof ret->body);
    ret->scope = ret->name = e->name;
    ret->n_name = e->n_name;
    ret->begun = e->begun;
    ret->result = result_bytes(result) <= s->opt.max_bytes / 4 ? *result : (tt_idem_result){0};
}

/* Five texts, each with its NUL. */
static bool is_name(const char *name, size_t n)
{
    int parts = 0;
    for (size_t i = 0; i < n; i++) {
        parts += name[i] == '\0';
    }
    return n > 0 && name[n - 1] == '\0' && parts == 5;
}

tt_code tt_idem_restore(tt_idem *s, const tt_idem_image *im, tt_err *reterr)
{
    XXH128_canonical_t hash;
    size_t n = result_bytes(&im->result);
    if (!is_name(im->name, im->n_name)) {
        return tt_fail(reterr, TT_E_INVALID, "it has no name");
    }
    tt_idem_entry *e = calloc(1, sizeof *e + im->n_name);
    if (e == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    e->n_name = im->n_name;
    memcpy(e->name, im->name, im->n_name);
    e->hash = XXH3_64bits(e->name, e->n_name);
    memcpy(hash.digest, im->body, sizeof hash.digest);
    e->body = XXH128_hashFromCanonical(&hash);
    e->begun = im->begun;
    size_t bytes = bytes_of(e) + n;
    if (find(s, e) != NULL || s->stats.entries >= s->opt.max_entries ||
        bytes > s->opt.max_bytes - s->stats.bytes) {
        free(e);
        return tt_fail(reterr, TT_E_CAPACITY, "there is no room for it");
    }
    if (im->result.status != 0 && !copy_result(e, &im->result, n)) {
        free(e);
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    insert(s, e);
    return TT_OK;
}

void tt_idem_abandon(tt_idem *s, tt_idem_entry *e)
{
    assert(e->running);
    drop(s, e);
}

tt_idem_stats tt_idem_get_stats(const tt_idem *s)
{
    return s->stats;
}
