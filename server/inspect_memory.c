/* inspect_memory.c - see inspect_memory.h. The sums are core/memory_plan.h's, with the settings'
 * defaults. */
#include "server/inspect_memory.h"

#include <stdio.h>
#include <string.h>

#include "core/device_choice.h"
#include "core/memory_plan.h"
#include "core/sysinfo.h"

#define ADAPTER_CACHE ((size_t)256 << 20) /* the default of qttt.adapter_cache */

typedef struct memory_ask {
    const tt_model *m;
    int32_t tokens;
    int64_t contexts;
    bool cuda, asked; /* asked: `available` is what is free on the device, its driver in already */
    size_t available;
    char device[20], name[128];
} memory_ask;

static tt_memory_plan plan_of(const memory_ask *a, tt_dtype kv_type, bool lora)
{
    tt_memory_plan p;
    tt_memory_options o = {
        .kv_type = kv_type, .max_context = a->tokens, .adapter_bytes = ADAPTER_CACHE, .lora = lora};
    tt_memory_plan_make(a->m, &o, a->cuda, &p);
    return p;
}

/* What is not K/V, with a training that runs; `adapters`: each session has one of its kind, which
 * takes the place of the cache's budget where it is more. */
static size_t rest_of(const memory_ask *a, const tt_memory_plan *p, bool adapters, int64_t n)
{
    size_t all = tt_memory_plan_fixed(p, false) - (a->asked ? p->runtime : 0);
    size_t held = adapters ? (size_t)n * p->adapter : 0;
    return all + (held > p->adapters ? held - p->adapters : 0);
}

/* The most contexts that fit: needs grow with n. */
static int64_t fitting(const memory_ask *a, const tt_memory_plan *p, bool adapters)
{
    int64_t low = 0, high = (int64_t)(a->available / p->context);
    while (low < high) {
        int64_t n = (low + high + 1) / 2;
        bool fits = rest_of(a, p, adapters, n) + (size_t)n * p->context <= a->available;
        low = fits ? n : low;
        high = fits ? high : n - 1;
    }
    return low;
}

static json_t *fit_of(const memory_ask *a, tt_dtype kv_type)
{
    tt_memory_plan lora = plan_of(a, kv_type, true), full = plan_of(a, kv_type, false);
    return json_pack("{s:I, s:I, s:I}", "without_adapters", (json_int_t)fitting(a, &lora, false),
                     "with_lora_adapters", (json_int_t)fitting(a, &lora, true),
                     "with_full_adapters", (json_int_t)fitting(a, &full, true));
}

static json_t *table_of(const memory_ask *a)
{
    tt_memory_plan p = plan_of(a, TT_BF16, false), l = plan_of(a, TT_BF16, true);
    tt_memory_plan q = plan_of(a, TT_I8, false);
    size_t n = (size_t)a->contexts;
    const struct {
        const char *key;
        size_t value;
    } rows[] = {{"available_bytes", a->available},
                {"contexts", n},
                {"tokens", (size_t)a->tokens},
                {"weights", p.weights},
                {"workspaces", p.steps},
                {"scratch", p.scratch},
                {"runtime", a->asked ? 0 : p.runtime},
                {"margin", p.margin},
                {"adapter_cache", p.adapters},
                {"training_full", p.one_training},
                {"training_lora_rank_8", l.one_training},
                {"adapter_full", p.adapter},
                {"adapter_lora_rank_8", l.adapter},
                {"kv_token_bf16", p.page / TT_PAGE_TOKENS},
                {"kv_token_q8", q.page / TT_PAGE_TOKENS},
                {"kv_context_bf16", p.context},
                {"kv_context_q8", q.context},
                {"kv_contexts_bf16", n * p.context},
                {"kv_contexts_q8", n * q.context},
                {"total_bf16", rest_of(a, &l, false, 0) + n * p.context}};
    json_t *o =
        json_pack("{s:s, s:s, s:b}", "device", a->device, "name", a->name, "asked", (int)a->asked);
    bool ok = o != NULL;
    for (size_t i = 0; ok && i < sizeof rows / sizeof *rows; i++) {
        ok = json_object_set_new(o, rows[i].key, json_integer((json_int_t)rows[i].value)) == 0;
    }
    ok = ok && json_object_set_new(o, "fits_bf16", fit_of(a, TT_BF16)) == 0;
    ok = ok && json_object_set_new(o, "fits_q8", fit_of(a, TT_I8)) == 0;
    if (!ok) {
        json_decref(o);
        return NULL;
    }
    return o;
}

static tt_code ask_device(const tt_inspect_options *opt, memory_ask *a, tt_err *reterr)
{
    tt_device_found f;
    tt_device_wish w = {
        .device = opt->device, .module = opt->module, .isa = "auto", .kv_type = TT_BF16};
    tt_code rc = tt_device_find(&w, &f, reterr);
    if (rc == TT_OK) {
        a->cuda = a->asked = f.choice.cuda != NULL;
        a->available = a->cuda ? f.info.free_bytes : tt_sys_free_bytes();
        snprintf(a->device, sizeof a->device, "%s", f.name);
        snprintf(a->name, sizeof a->name, "%s", f.info.name);
    }
    return rc == TT_OK && a->cuda ? tt_device_check(&f.choice, a->m, reterr) : rc;
}

