/* settings_yaml.c - the YAML side of settings.h. libcyaml checks structure and types against a
 * schema made from tt_setting_table; ranges, sizes and the exact place of a fault come from here:
 * libcyaml has no ranges and reports the line of the event before. The place is found by walking
 * libyaml's events once more, only when there is a fault to report. */
#include "server/settings.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { MAX_ROWS = 96, MAX_SECTIONS = 16, MAX_FILE_BYTES = 1 << 20 };

/* Every value is a pointer, so that a missing key (NULL) differs from a zero. */
struct raw {
    void *value[MAX_ROWS];
    uint32_t count[MAX_ROWS];
};

struct schema {
    cyaml_schema_field_t fields[MAX_SECTIONS][MAX_ROWS];
    cyaml_schema_field_t sections[MAX_SECTIONS + 1];
    char names[MAX_SECTIONS][32];
    int n_fields[MAX_SECTIONS], n_sections;
    cyaml_schema_value_t root;
};

/* The first complaint of libcyaml and the path of mapping fields under it, innermost first. */
struct complaint {
    char text[200];
    char field[2][64];
    int n_fields;
};

static const cyaml_strval_t bools[] = {{"true", 1}, {"false", 0}};
static const cyaml_schema_value_t list_entry = {.type = CYAML_STRING,
                                                .flags = CYAML_FLAG_POINTER,
                                                .data_size = sizeof(char),
                                                .string = {0, 65536}};

static cyaml_schema_value_t value_schema(const tt_setting *row)
{
    cyaml_schema_value_t v = {.flags = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL};
    switch (row->kind) {
    case TT_SET_BOOL: /* CYAML_BOOL takes any word that it does not know for true */
        v.type = CYAML_ENUM;
        v.flags = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT;
        v.data_size = sizeof(int64_t);
        v.enumeration.strings = bools;
        v.enumeration.count = 2;
        break;
    case TT_SET_LIST:
        v.type = CYAML_SEQUENCE;
        v.data_size = sizeof(char *);
        v.sequence.entry = &list_entry;
        v.sequence.max = 10000;
        break;
    default: /* numbers too: CYAML_INT takes 8080.5 for 8080; tt_settings_set is strict */
        v.type = CYAML_STRING;
        v.data_size = sizeof(char);
        v.string.max = 65536;
        break;
    }
    return v;
}

static void make_schema(struct schema *sc)
{
    memset(sc, 0, sizeof *sc);
    for (int i = 0; i < tt_n_settings && i < MAX_ROWS; i++) {
        const tt_setting *row = &tt_setting_table[i];
        size_t n = (size_t)(strchr(row->key, '.') - row->key);
        int k = 0;
        while (k < sc->n_sections &&
               (strlen(sc->names[k]) != n || memcmp(sc->names[k], row->key, n) != 0)) {
            k++;
        }
        if (k == sc->n_sections) {
            memcpy(sc->names[k], row->key, n);
            sc->n_sections++;
        }
        sc->fields[k][sc->n_fields[k]++] = (cyaml_schema_field_t){
            .key = row->key + n + 1,
            .data_offset = (uint32_t)(offsetof(struct raw, value) + (size_t)i * sizeof(void *)),
            .count_offset = (uint32_t)(offsetof(struct raw, count) + (size_t)i * sizeof(uint32_t)),
            .count_size = sizeof(uint32_t),
            .value = value_schema(row)};
    }
    for (int k = 0; k < sc->n_sections; k++) {
        sc->sections[k].key = sc->names[k];
        sc->sections[k].value.type = CYAML_MAPPING;
        sc->sections[k].value.flags = CYAML_FLAG_OPTIONAL;
        sc->sections[k].value.data_size = sizeof(struct raw);
        sc->sections[k].value.mapping.fields = sc->fields[k];
    }
    sc->root.type = CYAML_MAPPING;
    sc->root.flags = CYAML_FLAG_POINTER;
    sc->root.data_size = sizeof(struct raw);
    sc->root.mapping.fields = sc->sections;
}

static void on_cyaml_log(cyaml_log_t level, void *ctx, const char *fmt, va_list args)
{
    struct complaint *c = ctx;
    char line[256];
    (void)level;
    if (vsnprintf(line, sizeof line, fmt, args) < 0) {
        return;
    }
    line[strcspn(line, "\n")] = '\0';
    const char *field = strstr(line, "in mapping field '");
    if (field != NULL && c->n_fields < 2) {
        const char *name = field + strlen("in mapping field '");
        snprintf(c->field[c->n_fields++], sizeof c->field[0], "%.*s", (int)strcspn(name, "'"),
                 name);
    } else if (c->text[0] == '\0' && strstr(line, "Backtrace") == NULL) {
        const char *text = strncmp(line, "Load: ", 6) == 0 ? line + 6 : line;
        snprintf(c->text, sizeof c->text, "%.190s", text);
    }
}

