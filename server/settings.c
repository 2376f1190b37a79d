/* settings.c - values, flags and checks of settings.h. The YAML side is settings_yaml.c. */
#include "server/settings.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void *member(tt_settings *s, const tt_setting *row)
{
    return (char *)s + row->offset;
}

bool tt_size_parse(const char *text, int64_t *ret_bytes)
{
    static const struct {
        const char *suffix;
        double factor;
    } units[] = {
        {"", 1},         {"B", 1},       {"k", 1e3},      {"kB", 1e3},     {"K", 1e3},
        {"KB", 1e3},     {"M", 1e6},     {"MB", 1e6},     {"G", 1e9},      {"GB", 1e9},
        {"T", 1e12},     {"TB", 1e12},   {"Ki", 0x1p10},  {"KiB", 0x1p10}, {"Mi", 0x1p20},
        {"MiB", 0x1p20}, {"Gi", 0x1p30}, {"GiB", 0x1p30}, {"Ti", 0x1p40},  {"TiB", 0x1p40},
    };
    if (*text < '0' || *text > '9' ||
        strncasecmp(text, "0x", 2) == 0) { /* strtod takes more than we promise */
        return false;
    }
    char *end;
    double v = strtod(text, &end);
    while (*end == ' ') {
        end++;
    }
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i].suffix) == 0) {
            v *= units[i].factor;
            if (!(v >= 0 && v < 0x1p62)) {
                return false;
            }
            *ret_bytes = (int64_t)v;
            return true;
        }
    }
    return false;
}

/* "an integer from 0 to 65535": what a message says was expected. */
static void describe(const tt_setting *row, char *out, size_t cap)
{
    switch (row->kind) {
    case TT_SET_STRING:
        snprintf(out, cap, "a string");
        break;
    case TT_SET_LIST:
        snprintf(out, cap, "a list of strings");
        break;
    case TT_SET_BOOL:
        snprintf(out, cap, "true or false");
        break;
    case TT_SET_INT:
        snprintf(out, cap, "an integer from %.0f to %.0f", row->min, row->max);
        break;
    case TT_SET_FLOAT:
        snprintf(out, cap, "a number from %g to %g", row->min, row->max);
        break;
    case TT_SET_SIZE:
        snprintf(out, cap, "a size from %.0f to %.0f bytes such as 64MB or 8GiB", row->min,
                 row->max);
        break;
    case TT_SET_CHOICE: {
        size_t k = (size_t)snprintf(out, cap, "one of");
        for (int i = 0; row->choices[i] != NULL && k < cap; i++) {
            k += (size_t)snprintf(out + k, cap - k, "%s %s", i > 0 ? "," : "", row->choices[i]);
        }
        break;
    }
    }
}

static tt_code refuse(const tt_setting *row, const char *value, const char *origin, tt_err *reterr)
{
    char want[160];
    describe(row, want, sizeof want);
    return tt_fail(reterr, TT_E_INVALID, "%s: %s is '%.60s'; expected %s", origin, row->key, value,
                   want);
}

static bool parse_number(const tt_setting *row, const char *text, double *ret)
{
    char *end;
    errno = 0;
    if (row->kind == TT_SET_SIZE) {
        int64_t bytes;
        if (!tt_size_parse(text, &bytes)) {
            return false;
        }
        *ret = (double)bytes;
    } else if (row->kind == TT_SET_INT) {
        *ret = (double)strtoll(text, &end, 10);
        if (end == text || *end != '\0' || errno != 0) {
            return false;
        }
    } else {
        *ret = strtod(text, &end);
        if (end == text || *end != '\0' || !isfinite(*ret)) {
            return false;
        }
    }
    return *ret >= row->min && *ret <= row->max;
}

static int parse_bool(const char *text)
{
    return strcmp(text, "true") == 0 ? 1 : strcmp(text, "false") == 0 ? 0 : -1;
}

static tt_code append_string(tt_settings *s, tt_string_list *list, char *text)
{
    char **v = tt_arena_calloc(&s->arena, (size_t)list->n + 1, sizeof *v);
    if (v == NULL) {
        return TT_E_NOMEM;
    }
    if (list->n > 0) {
        memcpy(v, list->v, (size_t)list->n * sizeof *v);
    }
    v[list->n++] = text;
    list->v = v;
    return TT_OK;
}

