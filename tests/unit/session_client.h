/* session_client.h - a client's whims: what it asks of a session of a world (session_world.h),
 * drawn from the world's seed. Thread: the test's. */
#ifndef SESSION_CLIENT_H
#define SESSION_CLIENT_H

#include "session_world.h"

enum { CLIENT_PAGE = 64 };

/* slot: of a session that is alive; of none: client_create(). Nothing happens when too many
 * requests are in flight, or the session is full. */
void client_create(world *w, int32_t slot);
void client_chat(world *w, int32_t slot);
void client_append(world *w, int32_t slot);
void client_train(world *w, int32_t slot);
void client_extend(world *w, int32_t slot);
/* Another session makes way when there is no place. */
void client_fork(world *w, int32_t slot);

#endif
