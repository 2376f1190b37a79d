/* state_dir.c - see state_dir.h. Source: XDG Base Directory Specification, "state". */
#include "server/state_dir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A variable that names an absolute path, as the specification demands; NULL = none. */
static const char *path_of(const char *variable)
{
    const char *v = getenv(variable);
    return v != NULL && v[0] == '/' ? v : NULL;
}

static void make_folders(char *path)
{
    for (char *p = path + 1; *p != '\0'; p++) {
        if (*p == '/') {
            *p = '\0';
            (void)mkdir(path, 0700);
            *p = '/';
        }
    }
    (void)mkdir(path, 0700);
}

tt_code tt_state_dir(const char *setting, char *ret, size_t size, tt_err *reterr)
{
    const char *state = path_of("XDG_STATE_HOME"), *home = path_of("HOME");
    int n;
    if (strcmp(setting, "none") == 0) {
        ret[0] = '\0';
        return TT_OK;
    }
    if (setting[0] != '\0') {
        n = snprintf(ret, size, "%s", setting);
    } else if (state != NULL) {
        n = snprintf(ret, size, "%s/qttt", state);
    } else if (home != NULL) {
        n = snprintf(ret, size, "%s/.local/state/qttt", home);
    } else {
        return tt_fail(reterr, TT_E_INVALID,
                       "no folder for the state: give --state-dir PATH, or none");
    }
    if (n < 0 || (size_t)n >= size) {
        return tt_fail(reterr, TT_E_INVALID, "the path of state.dir is too long");
    }
    make_folders(ret);
    return TT_OK;
}
