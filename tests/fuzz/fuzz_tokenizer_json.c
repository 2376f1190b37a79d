/* fuzz_tokenizer_json.c - any bytes as a tokenizer.json (a NUL may divide it from a
 * tokenizer_config.json); what is accepted must make a tokenizer, or fail to, and encode and decode
 * within its vocabulary. Thread: main. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/tokenizer.h"
#include "core/tokenizer_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "fuzz_tokenizer_json: %s\n", what);
        abort();
    }
}

static void use(const tt_tokenizer *tok)
{
    static const char text[] = "Hello  w\xc3\xb6rld 123\n\n<s> \xe2\x96\x81 ab\xff<0x41>";
    int32_t *ids;
    size_t n_ids, n;
    char *decoded;
    tt_encode_options opt = {.add_special = true};
    require(tt_tokenizer_encode(tok, text, sizeof text - 1, &opt, &ids, &n_ids, NULL) == TT_OK,
            "encode");
    for (size_t i = 0; i < n_ids; i++) {
        require(ids[i] >= 0 && ids[i] < tt_tokenizer_vocab(tok)->n_tokens, "an id out of range");
    }
    require(tt_tokenizer_decode(tok, ids, n_ids, true, &decoded, &n, NULL) == TT_OK, "decode");
    free(decoded);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size > 0 ? memchr(data, 0, size) : NULL;
    size_t n = nul != NULL ? (size_t)(nul - data) : size;
    tt_tokenizer_json *json = NULL;
    tt_tokenizer *tok = NULL;
    tt_err err = {.code = TT_OK};
    tt_code rc =
        tt_tokenizer_json_parse((const char *)data, n, nul != NULL ? (const char *)nul + 1 : NULL,
                                nul != NULL ? size - n - 1 : 0, &json, &err);
    require(rc == TT_OK || (json == NULL && err.code == rc && strlen(err.msg) > 0),
            "a failure that says nothing");
    if (rc == TT_OK) {
        rc = tt_tokenizer_create(tt_tokenizer_json_vocab(json), &tok, &err);
        require(rc == TT_OK || (tok == NULL && err.code == rc), "a failure that says nothing");
    }
    if (rc == TT_OK) {
        use(tok);
    }
    tt_tokenizer_destroy(&tok);
    tt_tokenizer_json_destroy(&json);
    return 0;
}
