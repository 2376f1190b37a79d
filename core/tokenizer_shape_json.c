/* tokenizer_shape_json.c - see tokenizer_shape_json.h. A tokenizer.json is a program out of a few
 * dozen parts; the models we run use a handful of fixed shapes, and anything else is refused by
 * name rather than approximated. Source: the serialised forms of Hugging Face's tokenizers library.
 */
#include "core/tokenizer_shape_json.h"

#include <string.h>

#define SPACE_MARK "\xe2\x96\x81" /* U+2581 */
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define LETTERS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *pattern, *pre;
} patterns[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", "gpt-2"},
    {CONTRACTION LETTERS "\\p{N}{1,3}" REST, "llama-bpe"},
    {CONTRACTION LETTERS "\\p{N}" REST, "qwen2"},
};

static const char *type_of(const json_t *part)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    return type != NULL ? type : "";
}

static bool is_type(const json_t *part, const char *type)
{
    return strcmp(type_of(part), type) == 0;
}

static bool is_string(const json_t *value, const char *text)
{
    const char *s = json_string_value(value);
    return s != NULL && strcmp(s, text) == 0;
}

/* null and absent are one. */
static const json_t *part_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

static bool flag_of(const json_t *part, const char *key, bool fallback)
{
    const json_t *v = json_object_get(part, key);
    return json_is_boolean(v) ? json_is_true(v) : fallback;
}

/* A Sequence is the list of its parts; any other part is a list of one; null is an empty list. */
struct parts {
    const json_t *list, *single;
    size_t n;
};

static struct parts parts_of(const json_t *part, const char *list_key)
{
    struct parts p = {.single = part, .n = part != NULL ? 1 : 0};
    if (part != NULL && is_type(part, "Sequence")) {
        p.list = json_object_get(part, list_key);
        p.n = json_array_size(p.list);
    }
    return p;
}

static const json_t *part_at(const struct parts *p, size_t i)
{
    return p->list != NULL ? json_array_get(p->list, i) : p->single;
}

static tt_code refuse(tt_err *reterr, const char *what, const json_t *part)
{
    const char *type = type_of(part);
    return tt_fail(reterr, TT_E_UNSUPPORTED, "tokenizer.json: the %s \"%.60s\" in this form", what,
                   type[0] != '\0' ? type : "?");
}

static tt_str text(const char *s)
{
    return (tt_str){s, (uint32_t)strlen(s)};
}

static bool is_byte_level(const json_t *part, bool use_regex)
{
    return is_type(part, "ByteLevel") && !flag_of(part, "add_prefix_space", true) &&
           flag_of(part, "use_regex", true) == use_regex;
}

/* ByteLevel; Digits, ByteLevel; Split by a known pattern, ByteLevel. */
static tt_code read_byte_level(const struct parts *p, tt_vocab *v, tt_err *reterr)
{
    const json_t *first = part_at(p, 0), *last = part_at(p, p->n - 1);
    if (p->n == 1 && is_byte_level(first, true)) {
        v->pre = text("gpt-2");
        return TT_OK;
    }
    if (p->n == 2 && is_type(first, "Digits") && flag_of(first, "individual_digits", false) &&
        is_byte_level(last, true)) {
        v->pre = text("smollm");
        return TT_OK;
    }
    if (p->n != 2 || !is_type(first, "Split") || !is_byte_level(last, false) ||
        !is_string(json_object_get(first, "behavior"), "Isolated") ||
        flag_of(first, "invert", false)) {
        return refuse(reterr, "pre_tokenizer", is_byte_level(last, false) ? first : last);
    }
    const json_t *regex = json_object_get(json_object_get(first, "pattern"), "Regex");
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        if (is_string(regex, patterns[i].pattern)) {
            v->pre = text(patterns[i].pre);
            return TT_OK;
        }
    }
    const char *s = json_string_value(regex);
    return tt_fail(reterr, TT_E_UNSUPPORTED, "tokenizer.json: the pre_tokenizer pattern \"%.120s\"",
                   s != NULL ? s : "?");
}

