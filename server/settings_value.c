/* settings_value.c - values of settings.h, one row at a time: as text, compared, taken over. */
#include <stdio.h>
#include <string.h>

#include "server/settings.h"

static const void *member(const tt_settings *s, const tt_setting *row)
{
    return (const char *)s + row->offset;
}

#define AT(member) offsetof(tt_settings, member)

/* What is read each time that it matters, by the loop thread alone, or that reload.c hands on. */
static const size_t reloadable[] = {
    AT(api_keys_file),     AT(api_keys),          AT(open_metrics),
    AT(max_body),          AT(max_bodies),        AT(max_samples),
    AT(request_timeout),   AT(cors_origins),      AT(strict),
    AT(heartbeat_seconds), AT(backlog),           AT(max_prompts),
    AT(json_memory),       AT(jobs_retention),    AT(jobs_max_finished),
    AT(session_ttl),       AT(sessions_implicit), AT(append_conflict),
    AT(drain_delay),       AT(drain_timeout),     AT(watchdog_seconds),
    AT(log_level),         AT(log_format),        AT(log_prompts),
};

bool tt_setting_reloads(const tt_setting *row)
{
    for (size_t i = 0; i < sizeof reloadable / sizeof *reloadable; i++) {
        if (reloadable[i] == row->offset) {
            return true;
        }
    }
    return false;
}

bool tt_setting_secret(const tt_setting *row)
{
    return row->offset == AT(api_keys);
}

void tt_settings_text(const tt_settings *s, const tt_setting *row, char *ret, size_t cap)
{
    const void *v = member(s, row);
    const tt_string_list *list = v;
    size_t n = 0;
    ret[0] = '\0';
    switch (row->kind) {
    case TT_SET_STRING:
        snprintf(ret, cap, "%s", *(char *const *)v);
        break;
    case TT_SET_LIST:
        for (int32_t i = 0; i < list->n && n < cap; i++) {
            n += (size_t)snprintf(ret + n, cap - n, "%s%s", i > 0 ? ", " : "", list->v[i]);
        }
        break;
    case TT_SET_BOOL:
        snprintf(ret, cap, "%s", *(const bool *)v ? "true" : "false");
        break;
    case TT_SET_CHOICE:
        snprintf(ret, cap, "%s", row->choices[*(const int64_t *)v]);
        break;
    case TT_SET_FLOAT:
        snprintf(ret, cap, "%.12g", *(const double *)v);
        break;
    case TT_SET_INT:
    case TT_SET_SIZE:
        snprintf(ret, cap, "%lld", (long long)*(const int64_t *)v);
        break;
    }
}

static bool same_list(const tt_string_list *a, const tt_string_list *b)
{
    bool same = a->n == b->n;
    for (int32_t i = 0; same && i < a->n; i++) {
        same = strcmp(a->v[i], b->v[i]) == 0;
    }
    return same;
}

bool tt_settings_same(const tt_settings *a, const tt_settings *b, const tt_setting *row)
{
    const void *x = member(a, row), *y = member(b, row);
    switch (row->kind) {
    case TT_SET_STRING:
        return strcmp(*(char *const *)x, *(char *const *)y) == 0;
    case TT_SET_LIST:
        return same_list(x, y);
    case TT_SET_BOOL:
        return *(const bool *)x == *(const bool *)y;
    case TT_SET_FLOAT:
        return *(const double *)x == *(const double *)y;
    case TT_SET_INT:
    case TT_SET_SIZE:
    case TT_SET_CHOICE:
        break;
    }
    return *(const int64_t *)x == *(const int64_t *)y;
}

void tt_settings_take(tt_settings *to, const tt_settings *from, const tt_setting *row)
{
    static const size_t sizes[] = {
        [TT_SET_STRING] = sizeof(char *),  [TT_SET_LIST] = sizeof(tt_string_list),
        [TT_SET_BOOL] = sizeof(bool),      [TT_SET_INT] = sizeof(int64_t),
        [TT_SET_FLOAT] = sizeof(double),   [TT_SET_SIZE] = sizeof(int64_t),
        [TT_SET_CHOICE] = sizeof(int64_t),
    };
    memcpy((char *)to + row->offset, member(from, row), sizes[row->kind]);
}
