/* generation.h - one running generation request: a job for each sample of each prompt, all admitted
 * together, whose events become a stream or one JSON answer. Thread: the loop thread.
 *
 * A slow reader: once more than stream.backlog bytes wait for the client, text is no longer framed
 * token by token but collected, and goes out as one chunk when half of the backlog has been taken;
 * progress is dropped meanwhile. The choices take turns. What is held is bounded by the answer
 * itself. The engine is never slowed down. */
#ifndef TT_GENERATION_H
#define TT_GENERATION_H

#include "server/prepare.h"
#include "server/server.h"

typedef struct tt_generation tt_generation;

/* Admission: submits all jobs, or none. On success the stream's headers go out; else an error
 * answer. Takes *p over. */
void tt_generation_start(tt_prepared *p);

/* Reads the events of all jobs; called when the engine has woken the loop. */
void tt_generations_poll(tt_server *s);
/* Heartbeats that are due; returns milliseconds until the next, 0 = none is waiting. */
uint64_t tt_generations_tick(tt_server *s);
/* The bound of draining has passed: every stream gets an error event, every other request an error.
 */
void tt_generations_cut(tt_server *s);

#endif
