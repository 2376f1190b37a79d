/* diagnostics_json.c - see diagnostics_json.h. */
#include "server/diagnostics_json.h"

#include <math.h>

/* A key and its number; null when it is not finite. */
static void put(tt_buf *b, const char *key, double v)
{
    tt_buf_puts(b, key);
    tt_buf_put_double(b, v);
}

static void put_head(tt_buf *b, const tt_head_diagnosis *h)
{
    put(b, "{\"needle_mass\":", h->needle_mass);
    put(b, ",\"sink_mass\":", h->sink_mass);
    put(b, ",\"margin\":", h->margin);
    put(b, ",\"gap\":", h->gap);
    if (h->best < 0) {
        tt_buf_puts(b, ",\"near_ties\":null,\"position\":null}");
    } else {
        tt_buf_printf(b, ",\"near_ties\":%d,\"position\":%d}", (int)h->near_ties, (int)h->best);
    }
}

static void put_needle(tt_buf *b, const tt_diagnostics_answer *a)
{
    tt_buf_printf(b, ",\"needle\":{\"start\":%d,\"end\":%d,\"text\":", (int)a->asked.needle_start,
                  (int)a->asked.needle_end);
    tt_buf_put_json(b, a->needle, a->n_needle);
    tt_buf_printf(b, ",\"occurrences\":%d}", (int)a->occurrences);
}

void tt_diagnostics_write_json(tt_buf *b, const tt_diagnostics_answer *a)
{
    tt_buf_puts(b, "{\"object\":\"session.diagnostics\",\"session_id\":");
    tt_buf_puts_json(b, a->session_id);
    tt_buf_puts(b, ",\"model\":");
    tt_buf_puts_json(b, a->model);
    tt_buf_printf(b, ",\"context_tokens\":%d,\"prompt_tokens\":%d", (int)a->context_tokens,
                  (int)a->prompt_tokens);
    put_needle(b, a);
    put(b, ",\"delta\":", a->asked.delta);
    put(b, ",\"epsilon\":", a->asked.epsilon);
    tt_buf_printf(b, ",\"generation\":%d,\"adapter_id\":", (int)a->generation);
    if (a->adapted != NULL) {
        tt_buf_printf(b, "\"adp_%016llx\"", (unsigned long long)a->adapter_id);
    } else {
        tt_buf_puts(b, "null");
    }
    tt_buf_printf(b, ",\"n_layers\":%d,\"n_heads\":%d,\"heads\":[", (int)a->n_layers,
                  (int)a->n_heads);
    for (int32_t i = 0; i < a->n_layers * a->n_heads; i++) {
        tt_buf_printf(b, "%s{\"layer\":%d,\"head\":%d,\"keys\":%d", i > 0 ? "," : "",
                      (int)(i / a->n_heads), (int)(i % a->n_heads), (int)a->base[i].n_keys);
        put(b, ",\"required_margin\":", a->base[i].required);
        tt_buf_puts(b, ",\"base\":");
        put_head(b, &a->base[i]);
        tt_buf_puts(b, ",\"adapted\":");
        if (a->adapted != NULL) {
            put_head(b, &a->adapted[i]);
        } else {
            tt_buf_puts(b, "null");
        }
        tt_buf_putc(b, '}');
    }
    tt_buf_puts(b, "]}");
}

/* ---- CSV ---- */

static void put_cell(tt_buf *b, double v)
{
    tt_buf_putc(b, ',');
    if (isfinite(v)) {
        tt_buf_put_double(b, v);
    }
}

static void put_cells(tt_buf *b, const tt_head_diagnosis *h)
{
    if (h == NULL) {
        tt_buf_puts(b, ",,,,,,");
        return;
    }
    put_cell(b, h->needle_mass);
    put_cell(b, h->sink_mass);
    put_cell(b, h->margin);
    put_cell(b, h->gap);
    put_cell(b, h->best < 0 ? NAN : h->near_ties);
    put_cell(b, h->best < 0 ? NAN : h->best);
}

void tt_diagnostics_write_csv(tt_buf *b, const tt_diagnostics_answer *a)
{
    static const char *const sides[] = {"base", "adapted"};
    tt_buf_puts(b, "layer,head,keys,required_margin");
    for (int i = 0; i < 2; i++) {
        tt_buf_printf(b, ",%s_needle_mass,%s_sink_mass,%s_margin,%s_gap,%s_near_ties,%s_position",
                      sides[i], sides[i], sides[i], sides[i], sides[i], sides[i]);
    }
    tt_buf_puts(b, "\r\n");
    for (int32_t i = 0; i < a->n_layers * a->n_heads; i++) {
        tt_buf_printf(b, "%d,%d,%d", (int)(i / a->n_heads), (int)(i % a->n_heads),
                      (int)a->base[i].n_keys);
        put_cell(b, a->base[i].required);
        put_cells(b, &a->base[i]);
        put_cells(b, a->adapted != NULL ? &a->adapted[i] : NULL);
        tt_buf_puts(b, "\r\n");
    }
}
