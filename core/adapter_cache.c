/* adapter_cache.c - see adapter_cache.h. A list in the order of last use; entries are few (an
 * adapter is megabytes), so that a walk is cheaper than anything cleverer.
 *
 * An entry's adapter is in memory, or not: discarded by the guard (id 0), or dropped because its
 * file has it. An order to the store is known by its serial, so that what is said of an older one,
 * of an entry that was unpinned and pinned again meanwhile, is not taken for the answer. */
#include "core/adapter_cache.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/sysinfo.h"

#define MAX_ENTRIES 1024 /* of discarded ones too, which take no device memory */
#define N_PROBES 32
#define RETRY_SECONDS 5 /* after a file could not be written */

typedef struct entry {
    struct entry *next;
    tt_adapter_key key; /* n == 0: known by its id alone */
    tt_qttt_result result;
    uint64_t id;         /* 0 = the guard discarded it */
    tt_adapter *adapter; /* NULL = not in memory */
    size_t bytes;        /* of it; 0 = not known yet */
    int32_t pins;
    tt_adapter_home_state home;
    uint64_t saving, loading; /* serials of orders under way; 0 = none */
    double retry_at;          /* VOLATILE and pinned */
    tt_err save_err;          /* of the last attempt; code TT_OK = none */
    uint64_t loaded;          /* serial of the last order to read it that is done */
    tt_err load_err;          /* what came of it */
} entry;

typedef struct sums {
    size_t pinned, stuck;
    int32_t n_adapters, n_unsaved;
} sums;

struct tt_adapter_cache {
    tt_device *d;
    tt_adapter_store *store; /* borrowed; NULL = memory alone */
    size_t max_bytes, bytes; /* of adapters in memory */
    int32_t n;
    bool failing; /* the last file could not be written: told once */
    entry *head;  /* most recently used first */
    struct {
        uint64_t hash;
        int32_t n_context;
        tt_probe_result probe;
    } probes[N_PROBES];
    uint32_t n_probes; /* ever put: slot = n % N_PROBES */
};

static void put(tt_adapter_key *k, const void *p, size_t n)
{
    assert(k->n + n <= sizeof k->bytes);
    memcpy(k->bytes + k->n, p, n);
    k->n += (uint32_t)n;
}

void tt_adapter_key_make(tt_adapter_key *k, const int32_t *context, int32_t n_context,
                         const char *tenant, const tt_qttt_params *p)
{
    k->n = 0;
    XXH128_hash_t hash = XXH3_128bits(context, (size_t)n_context * sizeof *context);
    XXH128_hash_t who = XXH3_128bits(tenant, strlen(tenant));
    put(k, &hash, sizeof hash);
    put(k, &who, sizeof who);
    put(k, &n_context, sizeof n_context);
    int32_t flags[] = {p->lora,
                       p->sgd,
                       p->guard,
                       (int32_t)p->objective,
                       p->steps,
                       p->span_tokens,
                       p->lora ? p->rank : 0};
    put(k, flags, sizeof flags);
    float reals[] = {p->lora ? p->lora_alpha : 0,
                     p->weight_decay,
                     p->grad_clip,
                     p->beta1,
                     p->beta2,
                     p->adam_eps};
    put(k, reals, sizeof reals);
    put(k, &p->learning_rate, sizeof p->learning_rate);
    put(k, &p->max_seconds, sizeof p->max_seconds);
    put(k, &p->max_span_tokens, sizeof p->max_span_tokens);
    put(k, &p->seed, sizeof p->seed);
    put(k, p->layers, sizeof p->layers);
    put(k, &p->start_adapter, sizeof p->start_adapter);
}

tt_code tt_adapter_cache_create(tt_device *d, size_t max_bytes, tt_adapter_cache **ret_cache,
                                tt_err *reterr)
{
    tt_adapter_cache *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the adapter cache");
    }
    c->d = d;
    c->max_bytes = max_bytes;
    *ret_cache = c;
    return TT_OK;
}

void tt_adapter_cache_set_store(tt_adapter_cache *c, tt_adapter_store *store)
{
    assert(c->head == NULL);
    c->store = store;
}

bool tt_adapter_cache_has_store(const tt_adapter_cache *c)
{
    return c->store != NULL;
}

/* The adapter leaves memory. */
static void unload(tt_adapter_cache *c, entry *e)
{
    c->bytes -= e->adapter != NULL ? e->adapter->bytes : 0;
    tt_adapter_unref(c->d, &e->adapter);
}

/* Unlinks and frees the entry behind `at`. */
static void drop(tt_adapter_cache *c, entry **at)
{
    entry *e = *at;
    *at = e->next;
    unload(c, e);
    c->n--;
    free(e);
}

