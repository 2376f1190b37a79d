/* file_map.h - a regular file mapped read-only into memory. Thread: immutable once opened.
 *
 * The checks of the model readers hold for the bytes at the time of opening. A file that is
 * truncated while it is mapped makes the kernel raise SIGBUS on the next access to the lost pages:
 * that is the operator's doing (a model is replaced with rename(), never overwritten in place) and
 * is not caught. */
#ifndef TT_FILE_MAP_H
#define TT_FILE_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/err.h"

typedef struct tt_file_map {
    const uint8_t *p; /* NULL = not mapped */
    uint64_t n;       /* bytes */
} tt_file_map;

/* TT_E_IO: cannot open, or not a regular file; TT_E_MODEL: empty; TT_E_NOMEM. */
tt_code tt_file_map_open(const char *path, tt_file_map *ret_map, tt_err *reterr);
/* The file of that plain name in a folder. *ret_exists false (and TT_OK): there is none. */
tt_code tt_file_map_open_in(const char *folder, const char *name, tt_file_map *ret_map,
                            bool *ret_exists, tt_err *reterr);
/* Legal on a zeroed map and twice. */
void tt_file_map_close(tt_file_map *map);

#endif
