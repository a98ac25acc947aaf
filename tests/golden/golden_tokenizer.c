/* Raw SentencePiece encodings: cases.json is a list of {"text", "ids"} for the spiece.model beside
 * it. */
#include "golden.h"

#include "io/tokenizer.h"

#include <cjson/cJSON.h>

#include <stdio.h>
#include <stdlib.h>

static cJSON *read_cases(const char *dir, struct error *error)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/cases.json", dir);
    FILE *file = fopen(path, "rb");
    if (!file) {
        error_set(error, "%s: cannot open", path);
        return NULL;
    }
    const size_t most = (size_t)16 << 20;
    char *text = malloc(most);
    size_t size = text ? fread(text, 1, most, file) : 0;
    fclose(file);
    cJSON *cases = cJSON_ParseWithLength(text ? text : "", size);
    free(text);
    if (!cJSON_IsArray(cases) || !cases->child) {
        error_set(error, "%s: is no list of cases", path);
        cJSON_Delete(cases);
        return NULL;
    }
    return cases;
}

static bool check_case(const struct tokenizer *tokenizer, const cJSON *item, struct error *error)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(item, "text"));
    const cJSON *want = cJSON_GetObjectItem(item, "ids"), *id;
    if (!text || !cJSON_IsArray(want))
        return error_set(error, "a case has no 'text' or no 'ids'");
    static int32_t ids[65536];
    int64_t count;
    if (!tokenizer_encode(tokenizer, text, ids, 65536, &count, error))
        return false;
    if (count != cJSON_GetArraySize(want) || count > 65536)
        return error_set(error, "'%.80s' has %lld ids, expected %d", text, (long long)count,
                         cJSON_GetArraySize(want));
    int i = 0;
    cJSON_ArrayForEach(id, want)
    {
        if (ids[i] != id->valueint)
            return error_set(error, "'%.80s': id %d is %d, expected %d", text, i, ids[i],
                             id->valueint);
        i++;
    }
    return true;
}

bool golden_tokenizer(const struct golden *golden, struct error *error)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/spiece.model", golden->dir);
    struct tokenizer *tokenizer;
    if (!tokenizer_open(&tokenizer, path, error))
        return false;
    cJSON *cases = read_cases(golden->dir, error);
    bool ok = cases != NULL;
    const cJSON *item;
    int count = 0;
    if (ok)
        cJSON_ArrayForEach(item, cases)
        {
            if (!(ok = check_case(tokenizer, item, error)))
                break;
            count++;
        }
    if (ok)
        printf(" %d texts", count);
    cJSON_Delete(cases);
    tokenizer_close(tokenizer);
    return ok;
}