static void drop_entry(tt_adapter_cache *c, entry *e)
{
    entry **at = &c->head;
    while (*at != e) {
        at = &(*at)->next;
    }
    drop(c, at);
}

static void to_front(tt_adapter_cache *c, entry *e)
{
    entry **at = &c->head;
    while (*at != e) {
        at = &(*at)->next;
    }
    *at = e->next;
    e->next = c->head;
    c->head = e;
}

void tt_adapter_cache_destroy(tt_adapter_cache **cache)
{
    tt_adapter_cache *c = *cache;
    *cache = NULL;
    if (c == NULL) {
        return;
    }
    while (c->head != NULL) {
        drop(c, &c->head);
    }
    free(c);
}

/* What has left memory is not known by its key: training again gives the same bits. */
bool tt_adapter_cache_find(tt_adapter_cache *c, const tt_adapter_key *key,
                           tt_qttt_result *ret_result, tt_adapter **ret_adapter)
{
    for (entry *e = c->head; e != NULL; e = e->next) {
        if (e->key.n == key->n && memcmp(e->key.bytes, key->bytes, key->n) == 0 &&
            (e->id == 0 || e->adapter != NULL)) {
            to_front(c, e);
            *ret_result = e->result;
            *ret_adapter = e->adapter;
            if (e->adapter != NULL) {
                tt_adapter_ref(e->adapter);
            }
            return true;
        }
    }
    return false;
}

/* ---- room ---- */

/* Its file has it and nobody uses it now (else it would soon be there twice), or nobody wants it
 * any more; used: although somebody uses it. */
static bool can_leave(const entry *e, bool used)
{
    return e->adapter != NULL &&
           (e->pins == 0 ? e->adapter->refs == 1 || used
                         : e->adapter->refs == 1 && e->home == TT_ADAPTER_DURABLE);
}

/* The least recently used adapter leaves memory; its entry stays while it is pinned. False: none
 * can. */
static bool evict_adapter(tt_adapter_cache *c, bool used)
{
    entry *last = NULL;
    for (entry *e = c->head; e != NULL; e = e->next) {
        last = can_leave(e, used) ? e : last;
    }
    if (last != NULL && last->pins > 0) {
        unload(c, last);
    } else if (last != NULL) {
        drop_entry(c, last);
    }
    return last != NULL;
}

static void make_room(tt_adapter_cache *c, size_t need)
{
    while (c->bytes + need > c->max_bytes && (evict_adapter(c, false) || evict_adapter(c, true))) {
    }
}

bool tt_adapter_cache_reclaim(tt_adapter_cache *c)
{
    return evict_adapter(c, false);
}

static void drop_last_result(tt_adapter_cache *c)
{
    entry **last = NULL;
    for (entry **at = &c->head; *at != NULL; at = &(*at)->next) {
        last = (*at)->pins == 0 ? at : last;
    }
    if (last != NULL) {
        drop(c, last);
    }
}

static entry *add_entry(tt_adapter_cache *c, const entry *what)
{
    entry *e = malloc(sizeof *e);
    if (e != NULL) {
        *e = *what;
        e->next = c->head;
        c->head = e;
        c->n++;
    }
    return e;
}

bool tt_adapter_cache_put(tt_adapter_cache *c, const tt_adapter_key *key,
                          const tt_qttt_result *result, tt_adapter *adapter, bool pin)
{
    size_t need = adapter != NULL ? adapter->bytes : 0, stuck = tt_adapter_cache_stuck(c);
    if (stuck > c->max_bytes || need > c->max_bytes - stuck) {
        return false;
    }
    make_room(c, need);
    if (c->n >= MAX_ENTRIES) {
        drop_last_result(c);
    }
    entry e = {.key = *key, .result = *result, .adapter = adapter, .pins = pin, .bytes = need};
    e.id = adapter != NULL ? adapter->id : 0;
    if (add_entry(c, &e) == NULL) {
        return false;
    }
    if (adapter != NULL) {
        tt_adapter_ref(adapter);
    }
    c->bytes += need;
    return true;
}

/* ---- by id ---- */

static entry *by_id(const tt_adapter_cache *c, uint64_t id)
{
    entry *e = c->head;
    while (e != NULL && (e->id == 0 || e->id != id)) {
        e = e->next;
    }
    return e;
}

tt_adapter *tt_adapter_cache_get(tt_adapter_cache *c, uint64_t id)
{
    entry *e = by_id(c, id);
    if (e == NULL || e->adapter == NULL) {
        return NULL;
    }
    to_front(c, e);
    tt_adapter_ref(e->adapter);
    return e->adapter;
}