tt_code tt_settings_set(tt_settings *s, const tt_setting *row, const char *value,
                        const char *origin, tt_err *reterr)
{
    double number;
    switch (row->kind) {
    case TT_SET_STRING:
    case TT_SET_LIST: {
        char *copy = tt_arena_strndup(&s->arena, value, strlen(value));
        if (copy == NULL) {
            return tt_fail(reterr, TT_E_NOMEM, "out of memory");
        }
        if (row->kind == TT_SET_STRING) {
            *(char **)member(s, row) = copy;
        } else if (append_string(s, member(s, row), copy) != TT_OK) {
            return tt_fail(reterr, TT_E_NOMEM, "out of memory");
        }
        return TT_OK;
    }
    case TT_SET_BOOL: {
        int b = parse_bool(value);
        if (b < 0) {
            return refuse(row, value, origin, reterr);
        }
        *(bool *)member(s, row) = b != 0;
        return TT_OK;
    }
    case TT_SET_CHOICE:
        for (int i = 0; row->choices[i] != NULL; i++) {
            if (strcmp(row->choices[i], value) == 0) {
                *(int64_t *)member(s, row) = i;
                return TT_OK;
            }
        }
        return refuse(row, value, origin, reterr);
    case TT_SET_INT:
    case TT_SET_SIZE:
    case TT_SET_FLOAT:
        break;
    }
    if (!parse_number(row, value, &number)) {
        return refuse(row, value, origin, reterr);
    }
    if (row->kind == TT_SET_FLOAT) {
        *(double *)member(s, row) = number;
    } else {
        *(int64_t *)member(s, row) = (int64_t)number;
    }
    return TT_OK;
}

tt_code tt_settings_init(tt_settings *s, tt_err *reterr)
{
    *s = (tt_settings){0};
    tt_arena_init(&s->arena, 0);
    for (int i = 0; i < tt_n_settings; i++) {
        const tt_setting *row = &tt_setting_table[i];
        if (row->kind == TT_SET_LIST && row->def[0] == '\0') {
            continue;
        }
        tt_code rc = tt_settings_set(s, row, row->def, "default", reterr);
        if (rc < 0) {
            return rc;
        }
    }
    return TT_OK;
}

void tt_settings_finish(tt_settings *s)
{
    tt_arena_finish(&s->arena);
}

/* The row of a flag's name; *ret_negated: "no-NAME" of a boolean. */
static const tt_setting *find_flag(const char *name, size_t n, bool *ret_negated)
{
    for (int i = 0; i < tt_n_settings; i++) {
        const tt_setting *row = &tt_setting_table[i];
        *ret_negated = row->kind == TT_SET_BOOL && n > 3 && strncmp(name, "no-", 3) == 0;
        const char *p = *ret_negated ? name + 3 : name;
        size_t len = *ret_negated ? n - 3 : n;
        if (strlen(row->flag) == len && memcmp(row->flag, p, len) == 0) {
            return row;
        }
    }
    return NULL;
}

static tt_code load_config_flag(tt_settings *s, int argc, char **argv, tt_err *reterr)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        const char *path = NULL;
        if (strncmp(argv[i], "--config=", 9) == 0) {
            path = argv[i] + 9;
        } else if (strcmp(argv[i], "--config") == 0) {
            if (i + 1 >= argc) {
                return tt_fail(reterr, TT_E_INVALID, "--config: expected a file name");
            }
            path = argv[i + 1];
        }
        if (path != NULL) {
            return tt_settings_load(s, path, reterr);
        }
    }
    return TT_OK;
}

/* One flag of argv[*i]. Returns 1 when it was a setting (and moved *i over its value), 0 when not.
 */
