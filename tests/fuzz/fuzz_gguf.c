/* fuzz_gguf.c - a GGUF file through the reader and through the model loader. Thread: main. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/model_build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads every byte that the model points to, so that a sanitizer sees a wrong pointer. */
static uint64_t touch(const void *p, uint64_t n)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; p != NULL && i < n; i++) {
        sum += ((const uint8_t *)p)[i];
    }
    return sum;
}

static uint64_t touch_model(const tt_model *m)
{
    uint64_t sum = 0;
    for (int32_t i = 0; i < m->files->tensors.n; i++) {
        const tt_file_tensor *t = &m->files->tensors.t[i];
        sum += touch(t->name.p, t->name.n) + touch(t->data, t->n_bytes);
    }
    for (int32_t i = 0; i < m->vocab.n_tokens; i++) {
        sum += touch(m->vocab.tokens[i].p, m->vocab.tokens[i].n);
    }
    for (int32_t i = 0; i < m->vocab.n_merges; i++) {
        sum += touch(m->vocab.merges[i].p, m->vocab.merges[i].n);
    }
    for (int32_t i = 0; i < m->n_layers; i++) {
        sum += touch(m->layers[i].attn_norm.host, (uint64_t)m->hidden * sizeof(float));
    }
    return sum + touch(m->chat_template.p, m->chat_template.n) +
           touch(m->bos_text.p, m->bos_text.n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tt_model *m = tt_model_create();
    if (m == NULL) {
        return 0;
    }
    m->files->maps = calloc(1, sizeof *m->files->maps);
    if (m->files->maps != NULL) {
        m->files->maps[0] =
            (tt_file_map){.p = data, .n = size}; /* n_maps stays 0: not to be unmapped */
        tt_err err = {.code = TT_OK};
        tt_code rc = tt_model_read_gguf(m, &err);
        if (rc == TT_OK) {
            (void)touch_model(m);
        } else if (rc != err.code || err.msg[0] == '\0') {
            abort(); /* an error without its text */
        }
    }
    tt_model_close(&m);
    return 0;
}
