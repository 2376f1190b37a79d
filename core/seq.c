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
    *s = (tt_seq){0};
}

static tt_code grow(int32_t **p, int32_t *cap, int32_t need, tt_err *reterr)
{
    if (need <= *cap) {
        return TT_OK;
    }
    int32_t n = need < 1024 ? 1024 : need + need / 2;
    int32_t *q = realloc(*p, (size_t)n * sizeof *q);
    if (q == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a sequence of %d tokens", need);
    }
    *p = q;
    *cap = n;
    return TT_OK;
}

/* The key of page i, whose 64 tokens are all there. */
static tt_page_key key_of(const tt_seq *s, int32_t i)
{
    int32_t first = i * TT_PAGE_TOKENS, n_base = TT_PAGE_TOKENS;
    if (s->adapter_id != 0) {
        n_base = s->n_base - first;
        n_base = n_base < 0 ? 0 : n_base > TT_PAGE_TOKENS ? TT_PAGE_TOKENS : n_base;
    }
    return (tt_page_key){.parent = s->key,
                         .adapter_id = n_base == TT_PAGE_TOKENS ? 0 : s->adapter_id,
                         .n_base = n_base,
                         .ids = s->ids + first};
}

tt_code tt_seq_match(tt_seq *s, const int32_t *ids, int32_t n, int32_t *ret_found, tt_err *reterr)
{
    assert(s->n == 0 && s->adapter_id == 0);
    int32_t full = n / TT_PAGE_TOKENS;
    tt_code rc = grow(&s->ids, &s->ids_cap, full * TT_PAGE_TOKENS, reterr);
    if (rc == TT_OK) {
        rc = grow(&s->pages, &s->pages_cap, full, reterr);
    }
    if (rc != TT_OK) {
        return rc;
    }
    for (int32_t i = 0; i < full; i++) {
        memcpy(s->ids + s->n, ids + s->n, TT_PAGE_TOKENS * sizeof *ids);
        tt_page_key key = key_of(s, i);
        int32_t page = tt_kv_find(s->kv, &key);
        if (page < 0) {
            break;
        }
        s->pages[s->n_pages++] = page;
        s->n_published++;
        s->n += TT_PAGE_TOKENS;
        s->key = tt_page_key_hash(&key);
    }
    *ret_found = s->n;
    return TT_OK;
}

tt_code tt_seq_reserve(tt_seq *s, int32_t n, tt_err *reterr)
{
    int32_t need = (s->n + n + TT_PAGE_TOKENS - 1) / TT_PAGE_TOKENS, had = s->n_pages;
    tt_code rc = grow(&s->pages, &s->pages_cap, need, reterr);
    if (rc == TT_OK) {
        rc = grow(&s->ids, &s->ids_cap, s->n + n, reterr);
    }
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

void tt_seq_append(tt_seq *s, const int32_t *ids, int32_t n, bool publish)
{
    assert(s->n + n <= s->n_pages * TT_PAGE_TOKENS && s->n + n <= s->ids_cap);
    memcpy(s->ids + s->n, ids, (size_t)n * sizeof *ids);
    s->n += n;
    while (publish && (s->n_published + 1) * TT_PAGE_TOKENS <= s->n) {
        tt_page_key key = key_of(s, s->n_published);
        tt_kv_publish(s->kv, s->pages[s->n_published], &key);
        s->key = tt_page_key_hash(&key);
        s->n_published++;
    }
}

void tt_seq_set_adapter(tt_seq *s, uint64_t adapter_id)
{
    assert(s->adapter_id == 0);
    s->adapter_id = adapter_id;
    s->n_base = s->n;
}