tt_code tt_inspect_memory(const tt_model *m, const tt_inspect_options *opt, json_t **ret,
                          tt_err *reterr)
{
    memory_ask a = {.m = m,
                    .contexts = opt->contexts > 0 ? opt->contexts : 1,
                    .tokens = opt->tokens > 0 ? (int32_t)opt->tokens : m->n_ctx_train};
    tt_code rc = TT_OK;
    if (opt->memory > 0) {
        a.cuda = strcmp(opt->device, "cpu") != 0;
        a.available = (size_t)opt->memory;
        snprintf(a.device, sizeof a.device, "%s", a.cuda ? "cuda" : "cpu");
    } else {
        rc = ask_device(opt, &a, reterr);
    }
    if (rc != TT_OK) {
        return rc;
    }
    *ret = table_of(&a);
    return *ret != NULL ? TT_OK : tt_fail(reterr, TT_E_NOMEM, "out of memory");
}

/* ---- text ---- */

static int64_t number(const json_t *table, const char *key)
{
    return (int64_t)json_integer_value(json_object_get(table, key));
}

static const char *text_of(const json_t *table, const char *key)
{
    return json_string_value(json_object_get(table, key));
}

/* "    4.31 GiB" */
static void print_row(const char *label, int64_t bytes, const char *note)
{
    if (bytes >= (int64_t)10 << 30) {
        printf("  %-30s %9.1f GiB", label, (double)bytes / 0x1p30);
    } else if (bytes >= (int64_t)10 << 20) {
        printf("  %-30s %9.1f MiB", label, (double)bytes / 0x1p20);
    } else {
        printf("  %-30s %9.1f KiB", label, (double)bytes / 0x1p10);
    }
    printf("%s%s\n", note[0] != '\0' ? "   " : "", note);
}

static void print_fits(const json_t *table)
{
    static const char *const rows[][2] = {{"without_adapters", "without adapters"},
                                          {"with_lora_adapters", "each with a LoRA adapter"},
                                          {"with_full_adapters", "each with a full adapter"}};
    const json_t *bf16 = json_object_get(table, "fits_bf16");
    const json_t *q8 = json_object_get(table, "fits_q8");
    printf("  contexts that fit              %9s %9s\n", "K/V bf16", "K/V q8");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        printf("    %-28s %9lld %9lld\n", rows[i][1], (long long)number(bf16, rows[i][0]),
               (long long)number(q8, rows[i][0]));
    }
}

void tt_inspect_memory_print(const json_t *t)
{
    char label[64];
    long long n = (long long)number(t, "contexts");
    int64_t available = number(t, "available_bytes"), total = number(t, "total_bf16");
    bool cpu = strcmp(text_of(t, "device"), "cpu") == 0;
    printf("memory of device %s%s%s: %.1f GiB%s\n", text_of(t, "device"),
           text_of(t, "name")[0] != '\0' ? ", " : "", text_of(t, "name"),
           (double)available / 0x1p30, json_is_true(json_object_get(t, "asked")) ? " free" : "");
    print_row("weights", number(t, "weights"), cpu ? "mapped from the file" : "");
    print_row("workspaces of steps", number(t, "workspaces"), "512 rows of prompts, 32 answers");
    if (!cpu) {
        print_row("scratch of operations", number(t, "scratch"), "");
        print_row("driver and libraries", number(t, "runtime"),
                  number(t, "runtime") > 0 ? "an estimate" : "in what is not free");
        print_row("kept free", number(t, "margin"), "");
    }
    print_row("adapter cache", number(t, "adapter_cache"), "qttt.adapter_cache");
    print_row("a training, full", number(t, "training_full"), "while it runs");
    print_row("a training, LoRA", number(t, "training_lora_rank_8"), "rank 8");
    print_row("an adapter, full", number(t, "adapter_full"), "");
    print_row("an adapter, LoRA", number(t, "adapter_lora_rank_8"), "rank 8");
    print_row("K/V of a token, bf16", number(t, "kv_token_bf16"), "");
    print_row("K/V of a token, q8", number(t, "kv_token_q8"), "");
    snprintf(label, sizeof label, "K/V of %lld tokens, bf16", (long long)number(t, "tokens"));
    print_row(label, number(t, "kv_context_bf16"), "a context, in pages of 64");
    snprintf(label, sizeof label, "K/V of %lld contexts, bf16", n);
    print_row(label, number(t, "kv_contexts_bf16"), "");
    snprintf(label, sizeof label, "K/V of %lld contexts, q8", n);
    print_row(label, number(t, "kv_contexts_q8"), "");
    print_row("together with K/V of bf16", total, "with a training, LoRA");
    print_row(total <= available ? "left" : "missing",
              total <= available ? available - total : total - available, "");
    print_fits(t);
}
