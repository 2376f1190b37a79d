/* seq.c - see seq.h. */
#include "core/seq.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void tt_seq_init(tt_seq *s, tt_kv_pool *kv, const char *tenant)
{
    *s = (tt_seq){.kv = kv, .key = tt_kv_root(tenant)};
}

void tt_seq_finish(tt_seq *s)
{
    for (int32_t i = s->n_pages - 1; i >= 0;
         i--) { /* the end of a prefix is evicted before its beginning */
        tt_kv_unref(s->kv, s->pages[i]);
    }
    free(s->pages);
    free(s->ids);
    free(s->decoded);
    *s = (tt_seq){0};
}

static tt_code no_memory(int32_t n, tt_err *reterr)
{
    return tt_fail(reterr, TT_E_NOMEM, "no memory for a sequence of %d tokens", n);
}

static int32_t roomy(int32_t need)
{
    return need < 1024 ? 1024 : need + need / 2;
}

static tt_code grow_tokens(tt_seq *s, int32_t need, tt_err *reterr)
{
    if (need <= s->cap) {
        return TT_OK;
    }
    int32_t cap = roomy(need);
    int32_t *ids = realloc(s->ids, (size_t)cap * sizeof *ids);
    s->ids = ids != NULL ? ids : s->ids;
    uint8_t *decoded = ids != NULL ? realloc(s->decoded, (size_t)cap) : NULL;
    if (decoded == NULL) {
        return no_memory(need, reterr);
    }
    s->decoded = decoded;
    s->cap = cap;
    return TT_OK;
}

static tt_code grow_pages(tt_seq *s, int32_t need, tt_err *reterr)
{
    if (need <= s->pages_cap) {
        return TT_OK;
    }
    int32_t cap = roomy(need);
    int32_t *pages = realloc(s->pages, (size_t)cap * sizeof *pages);
    if (pages == NULL) {
        return no_memory(need * TT_PAGE_TOKENS, reterr);
    }
    s->pages = pages;
    s->pages_cap = cap;
    return TT_OK;
}

tt_page_key tt_seq_page_key(uint64_t parent, uint64_t adapter_id, int32_t n_base,
                            const int32_t *ids, const uint8_t *decoded, int32_t i)
{
    int32_t first = i * TT_PAGE_TOKENS, base = TT_PAGE_TOKENS;
    if (adapter_id != 0) {
        base = n_base - first;
        base = base < 0 ? 0 : base > TT_PAGE_TOKENS ? TT_PAGE_TOKENS : base;
    }
    uint64_t mask = 0;
    for (int32_t j = 0; decoded != NULL && j < TT_PAGE_TOKENS; j++) {
        mask |= (uint64_t)(decoded[first + j] != 0) << j;
    }
    return (tt_page_key){.parent = parent,
                         .adapter_id = base == TT_PAGE_TOKENS ? 0 : adapter_id,
                         .n_base = base,
                         .decoded = mask,
                         .ids = ids + first};
}

/* Page i of the pool becomes page `at` of the sequence, in place of a private one. */
static void adopt(tt_seq *s, int32_t at, int32_t page)
{
    if (at < s->n_pages) {
        tt_kv_unref(s->kv, s->pages[at]);
    } else {
        s->n_pages++;
    }
    s->pages[at] = page;
}

tt_code tt_seq_match(tt_seq *s, const int32_t *ids, const uint8_t *decoded, int32_t n,
                     int32_t *ret_n, tt_err *reterr)
{
    int32_t full = n / TT_PAGE_TOKENS;
    tt_code rc = grow_tokens(s, full * TT_PAGE_TOKENS, reterr);
    rc = rc == TT_OK ? grow_pages(s, full, reterr) : rc;
    if (rc != TT_OK) {
        return rc;
    }
    /* full pages that were not published (an answer nobody keeps) have no successors in the cache
     */
    bool chained = s->n_published == s->n / TT_PAGE_TOKENS;
    for (int32_t i = s->n_published; chained && i < full; i++) {
        tt_page_key key = tt_seq_page_key(s->key, s->adapter_id, s->n_base, ids, decoded, i);
        int32_t page = tt_kv_find(s->kv, &key);
        if (page < 0) {
            break;
        }
        adopt(s, i, page);
        int32_t first = i * TT_PAGE_TOKENS;
        memcpy(s->ids + first, key.ids, TT_PAGE_TOKENS * sizeof *ids);
        for (int32_t j = 0; j < TT_PAGE_TOKENS; j++) {
            s->decoded[first + j] = key.decoded >> j & 1;
        }
        s->n_published++;
        s->n = first + TT_PAGE_TOKENS;
        s->key = tt_page_key_hash(&key);
    }
    *ret_n = s->n;
    return TT_OK;
}

