/* draft.h - how many rows of a decode step to spend on drafts: a pure function of how often such
 * drafts were right and of what a row has cost. See docs/architecture.md, "Drafts". Thread: plain
 * data of its owner's. */
#ifndef TT_DRAFT_H
#define TT_DRAFT_H

#include <stdint.h>

#define TT_DRAFT_ROWS 16 /* rows of a step beyond which no draft is added */
#define TT_DRAFT_MAX 15  /* tokens of one draft */
#define TT_DRAFT_CLASSES 5

/* How likely a draft's next token is right, by the length of the match that it comes from: of one
 * request, which learns it from every token that it draws, drafted or only foretold. */
typedef struct tt_draft_odds {
    float p[TT_DRAFT_CLASSES];
} tt_draft_odds;

void tt_draft_odds_init(tt_draft_odds *o);
float tt_draft_odds_of(const tt_draft_odds *o, int32_t n_match);
/* Of n tokens that a draft foretold one after the other, the first n_right were drawn; n_right < n:
 * the one after them was not, and of those behind it nothing is known. */
void tt_draft_odds_learn(tt_draft_odds *o, int32_t n_match, int32_t n_right, int32_t n);

/* What a step costs by its rows: seconds = base + rows * row, fitted to the last steps. Zeroed =
 * nothing is known. */
typedef struct tt_step_cost {
    double n, x, y, xx, xy; /* fading sums over steps: 1, rows, seconds, rows^2, rows * seconds */
    double part;            /* row / (base + row): what steps of one size do not contradict stays */
} tt_step_cost;

void tt_step_cost_add(tt_step_cost *c, int32_t n_rows, double seconds);
/* A row's part of a step of one row: row / (base + row), 0.03..0.75. */
double tt_step_cost_row(const tt_step_cost *c);

/* One stream of a step. */
typedef struct tt_draft_wish {
    float odds;     /* of each token of its draft */
    int32_t n_most; /* draft tokens that it could use */
    int32_t n;      /* out: those that it gets */
} tt_draft_wish;

/* Gives the streams draft rows, at most TT_DRAFT_ROWS rows in all. row: tt_step_cost_row(). A row
 * is spent where it is likeliest to be right, while that makes the step yield more tokens a second,
 * and no stream fewer than four fifths of what it would get without drafts. */
void tt_draft_share(tt_draft_wish *w, int32_t n, double row);

#endif
