/* test_template_strings.c - Python's str operations against naive ones over pairs of a byte and its
 * origin: what comes out is right, and every byte that survives still knows who wrote it. That is
 * what keeps text of a request from becoming a special token. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>
#include <string.h>

#include "core/rng.h"
#include "core/template_strings.h"

enum { CAP = 512, PARTS = 64 };

typedef struct str {
    char p[CAP];
    bool trusted[CAP];
    size_t n;
} str;

typedef struct strs {
    str v[PARTS];
    size_t n;
} strs;

static tt_run run;
static tt_err err;
static tt_rng rng;

static void begin(void)
{
    run = (tt_run){.err = &err, .max_steps = 1 << 24, .max_text_bytes = 1 << 20, .line = 1};
    tt_arena_init(&run.arena, 1 << 26);
}

static void end(void)
{
    assert_int_equal(run.code, TT_OK);
    tt_arena_finish(&run.arena);
}

/* ---- strings and their texts ---- */

static void put(str *s, char c, bool trusted)
{
    assert_true(s->n < CAP);
    s->p[s->n] = c;
    s->trusted[s->n++] = trusted;
}

static void put_slice(str *s, const str *t, size_t from, size_t to)
{
    for (; from < to; from++) {
        put(s, t->p[from], t->trusted[from]);
    }
}

static void add(strs *l, const str *t, size_t from, size_t to)
{
    assert_true(l->n < PARTS);
    l->v[l->n] = (str){0};
    put_slice(&l->v[l->n++], t, from, to);
}

static str draw(const char *alphabet, uint64_t max)
{
    str s = {0};
    bool trusted = tt_rng_below(&rng, 2) != 0;
    for (uint64_t n = tt_rng_below(&rng, max + 1); n > 0; n--) {
        trusted ^= tt_rng_below(&rng, 3) == 0;
        put(&s, alphabet[tt_rng_below(&rng, strlen(alphabet))], trusted);
    }
    return s;
}

/* The text; half of them slices out of the middle of a longer one. */
static tt_text *text(const str *s)
{
    tt_textbuf *b = tt_textbuf_new(&run);
    size_t before = tt_rng_below(&rng, 2) != 0 ? 3 : 0;
    assert_non_null(b);
    assert_true(tt_textbuf_add(&run, b, "xyz", before, before % 2 != 0));
    for (size_t i = 0; i < s->n; i++) {
        assert_true(tt_textbuf_add(&run, b, s->p + i, 1, s->trusted[i]));
    }
    assert_true(tt_textbuf_add(&run, b, "end", before, true));
    tt_text *t = tt_textbuf_text(&run, b);
    return before > 0 ? tt_text_slice(&run, t, before, s->n) : t;
}

static void same(const tt_text *t, const str *s)
{
    assert_non_null(t);
    assert_int_equal(t->n, s->n);
    assert_memory_equal(t->p, s->p, s->n);
    bool all = true;
    for (size_t i = 0; i < s->n; i++) {
        size_t n;
        assert_int_equal(tt_text_origin(t, i, &n), s->trusted[i]);
        assert_true(n >= 1 && n <= s->n - i);
        for (size_t k = 0; k < n; k++) {
            assert_int_equal(s->trusted[i + k], s->trusted[i]);
        }
        all = all && s->trusted[i];
    }
    assert_true(s->n == 0 || tt_text_is_trusted(t) == all);
}

static void same_list(const tt_val *v, const strs *l)
{
    assert_int_equal(v->kind, TT_V_LIST);
    assert_int_equal(v->u.list->n, l->n);
    for (size_t i = 0; i < l->n; i++) {
        assert_int_equal(v->u.list->items[i].kind, TT_V_STR);
        same(v->u.list->items[i].u.s, &l->v[i]);
    }
}

/* ---- the naive operations ---- */

static bool at(const str *s, size_t i, const str *what)
{
    return i + what->n <= s->n && memcmp(s->p + i, what->p, what->n) == 0;
}

static str replaced(const str *s, const str *old, const str *by, int64_t count)
{
    str out = {0};
    size_t i = 0;
    while (i <= s->n) {
        if (count != 0 && at(s, i, old)) {
            put_slice(&out, by, 0, by->n);
            count--;
            if (old->n > 0) {
                i += old->n;
                continue;
            }
        }
        put_slice(&out, s, i, i < s->n ? i + 1 : i);
        i++;
    }
    return out;
}

static void split_left(const str *s, const str *sep, int64_t max, strs *l)
{
    size_t from = 0;
    for (size_t i = 0; i < s->n;) {
        if (max != 0 && at(s, i, sep)) {
            add(l, s, from, i);
            i = from = i + sep->n;
            max--;
        } else {
            i++;
        }
    }
    add(l, s, from, s->n);
}

