/* Words by white space, ids by FNV-1a. */
#include "synthetic_prompt.h"

#include <string.h>

#define END 1

int64_t synthetic_prompt(const char *text, int32_t *ids, int64_t limit, int64_t vocab, int64_t *cut)
{
    static const char space[] = " \t\r\n";
    int64_t count = 0;
    *cut = 0;
    for (text += strspn(text, space); *text; text += strspn(text, space)) {
        uint64_t hash = UINT64_C(0xcbf29ce484222325);
        for (size_t left = strcspn(text, space); left > 0; left--)
            hash = (hash ^ (unsigned char)*text++) * UINT64_C(0x100000001b3);
        if (count < limit - 1)
            ids[count++] = (int32_t)(END + 1 + (int64_t)(hash % (uint64_t)(vocab - END - 1)));
        else
            ++*cut;
    }
    ids[count++] = END;
    return count;
}
