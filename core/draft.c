/* draft.c - see draft.h. */
#include "core/draft.h"

#include <math.h>
#include <stdbool.h>

#define RATE 0.125f  /* weight of one token in the odds */
#define FADE 0.97    /* of the weight of older steps */
#define PRIOR 0.35   /* a row's part of a step, before anything is known */
#define EVIDENCE 4.0 /* rows^2 that outweigh what was known before */
#define OUTLIER 1.5  /* times what a step should have cost: the process was stopped */
#define MARGIN 1.2   /* of the gain over the cost of a row that is spent */
#define LEAST 0.8    /* of the speed without drafts, for every stream */
#define ROW_MIN 0.03
#define ROW_MAX 0.75 /* a draft that is sure still tries whether it is so */

static int class_of(int32_t n_match)
{
    return n_match < 4 ? 0 : n_match < 6 ? 1 : n_match < 10 ? 2 : n_match < 16 ? 3 : 4;
}

void tt_draft_odds_init(tt_draft_odds *o)
{
    /* short matches have to prove themselves: foretelling costs nothing, rows do */
    *o = (tt_draft_odds){{0.1f, 0.25f, 0.6f, 0.85f, 0.93f}};
}

float tt_draft_odds_of(const tt_draft_odds *o, int32_t n_match)
{
    return o->p[class_of(n_match)];
}

void tt_draft_odds_learn(tt_draft_odds *o, int32_t n_match, int32_t n_right, int32_t n)
{
    float *p = &o->p[class_of(n_match)];
    for (int32_t i = 0; i < n && i <= n_right; i++) {
        *p += RATE * ((i < n_right ? 1.0f : 0.0f) - *p);
    }
}

double tt_step_cost_row(const tt_step_cost *c)
{
    return c->part > 0 ? c->part : PRIOR;
}

/* base + row of the fitted line; *ret_row: row. The slope is drawn towards what it was: steps that
 * all have the same rows say nothing of it. */
static double one_row(const tt_step_cost *c, double *ret_row)
{
    double x = c->x / c->n, y = c->y / c->n, part = tt_step_cost_row(c);
    double wanted = y * part / (1 + part * (x - 1));
    double sxx = c->xx - c->n * x * x, sxy = c->xy - c->n * x * y;
    *ret_row = (sxy + EVIDENCE * wanted) / (sxx + EVIDENCE);
    return y - *ret_row * (x - 1);
}

void tt_step_cost_add(tt_step_cost *c, int32_t n_rows, double seconds)
{
    double row, one, x = n_rows;
    if (c->n > 0) {
        one = one_row(c, &row);
        double expected = one + row * (n_rows - 1), most = OUTLIER * expected;
        seconds = expected > 0 && seconds > most ? most : seconds;
    }
    c->n = FADE * c->n + 1;
    c->x = FADE * c->x + x;
    c->y = FADE * c->y + seconds;
    c->xx = FADE * c->xx + x * x;
    c->xy = FADE * c->xy + x * seconds;
    one = one_row(c, &row);
    double part = one > 0 ? row / one : ROW_MAX;
    c->part = part < ROW_MIN ? ROW_MIN : part > ROW_MAX ? ROW_MAX : part;
}

/* Tokens that a stream with n draft tokens is likely to get of one step. */
static double yield(const tt_draft_wish *w)
{
    double sum = 1, p = 1;
    for (int32_t i = 0; i < w->n; i++) {
        p *= w->odds;
        sum += p;
    }
    return sum;
}

/* The stream whose next draft token is likeliest to be right; -1: none wants one. */
static int32_t likeliest(const tt_draft_wish *w, int32_t n, double *ret_p)
{
    int32_t best = -1;
    double most = 0;
    for (int32_t i = 0; i < n; i++) {
        double p = w[i].n < w[i].n_most ? pow(w[i].odds, w[i].n + 1) : 0;
        if (p > most) {
            most = p;
            best = i;
        }
    }
    *ret_p = most;
    return best;
}

void tt_draft_share(tt_draft_wish *w, int32_t n, double row)
{
    double plain = 1 + row * (n - 1), step = plain, tokens = n;
    for (int32_t i = 0; i < n; i++) {
        w[i].n = 0;
    }
    for (int32_t rows = n; rows < TT_DRAFT_ROWS; rows++) {
        double p, least = INFINITY;
        int32_t best = likeliest(w, n, &p);
        if (best < 0 || p * step < MARGIN * row * tokens) {
            return;
        }
        w[best].n++;
        for (int32_t i = 0; i < n; i++) {
            double y = yield(&w[i]);
            least = y < least ? y : least;
        }
        if (least * plain < LEAST * (step + row)) {
            w[best].n--;
            return;
        }
        step += row;
        tokens += p;
    }
}
