/* compare.c - one test's life (create, run, destroy) and what its outputs must satisfy; see
 * checkops.h. */
#include "tests/checkops/checkops.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* A single wrong element hides in the NMSE of a large output: none may be further off than this
 * many times the error that the NMSE allows on average. */
#define MAX_ELEMENT_FACTOR 12

/* The mean error of so few elements is not yet the mean: three deviations are allowed, squared. */
#define FEW 64
#define FEW_FACTOR 10

static size_t append(char *text, size_t n, size_t used, const char *name, long value)
{
    if (value == 0 || used >= n) {
        return used;
    }
    int k = snprintf(text + used, n - used, " %s=%ld", name, value);
    return used + (k < 0 ? 0 : (size_t)k);
}

void co_describe(const co_test *t, char *text, size_t n)
{
    const co_shape *s = &t->shape;
    const char *isa = t->ops == NULL ? "" : t->ops->isa; /* NULL: the shape alone is meant */
    int k = snprintf(text, n, "%s%s%s rows=%d", t->op->name, *isa == '\0' ? "" : " ", isa,
                     (int)s->rows);
    size_t used = k < 0 ? 0 : (size_t)k;
    if (t->n_rows != s->rows) {
        used = append(text, n, used, "row0", t->row0 + 1);
        used = append(text, n, used, "slice", t->n_rows);
    }
    used = append(text, n, used, "in", s->in);
    for (int i = 0; i < TT_MATMUL_MAX; i++) {
        used = append(text, n, used, "out", s->out[i]);
    }
    used = append(text, n, used, "heads", s->heads);
    used = append(text, n, used, "kv_heads", s->kv_heads);
    used = append(text, n, used, "dim", s->dim);
    used = append(text, n, used, "rot", s->rot);
    used = append(text, n, used, "ctx", s->ctx[0]);
    used = append(text, n, used, "segs", s->n_segs);
    used = append(text, n, used, "window", s->window);
    used = append(text, n, used, "vocab", s->vocab);
    used = append(text, n, used, "block", s->block);
    used = append(text, n, used, "rank", s->rank);
    used = append(text, n, used, "step", s->step);
    used = append(text, n, used, "flags", (long)(s->flags & ~(unsigned)(CO_BENCH | CO_SLOW)));
    if (used < n) {
        snprintf(text + used, n - used, " %s%s threads=%d", tt_dtypes[s->type].name,
                 s->family == TT_DECODE ? " decode" : "", t->n_threads);
    }
}

void co_fail(co_test *t, const char *fmt, ...)
{
    char what[256];
    co_describe(t, what, sizeof what);
    printf("FAIL %s: ", what);
    va_list ap;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    t->failed = true;
}

co_test *co_test_create(const co_op *op, const co_shape *shape, const co_setting *set)
{
    co_test *t = calloc(1, sizeof *t);
    tt_err err;
    tt_lane_options opt = {.n_threads = set->n_threads};
    if (t == NULL || set->ops->lane_create(set->ops, &opt, &t->lane, &err) < 0) {
        free(t);
        fprintf(stderr, "checkops: out of memory\n");
        return NULL;
    }
    t->op = op;
    t->ops = set->ops;
    t->shape = *shape;
    t->n_threads = set->n_threads;
    t->row0 = set->row0;
    t->n_rows = set->n_rows == 0 ? shape->rows : set->n_rows;
    t->seed = t->rng.s = set->seed;
    op->setup(t);
    return t;
}

void co_test_destroy(co_test **t)
{
    if (t == NULL || *t == NULL) {
        return;
    }
    co_test *p = *t;
    *t = NULL;
    for (int i = 0; i < p->n_bufs; i++) {
        p->ops->free(p->lane, p->bufs[i].base);
        free(p->bufs[i].sent);
        free(p->bufs[i].got);
    }
    p->ops->lane_destroy(&p->lane); /* before the weights: it clears their prepared forms */
    for (int i = 0; i < p->n_weights; i++) {
        free(p->weight_bytes[i]);
    }
    for (int i = 0; i < p->n_host; i++) {
        free(p->host[i]);
    }
    free(p);
}

void co_test_upload(co_test *t)
{
    for (int i = 0; i < t->n_bufs; i++) {
        const co_buf *b = &t->bufs[i];
        t->ops->upload(t->lane, b->base, b->sent, b->n_bytes + 2 * CO_GUARD);
    }
}

tt_code co_test_sync(co_test *t)
{
    tt_err err = {0};
    tt_code rc = t->ops->lane_sync(t->lane, &err);
    if (rc < 0) {
        co_fail(t, "lane_sync: %s", err.msg);
    }
    return rc;
}

/* Bytes [first, end) of the content that the op may write. */
static void writable(const co_test *t, const co_buf *b, size_t *first, size_t *end)
{
    *first = 0;
    *end = b->role == CO_IN ? 0 : b->n_bytes;
    if (b->role != CO_IN && b->rows > 0) {
        size_t row = b->n_bytes / (size_t)b->rows;
        *first = (size_t)t->row0 * row;
        *end = *first + (size_t)t->n_rows * row;
    }
}

static void check_untouched(co_test *t, const co_buf *b)
{
    size_t first, end, n = b->n_bytes + 2 * CO_GUARD;
    writable(t, b, &first, &end);
    first += CO_GUARD;
    end += CO_GUARD;
    for (size_t i = 0; i < n; i++) {
        if ((i < first || i >= end) && b->sent[i] != b->got[i]) {
            co_fail(t, "%s: byte %ld of %zu was written, only [%zu, %zu) may be", b->name,
                    (long)i - CO_GUARD, b->n_bytes, first - CO_GUARD, end - CO_GUARD);
            return;
        }
    }
}

