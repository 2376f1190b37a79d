/* fuzz_safetensors.c - a safetensors file, and the same bytes as the index of a sharded one.
 * Thread: main. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/safetensors_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_error(tt_code rc, const tt_err *err)
{
    if (rc != TT_OK && (rc != err->code || err->msg[0] == '\0')) {
        abort(); /* an error without its text */
    }
}

static void read_file(const uint8_t *data, size_t size, tt_arena *arena)
{
    tt_tensor_list list = {0};
    tt_err err = {.code = TT_OK};
    tt_code rc = tt_safetensors_read(data, size, arena, &list, &err);
    check_error(rc, &err);
    if (rc == TT_OK) {
        rc = tt_tensor_list_index(&list, &err);
        check_error(rc, &err);
        uint64_t n_bytes = 0;
        volatile uint8_t sink = 0;
        for (int32_t i = 0; i < list.n; i++) {
            n_bytes += list.t[i].n_bytes;
            for (uint64_t k = 0; k < list.t[i].n_bytes; k++) {
                sink = list.t[i].data[k]; /* a sanitizer sees a wrong pointer */
            }
        }
        (void)sink;
        if (n_bytes > size) {
            abort(); /* tensors do not overlap */
        }
    }
    tt_tensor_list_finish(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tt_arena arena;
    tt_arena_init(&arena, 0);
    read_file(data, size, &arena);
    tt_safetensors_index x;
    tt_err err = {.code = TT_OK};
    tt_code rc = tt_safetensors_read_index(data, size, &arena, &x, &err);
    check_error(rc, &err);
    for (int32_t i = 0; rc == TT_OK && i < x.n_tensors; i++) {
        if (strchr(x.files[x.file_of[i]], '/') != NULL || x.tensors[i][0] == '\0') {
            abort(); /* a way out of the folder */
        }
    }
    tt_arena_finish(&arena);
    return 0;
}
