/*
 * Prompts to ids as the fast tokenizer of the public pipelines gives them, on top of the
 * SentencePiece library. The two differ in three ways, which are made up for here: strings such as
 * </s> inside a prompt are matched before the text is split (the pieces marked as control, and what
 * tokenizer_config.json beside the model adds), a character without a piece is <unk> even where the
 * model could spell its bytes, and a row of such characters is one <unk>.
 */
#include "tokenizer.h"

#include "json_file.h"
#include "sentencepiece_shim.h"
#include "spiece_check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MODEL_BYTES_MAX  ((size_t)256 << 20)
#define CONFIG_BYTES_MAX ((size_t)16 << 20)
#define ID_MAX           (1 << 24)
#define CONFIG_NAME      "tokenizer_config.json"

/* A string that is one id wherever it stands. */
struct added {
    char *text;
    size_t length;
    int32_t id;
};

struct tokenizer {
    char *path;
    struct spiece *spiece;
    int32_t unknown, end; /* <unk>, </s> */
    struct added *added;
    size_t added_count;
    bool begins_added[256]; /* whether one begins with this byte */
};

static bool read_file(const char *path, char **bytes, size_t *size, struct error *error)
{
    *bytes = NULL;
    struct stat info;
    if (stat(path, &info) != 0)
        return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return error_set(error, "%s: is not a regular file", path);
    if (info.st_size <= 0 || (uint64_t)info.st_size > MODEL_BYTES_MAX)
        return error_set(error, "%s: has %lld bytes, a SentencePiece model has 1 to %zu", path,
                         (long long)info.st_size, MODEL_BYTES_MAX);
    *size = (size_t)info.st_size;
    FILE *file = fopen(path, "rb");
    if (!file)
        return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    *bytes = malloc(*size);
    bool ok = *bytes && fread(*bytes, 1, *size, file) == *size;
    if (!ok && !*bytes)
        error_out_of_memory(error, path, *size);
    else if (!ok)
        error_set(error, "%s: cannot read all of its %zu bytes", path, *size);
    fclose(file);
    return ok;
}

static bool add(struct tokenizer *tokenizer, const char *text, int32_t id, struct error *error)
{
    for (size_t i = 0; i < tokenizer->added_count; i++)
        if (strcmp(tokenizer->added[i].text, text) == 0)
            return true;
    size_t count = tokenizer->added_count + 1;
    struct added *added = realloc(tokenizer->added, count * sizeof *added);
    if (!added)
        return error_out_of_memory(error, tokenizer->path, count * sizeof *added);
    tokenizer->added = added;
    struct added *last = &added[tokenizer->added_count];
    *last = (struct added){.text = strdup(text), .length = strlen(text), .id = id};
    if (!last->text)
        return error_out_of_memory(error, tokenizer->path, strlen(text));
    tokenizer->added_count = count;
    tokenizer->begins_added[(unsigned char)text[0]] = true;
    return true;
}

static bool add_controls(struct tokenizer *tokenizer, struct error *error)
{
    tokenizer->unknown = tokenizer->end = -1;
    for (int32_t id = 0; id < spiece_count(tokenizer->spiece); id++) {
        enum spiece_kind kind = spiece_kind(tokenizer->spiece, id);
        if (kind != SPIECE_CONTROL && kind != SPIECE_UNKNOWN)
            continue;
        const char *text = spiece_text(tokenizer->spiece, id);
        if (kind == SPIECE_UNKNOWN)
            tokenizer->unknown = id;
        else if (strcmp(text, "</s>") == 0)
            tokenizer->end = id;
        if (text[0] && !add(tokenizer, text, id, error))
            return false;
    }
    if (tokenizer->unknown < 0 || tokenizer->end < 0)
        return error_set(error, "%s: has no piece '%s'; a tokenizer of UMT5 has one",
                         tokenizer->path, tokenizer->end < 0 ? "</s>" : "<unk>");
    return true;
}

/* {"added_tokens_decoder": {"256000": {"content": "<extra_id_0>", ...}, ...}} */
static bool add_configured(struct tokenizer *tokenizer, const char *path, struct error *error)
{
    cJSON *root = json_read(path, CONFIG_BYTES_MAX, error);
    if (!root)
        return false;
    const cJSON *tokens = cJSON_GetObjectItemCaseSensitive(root, "added_tokens_decoder"), *item;
    bool ok = true;
    cJSON_ArrayForEach(item, tokens)
    {
        const char *text =
            cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive((cJSON *)item, "content"));
        char *end = NULL;
        long id = item->string ? strtol(item->string, &end, 10) : -1;
        if (!text || !text[0] || !end || end == item->string || *end || id < 0 || id > ID_MAX)
            ok = error_set(error,
                           "%s: entry '%.100s' of 'added_tokens_decoder' is no id with a text",
                           path, item->string ? item->string : "");
        else
            ok = add(tokenizer, text, (int32_t)id, error);
        if (!ok)
            break;
    }
    cJSON_Delete(root);
    return ok;
}

/* The file is optional: without it only the model's own control pieces are known. */
static bool add_config_beside(struct tokenizer *tokenizer, struct error *error)
{
    const char *slash = strrchr(tokenizer->path, '/');
    size_t folder = slash ? (size_t)(slash - tokenizer->path) + 1 : 0;
    char *path = malloc(folder + sizeof CONFIG_NAME);
    if (!path)
        return error_out_of_memory(error, tokenizer->path, folder);
    memcpy(path, tokenizer->path, folder);
    memcpy(path + folder, CONFIG_NAME, sizeof CONFIG_NAME);
    struct stat info;
    bool ok = stat(path, &info) != 0 || add_configured(tokenizer, path, error);
    free(path);
    return ok;
}

