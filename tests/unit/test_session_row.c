/* test_session_row.c - sessions as rows: what is written reads back as it was, for sessions made at
 * random; what is damaged or made up is refused. Tokens, texts and their counting
 * (session_content.h) too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fail_alloc.h"
#include "server/api_json.h"
#include "server/session_content.h"
#include "server/session_row.h"

static uint32_t seed = 1;
static int32_t below(int32_t n)
{
    seed = seed * 1664525u + 1013904223u;
    return (int32_t)((seed >> 8) % (uint32_t)n);
}

static tt_engine *no_engine(void *arg)
{
    return NULL;
}

static tt_session_store *make_store(void)
{
    tt_session_store *st;
    tt_err err;
    tt_session_store_options o = {.max_sessions = 10,
                                  .max_bytes = 1 << 24,
                                  .ttl_seconds = 60,
                                  .max_generations = 4,
                                  .engine = no_engine};
    assert_int_equal(tt_session_store_create(&o, &st, &err), TT_OK);
    return st;
}

/* A session with turns and generations at random; every part has a key. */
static tt_session *random_session(void)
{
    tt_session *s;
    tt_err err;
    int32_t ids[200], n = 1 + below(60), number;
    uint64_t dropped;
    tt_session_part p;
    for (int32_t i = 0; i < 200; i++) {
        ids[i] = below(1000);
    }
    assert_int_equal(tt_session_create(ids, n, 4, &s, &err), TT_OK);
    for (int32_t i = below(7); i > 0; i--) {
        tt_session_generation g = {.adapter_id = ((uint64_t)below(1 << 20) << 40) + (uint64_t)i,
                                   .adapter_bytes = below(1 << 20)};
        snprintf(g.job_id, sizeof g.job_id, "qttt_x_%d", (int)i);
        (void)tt_session_publish(s, &g, &number, &dropped);
    }
    for (int32_t turn = below(6); turn > 0; turn--) {
        tt_session_plan plan;
        tt_session_generation g;
        int32_t n_prompt = n + below(50), generated[8] = {7, 8, 9, 10, 11, 12, 13, below(99)};
        for (int32_t i = n; i < n_prompt; i++) {
            ids[i] = below(1000);
        }
        assert_int_equal(tt_session_choose(s, -1, &g), TT_OK);
        assert_int_equal(tt_session_make_plan(s, ids, n_prompt, &g, &plan, &err), TT_OK);
        assert_int_equal(tt_session_commit(s, &plan, ids, n_prompt, generated, below(8), &err),
                         TT_OK);
        tt_session_plan_finish(&plan);
    }
    for (int32_t i = 0; tt_session_part_at(s, i, &p); i++) {
        tt_buf b = {0};
        tt_content_pack_part(&p, &b);
        tt_content_key(b.p, b.n, p.key);
        tt_buf_finish(&b);
    }
    return s;
}

static void assert_same_session(const tt_session *a, const tt_session *b)
{
    tt_session_part p, q;
    tt_session_generation g, h;
    int32_t i;
    for (i = 0; tt_session_part_at(a, i, &p); i++) {
        assert_true(tt_session_part_at(b, i, &q));
        assert_int_equal(p.n, q.n);
        assert_true(p.adapter_id == q.adapter_id);
        assert_string_equal(p.key, q.key);
        assert_memory_equal(p.ids, q.ids, (size_t)p.n * sizeof *p.ids);
        assert_true((p.decoded == NULL) == (q.decoded == NULL) && (i == 0 || p.decoded != NULL));
        assert_true(i == 0 || memcmp(p.decoded, q.decoded, (size_t)p.n) == 0);
    }
    assert_false(tt_session_part_at(b, i, &q));
    for (i = 0; tt_session_generation_at(a, i, &g); i++) {
        assert_true(tt_session_generation_at(b, i, &h));
        assert_int_equal(g.number, h.number);
        assert_true(g.adapter_id == h.adapter_id && g.adapter_bytes == h.adapter_bytes);
        assert_string_equal(g.job_id, h.job_id);
    }
    assert_false(tt_session_generation_at(b, i, &h));
    assert_int_equal(tt_session_last_number(a), tt_session_last_number(b));
    assert_int_equal(tt_session_tokens(a), tt_session_tokens(b));
}

