/*
 * A SentencePiece model is a protobuf message. The library checks that much itself, but not the
 * table of character replacements inside: a double-array trie (Yata's "Darts-clone") that it
 * follows without looking where it leads, and the strings that its leaves point to. A damaged file
 * would make it read anywhere. Here every state that can be reached is visited once.
 *
 * The table: length of the trie in bytes (32 bits), its units (32 bits each), then strings that end
 * with NUL. A unit holds the byte that leads to it (bits 0-7, with bit 31: a leaf's value, which no
 * byte leads to), whether a leaf is below it (bit 8), and the distance to its children (bits 10-30,
 * times 256 with bit 9); the child for byte c of the unit at i is at i ^ distance ^ c.
 */
#include "spiece_check.h"

#include "sentencepiece_shim.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct bytes {
    const unsigned char *at;
    size_t left;
};

static bool read_varint(struct bytes *in, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64 && in->left > 0; shift += 7) {
        unsigned char byte = *in->at++;
        in->left--;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return true;
    }
    return false;
}

/* The next field of a message; text is what a field of bytes holds. False at the end and for
 * damage. */
static bool next_field(struct bytes *in, uint64_t *number, struct bytes *text)
{
    uint64_t tag, size = 0;
    *text = (struct bytes){NULL, 0};
    if (!read_varint(in, &tag))
        return false;
    *number = tag >> 3;
    switch (tag & 7) {
    case 0:
        return read_varint(in, &size);
    case 1:
        size = 8;
        break;
    case 2:
        if (!read_varint(in, &size))
            return false;
        break;
    case 5:
        size = 4;
        break;
    default:
        return false;
    }
    if (size > in->left)
        return false;
    if ((tag & 7) == 2)
        *text = (struct bytes){in->at, (size_t)size};
    in->at += size;
    in->left -= (size_t)size;
    return true;
}

struct trie {
    const unsigned char *units;
    uint32_t count;
    size_t string_bytes;
};

static uint32_t unit_at(const struct trie *trie, uint32_t index)
{
    uint32_t unit;
    memcpy(&unit, trie->units + (size_t)index * 4, sizeof unit);
    return unit;
}

/* Where the children of the unit at index begin; false where one would lie outside. */
static bool children_of(const struct trie *trie, uint32_t index, uint32_t *first)
{
    uint32_t unit = unit_at(trie, index);
    uint64_t distance = (uint64_t)(unit >> 10) << ((unit & 0x200) >> 6);
    uint64_t base = index ^ distance;
    *first = (uint32_t)base;
    return (base | 0xff) < trie->count;
}

/* Visits every unit that can be reached; stack and seen have room for all of them. */
static bool walk(const struct trie *trie, uint32_t *stack, bool *seen)
{
    uint32_t height = 0;
    stack[height++] = 0;
    seen[0] = true;
    while (height > 0) {
        uint32_t index = stack[--height], first;
        if (!children_of(trie, index, &first))
            return false;
        if (unit_at(trie, index) & 0x100 &&
            (unit_at(trie, first) & 0x7fffffff) >= trie->string_bytes)
            return false;
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t child = first ^ byte;
            if ((unit_at(trie, child) & 0x800000ff) != byte || seen[child])
                continue;
            seen[child] = true;
            stack[height++] = child;
        }
    }
    return true;
}

static const char *check_replacements(struct bytes map)
{
    static const char *const damaged = "the table of character replacements is damaged";
    uint32_t trie_bytes;
    if (map.left == 0)
        return NULL; /* none */
    if (map.left < sizeof trie_bytes)
        return damaged;
    memcpy(&trie_bytes, map.at, sizeof trie_bytes);
    size_t rest = map.left - sizeof trie_bytes;
    if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes >= rest ||
        map.at[map.left - 1] != '\0')
        return damaged;
    const struct trie trie = {map.at + sizeof trie_bytes, trie_bytes / 4, rest - trie_bytes};
    uint32_t *stack = malloc((size_t)trie.count * sizeof *stack);
    bool *seen = calloc(trie.count, sizeof *seen);
    const char *wrong = NULL;
    if (!stack || !seen)
        wrong = SPIECE_OUT_OF_MEMORY;
    else if (!walk(&trie, stack, seen))
        wrong = damaged;
    free(seen);
    free(stack);
    return wrong;
}

const char *spiece_check(const void *bytes, size_t size)
{
    enum { PIECES = 1, NORMALIZER = 3, REPLACEMENTS = 2 };
    struct bytes model = {bytes, size}, part = {NULL, 0}, map = {NULL, 0};
    bool pieces = false;
    const char *wrong = NULL;
    uint64_t field;
    while (!wrong && model.left > 0) {
        if (!next_field(&model, &field, &part))
            return "it is no protobuf message, or one that was cut off";
        pieces = pieces || field == PIECES;
        while (field == NORMALIZER && !wrong && part.left > 0) {
            uint64_t inner;
            if (!next_field(&part, &inner, &map))
                return "its normalizer is damaged";
            if (inner == REPLACEMENTS)
                wrong = check_replacements(map);
        }
    }
    return wrong ? wrong : pieces ? NULL : "it has no pieces";
}