static bool load(struct tokenizer *tokenizer, const char *path, struct error *error)
{
    tokenizer->path = strdup(path);
    if (!tokenizer->path)
        return error_out_of_memory(error, path, strlen(path));
    char *bytes, message[400] = "";
    size_t size = 0;
    bool ok = read_file(path, &bytes, &size, error);
    if (ok) {
        const char *wrong = spiece_check(bytes, size);
        if (!wrong && !(tokenizer->spiece = spiece_load(bytes, size, message, sizeof message)))
            wrong = message;
        if (wrong && strcmp(wrong, SPIECE_OUT_OF_MEMORY) == 0)
            ok = error_out_of_memory(error, path, size);
        else if (wrong)
            ok = error_set(
                error, "%s: is not a SentencePiece model, or a damaged one (download it again): %s",
                path, wrong);
    }
    free(bytes);
    return ok && add_controls(tokenizer, error) && add_config_beside(tokenizer, error);
}

bool tokenizer_open(struct tokenizer **out, const char *path, struct error *error)
{
    *out = NULL;
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer)
        return error_out_of_memory(error, path, sizeof *tokenizer);
    if (!load(tokenizer, path, error)) {
        tokenizer_close(tokenizer);
        return false;
    }
    *out = tokenizer;
    return true;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    for (size_t i = 0; i < tokenizer->added_count; i++)
        free(tokenizer->added[i].text);
    free(tokenizer->added);
    spiece_free(tokenizer->spiece);
    free(tokenizer->path);
    free(tokenizer);
}

int64_t tokenizer_pieces(const struct tokenizer *tokenizer)
{
    return spiece_count(tokenizer->spiece);
}

static bool encode(const struct tokenizer *tokenizer, const char *text, size_t size, int32_t **ids,
                   int64_t *count, struct error *error)
{
    char message[400] = "";
    *ids = NULL;
    *count = 0;
    if (spiece_encode(tokenizer->spiece, text, size, ids, count, message, sizeof message))
        return true;
    return error_set(error, "%s: cannot split the text into pieces: %s", tokenizer->path, message);
}

bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, int32_t *ids,
                      int64_t capacity, int64_t *count, struct error *error)
{
    int32_t *found;
    if (!encode(tokenizer, text, strlen(text), &found, count, error))
        return false;
    for (int64_t i = 0; i < *count && i < capacity; i++)
        ids[i] = found[i];
    free(found);
    return true;
}

/* Ids of a prompt while they are found: those that fit are written, all are counted. */
struct output {
    int32_t *ids;
    int64_t capacity, count;
};

static void put(struct output *output, int32_t id)
{
    if (output->count < output->capacity)
        output->ids[output->count] = id;
    output->count++;
}

/* Text without added tokens. Bytes are what the model spells an unknown character with. */
static bool put_text(const struct tokenizer *tokenizer, const char *text, size_t size,
                     struct output *output, struct error *error)
{
    int32_t *ids;
    int64_t count;
    if (!encode(tokenizer, text, size, &ids, &count, error))
        return false;
    bool in_unknown = false;
    for (int64_t i = 0; i < count; i++) {
        bool unknown =
            ids[i] == tokenizer->unknown || spiece_kind(tokenizer->spiece, ids[i]) == SPIECE_BYTE;
        if (!unknown)
            put(output, ids[i]);
        else if (!in_unknown)
            put(output, tokenizer->unknown);
        in_unknown = unknown;
    }
    free(ids);
    return true;
}

/* The longest added token that begins text; NULL for none. */
static const struct added *match_added(const struct tokenizer *tokenizer, const char *text)
{
    const struct added *best = NULL;
    if (!tokenizer->begins_added[(unsigned char)text[0]])
        return NULL;
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        const struct added *added = &tokenizer->added[i];
        if ((!best || added->length > best->length) &&
            strncmp(text, added->text, added->length) == 0)
            best = added;
    }
    return best;
}

static bool put_prompt(const struct tokenizer *tokenizer, const char *text, struct output *output,
                       struct error *error)
{
    const char *start = text;
    bool ok = true;
    while (ok && *text) {
        const struct added *added = match_added(tokenizer, text);
        if (!added) {
            text++;
            continue;
        }
        if (text > start)
            ok = put_text(tokenizer, start, (size_t)(text - start), output, error);
        put(output, added->id);
        start = text += added->length;
    }
    if (ok && text > start)
        ok = put_text(tokenizer, start, (size_t)(text - start), output, error);
    return ok;
}

bool tokenizer_prompt(const struct tokenizer *tokenizer, const char *text, int32_t *ids,
                      int64_t max_ids, int64_t *count, int64_t *cut, struct error *error)
{
    *count = *cut = 0;
    if (max_ids < 1)
        return error_set(error, "a prompt takes at least 1 id, %lld are allowed",
                         (long long)max_ids);
    char *clean = text_clean(text, error);
    if (!clean)
        return false;
    struct output output = {.ids = ids, .capacity = max_ids - 1};
    bool ok = put_prompt(tokenizer, clean, &output, error);
    free(clean);
    if (!ok)
        return false;
    int64_t kept = output.count < output.capacity ? output.count : output.capacity;
    ids[kept] = tokenizer->end;
    *count = kept + 1;
    *cut = output.count - kept;
    return true;
}
