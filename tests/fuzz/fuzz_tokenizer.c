/* A SentencePiece model from anywhere, and prompts through what is accepted. */
#define _GNU_SOURCE
#include "fuzz_input.h"

#include "io/tokenizer.h"

#define MAX_IDS 64

static void encode(const struct tokenizer *tokenizer, const char *prompt)
{
    struct error error = {0};
    int32_t ids[MAX_IDS];
    int64_t count, cut;
    if (tokenizer_prompt(tokenizer, prompt, ids, MAX_IDS, &count, &cut, &error) &&
        (count < 1 || count > MAX_IDS || cut < 0))
        abort();
    if (tokenizer_encode(tokenizer, prompt, ids, MAX_IDS, &count, &error) && count < 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_file file;
    struct error error = {0};
    struct tokenizer *tokenizer = NULL;
    if (!file.path[0])
        fuzz_file_open(&file);
    fuzz_file_write(&file, data, size, 0);
    if (tokenizer_open(&tokenizer, file.path, &error)) {
        encode(tokenizer, "");
        encode(tokenizer, "A red ball\tABBA </s> on <unk><pad>\xc3\xa9 \xe4\xb8\xad\xe6\x96\x87 a");
    } else if (!error.text[0] || tokenizer) {
        abort();
    }
    tokenizer_close(tokenizer);
    return 0;
}