static void split_right(const str *s, const str *sep, int64_t max, strs *l)
{
    strs back = {.n = 0};
    size_t to = s->n;
    for (size_t i = s->n; i >= sep->n && i > 0;) {
        if (max != 0 && at(s, i - sep->n, sep)) {
            add(&back, s, i, to);
            i = to = i - sep->n;
            max--;
        } else {
            i--;
        }
    }
    add(&back, s, 0, to);
    while (back.n > 0) {
        l->v[l->n++] = back.v[--back.n];
    }
}

static bool space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void split_spaces(const str *s, int64_t max, bool from_right, strs *l)
{
    strs words = {.n = 0};
    size_t first[PARTS], last[PARTS];
    for (size_t i = 0; i < s->n;) {
        size_t from = i;
        while (i < s->n && !space(s->p[i])) {
            i++;
        }
        if (i > from) {
            first[words.n] = from;
            last[words.n] = i;
            add(&words, s, from, i);
        }
        i += i < s->n;
    }
    size_t n = words.n, whole = max < 0 || (size_t)max >= n ? n : (size_t)max;
    for (size_t i = 0; i < n; i++) {
        if (!from_right && i == whole) { /* the rest, with the spaces at its end */
            add(l, s, first[i], s->n);
            return;
        }
        if (from_right && i == 0 && whole < n) {
            add(l, s, 0, last[n - whole - 1]);
            i = n - whole - 1;
        } else {
            l->v[l->n++] = words.v[i];
        }
    }
}

static void lines(const str *s, bool keep, strs *l)
{
    size_t from = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->p[i] == '\n' || s->p[i] == '\r') {
            size_t next = i + (s->p[i] == '\r' && i + 1 < s->n && s->p[i + 1] == '\n' ? 2 : 1);
            add(l, s, from, keep ? next : i);
            from = next;
            i = next - 1;
        }
    }
    if (from < s->n) {
        add(l, s, from, s->n);
    }
}

/* ---- the tests ---- */

enum { ROUNDS = 3000 };

static void test_replace(void **state)
{
    for (int i = 0; i < ROUNDS; i++) {
        begin();
        str s = draw("ab", 20), old = draw("ab", 2), by = draw("xy", 3);
        int64_t count = (int64_t)tt_rng_below(&rng, 6) - 1;
        str want = replaced(&s, &old, &by, count);
        same(tt_text_replace(&run, text(&s), text(&old), text(&by), count), &want);
        end();
    }
}

static void test_split(void **state)
{
    for (int i = 0; i < ROUNDS; i++) {
        begin();
        tt_val v = {0};
        strs want = {.n = 0};
        str s = draw("ab ", 20), sep = draw("ab", 2);
        int64_t max = (int64_t)tt_rng_below(&rng, 5) - 1;
        bool right = tt_rng_below(&rng, 2) != 0;
        if (sep.n == 0) {
            split_spaces(&s, max, right, &want);
        } else if (right) {
            split_right(&s, &sep, max, &want);
        } else {
            split_left(&s, &sep, max, &want);
        }
        tt_text *by = sep.n > 0 ? text(&sep) : NULL;
        assert_true(tt_text_split(&run, text(&s), by, max, right, &v));
        same_list(&v, &want);
        end();
    }
}

static void test_splitlines(void **state)
{
    for (int i = 0; i < ROUNDS; i++) {
        begin();
        tt_val v = {0};
        strs want = {.n = 0};
        str s = draw("a\r\n", 15);
        bool keep = tt_rng_below(&rng, 2) != 0;
        lines(&s, keep, &want);
        assert_true(tt_text_splitlines(&run, text(&s), keep, &v));
        same_list(&v, &want);
        end();
    }
}

static void test_strip_pad_reverse(void **state)
{
    for (int i = 0; i < ROUNDS; i++) {
        begin();
        str s = draw("ab \n", 12), want = {0}, fill = draw("-", 1), chars = draw("a b", 2);
        bool left = tt_rng_below(&rng, 2) != 0, right = tt_rng_below(&rng, 2) != 0;
        bool own = tt_rng_below(&rng, 2) != 0;
        size_t from = 0, to = s.n;
        while (left && from < to &&
               (own ? memchr(chars.p, s.p[from], chars.n) != NULL : space(s.p[from]))) {
            from++;
        }
        while (right && to > from &&
               (own ? memchr(chars.p, s.p[to - 1], chars.n) != NULL : space(s.p[to - 1]))) {
            to--;
        }
        put_slice(&want, &s, from, to);
        same(tt_text_strip(&run, text(&s), own ? text(&chars) : NULL, left, right), &want);

        want.n = 0;
        for (size_t k = s.n; k > 0; k--) {
            put_slice(&want, &s, k - 1, k);
        }
        same(tt_text_reverse(&run, text(&s)), &want);

        want.n = 0;
        for (int k = 0; k < 5; k++) {
            put_slice(&want, k == 2 ? &s : &fill, 0, k == 2 ? s.n : fill.n);
        }
        same(tt_text_pad(&run, text(&s), 2, 2, text(&fill)), &want);
        end();
    }
}