/* Finds the key `path` ("section" or "section.name"), or the value after it. Lines and columns from
 * 1; false: not there. A syntax error before it gives that error's place. */
static bool locate(const char *text, size_t n, const char *path, bool of_value, int *ret_line,
                   int *ret_col)
{
    yaml_parser_t p;
    yaml_event_t ev;
    char section[64] = "", full[160];
    int depth = 0, sequence = 0;
    bool is_key = true, found = false, match = false;
    if (!yaml_parser_initialize(&p)) {
        return false;
    }
    yaml_parser_set_input_string(&p, (const unsigned char *)text, n);
    for (bool end = false; !end && !found;) {
        if (!yaml_parser_parse(&p, &ev)) {
            *ret_line = (int)p.problem_mark.line + 1;
            *ret_col = (int)p.problem_mark.column + 1;
            found = true;
            break;
        }
        bool starts_value = ev.type == YAML_SCALAR_EVENT || ev.type == YAML_MAPPING_START_EVENT ||
                            ev.type == YAML_SEQUENCE_START_EVENT || ev.type == YAML_ALIAS_EVENT;
        if (match && starts_value) { /* the value of the key that was asked for */
            if (of_value) {
                *ret_line = (int)ev.start_mark.line + 1;
                *ret_col = (int)ev.start_mark.column + 1;
            }
            found = true;
        } else if (sequence > 0) {
            sequence += ev.type == YAML_SEQUENCE_START_EVENT || ev.type == YAML_MAPPING_START_EVENT;
            sequence -= ev.type == YAML_SEQUENCE_END_EVENT || ev.type == YAML_MAPPING_END_EVENT;
        } else if (ev.type == YAML_MAPPING_START_EVENT) {
            depth++;
            is_key = true;
        } else if (ev.type == YAML_MAPPING_END_EVENT) {
            depth--;
            is_key = true;
        } else if (ev.type == YAML_SEQUENCE_START_EVENT) {
            sequence = 1;
            is_key = true;
        } else if (ev.type == YAML_SCALAR_EVENT && is_key) {
            const char *name = (const char *)ev.data.scalar.value;
            snprintf(full, sizeof full, "%.60s%s%.60s", depth > 1 ? section : "",
                     depth > 1 ? "." : "", name);
            if (depth == 1) {
                snprintf(section, sizeof section, "%.60s", name);
            }
            if (strcmp(full, path) == 0) {
                *ret_line = (int)ev.start_mark.line + 1;
                *ret_col = (int)ev.start_mark.column + 1;
                match = true;
            }
            is_key = false;
        } else if (ev.type == YAML_SCALAR_EVENT || ev.type == YAML_ALIAS_EVENT) {
            is_key = true;
        }
        end = ev.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&ev);
    }
    yaml_parser_delete(&p);
    return found || match;
}

static const tt_setting *find_key(const char *key)
{
    for (int i = 0; i < tt_n_settings; i++) {
        if (strcmp(tt_setting_table[i].key, key) == 0) {
            return &tt_setting_table[i];
        }
    }
    return NULL;
}

/* The names that are legal where an unknown key stood: of the section, or the sections themselves.
 */
static void list_names(const struct schema *sc, const char *section, char *out, size_t cap)
{
    const cyaml_schema_field_t *f = sc->sections;
    for (int k = 0; section[0] != '\0' && k < sc->n_sections; k++) {
        if (strcmp(sc->names[k], section) == 0) {
            f = sc->fields[k];
        }
    }
    size_t n = 0;
    out[0] = '\0';
    for (; f->key != NULL && n < cap; f++) {
        n += (size_t)snprintf(out + n, cap - n, "%s%s", n > 0 ? ", " : "", f->key);
    }
}

static const char *kind_name(const tt_setting *row)
{
    static const char *const names[] = {"a string",   "a list of strings", "true or false",
                                        "an integer", "a number",          "a size",
                                        "a name"};
    return row != NULL ? names[row->kind] : "a section with keys under it";
}

