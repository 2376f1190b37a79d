/* metadata.c - see metadata.h. The bounds are those of the OpenAI API. */
#include "server/metadata.h"

#include <string.h>

#include "server/api_json.h"

static bool pair_fits(const char *key, const json_t *value, tt_http_error *e)
{
    if (tt_utf8_count(key, strlen(key)) > TT_METADATA_KEY) {
        return tt_json_refuse(e, "", "metadata", NULL, "has a key longer than %d characters",
                              TT_METADATA_KEY);
    }
    if (!json_is_string(value)) {
        return tt_json_refuse(e, "metadata.", key, NULL, "must be a string, not %s",
                              tt_json_type_name(value));
    }
    if (tt_utf8_count(json_string_value(value), json_string_length(value)) > TT_METADATA_VALUE) {
        return tt_json_refuse(e, "metadata.", key, NULL, "is longer than %d characters",
                              TT_METADATA_VALUE);
    }
    return true;
}

bool tt_metadata_parse(const json_t *v, tt_buf *ret, tt_http_error *e)
{
    const char *key, *comma = "";
    json_t *value;
    if (v != NULL && !json_is_null(v) && !json_is_object(v)) {
        return tt_json_refuse(e, "", "metadata", NULL, "must be an object of strings, not %s",
                              tt_json_type_name(v));
    }
    if (json_object_size(v) > TT_METADATA_PAIRS) {
        return tt_json_refuse(e, "", "metadata", NULL, "has %zu pairs; %d are the most",
                              json_object_size(v), TT_METADATA_PAIRS);
    }
    tt_buf_putc(ret, '{');
    json_object_foreach((json_t *)v, key, value)
    {
        if (!pair_fits(key, value, e)) {
            return false;
        }
        tt_buf_puts(ret, comma);
        tt_buf_puts_json(ret, key);
        tt_buf_putc(ret, ':');
        tt_buf_put_json(ret, json_string_value(value), json_string_length(value));
        comma = ",";
    }
    tt_buf_putc(ret, '}');
    return true;
}
