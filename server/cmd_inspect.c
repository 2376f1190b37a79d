/* cmd_inspect.c - `qttt inspect MODEL`: what a model file is and what memory it will need. Thread:
 * main. */
#include "server/cmd.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine.h"
#include "core/memory_plan.h"
#include "server/engine_options.h"
#include "server/inspect_memory.h"

static const char usage[] =
    "Usage: qttt inspect MODEL [--json] [--tensors] [--device DEVICE ...]\n"
    "\n"
    "Says what a model is and what memory it will need. MODEL is a GGUF "
    "file or a Hugging Face folder.\n"
    "\n"
    "  --json     as one JSON object\n"
    "  --tensors  with the name, type and shape of every tensor\n"
    "  --device DEVICE     what is taken of a device's memory, and how many "
    "sessions fit: cuda, cuda:N, cpu, auto\n"
    "  --contexts N        of so many contexts [1]\n"
    "  --tokens N          of so many tokens each [the model's context]\n"
    "  --memory SIZE       of a device with so much memory, which need not be "
    "there\n"
    "  --cuda-module PATH  of the CUDA module [the one installed with the "
    "program]\n"
    "  --help     this text\n";

typedef struct options {
    const char *model;
    bool json, tensors, help;
    tt_inspect_options memory;
} options;

/* Tensors of one type, counted over the whole file. */
typedef struct type_count {
    const char *name;
    int32_t n;
    uint64_t n_bytes;
} type_count;

#define MAX_TYPES 32

static const char *scaling_name(tt_rope_scaling s)
{
    static const char *const names[] = {[TT_ROPE_NONE] = "none",
                                        [TT_ROPE_LINEAR] = "linear",
                                        [TT_ROPE_LLAMA3] = "llama3",
                                        [TT_ROPE_YARN] = "yarn"};
    return names[s];
}

static const char *vocab_name(tt_vocab_kind k)
{
    static const char *const names[] = {[TT_VOCAB_BPE] = "byte-level BPE",
                                        [TT_VOCAB_SPM] = "SentencePiece BPE",
                                        [TT_VOCAB_UNIGRAM] = "SentencePiece unigram"};
    return names[k];
}

static int32_t count_types(const tt_model *m, type_count *types)
{
    int32_t n = 0;
    for (int32_t i = 0; i < m->n_tensors; i++) {
        int32_t k = 0;
        while (k < n && strcmp(types[k].name, m->tensors[i].type_name) != 0) {
            k++;
        }
        if (k == MAX_TYPES) {
            continue; /* the readers know fewer */
        }
        if (k == n) {
            types[n++] = (type_count){.name = m->tensors[i].type_name};
        }
        types[k].n++;
        types[k].n_bytes += m->tensors[i].n_bytes;
    }
    return n;
}