static tt_code report(const struct schema *sc, const struct complaint *c, const char *name,
                      const char *text, size_t n, cyaml_err_t rc, tt_err *reterr)
{
    char path[140], legal[160];
    int line = 1, col = 1;
    const char *outer = c->n_fields > 0 ? c->field[c->n_fields - 1] : "";
    if (rc == CYAML_ERR_OOM) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    if (strncmp(c->text, "Unexpected key: ", 16) == 0) {
        snprintf(path, sizeof path, "%.60s%s%.60s", outer, outer[0] != '\0' ? "." : "",
                 c->text + 16);
        locate(text, n, path, false, &line, &col);
        list_names(sc, outer, legal, sizeof legal);
        return tt_fail(reterr, TT_E_INVALID, "%s:%d:%d: unknown key '%s'; expected one of %s", name,
                       line, col, path, legal);
    }
    if (c->n_fields == 2) {
        snprintf(path, sizeof path, "%s.%s", c->field[1], c->field[0]);
    } else {
        snprintf(path, sizeof path, "%s", outer);
    }
    locate(text, n, path, true, &line, &col);
    if (rc == CYAML_ERR_LIBYAML_PARSER) {
        locate(text, n, "", false, &line, &col); /* no key is "": it stops at the error itself */
        return tt_fail(reterr, TT_E_INVALID, "%s:%d:%d: %s", name, line, col, c->text);
    }
    if (rc == CYAML_ERR_UNEXPECTED_EVENT) {
        return tt_fail(reterr, TT_E_INVALID, "%s:%d:%d: %s", name, line, col, c->text);
    }
    return tt_fail(reterr, TT_E_INVALID, "%s:%d:%d: %s: %s; expected %s", name, line, col,
                   path[0] != '\0' ? path : "the file",
                   c->text[0] != '\0' ? c->text : cyaml_strerror(rc), kind_name(find_key(path)));
}

/* Puts one loaded value through tt_settings_set, which checks range and suffix. */
static tt_code take_value(tt_settings *s, const tt_setting *row, void *value, uint32_t count,
                          const char *origin, tt_err *reterr)
{
    const char *text = value;
    switch (row->kind) {
    case TT_SET_LIST:
        *(tt_string_list *)(void *)((char *)s + row->offset) = (tt_string_list){0};
        for (uint32_t i = 0; i < count; i++) {
            tt_code rc = tt_settings_set(s, row, ((char **)value)[i], origin, reterr);
            if (rc < 0) {
                return rc;
            }
        }
        return TT_OK;
    case TT_SET_BOOL:
        text = *(int64_t *)value != 0 ? "true" : "false";
        break;
    default:
        break;
    }
    return tt_settings_set(s, row, text, origin, reterr);
}

tt_code tt_settings_load_text(tt_settings *s, const char *name, const char *text, size_t n,
                              tt_err *reterr)
{
    struct complaint c = {0};
    struct raw *raw = NULL;
    struct schema *sc = malloc(sizeof *sc);
    tt_code rc = TT_OK;
    if (sc == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "out of memory");
    }
    make_schema(sc);
    cyaml_config_t cfg = {.log_fn = on_cyaml_log,
                          .log_ctx = &c,
                          .log_level = CYAML_LOG_WARNING,
                          .mem_fn = cyaml_mem,
                          .flags = CYAML_CFG_NO_ALIAS};
    cyaml_err_t err =
        cyaml_load_data((const uint8_t *)text, n, &cfg, &sc->root, (cyaml_data_t **)&raw, NULL);
    if (err != CYAML_OK) {
        rc = report(sc, &c, name, text, n, err, reterr);
        goto out;
    }
    for (int i = 0; raw != NULL && rc == TT_OK && i < tt_n_settings; i++) {
        const tt_setting *row = &tt_setting_table[i];
        char origin[256];
        int line = 0, col = 0;
        bool there = raw->value[i] != NULL || row->kind == TT_SET_LIST; /* an empty list is NULL */
        if (there && locate(text, n, row->key, true, &line, &col)) {
            snprintf(origin, sizeof origin, "%.200s:%d:%d", name, line, col);
            rc = take_value(s, row, raw->value[i], raw->count[i], origin, reterr);
        }
    }
out:
    if (raw != NULL) {
        cyaml_free(&cfg, &sc->root, raw, 0);
    }
    free(sc);
    return rc;
}

tt_code tt_settings_load(tt_settings *s, const char *path, tt_err *reterr)
{
    tt_code rc;
    FILE *f = fopen(path, "rb");
    char *text = malloc(MAX_FILE_BYTES + 1);
    if (text == NULL) {
        rc = tt_fail(reterr, TT_E_NOMEM, "out of memory");
    } else if (f == NULL) {
        rc = tt_fail(reterr, TT_E_IO, "%s: %s", path, strerror(errno));
    } else {
        size_t n = fread(text, 1, MAX_FILE_BYTES + 1, f);
        if (ferror(f)) {
            rc = tt_fail(reterr, TT_E_IO, "%s: %s", path, strerror(errno));
        } else if (n > MAX_FILE_BYTES) {
            rc = tt_fail(reterr, TT_E_INVALID, "%s: larger than 1 MiB", path);
        } else {
            rc = tt_settings_load_text(s, path, text, n, reterr);
        }
    }
    free(text);
    if (f != NULL) {
        fclose(f);
    }
    return rc;
}
