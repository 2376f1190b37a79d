/* adapter_cache.c - see adapter_cache.h. A list in the order of last use; entries are few (an
 * adapter is megabytes), so that a walk is cheaper than anything cleverer. */
#include "core/adapter_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define MAX_ENTRIES 1024 /* of discarded ones too, which take no device memory */
#define N_PROBES 32

typedef struct entry {
    struct entry *next;
    tt_adapter_key key;
    tt_qttt_result result;
    tt_adapter *adapter; /* NULL = the guard discarded it */
    int32_t pins;
} entry;

struct tt_adapter_cache {
    tt_device *d;
    size_t max_bytes, bytes;
    int32_t n;
    entry *head; /* most recently used first */
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

/* Unlinks and frees the entry behind `at`. */
static void drop(tt_adapter_cache *c, entry **at)
{
    entry *e = *at;
    *at = e->next;
    c->bytes -= e->adapter != NULL ? e->adapter->bytes : 0;
    c->n--;
    tt_adapter_unref(c->d, &e->adapter);
    free(e);
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

bool tt_adapter_cache_find(tt_adapter_cache *c, const tt_adapter_key *key,
                           tt_qttt_result *ret_result, tt_adapter **ret_adapter)
{
    for (entry **at = &c->head; *at != NULL; at = &(*at)->next) {
        entry *e = *at;
        if (e->key.n == key->n && memcmp(e->key.bytes, key->bytes, key->n) == 0) {
            *at = e->next;
            e->next = c->head;
            c->head = e;
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

/* Frees the least recently used entry that holds device memory (any entry when `any`) and is not
 * pinned. */
static bool evict_last(tt_adapter_cache *c, bool any)
{
    entry **last = NULL;
    for (entry **at = &c->head; *at != NULL; at = &(*at)->next) {
        last = (*at)->pins == 0 && (any || (*at)->adapter != NULL) ? at : last;
    }
    if (last != NULL) {
        drop(c, last);
    }
    return last != NULL;
}

bool tt_adapter_cache_put(tt_adapter_cache *c, const tt_adapter_key *key,
                          const tt_qttt_result *result, tt_adapter *adapter, bool pin)
{
    size_t need = adapter != NULL ? adapter->bytes : 0;
    size_t pinned = tt_adapter_cache_pinned(c);
    entry *e = pinned <= c->max_bytes && need <= c->max_bytes - pinned ? malloc(sizeof *e) : NULL;
    if (e == NULL) {
        return false;
    }
    while (c->bytes + need > c->max_bytes && evict_last(c, false)) {
    }
    if (c->n >= MAX_ENTRIES) {
        evict_last(c, true);
    }
    *e = (entry){.next = c->head, .key = *key, .result = *result, .adapter = adapter, .pins = pin};
    if (adapter != NULL) {
        tt_adapter_ref(adapter);
    }
    c->head = e;
    c->bytes += need;
    c->n++;
    return true;
}

static entry *by_id(const tt_adapter_cache *c, uint64_t id)
{
    entry *e = c->head;
    while (e != NULL && (e->adapter == NULL || e->adapter->id != id)) {
        e = e->next;
    }
    return e;
}

tt_adapter *tt_adapter_cache_get(tt_adapter_cache *c, uint64_t id)
{
    entry *e = by_id(c, id);
    if (e == NULL) {
        return NULL;
    }
    for (entry **at = &c->head; *at != NULL; at = &(*at)->next) {
        if (*at == e) {
            *at = e->next;
            break;
        }
    }
    e->next = c->head;
    c->head = e;
    tt_adapter_ref(e->adapter);
    return e->adapter;
}

bool tt_adapter_cache_pin(tt_adapter_cache *c, uint64_t id, int32_t add)
{
    entry *e = by_id(c, id);
    if (e == NULL) {
        return false;
    }
    assert(e->pins + add >= 0);
    e->pins += add;
    return true;
}

size_t tt_adapter_cache_pinned(const tt_adapter_cache *c)
{
    size_t n = 0;
    for (const entry *e = c->head; e != NULL; e = e->next) {
        n += e->pins > 0 && e->adapter != NULL ? e->adapter->bytes : 0;
    }
    return n;
}

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
    int64_t n = 0;
    for (const entry *e = c->head; e != NULL; e = e->next) {
        n += e->adapter != NULL;
    }
    *ret_bytes = (int64_t)c->bytes;
    *ret_adapters = n;
}
