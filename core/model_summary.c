/* model_summary.c - see model_summary.h.
 *
 * The fingerprint is the key of caches on disk and in memory: two files with equal fingerprints
 * give equal logits. Hashing all bytes would read the whole file at start, so a matrix gives its
 * shape, its type and three samples; a vector, all of it. */
#include "core/model_summary.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#define SAMPLE_BYTES 4096

typedef struct summary {
    uint64_t hash; /* of everything put so far: each piece is hashed with the hash before it as its
                      seed */
    uint64_t n_params, bytes;
    uint64_t by_type[TT_DTYPE_COUNT];
} summary;

static void put(summary *s, const void *p, size_t n)
{
    s->hash = XXH3_64bits_withSeed(p, n, s->hash);
}

static void put_int(summary *s, int64_t x)
{
    put(s, &x, sizeof x);
}

static void put_float(summary *s, float x)
{
    put(s, &x, sizeof x);
}

static void add_vector(summary *s, const tt_vector *v)
{
    put_int(s, v->host != NULL ? v->n : -1);
    if (v->host != NULL) {
        put(s, v->host, (size_t)v->n * sizeof(float));
        s->n_params += (uint64_t)v->n;
        s->bytes += (uint64_t)v->n * sizeof(float);
    }
}

static void add_matrix(summary *s, const tt_matrix *x)
{
    put_int(s, x->host != NULL ? (int64_t)x->w.type : -1);
    if (x->host == NULL) {
        return;
    }
    size_t n = (size_t)(x->w.rows * tt_row_bytes(x->w.type, x->w.cols));
    const uint8_t *p = x->host;
    put_int(s, x->w.rows);
    put_int(s, x->w.cols);
    if (n <= 3 * SAMPLE_BYTES) {
        put(s, p, n);
    } else {
        put(s, p, SAMPLE_BYTES);
        put(s, p + (n - SAMPLE_BYTES) / 2, SAMPLE_BYTES);
        put(s, p + n - SAMPLE_BYTES, SAMPLE_BYTES);
    }
    s->n_params += (uint64_t)(x->w.rows * x->w.cols);
    s->bytes += n;
    s->by_type[x->w.type] += n;
}

static void add_layer(summary *s, const tt_layer *l)
{
    const tt_vector *vectors[] = {
        &l->attn_norm,      &l->bq,       &l->bk,           &l->bv, &l->q_norm, &l->k_norm,
        &l->attn_post_norm, &l->ffn_norm, &l->ffn_post_norm};
    const tt_matrix *matrices[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->gate, &l->up, &l->down};
    put_int(s, l->window);
    put_int(s, l->rope);
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        add_vector(s, vectors[i]);
    }
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++) {
        add_matrix(s, matrices[i]);
    }
}

/* The frequencies are settings, not parameters: they are hashed and not counted. */
static void add_ropes(summary *s, const tt_model *m)
{
    for (int32_t i = 0; i < m->n_ropes; i++) {
        const tt_rope_params *r = &m->rope[i];
        put_int(s, r->kind);
        put_int(s, r->rot_dim);
        put_float(s, r->mscale);
        put(s, r->inv_freq.host, (size_t)r->inv_freq.n * sizeof(float));
    }
}

void tt_model_summarise(tt_model *m)
{
    summary s = {.hash = 0};
    const int32_t dims[] = {m->n_layers,   m->hidden,       m->n_heads,
                            m->n_kv_heads, m->head_dim,     m->ffn,
                            m->n_vocab,    (int32_t)m->act, (int32_t)m->tied_head};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        put_int(&s, dims[i]);
    }
    put_float(&s, m->norm_eps);
    put_float(&s, m->attn_scale);
    put_float(&s, m->embed_scale);
    add_ropes(&s, m);
    add_matrix(&s, &m->embed);
    if (!m->tied_head) {
        add_matrix(&s, &m->head);
    }
    add_vector(&s, &m->final_norm);
    for (int32_t i = 0; i < m->n_layers; i++) {
        add_layer(&s, &m->layers[i]);
    }
    m->fingerprint = s.hash;
    m->n_params = s.n_params;
    m->weight_bytes = s.bytes;
    int commonest = 0;
    for (int t = 1; t < TT_DTYPE_COUNT; t++) {
        commonest = s.by_type[t] > s.by_type[commonest] ? t : commonest;
    }
    snprintf(m->quant, sizeof m->quant, "%s", tt_dtypes[commonest].name);
}