void co_test_run(co_test *t)
{
    co_test_upload(t);
    t->op->call(t);
    for (int i = 0; i < t->n_bufs; i++) {
        co_buf *b = &t->bufs[i];
        t->ops->download(t->lane, b->got, b->base, b->n_bytes + 2 * CO_GUARD);
    }
    co_test_sync(t);
    int n_bufs = t->n_bufs;
    for (int i = 0; i < n_bufs; i++) {
        check_untouched(t, &t->bufs[i]);
    }
    if (t->op->after != NULL) {
        t->op->after(t);
    }
}

struct sums {
    double err, ref, worst;
    int64_t worst_at, n;
    bool bad;
};

static void add_pair(struct sums *s, int64_t i, double got, double want)
{
    if (isfinite(got) != isfinite(want) || (!isfinite(want) && isnan(got) != isnan(want))) {
        s->bad = true;
        s->worst_at = i;
        return;
    }
    if (!isfinite(want)) {
        return;
    }
    double e = got - want;
    s->err += e * e;
    s->ref += want * want;
    s->n++;
}

/* Second pass: the element furthest off, in units of the output's deviation plus its own size. */
static void add_worst(struct sums *s, double floor, int64_t i, double got, double want)
{
    double rms = sqrt(s->ref / (double)(s->n > 0 ? s->n : 1));
    rms = fmax(rms, floor);
    double scale = rms + fabs(want), e = isfinite(want) ? fabs(got - want) : 0;
    e = scale > 0 ? e / scale : e;
    if (e > s->worst) {
        s->worst = e;
        s->worst_at = i;
    }
}

static double judge(co_test *t, const char *name, const struct sums *s, double got, double want,
                    double limit)
{
    limit *= s->n < FEW && t->op->scale > 0 ? FEW_FACTOR : 1;
    double floor = (double)s->n * t->op->scale * t->op->scale;
    double norm = fmax(s->ref, floor), nmse = norm > 0 ? s->err / norm : s->err;
    if (s->bad) {
        co_fail(t, "%s: element %ld is %g, should be %g", name, (long)s->worst_at, got, want);
    } else if (!(nmse <= limit)) {
        co_fail(t, "%s: NMSE %.3g, at most %.3g; element %ld is %.9g, should be %.9g", name, nmse,
                limit, (long)s->worst_at, got, want);
    } else if (s->worst > MAX_ELEMENT_FACTOR * sqrt(limit)) {
        co_fail(t, "%s: element %ld is %.9g, should be %.9g", name, (long)s->worst_at, got, want);
    }
    return s->bad ? INFINITY : nmse;
}

/* Elements [*first, *end) of an output that belong to the slice. */
static void slice(const co_test *t, const co_buf *b, int64_t *first, int64_t *end)
{
    *first = b->rows == 0 ? 0 : t->row0 * b->len;
    *end = b->rows == 0 ? b->len : (t->row0 + t->n_rows) * b->len;
}

static double limit_of(const co_test *t)
{
    const co_op *op = t->op;
    if (t->shape.type == TT_I8 && op->max_i8_nmse > 0) {
        return op->max_i8_nmse;
    }
    bool device = t->ops->memory != NULL; /* a table with memory of its own */
    if (t->shape.family != TT_DECODE) {
        return op->max_nmse;
    }
    if (device && op->max_device_decode_nmse > 0) {
        return op->max_device_decode_nmse;
    }
    return op->max_decode_nmse > 0 ? op->max_decode_nmse : op->max_nmse;
}

double co_test_compare(co_test *t, const co_test *want)
{
    double most = 0;
    for (int i = 0; i < t->n_bufs; i++) {
        const co_buf *a = &t->bufs[i], *b = &want->bufs[i];
        int64_t first, end;
        struct sums s = {0};
        if (a->role == CO_IN || a->role == CO_SCRATCH) {
            continue;
        }
        slice(t, a, &first, &end);
        for (int64_t k = first; k < end && !s.bad; k++) {
            add_pair(&s, k, co_got(a, k), co_got(b, k));
        }
        for (int64_t k = first; k < end && !s.bad; k++) {
            add_worst(&s, t->op->scale, k, co_got(a, k), co_got(b, k));
        }
        if (first < end) {
            double e =
                judge(t, a->name, &s, co_got(a, s.worst_at), co_got(b, s.worst_at), limit_of(t));
            most = e > most ? e : most;
        }
    }
    return most;
}

void co_expect(co_test *t, const char *name, const double *want, double max_nmse)
{
    const co_buf *b = co_find(t, name);
    struct sums s = {0};
    int64_t first, end;
    slice(t, b, &first, &end);
    for (int64_t k = first; k < end && !s.bad; k++) {
        add_pair(&s, k, co_got(b, k), want[k]);
    }
    for (int64_t k = first; k < end && !s.bad; k++) {
        add_worst(&s, t->op->scale, k, co_got(b, k), want[k]);
    }
    if (first < end) {
        judge(t, name, &s, co_got(b, s.worst_at), want[s.worst_at], max_nmse);
    }
}

void co_test_same_bits(co_test *t, const co_test *want, const char *what)
{
    for (int i = 0; i < t->n_bufs; i++) {
        const co_buf *a = &t->bufs[i], *b = &want->bufs[i];
        size_t first, end;
        writable(t, a, &first, &end);
        if (a->role == CO_IN || a->role == CO_SCRATCH ||
            (a->rows == 0 && t->n_rows != t->shape.rows)) {
            continue; /* a slice leaves an output that is not cut by rows unfinished */
        }
        for (size_t k = first; k < end; k++) {
            if (a->got[CO_GUARD + k] != b->got[CO_GUARD + k]) {
                co_fail(t, "%s differs in byte %zu: %s", a->name, k, what);
                break;
            }
        }
    }
}
