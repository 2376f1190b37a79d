/* kv.c - see kv.h. Free and cached pages hang in one doubly linked list in the order of their last
 * use, free ones first, so that taking the head is eviction; keys hang in a chained hash table of
 * fixed size (a power of two >= the pages). */
#include "core/kv.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

typedef struct page {
    int32_t refs;
    int32_t prev, next;  /* idle list, while refs == 0 */
    int32_t bucket_next; /* chain of the key's bucket */
    bool keyed;
    int32_t n_base;
    uint64_t key, parent, adapter_id, decoded;
    int32_t ids[TT_PAGE_TOKENS];
} page;

struct tt_kv_pool {
    tt_device *d;
    tt_dtype type;
    int32_t n_pages, n_used, n_cached;
    int32_t head, tail; /* idle pages, next to be taken first; -1 = empty */
    size_t page_bytes;
    tt_dev base;
    tt_dev sums; /* u64 [2]: where checksums come to lie */
    page *pages; /* [n_pages] */
    /* Guards buckets and keyed pages: the engine writes them under it, tt_kv_has() reads. */
    pthread_mutex_t mutex;
    int32_t *buckets; /* [n_buckets], -1 = empty */
    uint32_t n_buckets;
    tt_kv_layer *layers; /* [n_layers] */
};

size_t tt_kv_page_bytes(const tt_model *m, tt_dtype type)
{
    return (size_t)tt_model_kv_bytes_per_token(m, type) * TT_PAGE_TOKENS;
}

int32_t tt_kv_total(const tt_kv_pool *p)
{
    return p->n_pages;
}

static void list_remove(tt_kv_pool *p, int32_t i)
{
    page *g = &p->pages[i];
    *(g->prev < 0 ? &p->head : &p->pages[g->prev].next) = g->next;
    *(g->next < 0 ? &p->tail : &p->pages[g->next].prev) = g->prev;
}

static void list_push_tail(tt_kv_pool *p, int32_t i)
{
    page *g = &p->pages[i];
    g->prev = p->tail;
    g->next = -1;
    *(p->tail < 0 ? &p->head : &p->pages[p->tail].next) = i;
    p->tail = i;
}

static void list_push_head(tt_kv_pool *p, int32_t i)
{
    page *g = &p->pages[i];
    g->next = p->head;
    g->prev = -1;
    *(p->head < 0 ? &p->tail : &p->pages[p->head].prev) = i;
    p->head = i;
}

static void drop_key(tt_kv_pool *p, int32_t i)
{
    page *g = &p->pages[i];
    if (!g->keyed) {
        return;
    }
    int32_t *at = &p->buckets[g->key & (p->n_buckets - 1)];
    while (*at != i) {
        at = &p->pages[*at].bucket_next;
    }
    pthread_mutex_lock(&p->mutex);
    *at = g->bucket_next;
    g->keyed = false;
    pthread_mutex_unlock(&p->mutex);
}

/* A page: layer after layer, each K, V, and with TT_I8 the scales of K and those of V. */
static void init_layers(tt_kv_pool *p, const tt_model *m)
{
    size_t half = (size_t)m->n_kv_heads * TT_PAGE_TOKENS * m->head_dim *
                  (size_t)tt_dtypes[p->type].block_bytes;
    size_t scales = p->type == TT_I8 ? sizeof(float) * (size_t)m->n_kv_heads * TT_PAGE_TOKENS : 0;
    for (int32_t i = 0; i < m->n_layers; i++) {
        tt_dev at = p->base + (size_t)i * 2 * (half + scales), end = at + 2 * half;
        p->layers[i] = (tt_kv_layer){
            .k = at,
            .v = at + half,
            .k_scale = scales > 0 ? end : 0,
            .v_scale = scales > 0 ? end + scales : 0,
            .page_stride = (int64_t)p->page_bytes,
            .type = p->type,
            .n_kv_heads = m->n_kv_heads,
            .head_dim = m->head_dim,
        };
    }
}

