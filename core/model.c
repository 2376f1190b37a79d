/* model.c - opening and closing of models, whatever their format. See model.h. */
#include "core/model.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/model_build.h"

/* "SmolLM2.gguf" of "/models/SmolLM2.gguf"; of "/models/qwen/" "qwen". Into buf. */
static void last_part(const char *path, char *buf, size_t cap)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    size_t start = n;
    while (start > 0 && path[start - 1] != '/') {
        start--;
    }
    snprintf(buf, cap, "%.*s", (int)(n - start), path + start);
}

/* Links are followed for "." and ".." only: the file that a cache's link points to is named by its
 * hash. */
static void base_name(const char *path, char *buf, size_t cap)
{
    char real[PATH_MAX];
    last_part(path, buf, cap);
    if ((strcmp(buf, ".") == 0 || strcmp(buf, "..") == 0) && realpath(path, real) != NULL) {
        last_part(real, buf, cap);
    }
}

static void name_after_file(tt_model *m, const char *base)
{
    size_t n = strlen(base);
    if (n > 5 && strcmp(base + n - 5, ".gguf") == 0) {
        n -= 5;
    }
    tt_model_set_name(m, base, n);
    if (m->name[0] == '\0') {
        tt_model_set_name(m, "model", 5);
    }
}

static tt_code open_gguf(tt_model *m, const char *path, tt_err *reterr)
{
    m->files->maps = calloc(1, sizeof *m->files->maps);
    if (m->files->maps == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the file's map");
    }
    tt_code rc = tt_file_map_open(path, &m->files->maps[0], reterr);
    if (rc != TT_OK) {
        return rc;
    }
    m->files->n_maps = 1;
    return tt_model_read_gguf(m, reterr);
}

/* What no reader can see alone. */
static tt_code check_whole(const tt_model *m, tt_err *reterr)
{
    if (m->vocab.n_tokens < 1 || m->vocab.n_tokens > m->n_vocab) {
        return tt_fail(reterr, TT_E_MODEL, "the vocabulary has %d tokens, the embedding %d rows",
                       (int)m->vocab.n_tokens, (int)m->n_vocab);
    }
    return TT_OK;
}

tt_model *tt_model_create(void)
{
    tt_model *m = calloc(1, sizeof *m);
    if (m != NULL && (m->files = calloc(1, sizeof *m->files)) == NULL) {
        free(m);
        m = NULL;
    }
    if (m != NULL) {
        tt_arena_init(&m->files->arena, 0);
        m->bos_text = m->eos_text = (tt_str){.p = "", .n = 0};
    }
    return m;
}

static tt_code open_path(tt_model *m, const char *path, tt_err *reterr)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        return tt_model_read_hf(m, path, reterr);
    }
    return open_gguf(m, path, reterr);
}

tt_code tt_model_open(const char *path, tt_model **ret_model, tt_err *reterr)
{
    char base[96];
    base_name(path, base, sizeof base);
    tt_model *m = tt_model_create();
    if (m == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for a model");
    }
    tt_err err = {.code = TT_OK};
    tt_code rc = open_path(m, path, &err);
    if (rc == TT_OK) {
        rc = check_whole(m, &err);
    }
    if (rc != TT_OK) {
        tt_model_close(&m);
        return tt_fail(reterr, rc, "%s: %s", base, err.msg);
    }
    if (m->name[0] == '\0') {
        name_after_file(m, base);
    }
    m->tensors = m->files->tensors.t;
    m->n_tensors = m->files->tensors.n;
    *ret_model = m;
    return TT_OK;
}

void tt_model_close(tt_model **model)
{
    tt_model *m = *model;
    if (m == NULL) {
        return;
    }
    struct tt_model_files *f = m->files;
    if (f->free_vocab != NULL && f->vocab != NULL) {
        f->free_vocab(f->vocab);
    }
    tt_tensor_list_finish(&f->tensors);
    for (int32_t i = 0; i < f->n_maps; i++) {
        tt_file_map_close(&f->maps[i]);
    }
    free(f->maps);
    tt_arena_finish(&f->arena);
    free(f);
    free(m);
    *model = NULL;
}

int64_t tt_model_kv_bytes_per_token(const tt_model *m, tt_dtype kv_type)
{
    int64_t vector = tt_row_bytes(kv_type, m->head_dim);
    vector += kv_type == TT_I8 ? (int64_t)sizeof(float) : 0; /* its scale */
    return 2 * (int64_t)m->n_layers * m->n_kv_heads * vector;
}