/* Metaspace as it was before `prepend_scheme` had `add_prefix_space`, and always split. */
static tt_code read_metaspace(const json_t *part, tt_vocab *v, tt_err *reterr)
{
    const json_t *scheme = json_object_get(part, "prepend_scheme");
    bool old = flag_of(part, "add_prefix_space", true);
    if (!is_string(json_object_get(part, "replacement"), SPACE_MARK)) {
        return refuse(reterr, "pre_tokenizer", part);
    }
    v->add_space_prefix = scheme == NULL ? old : !is_string(scheme, "never");
    v->space_prefix_once = is_string(scheme, "first");
    v->space_prefix_lazy = true;
    v->split_at_spaces = flag_of(part, "split", true);
    if (scheme != NULL && v->add_space_prefix && !v->space_prefix_once &&
        !is_string(scheme, "always")) {
        return refuse(reterr, "pre_tokenizer", part);
    }
    return TT_OK;
}

/* null; Metaspace; Gemma's Split at spaces, of which its normalizer leaves none. */
static tt_code read_space_marks(const struct parts *p, bool replaced, tt_vocab *v, tt_err *reterr)
{
    const json_t *part = p->n > 0 ? part_at(p, 0) : NULL;
    if (p->n == 0 && replaced) {
        return TT_OK;
    }
    if (p->n == 1 && is_type(part, "Metaspace") && !replaced) {
        return read_metaspace(part, v, reterr);
    }
    if (p->n == 1 && is_type(part, "Split") && replaced &&
        is_string(json_object_get(json_object_get(part, "pattern"), "String"), " ")) {
        return TT_OK;
    }
    return p->n == 0 ? tt_fail(reterr, TT_E_UNSUPPORTED, "tokenizer.json: no pre_tokenizer")
                     : refuse(reterr, "pre_tokenizer", part);
}

/* NFC; Prepend and Replace of spaces. *ret_replaced: the text has no spaces left. */
static tt_code read_normalizer(const json_t *root, tt_vocab *v, bool *ret_replaced, tt_err *reterr)
{
    struct parts p = parts_of(part_of(root, "normalizer"), "normalizers");
    *ret_replaced = false;
    v->nfc = TT_FLAG_OFF;
    for (size_t i = 0; i < p.n; i++) {
        const json_t *part = part_at(&p, i);
        bool alone = p.n == 1;
        if (alone && is_type(part, "NFC")) {
            v->nfc = TT_FLAG_ON;
        } else if (i == 0 && is_type(part, "Prepend") &&
                   is_string(json_object_get(part, "prepend"), SPACE_MARK)) {
            v->add_space_prefix = true;
        } else if (i + 1 == p.n && is_type(part, "Replace") &&
                   is_string(json_object_get(json_object_get(part, "pattern"), "String"), " ") &&
                   is_string(json_object_get(part, "content"), SPACE_MARK)) {
            *ret_replaced = true;
        } else {
            return refuse(reterr, "normalizer", part);
        }
    }
    if (v->add_space_prefix && !*ret_replaced) {
        return tt_fail(reterr, TT_E_UNSUPPORTED, "tokenizer.json: a normalizer that only prepends");
    }
    return TT_OK;
}

/* Our decoding drops one space at the beginning where encoding puts one: the file's decoder must do
 * the same. */