/* Nobody wants it: its file goes, and the entry when there is nothing else in it. */
static void last_unpin(tt_adapter_cache *c, entry *e)
{
    if (c->store != NULL && (e->home != TT_ADAPTER_VOLATILE || e->saving != 0)) {
        tt_adapter_store_remove(c->store, e->id);
    }
    e->home = TT_ADAPTER_VOLATILE;
    e->saving = 0;
    if (e->adapter == NULL || e->key.n == 0) {
        drop_entry(c, e);
    }
}

bool tt_adapter_cache_pin(tt_adapter_cache *c, uint64_t id, int32_t add)
{
    entry *e = by_id(c, id);
    if (e == NULL && add > 0 && c->store != NULL) {
        e = add_entry(c, &(entry){.id = id, .home = TT_ADAPTER_DURABLE});
    }
    if (e == NULL) {
        return false;
    }
    assert(e->pins + add >= 0);
    e->pins += add;
    if (e->pins == 0) {
        last_unpin(c, e);
    }
    return true;
}

static sums sum_up(const tt_adapter_cache *c)
{
    sums s = {0};
    for (const entry *e = c->head; e != NULL; e = e->next) {
        bool stuck = e->pins > 0 && e->adapter != NULL && e->home != TT_ADAPTER_DURABLE;
        s.n_adapters += e->adapter != NULL;
        s.pinned += e->pins > 0 && e->adapter != NULL ? e->adapter->bytes : 0;
        s.stuck += stuck ? e->adapter->bytes : 0;
        s.n_unsaved += stuck && c->store != NULL && e->home == TT_ADAPTER_VOLATILE;
    }
    return s;
}

size_t tt_adapter_cache_pinned(const tt_adapter_cache *c)
{
    return sum_up(c).pinned;
}

size_t tt_adapter_cache_stuck(const tt_adapter_cache *c)
{
    return sum_up(c).stuck;
}

int32_t tt_adapter_cache_unsaved(const tt_adapter_cache *c)
{
    return sum_up(c).n_unsaved;
}

/* ---- files ---- */

tt_adapter_home_state tt_adapter_cache_home(const tt_adapter_cache *c, uint64_t id, tt_err *ret_why)
{
    const entry *e = by_id(c, id);
    *ret_why = e != NULL ? e->save_err : (tt_err){0};
    return e != NULL ? e->home : TT_ADAPTER_VOLATILE;
}

static void save_failed(entry *e, const tt_err *err)
{
    e->home = TT_ADAPTER_VOLATILE;
    e->save_err = *err;
    e->retry_at = tt_sys_now() + RETRY_SECONDS;
}

static void begin_save(tt_adapter_cache *c, entry *e)
{
    tt_adapter_image *img = NULL;
    tt_err err = {0};
    uint64_t hash;
    memcpy(&hash, e->key.bytes, sizeof hash); /* the key begins with the context's */
    tt_code rc = tt_adapter_image_take(c->d, e->adapter, e->key.n > 0 ? hash : 0,
                                       e->result.params.context_tokens, &img, &err);
    rc = rc == TT_OK ? tt_adapter_store_save(c->store, img, &e->saving, &err) : rc;
    if (rc == TT_OK) {
        e->home = TT_ADAPTER_WRITING;
        e->save_err = (tt_err){0};
        return;
    }
    tt_adapter_image_free(img);
    save_failed(e, &err);
}

tt_adapter_home_state tt_adapter_cache_save(tt_adapter_cache *c, uint64_t id, tt_err *ret_why)
{
    entry *e = by_id(c, id);
    if (c->store != NULL && e != NULL && e->home == TT_ADAPTER_VOLATILE && e->adapter != NULL &&
        e->pins > 0) {
        begin_save(c, e);
    }
    return tt_adapter_cache_home(c, id, ret_why);
}

tt_code tt_adapter_cache_fetch(tt_adapter_cache *c, uint64_t id, uint64_t *ticket, bool must,
                               tt_adapter **ret_adapter, tt_err *reterr)
{
    entry *e = by_id(c, id);
    if (e != NULL && e->adapter != NULL) {
        *ret_adapter = tt_adapter_cache_get(c, id);
        return TT_OK;
    }
    if (e == NULL) {
        return tt_fail(reterr, TT_E_ADAPTER_LOST, "the adapter of this generation is gone");
    }
    if (*ticket != 0 && e->loaded >= *ticket && e->load_err.code != TT_OK) {
        return tt_fail(reterr, e->load_err.code, "%s", e->load_err.msg);
    }
    if (e->loading == 0) {
        make_room(c, e->bytes);
        if (!must && c->bytes + e->bytes > c->max_bytes) {
            return (tt_code)TT_ADAPTER_WAIT;
        }
        tt_code rc = tt_adapter_store_load(c->store, id, &e->loading, reterr);
        if (rc != TT_OK) {
            return rc;
        }
    }
    *ticket = e->loading;
    return (tt_code)TT_ADAPTER_WAIT;
}