/* The capabilities by name, as they show in the loaded model. */
static json_t *feature_list(const tt_model *m)
{
    const tt_layer *l = &m->layers[0];
    const struct {
        bool on;
        const char *name;
    } all[] = {
        {m->tied_head, "tied_head"},
        {l->bq.host != NULL, "qkv_bias"},
        {l->q_norm.host != NULL, "qk_norm"},
        {l->attn_post_norm.host != NULL, "post_norms"},
        {m->embed_scale != 1.0f, "scaled_embeddings"},
        {m->n_ropes > 1, "local_rope"},
        {m->rope[0].kind == TT_ROPE_INTERLEAVED, "interleaved_rope"},
        {m->act == TT_ACT_GELU_TANH, "gelu"},
    };
    json_t *list = json_array();
    for (size_t i = 0; list != NULL && i < sizeof all / sizeof all[0]; i++) {
        if (all[i].on && json_array_append_new(list, json_string(all[i].name)) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static int32_t n_sliding(const tt_model *m, int32_t *ret_window)
{
    int32_t n = 0;
    for (int32_t i = 0; i < m->n_layers; i++) {
        if (m->layers[i].window > 0) {
            n++;
            *ret_window = m->layers[i].window;
        }
    }
    return n;
}

static json_t *tensor_list(const tt_model *m)
{
    json_t *list = json_array();
    for (int32_t i = 0; list != NULL && i < m->n_tensors; i++) {
        const tt_file_tensor *t = &m->tensors[i];
        json_t *shape = json_array();
        for (int32_t d = 0; d < t->n_dims; d++) {
            json_array_append_new(shape, json_integer((json_int_t)t->dims[d]));
        }
        json_t *o = json_pack("{s:s%, s:s, s:o, s:I, s:I}", "name", t->name.p, (size_t)t->name.n,
                              "type", t->type_name, "shape", shape, "bytes", (json_int_t)t->n_bytes,
                              "offset", (json_int_t)t->offset);
        if (o == NULL || json_array_append_new(list, o) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *type_list(const tt_model *m)
{
    type_count types[MAX_TYPES];
    int32_t n = count_types(m, types);
    json_t *o = json_object();
    for (int32_t i = 0; o != NULL && i < n; i++) {
        json_t *v = json_pack("{s:i, s:I}", "tensors", (int)types[i].n, "bytes",
                              (json_int_t)types[i].n_bytes);
        if (v == NULL || json_object_set_new(o, types[i].name, v) != 0) {
            json_decref(o);
            return NULL;
        }
    }
    return o;
}

static json_t *memory_object(const tt_model *m)
{
    int64_t kv_bf16 = tt_model_kv_bytes_per_token(m, TT_BF16);
    int64_t kv_f32 = tt_model_kv_bytes_per_token(m, TT_F32);
    int64_t kv_q8 = tt_model_kv_bytes_per_token(m, TT_I8);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "weight_bytes",
                     (json_int_t)m->weight_bytes, "kv_bytes_per_token_bf16", (json_int_t)kv_bf16,
                     "kv_bytes_per_token_f32", (json_int_t)kv_f32, "kv_bytes_per_token_q8",
                     (json_int_t)kv_q8, "kv_bytes_full_context_bf16",
                     (json_int_t)(kv_bf16 * m->n_ctx_train), "kv_bytes_full_context_f32",
                     (json_int_t)(kv_f32 * m->n_ctx_train), "kv_bytes_full_context_q8",
                     (json_int_t)(kv_q8 * m->n_ctx_train), "adapter_bytes_full",
                     (json_int_t)tt_memory_plan_adapter(m, false), "adapter_bytes_lora_rank_8",
                     (json_int_t)tt_memory_plan_adapter(m, true), "training_bytes_full",
                     (json_int_t)tt_memory_plan_optimiser(m, false), "training_bytes_lora_rank_8",
                     (json_int_t)tt_memory_plan_optimiser(m, true));
}

static json_t *describe(const tt_model *m, bool with_tensors)
{
    char fingerprint[17];
    int32_t window = 0, sliding = n_sliding(m, &window);
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, m->fingerprint);
    json_t *o = json_pack(
        "{s:s, s:s, s:s, s:s, s:o, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:s, s:o}", "name",
        m->name, "format", m->format, "architecture", m->arch, "fingerprint", fingerprint,
        "features", feature_list(m), "layers", (int)m->n_layers, "hidden_size", (int)m->hidden,
        "heads", (int)m->n_heads, "kv_heads", (int)m->n_kv_heads, "head_dim", (int)m->head_dim,
        "ffn_size", (int)m->ffn, "vocab_size", (int)m->n_vocab, "context_length",
        (int)m->n_ctx_train, "parameters", (json_int_t)m->n_params, "quantization", m->quant,
        "types", type_list(m));
    json_t *more = json_pack("{s:s, s:i, s:i, s:s, s:i, s:b, s:o}", "rope_scaling",
                             scaling_name(m->rope_scaling), "sliding_layers", (int)sliding,
                             "sliding_window", (int)window, "tokenizer", vocab_name(m->vocab.kind),
                             "tokens", (int)m->vocab.n_tokens, "chat_template",
                             m->chat_template.p != NULL, "memory", memory_object(m));
    if (o == NULL || more == NULL || json_object_update(o, more) != 0 ||
        (with_tensors && json_object_set_new(o, "tensors", tensor_list(m)) != 0)) {
        json_decref(o);
        o = NULL;
    }
    json_decref(more);
    return o;
}

/* "92.1 MiB" */
static const char *size_text(uint64_t n_bytes, char *buf, size_t cap)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double x = (double)n_bytes;
    size_t u = 0;
    while (x >= 1024.0 && u + 1 < sizeof units / sizeof units[0]) {
        x /= 1024.0;
        u++;
    }
    snprintf(buf, cap, u == 0 ? "%.0f %s" : "%.1f %s", x, units[u]);
    return buf;
}

static void print_size(const char *label, uint64_t n_bytes, const char *note)
{
    char buf[32];
    printf("  %-22s %10s%s%s\n", label, size_text(n_bytes, buf, sizeof buf), note[0] ? "   " : "",
           note);
}

static void print_shape(const tt_model *m, const json_t *o)
{
    size_t i;
    json_t *f;
    printf("name            %s\n", m->name);
    printf("format          %s, fingerprint %016" PRIx64 "\n", m->format, m->fingerprint);
    printf("architecture    %s", m->arch);
    json_array_foreach(json_object_get(o, "features"), i, f)
    {
        printf("%s%s", i == 0 ? " (" : ", ", json_string_value(f));
    }
    printf("%s\n", json_array_size(json_object_get(o, "features")) > 0 ? ")" : "");
    printf(
        "size            %.1f M parameters: %d layers, hidden %d, %d heads (%d key/value) of %d,\n"
        "                feed-forward %d, vocabulary %d\n",
        (double)m->n_params / 1e6, (int)m->n_layers, (int)m->hidden, (int)m->n_heads,
        (int)m->n_kv_heads, (int)m->head_dim, (int)m->ffn, (int)m->n_vocab);
    printf("context         %d tokens, rope scaling %s\n", (int)m->n_ctx_train,
           scaling_name(m->rope_scaling));
    int32_t window = 0, sliding = n_sliding(m, &window);
    if (sliding > 0) {
        printf("sliding window  %d tokens in %d of %d layers\n", (int)window, (int)sliding,
               (int)m->n_layers);
    }
    printf("tokenizer       %s, %d tokens\n", vocab_name(m->vocab.kind), (int)m->vocab.n_tokens);
    printf("chat template   %s\n",
           m->chat_template.p != NULL ? "its own" : "none (ChatML is used)");
}

static void print_text(const tt_model *m, const json_t *o)
{
    print_shape(m, o);
    const char *type;
    json_t *v;
    printf("tensors\n");
    json_object_foreach(json_object_get(o, "types"), type, v)
    {
        char note[48];
        int n = (int)json_integer_value(json_object_get(v, "tensors"));
        snprintf(note, sizeof note, "%d tensor%s", n, n == 1 ? "" : "s");
        print_size(type, (uint64_t)json_integer_value(json_object_get(v, "bytes")), note);
    }
    uint64_t kv = (uint64_t)tt_model_kv_bytes_per_token(m, TT_BF16);
    printf("memory\n");
    print_size("weights", m->weight_bytes, "mapped from the file");
    print_size("K/V of a token", kv, "BF16; twice that in F32");
    print_size("K/V of a token, Q8", (uint64_t)tt_model_kv_bytes_per_token(m, TT_I8),
               "with the scales");
    print_size("K/V of a full context", kv * (uint64_t)m->n_ctx_train, "BF16");
    print_size("an adapter, full", (uint64_t)tt_memory_plan_adapter(m, false), "all layers, BF16");
    print_size("an adapter, LoRA", (uint64_t)tt_memory_plan_adapter(m, true), "rank 8");
    print_size("a training, full", (uint64_t)tt_memory_plan_optimiser(m, false), "while it runs");
    print_size("a training, LoRA", (uint64_t)tt_memory_plan_optimiser(m, true), "rank 8");
    for (int32_t i = 0; i < m->n_tensors && json_object_get(o, "tensors") != NULL; i++) {
        const tt_file_tensor *t = &m->tensors[i];
        char shape[160];
        printf("%s  %-5s %-20s %.*s\n", i == 0 ? "tensors in the file\n" : "", t->type_name,
               tt_tensor_shape_text(t, shape, sizeof shape), (int)t->name.n, t->name.p);
    }
}

/* A flag with a value; false: it is none of them, or the value is no good. */
static bool take_value(options *o, const char *flag, const char *value)
{
    const struct {
        const char *flag;
        const char **text;
        int64_t *number;
        int64_t max;
    } flags[] = {{"--device", &o->memory.device, NULL, 0},
                 {"--cuda-module", &o->memory.module, NULL, 0},
                 {"--contexts", NULL, &o->memory.contexts, 1000000},
                 {"--tokens", NULL, &o->memory.tokens, 1 << 24},
                 {"--memory", NULL, &o->memory.memory, (int64_t)1 << 50}};
    for (size_t i = 0; value != NULL && i < sizeof flags / sizeof *flags; i++) {
        if (strcmp(flag, flags[i].flag) != 0) {
            continue;
        }
        if (flags[i].text != NULL) {
            *flags[i].text = value;
            return true;
        }
        return tt_size_parse(value, flags[i].number) && *flags[i].number > 0 &&
               *flags[i].number <= flags[i].max;
    }
    return false;
}

/* false: wrong usage, said on stderr. */
static bool parse(int argc, char **argv, options *ret)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            ret->json = true;
        } else if (strcmp(argv[i], "--tensors") == 0) {
            ret->tensors = true;
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            ret->help = true;
        } else if (take_value(ret, argv[i], argv[i + 1])) {
            i++;
        } else if (argv[i][0] == '-' && argv[i][1] != '\0') {
            fprintf(
                stderr,
                "qttt inspect: unknown option %s, or a value that it does not take (see --help)\n",
                argv[i]);
            return false;
        } else if (ret->model != NULL) {
            fprintf(stderr, "qttt inspect: one model at a time, not also %s\n", argv[i]);
            return false;
        } else {
            ret->model = argv[i];
        }
    }
    if (ret->model == NULL && !ret->help) {
        fprintf(stderr, "qttt inspect: which model? (see --help)\n");
        return false;
    }
    return true;
}

