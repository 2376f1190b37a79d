/* progress_line.c - see progress_line.h. */
#include "server/progress_line.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

enum { BAR_CELLS = 24 };

void tt_progress_line_init(tt_progress_line *l, FILE *out)
{
    *l = (tt_progress_line){.out = out, .terminal = isatty(fileno(out)) != 0};
}

void tt_progress_line_clear(tt_progress_line *l)
{
    if (l->shown && l->terminal) {
        fputs("\r\033[K", l->out);
        fflush(l->out);
    }
    l->shown = false;
}

static void bar(char *out, double share)
{
    int full = (int)(share * BAR_CELLS);
    for (int i = 0; i < BAR_CELLS; i++) {
        out[i] = i < full ? '#' : '.';
    }
    out[BAR_CELLS] = '\0';
}

/* On a terminal every state, elsewhere only a phase's last. */
static void show(tt_progress_line *l, const char *text, bool last)
{
    if (l->terminal) {
        fprintf(l->out, "\r\033[K%s", text);
        l->shown = true;
        if (last) {
            fputc('\n', l->out);
            l->shown = false;
        }
    } else if (last) {
        fprintf(l->out, "%s\n", text);
    }
    fflush(l->out);
}

static void show_adapted(tt_progress_line *l, const tt_qttt_result *r)
{
    char text[256];
    int n = snprintf(text, sizeof text, "adapted  %s%s%s", r->status, r->reason != NULL ? ": " : "",
                     r->reason != NULL ? r->reason : "");
    if (strcmp(r->status, "succeeded") == 0) {
        n += snprintf(text + n, sizeof text - (size_t)n, ", %s%s, |D|/|W_Q| %.1e, %.1f s",
                      r->kept ? "kept" : "discarded", r->cached ? " (from the cache)" : "",
                      r->delta_norm_relative, r->adapt_seconds);
    }
    if (r->have_recall && isfinite(r->recall_after)) {
        snprintf(text + n, sizeof text - (size_t)n,
                 "; recall loss %.3f -> %.3f nats (standard error %.3f)", r->recall_before,
                 r->recall_after, r->recall_se);
    }
    show(l, text, true);
}

void tt_progress_line_event(tt_progress_line *l, const tt_event *ev)
{
    char text[200], cells[BAR_CELLS + 1];
    if (ev->type == TT_EV_PREFILL && ev->u.prefill.total > 0) {
        int done = ev->u.prefill.done, total = ev->u.prefill.total;
        double s = ev->u.prefill.seconds;
        bar(cells, (double)done / total);
        snprintf(text, sizeof text, "prefill  [%s] %d/%d tokens, %.0f/s", cells, done, total,
                 s > 0 ? (done - ev->u.prefill.cached) / s : 0);
        show(l, text, done == total);
    } else if (ev->type == TT_EV_ADAPT && ev->u.adapt.total > 0) {
        int done = ev->u.adapt.step, total = ev->u.adapt.total;
        bar(cells, (double)done / total);
        snprintf(text, sizeof text, "adapt    [%s] step %d/%d, loss %.4f, %.2f s a step", cells,
                 done, total, ev->u.adapt.loss, ev->u.adapt.seconds);
        show(l, text, done == total);
    } else if (ev->type == TT_EV_ADAPTED) {
        show_adapted(l, &ev->u.adapted);
    }
}

void tt_progress_line_done(tt_progress_line *l, const tt_event *ev)
{
    double s = ev->u.done.decode_seconds;
    fprintf(l->out, "%d prompt tokens (%d cached), %d tokens in %.2f s, %.1f/s\n",
            (int)ev->u.done.prompt_tokens, (int)ev->u.done.cached_tokens,
            (int)ev->u.done.completion_tokens, s, s > 0 ? ev->u.done.completion_tokens / s : 0);
}
