/* Any text as a prompt: cleaned, split by the tokenizer of the golden tests, cut to a length that
 * the first byte says. */
#define _GNU_SOURCE
#include "fuzz_input.h"

#include "io/tokenizer.h"

#define MODEL TEST_SOURCE_DIR "/tests/golden/cases/tokenizer/spiece.model"

static struct tokenizer *open_once(void)
{
    static struct tokenizer *tokenizer;
    struct error error = {0};
    if (!tokenizer && !tokenizer_open(&tokenizer, MODEL, &error)) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
    return tokenizer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct tokenizer *tokenizer = open_once();
    struct fuzz_input input = {data, size};
    int64_t room = fuzz_byte(&input), count, cut;
    char *text = fuzz_text(input.data, input.size);
    int32_t *ids = fuzz_alloc((size_t)room * sizeof *ids);
    struct error error = {0};
    if (tokenizer_prompt(tokenizer, text, ids, room, &count, &cut, &error)) {
        if (count < 1 || count > room || cut < 0)
            abort();
        for (int64_t i = 0; i < count; i++)
            if (ids[i] < 0)
                abort();
    } else if (!error.text[0]) {
        abort();
    }
    free(ids);
    free(text);
    return 0;
}