tt_code tt_kv_create(tt_device *d, const tt_kv_options *opt, tt_kv_pool **ret_pool, tt_err *reterr)
{
    assert(opt->n_pages > 0 && (opt->type == TT_BF16 || opt->type == TT_F32 || opt->type == TT_I8));
    tt_kv_pool *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the K/V pool");
    }
    *p = (tt_kv_pool){.d = d, .type = opt->type, .n_pages = opt->n_pages, .head = -1, .tail = -1};
    p->page_bytes = tt_kv_page_bytes(d->model, opt->type);
    pthread_mutex_init(&p->mutex, NULL);
    for (p->n_buckets = 64; p->n_buckets < (uint32_t)opt->n_pages;) {
        p->n_buckets *= 2;
    }
    p->pages = calloc((size_t)opt->n_pages, sizeof *p->pages);
    p->buckets = malloc(p->n_buckets * sizeof *p->buckets);
    p->layers = calloc((size_t)d->model->n_layers, sizeof *p->layers);
    tt_code rc = TT_OK;
    if (p->pages == NULL || p->buckets == NULL || p->layers == NULL) {
        rc = tt_fail(reterr, TT_E_NOMEM, "no memory for the K/V pool's tables");
    } else {
        rc = tt_device_alloc(d, p->page_bytes * (size_t)opt->n_pages, &p->base, reterr);
    }
    if (rc == TT_OK) {
        rc = d->ops.alloc(d->lane, 2 * sizeof(uint64_t), &p->sums, reterr);
    }
    if (rc != TT_OK) {
        tt_kv_destroy(&p);
        return rc;
    }
    memset(p->buckets, 0xFF, p->n_buckets * sizeof *p->buckets);
    for (int32_t i = 0; i < opt->n_pages; i++) {
        list_push_tail(p, i);
    }
    init_layers(p, d->model);
    *ret_pool = p;
    return TT_OK;
}

void tt_kv_destroy(tt_kv_pool **pool)
{
    tt_kv_pool *p = *pool;
    if (p == NULL) {
        return;
    }
    p->d->ops.free(p->d->lane, p->base);
    p->d->ops.free(p->d->lane, p->sums);
    free(p->pages);
    free(p->buckets);
    free(p->layers);
    pthread_mutex_destroy(&p->mutex);
    free(p);
    *pool = NULL;
}

const tt_kv_layer *tt_kv_layer_of(const tt_kv_pool *pool, int32_t layer)
{
    return &pool->layers[layer];
}

int32_t tt_kv_take(tt_kv_pool *p)
{
    int32_t i = p->head;
    if (i < 0) {
        return -1;
    }
    list_remove(p, i);
    if (p->pages[i].keyed) {
        drop_key(p, i);
        p->n_cached--;
    }
    p->pages[i].refs = 1;
    p->n_used++;
    return i;
}

void tt_kv_ref(tt_kv_pool *p, int32_t i)
{
    page *g = &p->pages[i];
    if (g->refs++ == 0) {
        assert(g->keyed);
        list_remove(p, i);
        p->n_cached--;
        p->n_used++;
    }
}

void tt_kv_unref(tt_kv_pool *p, int32_t i)
{
    page *g = &p->pages[i];
    assert(g->refs > 0);
    if (--g->refs > 0) {
        return;
    }
    p->n_used--;
    if (g->keyed) {
        p->n_cached++;
        list_push_tail(p, i);
    } else {
        list_push_head(p, i);
    }
}

uint64_t tt_kv_root(const char *tenant)
{
    return XXH3_64bits_withSeed(tenant, strlen(tenant), 0x71747474);
}

uint64_t tt_page_key_hash(const tt_page_key *k)
{
    uint64_t buf[4 + TT_PAGE_TOKENS / 2] = {k->parent, k->adapter_id, (uint64_t)k->n_base,
                                            k->decoded};
    memcpy(buf + 4, k->ids, TT_PAGE_TOKENS * sizeof *k->ids);
    return XXH3_64bits(buf, sizeof buf);
}

static int32_t lookup(const tt_kv_pool *p, const tt_page_key *k, uint64_t hash)
{
    for (int32_t i = p->buckets[hash & (p->n_buckets - 1)]; i >= 0; i = p->pages[i].bucket_next) {
        const page *g = &p->pages[i];
        if (g->key == hash && g->parent == k->parent && g->adapter_id == k->adapter_id &&
            g->n_base == k->n_base && g->decoded == k->decoded &&
            memcmp(g->ids, k->ids, sizeof g->ids) == 0) {
            return i;
        }
    }
    return -1;
}

int32_t tt_kv_find(tt_kv_pool *p, const tt_page_key *key)
{
    int32_t i = lookup(p, key, tt_page_key_hash(key));
    if (i >= 0) {
        tt_kv_ref(p, i);
    }
    return i;
}

int32_t tt_kv_peek(const tt_kv_pool *p, const tt_page_key *key)
{
    return lookup(p, key, tt_page_key_hash(key));
}