/* With the table of a device, if one is asked for. */
static tt_code describe_all(const tt_model *m, const options *opt, json_t **ret, tt_err *reterr)
{
    json_t *o = describe(m, opt->tensors), *table = NULL;
    tt_code rc = o == NULL ? tt_fail(reterr, TT_E_NOMEM, "out of memory") : TT_OK;
    if (rc == TT_OK && opt->memory.device != NULL) {
        rc = tt_inspect_memory(m, &opt->memory, &table, reterr);
    }
    if (rc == TT_OK && table != NULL && json_object_set_new(o, "device", table) != 0) {
        rc = tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    if (rc != TT_OK) {
        json_decref(o);
        return rc;
    }
    *ret = o;
    return TT_OK;
}

static int show(const tt_model *m, const options *opt)
{
    tt_err err = {0};
    json_t *o;
    tt_code rc = describe_all(m, opt, &o, &err);
    if (rc != TT_OK) {
        fprintf(stderr, "qttt inspect: %s\n", err.msg);
        return tt_exit_status(rc);
    }
    if (opt->json) {
        json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
        putchar('\n');
    } else {
        print_text(m, o);
        if (json_object_get(o, "device") != NULL) {
            tt_inspect_memory_print(json_object_get(o, "device"));
        }
    }
    json_decref(o);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "qttt inspect: cannot write to standard output\n");
        return 1;
    }
    return 0;
}

int tt_cmd_inspect(int argc, char **argv)
{
    options opt = {.memory.module = ""};
    if (!parse(argc, argv, &opt)) {
        return 2;
    }
    if (opt.help) {
        fputs(usage, stdout);
        return 0;
    }
    tt_model *m = NULL;
    tt_err err = {.code = TT_OK};
    tt_code rc = tt_model_open(opt.model, &m, &err);
    if (rc != TT_OK) {
        fprintf(stderr, "qttt inspect: %s\n", err.msg);
        return rc == TT_E_NOMEM ? 1 : 2;
    }
    int status = show(m, &opt);
    tt_model_close(&m);
    return status;
}
