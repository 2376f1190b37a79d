/* pin.h - one processor for each compute thread. Thread: the one that starts parallel regions,
 * which is pinned as well. */
#ifndef TT_PIN_H
#define TT_PIN_H

/* Thread i of this thread's regions stays from now on on the i-th of the processors that the
 * process's first thread may use, counted on from the start when there are fewer. Threads that are
 * made later by a pinned one inherit its processor. Where the system refuses, nothing changes. */
void tt_pin_threads(int n_threads);

#endif
