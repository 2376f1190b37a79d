/* state_file.h - a file of state on disk: a versioned header, blocks of bytes with a checksum each,
 * written so that under its name there is always the whole file or the one before it, and read so
 * that a byte that is not the one written is noticed. Thread: any; an object is used by one at a
 * time; one writer of a name at a time.
 *
 * The file: header (64 bytes), blocks one after another, table (16 bytes a block: bytes, xxh3).
 * Numbers are little-endian. The header holds the sums of itself and of the table and the size of
 * the file, so that a file that was cut, or grew, is refused when it is opened; a block is checked
 * when it is read. What the blocks hold is the caller's. */
#ifndef TT_STATE_FILE_H
#define TT_STATE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/err.h"

#define TT_STATE_FILE_MAX_BLOCKS 65536

/* What a file is; all of it must be equal when it is read. */
typedef struct tt_state_kind {
    char name[5];         /* four letters, e.g. "PAGE" */
    uint32_t version;     /* of what the blocks mean */
    uint64_t fingerprint; /* of what else decides their meaning (model, kernels); 0 = nothing */
} tt_state_kind;

typedef struct tt_state_block {
    const void *p;
    size_t n;
} tt_state_block;

/* ---- writing ---- */

/* Writes FOLDER/NAME under a temporary name, syncs it, renames it and syncs the folder: with TT_OK
 * it is on disk. On failure (TT_E_IO: no space, no right, ...; TT_E_NOMEM) what had the name before
 * still has it, and the temporary file is gone; but when the folder's sync fails, which is last,
 * the new file may have the name. */
tt_code tt_state_file_write(const char *folder, const char *name, const tt_state_kind *kind,
                            const tt_state_block *blocks, int32_t n, tt_err *reterr);

/* The same block by block, for a file that is larger than the memory it may take. */
typedef struct tt_state_writer tt_state_writer;
tt_code tt_state_writer_open(const char *folder, const char *name, const tt_state_kind *kind,
                             tt_state_writer **ret_writer, tt_err *reterr);
tt_code tt_state_writer_add(tt_state_writer *w, const void *p, size_t n, tt_err *reterr);
/* name: what it is to be called after all, NULL = as it was opened. Frees the writer whatever comes
 * of it. ret_bytes: of the file; may be NULL. */
tt_code tt_state_writer_commit(tt_state_writer **writer, const char *name, uint64_t *ret_bytes,
                               tt_err *reterr);
/* Gives it up; nothing stays. Legal on NULL. */
void tt_state_writer_abandon(tt_state_writer **writer);

/* ---- reading ---- */

typedef struct tt_state_reader tt_state_reader;

/* kind NULL: any. TT_E_INVALID: cut, changed, or of another kind, version or fingerprint. TT_E_IO:
 * it is not there or cannot be read. TT_E_NOMEM: no memory, or too many files are open; the file
 * may be as good as ever. */
tt_code tt_state_reader_open(const char *folder, const char *name, const tt_state_kind *kind,
                             tt_state_reader **ret_reader, tt_err *reterr);
int32_t tt_state_reader_blocks(const tt_state_reader *r);
uint64_t tt_state_reader_block_bytes(const tt_state_reader *r, int32_t block);
uint64_t tt_state_reader_bytes(const tt_state_reader *r); /* of the whole file */
/* Reads block `block`, which has n bytes (else TT_E_INVALID), into dst and compares its sum.
 * TT_E_INVALID: it is not what was written; TT_E_IO. On failure dst is undefined. */
tt_code tt_state_reader_read(tt_state_reader *r, int32_t block, void *dst, size_t n,
                             tt_err *reterr);
/* Sets the time of its last use, by which an old one is found. Best effort. */
void tt_state_reader_touch(tt_state_reader *r);
void tt_state_reader_close(tt_state_reader **reader);

/* Reads the whole file, of whatever kind. TT_OK: every sum is right; *ret_kind and *ret_bytes (of
 * the file) say what it is. Errors as above. */
tt_code tt_state_file_check(const char *folder, const char *name, tt_state_kind *ret_kind,
                            uint64_t *ret_bytes, tt_err *reterr);

/* ---- folders ---- */

/* Makes the folder and those above it, for this user alone (0700). TT_E_IO. */
tt_code tt_state_make_folder(const char *path, tt_err *reterr);
/* What was renamed or removed in it is on disk after this. TT_E_IO. */
tt_code tt_state_sync_folder(const char *path, tt_err *reterr);
/* A name that only a file being written has: what is found at start is a crash's. */
bool tt_state_is_temporary(const char *name);
/* Removes FOLDER/NAME. TT_OK also when it was not there. TT_E_IO. */
tt_code tt_state_remove(const char *folder, const char *name, tt_err *reterr);

#endif
