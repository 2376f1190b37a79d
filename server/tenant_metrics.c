/* tenant_metrics.c - what each API key has used, for /metrics. A key keeps its place for the life
 * of the process, so that no counter ever falls; see tenant.h. */
#include "server/tenant.h"

#define AT(member) offsetof(tt_tenant, member)

static const struct {
    const char *name, *label, *help; /* help NULL: another row of the metric before */
    size_t offset;                   /* of a uint64_t in tt_tenant */
} rows[] = {
    {"qttt_key_requests_total", "", "Requests of an API key.", AT(n_requests)},
    {"qttt_key_limited_total", "", "Requests refused for a limit of the key.", AT(n_limited)},
    {"qttt_key_tokens_total", ",kind=\"prompt\"", "Tokens of an API key, by kind.",
     AT(prompt_tokens)},
    {"qttt_key_tokens_total", ",kind=\"generated\"", NULL, AT(generated_tokens)},
    {"qttt_key_tokens_total", ",kind=\"trained\"", NULL, AT(trained_tokens)},
};

void tt_tenants_metrics(const tt_tenants *t, tt_buf *b)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t others = 0;
        if (rows[i].help != NULL) {
            tt_buf_printf(b, "# HELP %s %s\n# TYPE %s counter\n", rows[i].name, rows[i].help,
                          rows[i].name);
        }
        for (int32_t k = 0; k < t->n; k++) {
            uint64_t v = *(const uint64_t *)(const void *)((const char *)t->v[k] + rows[i].offset);
            if (k < TT_METRICS_KEYS) {
                tt_buf_printf(b, "%s{key=\"%s\"%s} %llu\n", rows[i].name, t->v[k]->key.name,
                              rows[i].label, (unsigned long long)v);
            } else {
                others += v;
            }
        }
        if (t->n > TT_METRICS_KEYS) { /* no key has this name */
            tt_buf_printf(b, "%s{key=\"(others)\"%s} %llu\n", rows[i].name, rows[i].label,
                          (unsigned long long)others);
        }
    }
}