static tt_code check_decoder(const json_t *root, const tt_vocab *v, tt_err *reterr)
{
    static const char *const steps[] = {"Replace", "ByteFallback", "Fuse", "Strip"};
    const json_t *decoder = part_of(root, "decoder");
    struct parts p = parts_of(decoder, "decoders");
    if (v->kind == TT_VOCAB_BPE) {
        return p.n == 1 && is_type(part_at(&p, 0), "ByteLevel")
                   ? TT_OK
                   : refuse(reterr, "decoder", decoder);
    }
    if (p.n == 1 && is_type(part_at(&p, 0), "Metaspace")) {
        return TT_OK;
    }
    bool strips = false;
    size_t step = 0;
    for (size_t i = 0; i < p.n; i++) {
        const json_t *part = part_at(&p, i);
        while (step < 4 && !is_type(part, steps[step])) {
            step++;
        }
        if (step == 4) {
            return refuse(reterr, "decoder", part);
        }
        if (step == 0 &&
            (!is_string(json_object_get(json_object_get(part, "pattern"), "String"), SPACE_MARK) ||
             !is_string(json_object_get(part, "content"), " "))) {
            return refuse(reterr, "decoder", part);
        }
        if (step == 3) {
            strips = json_integer_value(json_object_get(part, "start")) == 1 &&
                     json_integer_value(json_object_get(part, "stop")) == 0 &&
                     is_string(json_object_get(part, "content"), " ");
        }
        step++;
    }
    if (p.n == 0 || strips != v->add_space_prefix) {
        return refuse(reterr, "decoder", decoder);
    }
    return TT_OK;
}

tt_code tt_tokenizer_shape_read(const json_t *root, tt_vocab *v, tt_err *reterr)
{
    bool replaced;
    struct parts p = parts_of(part_of(root, "pre_tokenizer"), "pretokenizers");
    tt_code rc = read_normalizer(root, v, &replaced, reterr);
    if (rc != TT_OK) {
        return rc;
    }
    bool byte_level = false;
    for (size_t i = 0; i < p.n; i++) {
        byte_level = byte_level || is_type(part_at(&p, i), "ByteLevel");
    }
    if (byte_level && !replaced) {
        v->kind = TT_VOCAB_BPE;
        rc = read_byte_level(&p, v, reterr);
    } else if (v->nfc == TT_FLAG_ON || byte_level) {
        rc = refuse(reterr, "normalizer", part_of(root, "normalizer"));
    } else {
        v->kind = TT_VOCAB_SPM;
        v->pre = text("");
        rc = read_space_marks(&p, replaced, v, reterr);
    }
    return rc == TT_OK ? check_decoder(root, v, reterr) : rc;
}

/* TemplateProcessing's "single": special tokens around the one sequence. */
static tt_code read_template(const json_t *part, json_int_t *before, json_int_t *after,
                             tt_err *reterr)
{
    const json_t *single = json_object_get(part, "single"),
                 *specials = json_object_get(part, "special_tokens");
    json_int_t *side = before;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *token = json_object_get(item, "SpecialToken");
        const char *name = json_string_value(json_object_get(token, "id"));
        if (json_object_get(item, "Sequence") != NULL && side == before) {
            side = after;
            continue;
        }
        const json_t *ids =
            name != NULL ? json_object_get(json_object_get(specials, name), "ids") : NULL;
        if (*side >= 0 || json_array_size(ids) != 1 || !json_is_integer(json_array_get(ids, 0))) {
            return refuse(reterr, "post_processor", part);
        }
        *side = json_integer_value(json_array_get(ids, 0));
    }
    return side == after ? TT_OK : refuse(reterr, "post_processor", part);
}

tt_code tt_tokenizer_shape_ends(const json_t *root, json_int_t *ret_before, json_int_t *ret_after,
                                tt_err *reterr)
{
    struct parts p = parts_of(part_of(root, "post_processor"), "processors");
    json_int_t before = -1, after = -1;
    for (size_t i = 0; i < p.n; i++) {
        const json_t *part = part_at(&p, i);
        tt_code rc = TT_OK;
        if (is_type(part, "TemplateProcessing") && before < 0 && after < 0) {
            rc = read_template(part, &before, &after, reterr);
        } else if (!is_type(part, "ByteLevel")) { /* that one only trims offsets */
            rc = refuse(reterr, "post_processor", part);
        }
        if (rc != TT_OK) {
            return rc;
        }
    }
    *ret_before = before;
    *ret_after = after;
    return TT_OK;
}