static void test_case_keeps_origins(void **state)
{
    for (int i = 0; i < ROUNDS; i++) {
        begin();
        str s = draw("aB z", 400), upper = s, lower = s;
        for (size_t k = 0; k < s.n; k++) {
            upper.p[k] = (char)toupper((unsigned char)s.p[k]);
            lower.p[k] = (char)tolower((unsigned char)s.p[k]);
        }
        same(tt_text_case(&run, text(&s), TT_CASE_UPPER), &upper);
        same(tt_text_case(&run, text(&s), TT_CASE_LOWER), &lower);
        end();
    }
}

static void test_find(void **state)
{
    for (int i = 0; i < ROUNDS; i++) {
        begin();
        str s = draw("ab", 20), what = draw("ab", 3);
        size_t from = tt_rng_below(&rng, s.n + 1), first = SIZE_MAX, last = SIZE_MAX;
        for (size_t k = 0; k + what.n <= s.n; k++) {
            if (at(&s, k, &what)) {
                first = first == SIZE_MAX && k >= from ? k : first;
                last = k + what.n <= from ? k : last;
            }
        }
        tt_text *t = text(&s);
        assert_int_equal(tt_text_find(t, what.p, what.n, from), first);
        assert_int_equal(tt_text_rfind(&run, t, text(&what), from), last);
        end();
    }
}

/* What Python 3 says. */
static void test_case_of_other_letters(void **state)
{
    static const struct {
        tt_case mode;
        const char *in, *want;
    } rows[] = {
        {TT_CASE_UPPER,
         "stra\xc3\x9f"
         "e \xc5\x89",
         "STRASSE \xca\xbcN"},
        {TT_CASE_LOWER, "\xce\x91\xce\xa3 \xce\xa3\xce\x91", "\xce\xb1\xcf\x82 \xcf\x83\xce\xb1"},
        {TT_CASE_LOWER, "\xc4\xb0", "i\xcc\x87"},
        {TT_CASE_TITLE, "they're \xc7\x86x", "They'Re \xc7\x85x"},
        {TT_CASE_CAPITALIZE, "\xc3\xa9TAT X", "\xc3\x89tat x"},
        {TT_CASE_SWAP, "aB\xc3\xa9\xc3\x9f", "Ab\xc3\x89SS"},
        {TT_CASE_UPPER,
         "a\xff"
         "b\xc3",
         "A\xff"
         "B\xc3"}, /* bytes that are no text stay */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        begin();
        tt_text *t = tt_text_new(&run, rows[i].in, strlen(rows[i].in), false);
        t = tt_text_case(&run, t, rows[i].mode);
        assert_non_null(t);
        if (!tt_text_is(t, rows[i].want)) {
            fail_msg("row %zu: %.*s", i, (int)t->n, t->p);
        }
        assert_false(tt_text_is_trusted(t));
        end();
    }
}

/* A rendering has a budget: what is too much work fails the run and returns nothing. */
static void test_budgets(void **state)
{
    static char a[10000];
    tt_val v = {0};
    memset(a, 'a', sizeof a);
    for (int i = 0; i < 4; i++) {
        begin();
        run.max_steps = 100;
        tt_text *t = tt_text_new(&run, a, sizeof a, false);
        tt_text *x = tt_text_new(&run, "a", 1, true), *none = tt_text_new(&run, "", 0, true);
        bool done = i == 0   ? tt_text_replace(&run, t, none, x, -1) != NULL
                    : i == 1 ? tt_text_split(&run, t, x, -1, true, &v)
                    : i == 2 ? tt_text_reverse(&run, t) != NULL
                             : tt_text_strip(&run, t, x, true, false) != NULL;
        assert_false(done);
        assert_int_equal(run.code, TT_E_CAPACITY);
        tt_arena_finish(&run.arena);
    }
    begin();
    run.max_text_bytes = 5000;
    tt_text *t = tt_text_new(&run, a, 100, false), *by = tt_text_new(&run, a, 100, true);
    assert_null(tt_text_replace(&run, t, tt_text_new(&run, "a", 1, true), by, -1));
    assert_int_equal(run.code, TT_E_CAPACITY);
    tt_arena_finish(&run.arena);
}

int main(void)
{
    rng = tt_rng_make(20, 26);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replace),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_splitlines),
        cmocka_unit_test(test_strip_pad_reverse),
        cmocka_unit_test(test_case_keeps_origins),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_case_of_other_letters),
        cmocka_unit_test(test_budgets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
