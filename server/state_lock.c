/* state_lock.c - see state_lock.h. */
#include "server/state_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* The number that the owner has left in the file, for people; 0 = none. */
static long read_owner(int fd)
{
    char text[32] = {0};
    return pread(fd, text, sizeof text - 1, 0) > 0 ? strtol(text, NULL, 10) : 0;
}

tt_code tt_state_lock(const char *dir, int *ret_fd, tt_err *reterr)
{
    char path[4096], text[32];
    if (snprintf(path, sizeof path, "%s/lock", dir) >= (int)sizeof path) {
        return tt_fail(reterr, TT_E_INVALID, "the path of state.dir is too long");
    }
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return tt_fail(reterr, TT_E_IO, "state.dir: cannot open '%.150s': %s", path,
                       strerror(errno));
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int why = errno;
        long owner = read_owner(fd);
        close(fd);
        return why == EWOULDBLOCK
                   ? tt_fail(reterr, TT_E_BUSY,
                             "another server (process %ld) uses the state in '%.150s'; give this "
                             "one a --state-dir of its own",
                             owner, dir)
                   : tt_fail(reterr, TT_E_IO, "state.dir: cannot lock '%.150s': %s", path,
                             strerror(why));
    }
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n) {
        text[0] = '\0'; /* the number is for people only */
    }
    *ret_fd = fd;
    return TT_OK;
}