static int take_flag(tt_settings *s, int argc, char **argv, int *i, unsigned char *list_seen,
                     tt_err *reterr)
{
    const char *arg = argv[*i] + 2;
    const char *eq = strchr(arg, '=');
    size_t n = eq != NULL ? (size_t)(eq - arg) : strlen(arg);
    bool negated;
    const tt_setting *row = find_flag(arg, n, &negated);
    if (row == NULL) {
        return 0;
    }
    char origin[64];
    snprintf(origin, sizeof origin, "--%.*s", (int)n, arg);
    const char *value;
    if (eq != NULL) {
        value = eq + 1;
    } else if (row->kind == TT_SET_BOOL) {
        value = negated ? "false" : "true";
    } else if (*i + 1 < argc) {
        value = argv[++*i];
    } else {
        char want[160];
        describe(row, want, sizeof want);
        return tt_fail(reterr, TT_E_INVALID, "%s: expected %s", origin, want);
    }
    if (row->kind == TT_SET_LIST &&
        !list_seen[row - tt_setting_table]) { /* flags replace the file's list */
        list_seen[row - tt_setting_table] = 1;
        *(tt_string_list *)member(s, row) = (tt_string_list){0};
    }
    tt_code rc = tt_settings_set(s, row, value, origin, reterr);
    return rc < 0 ? rc : 1;
}

tt_code tt_settings_parse_flags(tt_settings *s, int *argc, char **argv, tt_err *reterr)
{
    unsigned char list_seen[128] = {0};
    tt_code rc = load_config_flag(s, *argc, argv, reterr);
    if (rc < 0) {
        return rc;
    }
    int kept = 1;
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], "--") == 0) {
            while (i < *argc) {
                argv[kept++] = argv[i++];
            }
            break;
        }
        if (strcmp(argv[i], "--config") == 0) {
            i++;
            continue;
        }
        if (strncmp(argv[i], "--config=", 9) == 0) {
            continue;
        }
        int taken = 0;
        if (strncmp(argv[i], "--", 2) == 0) {
            taken = take_flag(s, *argc, argv, &i, list_seen, reterr);
        }
        if (taken < 0) {
            return (tt_code)taken;
        }
        if (taken == 0) {
            argv[kept++] = argv[i];
        }
    }
    *argc = kept;
    argv[kept] = NULL;
    return TT_OK;
}

static bool is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (strcmp(host, "localhost") == 0) {
        return true;
    }
    if (inet_pton(AF_INET, host, &v4) == 1) {
        return ntohl(v4.s_addr) >> 24 == 127;
    }
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

bool tt_settings_keyed(const tt_settings *s)
{
    return s->api_keys.n > 0 || s->api_keys_file[0] != '\0';
}

tt_code tt_settings_check(const tt_settings *s, tt_err *reterr)
{
    static const char header_chars[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for (int32_t i = 0; i < s->api_keys.n; i++) {
        if (s->api_keys.v[i][0] == '\0') {
            return tt_fail(reterr, TT_E_INVALID, "server.api_keys: an empty key");
        }
    }
    size_t n = strlen(s->session_header);
    if (n == 0 || n != strspn(s->session_header, header_chars)) {
        return tt_fail(reterr, TT_E_INVALID, "sessions.header: '%.80s' is not the name of a header",
                       s->session_header);
    }
    if (s->unix_socket[0] == '\0' && !tt_settings_keyed(s) && !s->allow_public &&
        !is_loopback(s->host)) {
        return tt_fail(reterr, TT_E_INVALID,
                       "server.host '%.80s' is not a loopback address: set server.api_keys_file "
                       "(--api-keys-file) or server.allow_public (--allow-public)",
                       s->host);
    }
    return TT_OK;
}

static bool in_sections(const char *key, const char *const *sections)
{
    if (sections == NULL) {
        return true;
    }
    for (; *sections != NULL; sections++) {
        size_t n = strlen(*sections);
        if (strncmp(key, *sections, n) == 0 && key[n] == '.') {
            return true;
        }
    }
    return false;
}

void tt_settings_print_help(const char *const *sections)
{
    for (int i = 0; i < tt_n_settings; i++) {
        const tt_setting *row = &tt_setting_table[i];
        if (!in_sections(row->key, sections)) {
            continue;
        }
        char left[64];
        static const char *const meta[] = {" TEXT", " TEXT", "", " N", " X", " SIZE", " NAME"};
        snprintf(left, sizeof left, "--%s%s", row->flag, meta[row->kind]);
        printf("  %-32s %s", left, row->help);
        for (int c = 0; row->choices != NULL && row->choices[c] != NULL; c++) {
            printf("%s%s", c == 0 ? ": " : ", ", row->choices[c]);
        }
        if (row->def[0] != '\0') {
            printf(" [%s]", row->def);
        }
        printf("\n");
    }
}
