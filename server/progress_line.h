/* progress_line.h - the progress of one job for a person at a terminal: one line that is written
 * over, or one line per phase where the output is a file. Thread: main of `qttt run`. */
#ifndef TT_PROGRESS_LINE_H
#define TT_PROGRESS_LINE_H

#include <stdio.h>

#include "core/job.h"

typedef struct tt_progress_line {
    FILE *out;
    bool terminal, shown;
    double shown_at;
} tt_progress_line;

void tt_progress_line_init(tt_progress_line *l, FILE *out);
/* PREFILL, ADAPT or ADAPTED; others are ignored. */
void tt_progress_line_event(tt_progress_line *l, const tt_event *ev);
/* The last line: tokens and rates of a TT_EV_DONE. */
void tt_progress_line_done(tt_progress_line *l, const tt_event *ev);
/* Removes the line, so that an answer can begin. */
void tt_progress_line_clear(tt_progress_line *l);

#endif
