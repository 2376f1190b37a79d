/* file_map.c - see file_map.h. */
#include "core/file_map.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static tt_code map_fd(int fd, tt_file_map *ret_map, tt_err *reterr)
{
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return tt_fail(reterr, TT_E_IO, "cannot stat the file: %s", strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return tt_fail(reterr, TT_E_IO, "not a regular file");
    }
    if (st.st_size <= 0) {
        return tt_fail(reterr, TT_E_MODEL, "the file is empty");
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        return tt_fail(reterr, errno == ENOMEM ? TT_E_NOMEM : TT_E_IO, "cannot map the file: %s",
                       strerror(errno));
    }
    *ret_map = (tt_file_map){.p = p, .n = (uint64_t)st.st_size};
    return TT_OK;
}

tt_code tt_file_map_open(const char *path, tt_file_map *ret_map, tt_err *reterr)
{
    /* O_NONBLOCK: a FIFO must not hang the program before fstat() can refuse it */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return tt_fail(reterr, TT_E_IO, "cannot open the file: %s", strerror(errno));
    }
    tt_code rc = map_fd(fd, ret_map, reterr);
    close(fd); /* the map keeps the file */
    return rc;
}

tt_code tt_file_map_open_in(const char *folder, const char *name, tt_file_map *ret_map,
                            bool *ret_exists, tt_err *reterr)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (n < 0 || (size_t)n >= sizeof path) {
        return tt_fail(reterr, TT_E_IO, "the path is too long");
    }
    if (access(path, F_OK) != 0 && errno == ENOENT) {
        *ret_exists = false;
        return TT_OK;
    }
    tt_code rc = tt_file_map_open(path, ret_map, reterr);
    if (rc == TT_OK) {
        *ret_exists = true;
    }
    return rc;
}

void tt_file_map_close(tt_file_map *map)
{
    if (map->p != NULL) {
        munmap((void *)map->p, (size_t)map->n);
    }
    *map = (tt_file_map){0};
}
