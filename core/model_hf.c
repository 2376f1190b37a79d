/* model_hf.c - a Hugging Face folder to a tt_model: config.json, model.safetensors or its shards,
 * the tokenizer's files. Thread: one at a time per model. */
#include "core/model_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/chat_template_json.h"
#include "core/config_json.h"
#include "core/safetensors_json.h"
#include "core/tokenizer_json.h"

#define INDEX_FILE "model.safetensors.index.json"

/* Puts the file's name before the message. */
static tt_code in_file(tt_code rc, const char *file, const tt_err *err, tt_err *reterr)
{
    return rc == TT_OK ? TT_OK : tt_fail(reterr, rc, "%s: %s", file, err->msg);
}

static tt_code read_config(const char *folder, tt_config *c, tt_err *reterr)
{
    tt_file_map map = {0};
    bool exists = false;
    tt_err err = {.code = TT_OK};
    tt_code rc = tt_file_map_open_in(folder, "config.json", &map, &exists, &err);
    if (rc == TT_OK && !exists) {
        return tt_fail(reterr, TT_E_MODEL, "the folder has no config.json");
    }
    if (rc == TT_OK) {
        rc = tt_config_read(map.p, map.n, c, &err);
    }
    tt_file_map_close(&map);
    return in_file(rc, "config.json", &err, reterr);
}

/* Maps one file of weights and appends its tensors. m->files->maps has room. */
static tt_code add_weights(tt_model *m, const char *folder, const char *file, tt_err *reterr)
{
    struct tt_model_files *f = m->files;
    tt_file_map *map = &f->maps[f->n_maps];
    bool exists = false;
    tt_err err = {.code = TT_OK};
    tt_code rc = tt_file_map_open_in(folder, file, map, &exists, &err);
    if (rc == TT_OK && !exists) {
        rc = tt_fail(&err, TT_E_MODEL, "the file is missing");
    }
    if (rc == TT_OK) {
        f->n_maps++;
        rc = tt_safetensors_read(map->p, map->n, &f->arena, &f->tensors, &err);
    }
    return in_file(rc, file, &err, reterr);
}

static tt_code make_maps(tt_model *m, int32_t n, tt_err *reterr)
{
    m->files->maps = calloc((size_t)n, sizeof *m->files->maps);
    return m->files->maps != NULL
               ? TT_OK
               : tt_fail(reterr, TT_E_NOMEM, "no memory for the maps of %d files", (int)n);
}

static bool lies_in(const tt_file_map *map, const uint8_t *p)
{
    return (uintptr_t)p >= (uintptr_t)map->p && (uintptr_t)p - (uintptr_t)map->p <= map->n;
}

/* Every tensor of the index must be in the file that the index names. */
static tt_code check_index(const tt_model *m, const tt_safetensors_index *x, tt_err *reterr)
{
    const struct tt_model_files *f = m->files;
    for (int32_t i = 0; i < x->n_tensors; i++) {
        int32_t t = tt_tensor_list_find(&f->tensors, x->tensors[i]);
        if (t < 0 || !lies_in(&f->maps[x->file_of[i]], f->tensors.t[t].data)) {
            return tt_fail(reterr, TT_E_MODEL, INDEX_FILE ": tensor %s is not in %s", x->tensors[i],
                           x->files[x->file_of[i]]);
        }
    }
    return TT_OK;
}

static tt_code read_shards(tt_model *m, const char *folder, const tt_file_map *index_map,
                           tt_err *reterr)
{
    tt_safetensors_index x;
    tt_err err = {.code = TT_OK};
    tt_code rc = tt_safetensors_read_index(index_map->p, index_map->n, &m->files->arena, &x, &err);
    if (rc != TT_OK) {
        return in_file(rc, INDEX_FILE, &err, reterr);
    }
    rc = make_maps(m, x.n_files, reterr);
    for (int32_t i = 0; i < x.n_files && rc == TT_OK; i++) {
        rc = add_weights(m, folder, x.files[i], reterr);
    }
    if (rc == TT_OK) {
        rc = tt_tensor_list_index(&m->files->tensors, reterr);
    }
    return rc == TT_OK ? check_index(m, &x, reterr) : rc;
}

