/* page_run.c - see page_run.h. */
#include "core/page_run.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char SUFFIX[] = ".run";

void tt_run_key_copy(tt_run_key *dst, const tt_page_key *k)
{
    *dst = (tt_run_key){.hash = tt_page_key_hash(k),
                        .parent = k->parent,
                        .adapter_id = k->adapter_id,
                        .decoded = k->decoded,
                        .n_base = k->n_base};
    memcpy(dst->ids, k->ids, sizeof dst->ids);
}

tt_page_key tt_run_key_view(const tt_run_key *k)
{
    return (tt_page_key){.parent = k->parent,
                         .adapter_id = k->adapter_id,
                         .n_base = k->n_base,
                         .decoded = k->decoded,
                         .ids = k->ids};
}

bool tt_run_key_equal(const tt_run_key *a, const tt_run_key *b)
{
    return a->hash == b->hash && a->parent == b->parent && a->adapter_id == b->adapter_id &&
           a->decoded == b->decoded && a->n_base == b->n_base &&
           memcmp(a->ids, b->ids, sizeof a->ids) == 0;
}

void tt_run_name(char name[TT_RUN_NAME_BYTES], uint64_t last_key)
{
    snprintf(name, TT_RUN_NAME_BYTES, "%016" PRIx64 "%s", last_key, SUFFIX);
}

bool tt_run_parse_name(const char *name, uint64_t *ret_last_key)
{
    if (strlen(name) != 16 + sizeof SUFFIX - 1 || strcmp(name + 16, SUFFIX) != 0 ||
        strspn(name, "0123456789abcdef") != 16) {
        return false;
    }
    *ret_last_key = strtoull(name, NULL, 16);
    return true;
}

static tt_state_kind kind_of(uint64_t fingerprint)
{
    return (tt_state_kind){.name = "PAGE", .version = TT_RUN_VERSION, .fingerprint = fingerprint};
}

/* ---- keys as bytes: parent, adapter, decoded, n_base (8 bytes each), ids (4) ---- */

static void put(uint8_t *p, uint64_t x, int n)
{
    for (int i = 0; i < n; i++) {
        p[i] = (uint8_t)(x >> (8 * i));
    }
}

static uint64_t get(const uint8_t *p, int n)
{
    uint64_t x = 0;
    for (int i = 0; i < n; i++) {
        x |= (uint64_t)p[i] << (8 * i);
    }
    return x;
}

static void put_key(uint8_t *p, const tt_run_key *k)
{
    put(p, k->parent, 8);
    put(p + 8, k->adapter_id, 8);
    put(p + 16, k->decoded, 8);
    put(p + 24, (uint64_t)k->n_base, 8);
    for (int i = 0; i < TT_PAGE_TOKENS; i++) {
        put(p + 32 + 4 * i, (uint32_t)k->ids[i], 4);
    }
}

static void get_key(const uint8_t *p, tt_run_key *k)
{
    k->parent = get(p, 8);
    k->adapter_id = get(p + 8, 8);
    k->decoded = get(p + 16, 8);
    k->n_base = (int32_t)get(p + 24, 8);
    for (int i = 0; i < TT_PAGE_TOKENS; i++) {
        k->ids[i] = (int32_t)(uint32_t)get(p + 32 + 4 * i, 4);
    }
    tt_page_key view = tt_run_key_view(k);
    k->hash = tt_page_key_hash(&view);
}

/* ---- files ---- */

tt_code tt_run_create(const char *folder, uint64_t first_key, uint64_t fingerprint,
                      tt_state_writer **ret_writer, tt_err *reterr)
{
    char name[TT_RUN_NAME_BYTES];
    tt_state_kind kind = kind_of(fingerprint);
    tt_run_name(name, first_key); /* until the last key is known */
    return tt_state_writer_open(folder, name, &kind, ret_writer, reterr);
}

tt_code tt_run_commit(tt_state_writer **writer, const tt_run_key *keys, int32_t n,
                      uint64_t *ret_bytes, tt_err *reterr)
{
    assert(n > 0 && n <= TT_RUN_PAGES);
    uint8_t bytes[TT_RUN_PAGES * TT_RUN_KEY_BYTES];
    char name[TT_RUN_NAME_BYTES];
    for (int32_t i = 0; i < n; i++) {
        put_key(bytes + (size_t)i * TT_RUN_KEY_BYTES, &keys[i]);
    }
    tt_run_name(name, keys[n - 1].hash);
    tt_code rc = tt_state_writer_add(*writer, bytes, (size_t)n * TT_RUN_KEY_BYTES, reterr);
    if (rc != TT_OK) {
        tt_state_writer_abandon(writer);
        return rc;
    }
    return tt_state_writer_commit(writer, name, ret_bytes, reterr);
}

static tt_code read_keys(tt_state_reader *r, const char *name, size_t page_bytes, tt_run_key *keys,
                         int32_t *ret_n, tt_err *reterr)
{
    uint8_t bytes[TT_RUN_PAGES * TT_RUN_KEY_BYTES];
    int32_t n = tt_state_reader_blocks(r) - 1;
    uint64_t last;
    if (n < 1 || n > TT_RUN_PAGES || !tt_run_parse_name(name, &last)) {
        return tt_fail(reterr, TT_E_INVALID, "%s is no run of pages", name);
    }
    for (int32_t i = 0; i < n; i++) {
        if (tt_state_reader_block_bytes(r, i) != page_bytes) {
            return tt_fail(reterr, TT_E_INVALID, "%s has pages of another size", name);
        }
    }
    tt_code rc = tt_state_reader_read(r, n, bytes, (size_t)n * TT_RUN_KEY_BYTES, reterr);
    for (int32_t i = 0; rc == TT_OK && i < n; i++) {
        get_key(bytes + (size_t)i * TT_RUN_KEY_BYTES, &keys[i]);
        if (i > 0 && keys[i].parent != keys[i - 1].hash) {
            rc = tt_fail(reterr, TT_E_INVALID, "the pages of %s are no chain", name);
        }
    }
    if (rc == TT_OK && keys[n - 1].hash != last) {
        rc = tt_fail(reterr, TT_E_INVALID, "%s has another file's name", name);
    }
    *ret_n = n;
    return rc;
}

tt_code tt_run_open(const char *folder, const char *name, uint64_t fingerprint, size_t page_bytes,
                    tt_state_reader **ret_reader, tt_run_key *keys, int32_t *ret_n, tt_err *reterr)
{
    tt_state_reader *r = NULL;
    tt_state_kind kind = kind_of(fingerprint);
    tt_code rc = tt_state_reader_open(folder, name, &kind, &r, reterr);
    rc = rc == TT_OK ? read_keys(r, name, page_bytes, keys, ret_n, reterr) : rc;
    if (rc != TT_OK) {
        tt_state_reader_close(&r);
        return rc;
    }
    *ret_reader = r;
    return TT_OK;
}