bool tt_kv_has(tt_kv_pool *p, const tt_page_key *key)
{
    uint64_t hash = tt_page_key_hash(key);
    pthread_mutex_lock(&p->mutex);
    bool has = lookup(p, key, hash) >= 0;
    pthread_mutex_unlock(&p->mutex);
    return has;
}

bool tt_kv_in_use(tt_kv_pool *p, const tt_page_key *key)
{
    int32_t i = lookup(p, key, tt_page_key_hash(key));
    return i >= 0 && p->pages[i].refs > 0;
}

void tt_kv_publish(tt_kv_pool *p, int32_t i, const tt_page_key *key)
{
    page *g = &p->pages[i];
    assert(g->refs > 0);
    uint64_t hash = tt_page_key_hash(key);
    if (g->keyed || lookup(p, key, hash) >= 0) {
        return;
    }
    pthread_mutex_lock(&p->mutex);
    g->key = hash;
    g->parent = key->parent;
    g->adapter_id = key->adapter_id;
    g->n_base = key->n_base;
    g->decoded = key->decoded;
    memcpy(g->ids, key->ids, sizeof g->ids);
    g->keyed = true;
    int32_t *bucket = &p->buckets[hash & (p->n_buckets - 1)];
    g->bucket_next = *bucket;
    *bucket = i;
    pthread_mutex_unlock(&p->mutex);
}

void tt_kv_copy_page(tt_kv_pool *p, int32_t dst, int32_t src)
{
    p->d->ops.copy(p->d->lane, p->base + (size_t)dst * p->page_bytes,
                   p->base + (size_t)src * p->page_bytes, p->page_bytes);
}

tt_code tt_kv_read_page(tt_kv_pool *p, int32_t i, void *dst, tt_err *reterr)
{
    p->d->ops.download(p->d->lane, dst, p->base + (size_t)i * p->page_bytes, p->page_bytes);
    return tt_device_sync(p->d, reterr);
}

void tt_kv_write_page(tt_kv_pool *p, int32_t i, const void *src)
{
    p->d->ops.upload(p->d->lane, p->base + (size_t)i * p->page_bytes, src, p->page_bytes);
}

/* Queues the sum of n_bytes a token at `first`, of K and V of all heads in all layers, into `sum`.
 */
static void sum_tokens(const tt_kv_pool *p, tt_dev first, int64_t n_bytes, int32_t n_tokens,
                       tt_dev sum)
{
    const tt_model *m = p->d->model;
    tt_checksum_args a = {.data = first,
                          .row_bytes = n_bytes * n_tokens,
                          .stride = n_bytes * TT_PAGE_TOKENS,
                          .group_stride = (int64_t)(p->page_bytes / (size_t)m->n_layers),
                          .sum = sum,
                          .n_rows = 2 * m->n_kv_heads,
                          .n_groups = m->n_layers};
    p->d->ops.checksum(p->d->lane, &a);
}

tt_code tt_kv_checksum(tt_kv_pool *p, int32_t i, int32_t n_tokens, uint64_t *ret_sum,
                       tt_err *reterr)
{
    assert(n_tokens > 0 && n_tokens <= TT_PAGE_TOKENS);
    const tt_kv_layer *l = &p->layers[0];
    tt_dev at = (tt_dev)i * p->page_bytes;
    uint64_t sums[2] = {0};
    size_t n_sums = p->type == TT_I8 ? 2 : 1;
    sum_tokens(p, l->k + at, (int64_t)l->head_dim * tt_dtypes[p->type].block_bytes, n_tokens,
               p->sums);
    if (p->type == TT_I8) {
        sum_tokens(p, l->k_scale + at, sizeof(float), n_tokens, p->sums + sizeof *sums);
    }
    p->d->ops.download(p->d->lane, sums, p->sums, n_sums * sizeof *sums);
    tt_code rc = p->d->ops.lane_sync(p->d->lane, reterr);
    if (rc == TT_OK) {
        *ret_sum = sums[0] + 3 * sums[1];
    }
    return rc;
}

tt_kv_stats tt_kv_get_stats(const tt_kv_pool *p)
{
    return (tt_kv_stats){.total = p->n_pages,
                         .used = p->n_used,
                         .cached = p->n_cached,
                         .bytes_total = p->page_bytes * (size_t)p->n_pages};
}

void tt_kv_drop_cached(tt_kv_pool *p)
{
    for (int32_t i = 0; i < p->n_pages; i++) {
        if (p->pages[i].refs == 0 && p->pages[i].keyed) {
            drop_key(p, i);
            p->n_cached--;
            list_remove(p, i);
            list_push_head(p, i);
        }
    }
}