static tt_code read_weights(tt_model *m, const char *folder, tt_err *reterr)
{
    tt_file_map map = {0};
    bool single = false, sharded = false;
    tt_err err = {.code = TT_OK};
    tt_code rc = tt_file_map_open_in(folder, "model.safetensors", &map, &single, &err);
    tt_file_map_close(&map);
    if (rc != TT_OK) {
        return in_file(rc, "model.safetensors", &err, reterr);
    }
    if (single) {
        rc = make_maps(m, 1, reterr);
        if (rc == TT_OK) {
            rc = add_weights(m, folder, "model.safetensors", reterr);
        }
        return rc == TT_OK ? tt_tensor_list_index(&m->files->tensors, reterr) : rc;
    }
    rc = tt_file_map_open_in(folder, INDEX_FILE, &map, &sharded, &err);
    if (rc != TT_OK) {
        return in_file(rc, INDEX_FILE, &err, reterr);
    }
    if (!sharded) {
        return tt_fail(reterr, TT_E_MODEL,
                       "the folder has neither model.safetensors nor " INDEX_FILE);
    }
    rc = read_shards(m, folder, &map, reterr);
    tt_file_map_close(&map);
    return rc;
}

/* The text model's tensors stand under different names: alone, inside a causal model, inside a
 * picture-and-text model. */
static void find_prefix(const tt_model *m, tt_model_spec *s)
{
    static const struct {
        const char *prefix, *head;
    } places[] = {{"model.", "lm_head.weight"},
                  {"language_model.model.", "language_model.lm_head.weight"},
                  {"model.language_model.", "lm_head.weight"},
                  {"", "lm_head.weight"}};
    s->hf_prefix =
        places[0].prefix; /* also when there is none: the message then names the usual place */
    s->hf_head = places[0].head;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "%sembed_tokens.weight", places[i].prefix);
        if (tt_tensor_list_find(&m->files->tensors, name) >= 0) {
            s->hf_prefix = places[i].prefix;
            s->hf_head = places[i].head;
            return;
        }
    }
}

static void free_tokenizer(void *tokenizer)
{
    tt_tokenizer_json *t = tokenizer;
    tt_tokenizer_json_destroy(&t);
}

static tt_str token_text(const tt_vocab *v, int32_t id)
{
    return id >= 0 && id < v->n_tokens ? v->tokens[id] : (tt_str){.p = "", .n = 0};
}

static tt_code read_text(tt_model *m, const char *folder, tt_err *reterr)
{
    tt_tokenizer_json *t = NULL;
    tt_code rc = tt_tokenizer_json_read(folder, &t, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    m->files->vocab = t;
    m->files->free_vocab = free_tokenizer;
    m->vocab = *tt_tokenizer_json_vocab(t);
    m->bos_text = token_text(&m->vocab, m->vocab.bos);
    m->eos_text = token_text(&m->vocab, m->vocab.eos);
    return tt_chat_template_read(folder, &m->files->arena, &m->chat_template, reterr);
}

static tt_code read_folder(tt_model *m, const char *folder, tt_config *c, tt_err *reterr)
{
    tt_code rc = read_config(folder, c, reterr);
    if (rc != TT_OK || (rc = read_weights(m, folder, reterr)) != TT_OK) {
        return rc;
    }
    find_prefix(m, &c->spec);
    if ((rc = tt_model_build(m, &c->spec, reterr)) != TT_OK) {
        return rc;
    }
    if (c->n_vocab != 0 && c->n_vocab != m->n_vocab) {
        return tt_fail(reterr, TT_E_MODEL,
                       "config.json: vocab_size is %d, the embedding has %d rows", (int)c->n_vocab,
                       (int)m->n_vocab);
    }
    return read_text(m, folder, reterr);
}

tt_code tt_model_read_hf(tt_model *m, const char *folder, tt_err *reterr)
{
    tt_config *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the configuration");
    }
    snprintf(m->format, sizeof m->format, "safetensors");
    tt_code rc = read_folder(m, folder, c, reterr);
    free(c);
    return rc;
}
