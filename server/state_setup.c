/* state_setup.c - see state_setup.h. */
#include "server/state_setup.h"

#include "server/log.h"
#include "server/session_state.h"
#include "server/state_db.h"
#include "server/state_dir.h"

tt_code tt_server_open_state(tt_server *s, tt_err *reterr)
{
    tt_code rc = tt_state_dir(s->settings->state_dir, s->state_dir, sizeof s->state_dir, reterr);
    if (rc < 0 || s->state_dir[0] == '\0') {
        return rc;
    }
    rc = tt_state_open(
        &(tt_state_options){.dir = s->state_dir, .wake = tt_server_wake, .wake_arg = &s->wake},
        &s->state, reterr);
    if (rc == TT_OK && tt_state_note(s->state)[0] != '\0') {
        tt_log(TT_LOG_WARN, "%s", tt_state_note(s->state));
    }
    s->state_degraded = tt_state_degraded(s->state, NULL);
    return rc;
}

void tt_server_poll_state(tt_server *s)
{
    tt_err why = {0};
    tt_state_poll(s->state);
    if (s->sessions != NULL) {
        tt_session_state_check(s->sessions);
    }
    bool degraded = tt_state_degraded(s->state, &why);
    if (degraded && !s->state_degraded) {
        tt_log(TT_LOG_ERROR, "%s; going on in memory only, and trying again", why.msg);
    } else if (s->state_degraded && !degraded) {
        tt_log(TT_LOG_WARN, "state.dir is back: everything is on disk again");
    }
    s->state_degraded = degraded;
}

void tt_server_close_state(tt_server *s)
{
    tt_state_close(&s->state);
}