/* As session_load.c does, from the packed parts of `from`. */
static void load_all(tt_session *to, const tt_session *from)
{
    tt_session_part p;
    tt_err err;
    for (int32_t i = 0; tt_session_part_at(from, i, &p); i++) {
        tt_buf b = {0};
        const int32_t *ids;
        const uint8_t *decoded;
        int32_t n;
        tt_content_pack_part(&p, &b);
        assert_true(tt_content_unpack_part(b.p, b.n, &ids, &decoded, &n));
        assert_int_equal(n, p.n);
        assert_false(tt_session_loaded(to));
        assert_int_equal(tt_session_load_part(to, i, ids, decoded, &err), TT_OK);
        tt_buf_finish(&b);
    }
    assert_true(tt_session_loaded(to));
}

static char *row_of(tt_session_record *r)
{
    tt_buf b = {0};
    tt_session_row_write(&b, r);
    tt_buf_putc(&b, '\0');
    assert_false(b.failed);
    return b.p;
}

static tt_session_record *random_record(tt_session_store *st, const char *key)
{
    tt_session_record *r;
    tt_err err;
    assert_int_equal(
        tt_session_store_add(st, "tenant", key, below(2) == 0, random_session(), NULL, &r, &err),
        TT_OK);
    strcpy(r->model, "0123456789abcdef-00000000deadbeef");
    strcpy(r->text_key, below(2) == 0 ? "" : "00000000000000000000000000000abc");
    strcpy(r->context_text_key, "00000000000000000000000000000def");
    r->answered = below(2) == 0;
    r->alias = r->have_qttt = below(2) == 0;
    r->n_jobs = below(100);
    r->ttl_seconds = below(1000) + 0.5;
    free(r->metadata);
    r->metadata = strdup("{\"k\\\"\":\"\\u00e9\"}");
    if (r->have_qttt) {
        r->qttt = json_pack("{s:s, s:i}", "mode", "on", "steps", (int)below(99));
    }
    return r;
}

static void round_trip(void **state)
{
    for (int run = 0; run < 300; run++) {
        tt_session_store *st = make_store();
        tt_session_record *r = random_record(st, "key");
        char *json = row_of(r);
        tt_session_row row;
        tt_session *back;
        tt_err err;
        tt_state_row in = {.scope = "tenant", .id = r->id, .json = json};
        assert_int_equal(tt_session_row_read(&in, &row, &err), TT_OK);
        assert_string_equal(row.id, r->id);
        assert_string_equal(row.scope, "tenant");
        assert_string_equal(row.model, r->model);
        assert_string_equal(row.text_key, r->text_key);
        assert_string_equal(row.context_text_key, r->context_text_key);
        assert_int_equal(row.created_at, r->created_at);
        assert_true(row.ttl_seconds == r->ttl_seconds && row.implicit == r->implicit);
        assert_true(row.answered == r->answered && row.alias == r->alias);
        assert_true(row.have_qttt == r->have_qttt && row.n_jobs == r->n_jobs);
        assert_string_equal(row.metadata, "{\"k\\\"\":\"\u00e9\"}");
        assert_true(r->qttt == NULL ? row.qttt == NULL : json_equal(r->qttt, row.qttt));
        assert_int_equal(tt_session_restore(&row.image, 4, &back, &err), TT_OK);
        assert_false(tt_session_loaded(back));
        load_all(back, r->data);
        assert_same_session(r->data, back);
        tt_session_unload(back); /* and once more */
        load_all(back, r->data);
        assert_same_session(r->data, back);
        tt_session_destroy(&back);
        tt_session_row_finish(&row);
        free(json);
        tt_session_store_destroy(&st);
    }
}

