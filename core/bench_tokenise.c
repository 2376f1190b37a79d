/* bench_tokenise.c - the tokenizer's speed for `qttt bench`: MB/s over text that is like English,
 * made up from the vocabulary's own words, or over a file. Words are drawn in the order of their
 * ids, which for both kinds of vocabulary is about the order of their frequency, by Zipf's law with
 * the steeper tail that large corpora have (Ferrer i Cancho and Sole 2001). Thread: the caller's.
 */
#include "core/bench_priv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file_map.h"
#include "core/rng.h"
#include "core/sysinfo.h"

enum { TEXT_BYTES = 8 << 20, MAX_WORD = 64, COMMON_WORDS = 6000 };

/* Tokens that are a space and lower-case letters, as they print: ids in rising order. */
static int32_t *find_words(const tt_tokenizer *tok, int32_t *ret_n)
{
    int32_t n_tokens = tt_tokenizer_vocab(tok)->n_tokens, n = 0;
    int32_t *ids = malloc((size_t)n_tokens * sizeof *ids);
    for (int32_t id = 0; ids != NULL && id < n_tokens; id++) {
        size_t len, i = 1;
        const char *p = tt_tokenizer_piece(tok, id, false, &len);
        while (i < len && p[i] >= 'a' && p[i] <= 'z') {
            i++;
        }
        if (len > 1 && len < MAX_WORD && p[0] == ' ' && i == len) {
            ids[n++] = id;
        }
    }
    *ret_n = n;
    return ids;
}

/* Rank r with a probability like 1/r, from COMMON_WORDS on like 1/r^2. */
static int32_t draw_rank(tt_rng *rng, int32_t n)
{
    for (;;) {
        double u = tt_rng_uniform(rng) * log((double)n + 1);
        int32_t r = (int32_t)exp(u) - 1;
        r = r < n ? r : n - 1;
        if (r < COMMON_WORDS || tt_rng_uniform(rng) * r < COMMON_WORDS) {
            return r;
        }
    }
}

/* The next word with what is before and behind it; at most 3 * MAX_WORD bytes. */
static size_t write_word(const tt_tokenizer *tok, const int32_t *ids, int32_t n_ids, tt_rng *rng,
                         bool capital, char *out)
{
    size_t len = 0;
    const char *p = " a";
    size_t n = 2;
    if (n_ids > 0) {
        p = tt_tokenizer_piece(tok, ids[draw_rank(rng, n_ids)], false, &n);
    }
    memcpy(out, p, n);
    len = n;
    if (capital) {
        out[1] = (char)(out[1] - 'a' + 'A');
    }
    if (n_ids > 0 && tt_rng_below(rng, 100) == 0) { /* a rare word: two put together */
        p = tt_tokenizer_piece(tok, ids[tt_rng_below(rng, (uint64_t)n_ids)], false, &n);
        memcpy(out + len, p + 1, n - 1);
        len += n - 1;
    }
    return len;
}

/* Words, commas, sentences, paragraphs, a few numbers and apostrophes. */
static size_t write_text(const tt_tokenizer *tok, char *out, size_t cap, tt_err *reterr)
{
    int32_t n_ids;
    int32_t *ids = find_words(tok, &n_ids);
    if (ids == NULL) {
        tt_fail(reterr, TT_E_NOMEM, "no memory for a text to tokenise");
        return 0;
    }
    tt_rng rng = tt_rng_make(20, 26);
    bool capital = true;
    size_t n = 0;
    while (n + 4 * MAX_WORD < cap) {
        n += write_word(tok, ids, n_ids, &rng, capital, out + n);
        uint64_t what = tt_rng_below(&rng, 100);
        capital = what < 8;
        if (what < 1) {
            n += (size_t)snprintf(out + n, MAX_WORD, ".\n\n");
        } else if (what < 8) {
            out[n++] = '.';
        } else if (what < 15) {
            out[n++] = ',';
        } else if (what < 16) {
            n += (size_t)snprintf(out + n, MAX_WORD, " %d", (int)tt_rng_below(&rng, 3000));
        } else if (what < 18) {
            n += (size_t)snprintf(out + n, MAX_WORD, what == 16 ? "'s" : "\xe2\x80\x99s");
        }
    }
    free(ids);
    return n;
}

static tt_code measure(tt_bench *b, const char *text, size_t n, int threads, tt_err *reterr)
{
    double t[TT_BENCH_MAX_REPEAT];
    char name[32];
    tt_tokenizer *tok = b->w.tokenizer;
    tt_code rc = TT_OK;
    tt_tokenizer_set_threads(tok, threads);
    snprintf(name, sizeof name, "tokenise, %d thread%s", threads, threads > 1 ? "s" : "");
    for (int32_t i = -1; rc == TT_OK && i < b->repeat; i++) {
        tt_encode_options opt = {0};
        int32_t *ids;
        size_t n_ids;
        double t0 = tt_sys_now();
        rc = tt_tokenizer_encode(tok, text, n, &opt, &ids, &n_ids, reterr);
        t[i < 0 ? 0 : i] = tt_sys_now() - t0;
        if (rc == TT_OK) {
            free(ids);
        }
    }
    if (rc == TT_OK) {
        tt_bench_add(b, name, "MB/s", (double)n / 1e6 / tt_bench_median(t, b->repeat),
                     TT_LIMIT_NONE, 0);
    }
    return rc;
}

tt_code tt_bench_tokenise(tt_bench *b, tt_err *reterr)
{
    const tt_tokenizer *tok = b->w.tokenizer;
    tt_file_map map = {0};
    char *own = NULL;
    const char *text = NULL;
    size_t n = 0;
    tt_code rc = TT_OK;
    if (b->opt->text_path != NULL) {
        rc = tt_file_map_open(b->opt->text_path, &map, reterr);
        text = (const char *)map.p;
        n = (size_t)map.n;
    } else {
        text = own = malloc(TEXT_BYTES);
        n = own != NULL ? write_text(tok, own, TEXT_BYTES, reterr) : 0;
        rc = n == 0 ? tt_fail(reterr, TT_E_NOMEM, "no memory for a text to tokenise") : TT_OK;
    }
    rc = rc == TT_OK ? measure(b, text, n, 1, reterr) : rc;
    if (rc == TT_OK && b->w.n_threads > 1) {
        rc = measure(b, text, n, b->w.n_threads, reterr);
    }
    tt_file_map_close(&map);
    free(own);
    return rc;
}
