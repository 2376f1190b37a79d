/* session_content.c - see session_content.h. */
#include "server/session_content.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

enum { SLOTS = 8192, MAGIC = 0x6b747474 /* "tttk" */, VERSION = 1 };

typedef struct node {
    struct node *next;
    int32_t refs;
    char key[TT_SESSION_PART_KEY];
} node;

struct tt_content_table {
    node *slots[SLOTS];
    bool uncounted; /* memory ran out for a node: somebody may refer to what seems to have nobody */
};

tt_code tt_content_create(tt_content_table **ret, tt_err *reterr)
{
    *ret = calloc(1, sizeof **ret);
    return *ret != NULL ? TT_OK : tt_fail(reterr, TT_E_NOMEM, "out of memory");
}

void tt_content_destroy(tt_content_table **table)
{
    tt_content_table *t = *table;
    for (int i = 0; t != NULL && i < SLOTS; i++) {
        for (node *n = t->slots[i], *next; n != NULL; n = next) {
            next = n->next;
            free(n);
        }
    }
    free(t);
    *table = NULL;
}

static node **find(tt_content_table *t, const char *key)
{
    node **p = &t->slots[XXH3_64bits(key, strlen(key)) % SLOTS];
    while (*p != NULL && strcmp((*p)->key, key) != 0) {
        p = &(*p)->next;
    }
    return p;
}

bool tt_content_ref(tt_content_table *t, const char *key)
{
    node **p = find(t, key);
    if (*p != NULL) {
        (*p)->refs++;
        return false;
    }
    *p = calloc(1, sizeof **p);
    if (*p != NULL) {
        snprintf((*p)->key, sizeof(*p)->key, "%s", key);
        (*p)->refs = 1;
    }
    t->uncounted = t->uncounted || *p == NULL;
    return true;
}

bool tt_content_unref(tt_content_table *t, const char *key)
{
    node **p = find(t, key), *n = *p;
    if (n == NULL || --n->refs > 0) { /* not counted: the row stays until the next start */
        return false;
    }
    *p = n->next;
    free(n);
    return !t->uncounted;
}

bool tt_content_known(const tt_content_table *t, const char *key)
{
    return *find((tt_content_table *)t, key) != NULL;
}

/* ---- parts: a header, ids, flags ---- */

typedef struct packed_head {
    uint32_t magic, version;
    uint64_t n;
} packed_head;

void tt_content_pack_part(const tt_session_part *p, tt_buf *b)
{
    static const char none[4096];
    packed_head h = {.magic = MAGIC, .version = VERSION, .n = (uint64_t)p->n};
    tt_buf_put(b, &h, sizeof h);
    if (p->n > 0) {
        tt_buf_put(b, p->ids, (size_t)p->n * sizeof *p->ids);
    }
    for (int32_t i = 0; i < p->n && p->decoded == NULL; i += (int32_t)sizeof none) {
        size_t left = (size_t)(p->n - i);
        tt_buf_put(b, none, left < sizeof none ? left : sizeof none);
    }
    if (p->n > 0 && p->decoded != NULL) {
        tt_buf_put(b, p->decoded, (size_t)p->n);
    }
}

bool tt_content_unpack_part(const void *p, size_t n, const int32_t **ret_ids,
                            const uint8_t **ret_decoded, int32_t *ret_n)
{
    packed_head h;
    if (n < sizeof h) {
        return false;
    }
    memcpy(&h, p, sizeof h);
    if (h.magic != MAGIC || h.version != VERSION || h.n > INT32_MAX ||
        n - sizeof h != h.n * (sizeof(int32_t) + 1)) {
        return false;
    }
    const char *ids = (const char *)p + sizeof h;
    *ret_ids = (const int32_t *)(const void *)ids;
    *ret_decoded = (const uint8_t *)ids + h.n * sizeof(int32_t);
    *ret_n = (int32_t)h.n;
    return true;
}

void tt_content_key(const void *p, size_t n, char *key)
{
    XXH128_hash_t h = XXH3_128bits(p, n);
    snprintf(key, TT_SESSION_PART_KEY, "%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
}