static void saved(tt_adapter_cache *c, const tt_adapter_op *op)
{
    entry *e = by_id(c, op->id);
    if (e == NULL || e->saving != op->serial) {
        return; /* unpinned meanwhile: the order to remove the file follows */
    }
    e->saving = 0;
    if (op->rc == TT_OK) {
        e->home = TT_ADAPTER_DURABLE;
    } else {
        save_failed(e, &op->err);
    }
}

/* Fills op's error when the adapter does not come into memory. */
static void loaded(tt_adapter_cache *c, tt_adapter_op *op)
{
    entry *e = by_id(c, op->id);
    if (e == NULL || e->loading != op->serial) {
        return;
    }
    e->loading = 0;
    e->loaded = op->serial;
    if (op->rc == TT_OK) {
        op->rc = tt_adapter_image_put(c->d, op->image, &e->adapter, &op->err);
    }
    e->load_err = op->err;
    e->load_err.code = op->rc;
    if (op->rc == TT_OK) {
        e->bytes = e->adapter->bytes;
        c->bytes += e->bytes;
        to_front(c, e);
    }
}

/* Writes one more that could not be written before. Returns when to come again. */
static double retry(tt_adapter_cache *c, double now)
{
    double next = INFINITY;
    for (entry *e = c->head; e != NULL && c->store != NULL; e = e->next) {
        if (e->pins == 0 || e->adapter == NULL || e->home != TT_ADAPTER_VOLATILE) {
            continue;
        }
        if (e->retry_at <= now) {
            begin_save(c, e);
            return e->home == TT_ADAPTER_WRITING ? INFINITY : RETRY_SECONDS;
        }
        next = e->retry_at - now < next ? e->retry_at - now : next;
    }
    return next;
}

bool tt_adapter_cache_tend(tt_adapter_cache *c, void (*warn)(void *arg, const tt_err *err),
                           void *arg, double *ret_wait)
{
    bool any = false;
    tt_adapter_op *op;
    make_room(c, 0); /* before: what comes now must not go before somebody has taken it */
    while (c->store != NULL && (op = tt_adapter_store_next(c->store)) != NULL) {
        any = true;
        bool known = false;
        if (op->kind == TT_ADAPTER_SAVE) {
            saved(c, op);
            known = op->rc != TT_OK && c->failing;
            c->failing = op->rc != TT_OK;
        } else if (op->kind == TT_ADAPTER_LOAD) {
            loaded(c, op);
        }
        if (op->rc != TT_OK && !known && warn != NULL) {
            op->err.code = op->rc;
            warn(arg, &op->err);
        }
        tt_adapter_op_free(op);
    }
    *ret_wait = retry(c, tt_sys_now());
    return any;
}

void tt_adapter_cache_keep(tt_adapter_cache *c, const uint64_t *ids, size_t n)
{
    size_t total = n;
    for (const entry *e = c->head; e != NULL; e = e->next) {
        total += e->pins > 0;
    }
    uint64_t *all = c->store != NULL ? malloc((total + 1) * sizeof *all) : NULL;
    if (all == NULL) {
        return; /* nothing is removed: never too early gone */
    }
    if (n > 0) {
        memcpy(all, ids, n * sizeof *all);
    }
    for (const entry *e = c->head; e != NULL; e = e->next) {
        if (e->pins > 0) {
            all[n++] = e->id;
        }
    }
    tt_adapter_store_keep(c->store, all, n);
    free(all);
}

/* ---- probes ---- */

bool tt_adapter_cache_find_probe(tt_adapter_cache *c, uint64_t hash, int32_t n_context,
                                 tt_probe_result *ret_probe)
{
    for (uint32_t i = 0; i < N_PROBES; i++) {
        if (c->probes[i].n_context == n_context && c->probes[i].hash == hash) {
            *ret_probe = c->probes[i].probe;
            return true;
        }
    }
    return false;
}

void tt_adapter_cache_put_probe(tt_adapter_cache *c, uint64_t hash, int32_t n_context,
                                const tt_probe_result *probe)
{
    tt_probe_result known;
    if (!tt_adapter_cache_find_probe(c, hash, n_context, &known)) {
        uint32_t i = c->n_probes++ % N_PROBES;
        c->probes[i].hash = hash;
        c->probes[i].n_context = n_context;
        c->probes[i].probe = *probe;
    }
}

void tt_adapter_cache_stats(const tt_adapter_cache *c, int64_t *ret_bytes, int64_t *ret_adapters)
{
    *ret_bytes = (int64_t)c->bytes;
    *ret_adapters = sum_up(c).n_adapters;
}