static int32_t walk(tt_kv_pool *kv, bool (*there)(tt_kv_pool *kv, const tt_page_key *key),
                    const char *tenant, uint64_t adapter_id, int32_t n_base, const int32_t *ids,
                    const uint8_t *decoded, int32_t n)
{
    uint64_t parent = tt_kv_root(tenant);
    for (int32_t i = 0; i < n / TT_PAGE_TOKENS; i++) {
        tt_page_key key = tt_seq_page_key(parent, adapter_id, n_base, ids, decoded, i);
        if (!there(kv, &key)) {
            return i * TT_PAGE_TOKENS;
        }
        parent = tt_page_key_hash(&key);
    }
    return n / TT_PAGE_TOKENS * TT_PAGE_TOKENS;
}

int32_t tt_seq_cached(tt_kv_pool *kv, const char *tenant, uint64_t adapter_id, int32_t n_base,
                      const int32_t *ids, const uint8_t *decoded, int32_t n)
{
    return walk(kv, tt_kv_has, tenant, adapter_id, n_base, ids, decoded, n);
}

int32_t tt_seq_shared(tt_kv_pool *kv, const char *tenant, uint64_t adapter_id, int32_t n_base,
                      const int32_t *ids, const uint8_t *decoded, int32_t n)
{
    return walk(kv, tt_kv_in_use, tenant, adapter_id, n_base, ids, decoded, n);
}

int32_t tt_seq_need(const tt_seq *s, int32_t n)
{
    int32_t need = (s->n + n + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS - s->n_pages;
    return need > 0 ? need : 0;
}

tt_code tt_seq_reserve(tt_seq *s, int32_t n, tt_err *reterr)
{
    int32_t need = (s->n + n + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS, had = s->n_pages;
    tt_code rc = grow_pages(s, need, reterr);
    rc = rc == TT_OK ? grow_tokens(s, s->n + n, reterr) : rc;
    while (rc == TT_OK && s->n_pages < need) {
        int32_t page = tt_kv_take(s->kv);
        if (page < 0) {
            rc = tt_fail(reterr, TT_E_CAPACITY, "the K/V pool has no free page for token %d",
                         s->n_pages * TT_PAGE_TOKENS);
            break;
        }
        s->pages[s->n_pages++] = page;
    }
    while (rc != TT_OK && s->n_pages > had) {
        tt_kv_unref(s->kv, s->pages[--s->n_pages]);
    }
    return rc;
}

void tt_seq_trim(tt_seq *s, int32_t n)
{
    int32_t need = (s->n + n + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS;
    while (s->n_pages > need) {
        tt_kv_unref(s->kv, s->pages[--s->n_pages]);
    }
}

tt_code tt_seq_restore(tt_seq *s, const int32_t *ids, const uint8_t *decoded, const void *bytes,
                       tt_err *reterr)
{
    int32_t at = s->n_published;
    assert(s->n == at * TT_PAGE_TOKENS && s->n_pages == at);
    tt_code rc = tt_seq_reserve(s, TT_PAGE_TOKENS, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    tt_kv_write_page(s->kv, s->pages[at], bytes);
    memcpy(s->ids + s->n, ids, TT_PAGE_TOKENS * sizeof *ids);
    if (decoded != NULL) {
        memcpy(s->decoded + s->n, decoded, TT_PAGE_TOKENS);
    } else {
        memset(s->decoded + s->n, 0, TT_PAGE_TOKENS);
    }
    s->n += TT_PAGE_TOKENS;
    tt_page_key key = tt_seq_page_key(s->key, s->adapter_id, s->n_base, s->ids, s->decoded, at);
    tt_kv_publish(s->kv, s->pages[at], &key);
    s->key = tt_page_key_hash(&key);
    s->n_published++;
    return TT_OK;
}

void tt_seq_append(tt_seq *s, const int32_t *ids, int32_t n, bool decoded, bool publish)
{
    assert(s->n + n <= s->n_pages * TT_PAGE_TOKENS && s->n + n <= s->cap);
    memcpy(s->ids + s->n, ids, (size_t)n * sizeof *ids);
    memset(s->decoded + s->n, decoded, (size_t)n);
    s->n += n;
    while (publish && (s->n_published + 1) * TT_PAGE_TOKENS <= s->n) {
        tt_page_key key =
            tt_seq_page_key(s->key, s->adapter_id, s->n_base, s->ids, s->decoded, s->n_published);
        tt_kv_publish(s->kv, s->pages[s->n_published], &key);
        s->key = tt_page_key_hash(&key);
        s->n_published++;
    }
}

void tt_seq_set_adapter(tt_seq *s, uint64_t adapter_id, int32_t n_base)
{
    assert(s->adapter_id == 0 && n_base >= s->n);
    s->adapter_id = adapter_id;
    s->n_base = n_base;
}