/* Cut short anywhere, or with any byte another: refused, or read without harm. */
static void damaged(void **state)
{
    tt_session_store *st = make_store();
    tt_session_record *r = random_record(st, "key");
    char *json = row_of(r);
    tt_session_row row;
    tt_err err;
    size_t n = strlen(json);
    for (size_t i = 0; i < 2 * n; i++) {
        char *copy = strdup(json);
        tt_state_row in = {.scope = "tenant", .id = r->id, .json = copy};
        if (i < n) {
            copy[i] = '\0';
            assert_int_equal(tt_session_row_read(&in, &row, &err), TT_E_INVALID);
        } else {
            copy[i - n] ^= (char)(1 << below(6));
            if (tt_session_row_read(&in, &row, &err) == TT_OK) {
                tt_session_row_finish(&row);
            }
        }
        free(copy);
    }
    tt_state_row foreign = {.scope = "tenant", .id = "job_1", .json = json};
    assert_int_equal(tt_session_row_read(&foreign, &row, &err), TT_E_INVALID);
    free(json);
    tt_session_store_destroy(&st);
}

static void parts_are_checked(void **state)
{
    static const int32_t ids[] = {1, 2, 3};
    static const uint8_t flags[] = {0, 1, 1};
    tt_session_part p = {.n = 3, .ids = ids, .decoded = flags};
    tt_buf b = {0};
    const int32_t *got;
    const uint8_t *decoded;
    int32_t n;
    tt_content_pack_part(&p, &b);
    assert_true(tt_content_unpack_part(b.p, b.n, &got, &decoded, &n));
    assert_memory_equal(got, ids, sizeof ids);
    assert_memory_equal(decoded, flags, sizeof flags);
    for (size_t cut = 0; cut < b.n; cut++) {
        assert_false(tt_content_unpack_part(b.p, cut, &got, &decoded, &n));
    }
    b.p[0] ^= 1;
    assert_false(tt_content_unpack_part(b.p, b.n, &got, &decoded, &n));
    tt_buf_finish(&b);
}

static void counting(void **state)
{
    tt_content_table *t;
    tt_err err;
    char a[TT_SESSION_PART_KEY], b[TT_SESSION_PART_KEY];
    assert_int_equal(tt_content_create(&t, &err), TT_OK);
    tt_content_key("one", 3, a);
    tt_content_key("two", 3, b);
    assert_string_not_equal(a, b);
    assert_true(tt_content_ref(t, a));
    assert_false(tt_content_ref(t, a));
    assert_true(tt_content_known(t, a) && !tt_content_known(t, b));
    assert_false(tt_content_unref(t, a));
    assert_true(tt_content_unref(t, a));
    assert_false(tt_content_known(t, a));
    assert_false(tt_content_unref(t, a));
    assert_true(tt_content_ref(t, b));
    /* Two refer to a, and one is not counted: it stays. */
    fail_alloc_at(0);
    assert_true(tt_content_ref(t, a));
    assert_true(fail_alloc_off());
    assert_true(tt_content_ref(t, a));
    assert_false(tt_content_unref(t, a));
    assert_false(tt_content_known(t, a));
    tt_content_destroy(&t);
}

/* A row for which memory runs out anywhere is not one that is wrong. */
static void no_memory(void **state)
{
    tt_session_store *st = make_store();
    tt_session_record *r = random_record(st, "key");
    char *json = row_of(r);
    tt_state_row in = {.scope = "tenant", .id = r->id, .json = json};
    for (int n = 0, refused = 1; refused != 0; n++) {
        tt_session_row row;
        tt_err err = {0};
        fail_alloc_at(n);
        tt_code rc = tt_session_row_read(&in, &row, &err);
        refused = fail_alloc_off();
        assert_int_equal(rc, refused ? TT_E_NOMEM : TT_OK);
        assert_true(refused || n > 50); /* jansson's are among them */
        if (rc == TT_OK) {
            tt_session_row_finish(&row);
        }
    }
    free(json);
    tt_session_store_destroy(&st);
}

int main(void)
{
    tt_json_watch_memory();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),        cmocka_unit_test(damaged),
        cmocka_unit_test(parts_are_checked), cmocka_unit_test(counting),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests_name("session_row", tests, NULL, NULL);
}
