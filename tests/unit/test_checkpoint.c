/* Checkpoints: what is written is read back, every dtype converts, and every lie in a header is
 * found and named. */
#include "io/checkpoint.h"
#include "scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <signal.h>

#include <cmocka.h>

/* A file of this header and data_bytes zeros; length < 0 stands for the header's own. */
static const char *make(struct scratch *scratch, const char *name, const char *header,
                        size_t data_bytes, int64_t length)
{
    static char bytes[1 << 16];
    size_t header_bytes = strlen(header);
    uint64_t stated = length < 0 ? header_bytes : (uint64_t)length;
    assert_true(8 + header_bytes + data_bytes <= sizeof bytes);
    memcpy(bytes, &stated, 8);
    memcpy(bytes + 8, header, header_bytes);
    memset(bytes + 8 + header_bytes, 0, data_bytes);
    return scratch_write(scratch, name, bytes, 8 + header_bytes + data_bytes);
}

static void refuse(const char *path, const char *words)
{
    struct checkpoint *checkpoint;
    struct error error = {0};
    if (checkpoint_open(&checkpoint, path, &error))
        fail_msg("accepted what should say '%s'", words);
    assert_null(checkpoint);
    if (!strstr(error.text, words))
        fail_msg("'%s' does not say '%s'", error.text, words);
    if (!strstr(error.text, path))
        fail_msg("'%s' does not name '%s'", error.text, path);
    assert_false(checkpoint_open(&checkpoint, path, NULL));
}

static struct checkpoint *open_good(const char *path)
{
    struct checkpoint *checkpoint = NULL;
    struct error error = {0};
    if (!checkpoint_open(&checkpoint, path, &error))
        fail_msg("%s", error.text);
    return checkpoint;
}

#define REFUSE_HEADER(header, data_bytes, words)                                                   \
    refuse(make(s, "x.safetensors", header, data_bytes, -1), words)

static void lies_about_offsets(void **state)
{
    struct scratch *s = *state;
    REFUSE_HEADER("{\"blocks.0.w\":{\"dtype\":\"F32\",\"shape\":[30],\"data_offsets\":[10,130]}}",
                  100, "tensor 'blocks.0.w' ends at byte 130, but the data ends at byte 100");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8,
                  "tensor 'w' begins at byte 8 and ends before, at 0");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8,
                  "tensor 'w' has 'data_offsets' that are no whole numbers");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8.5]}}", 8,
                  "no whole numbers");
    REFUSE_HEADER(
        "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,18446744073709551615]}}", 8,
        "no whole numbers");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9007199254740992]}}",
                  8, "no whole numbers");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8,
                  "no pair 'data_offsets'");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8,
                  "no pair 'data_offsets'");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":{}}}", 8,
                  "no pair 'data_offsets'");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[\"0\",\"8\"]}}", 8,
                  "no whole numbers");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "no pair 'data_offsets'");
}

static void tensors_cover_the_data(void **state)
{
    struct scratch *s = *state;
    REFUSE_HEADER("{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]},"
                  "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
                  16, "tensors 'a' and 'b' overlap at byte 8");
    REFUSE_HEADER("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                  "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
                  8, "overlap at byte 0");
    REFUSE_HEADER("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                  "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
                  12, "bytes 4 to 8 before tensor 'b' belong to no tensor");
    REFUSE_HEADER("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
                  "bytes 0 to 4 before tensor 'a' belong to no tensor");
    REFUSE_HEADER("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 6,
                  "last tensor ends at byte 4, but the data ends at byte 6");
    REFUSE_HEADER("{}", 1, "last tensor ends at byte 0, but the data ends at byte 1");
    REFUSE_HEADER("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                  "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
                  8, "tensor 'a' comes twice");
    REFUSE_HEADER(
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"model.diffusion_"
        "model.a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
        8, "tensor 'a' comes twice");
}

static void lies_about_shapes_and_types(void **state)
{
    struct scratch *s = *state;
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8,
                  "tensor 'w' has 8 bytes, its shape asks for 12 (F32)");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[0,4]}}", 4,
                  "has 4 bytes, its shape asks for 2 (BF16)");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],"
                  "\"data_offsets\":[0,8]}}",
                  8, "shape of more than 2^63 elements");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F64\",\"shape\":[2147483648,2147483648],"
                  "\"data_offsets\":[0,8]}}",
                  8, "shape of more than 2^63 bytes");
    /* 2^64 elements are 0 in 64 bits */
    REFUSE_HEADER("{\"w\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],"
                  "\"data_offsets\":[0,0]}}",
                  0, "shape of more than 2^63 elements");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8,
                  "dimension 0 of 'shape' is -2");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[2,1.5],\"data_offsets\":[0,8]}}", 8,
                  "dimension 1 of 'shape' is 1.5");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":[1e300],\"data_offsets\":[0,8]}}", 8,
                  "dimension 0 of 'shape'");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8,
                  "has no list 'shape'");
    REFUSE_HEADER(
        "{\"w\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8,
        "has 9 dimensions, at most 8");
    REFUSE_HEADER("{\"w\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "has no text 'dtype'");
    REFUSE_HEADER("{\"w\":{\"dtype\":32,\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
                  "has no text 'dtype'");
    REFUSE_HEADER("{\"w\":[]}", 0, "tensor 'w' is not described by a JSON object");
    REFUSE_HEADER("{\"w\":null}", 0, "is not described by a JSON object");
    REFUSE_HEADER("{\"\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
                  "name has 0 bytes");
}

static void broken_headers(void **state)
{
    struct scratch *s = *state;
    const char *one = "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    refuse(scratch_text(s, "x.safetensors", ""), "has 0 bytes, a safetensors file has at least 8");
    refuse(scratch_text(s, "x.safetensors", "1234567"), "has 7 bytes");
    refuse(make(s, "x.safetensors", one, 4, 0), "broken JSON");
    refuse(make(s, "x.safetensors", one, 4, 20), "broken JSON");
    refuse(make(s, "x.safetensors", one, 4, (int64_t)strlen(one) + 5),
           "header claims 59 bytes, but the file ends after 58");
    refuse(make(s, "x.safetensors", one, 4, 101 << 20), "at most 104857600 are allowed");
    refuse(make(s, "x.safetensors", one, 4, INT64_MAX), "header claims 9223372036854775807 bytes");
    refuse(scratch_text(s, "x.safetensors", "\377\377\377\377\377\377\377\377{}"),
           "header claims 18446744073709551615 bytes");
    refuse(scratch_text(s, "x.safetensors", "<!doctype html><html>...</html>"), "header claims");
    REFUSE_HEADER("[]", 0, "a JSON object { ... } was expected");
    REFUSE_HEADER("{} {}", 0, "text after the JSON document");
    REFUSE_HEADER("{\"w\":{\"dtype\":\"F32\"", 4, "broken JSON");
    refuse(scratch_path(s, "none.safetensors"), "cannot open");
    refuse("/dev/null", "not a regular file");
    refuse(scratch_folder(s, "empty"), "holds no weights");
    checkpoint_close(NULL);
}

/* Every prefix of a good file is refused; the file itself is read. */
static void every_truncation_is_found(void **state)
{
    struct scratch *s = *state;
    float values[6] = {1, 2, 3, 4, 5, 6};
    struct tensor_to_write tensors[] = {{"b", STORED_F32, 1, {4}, values},
                                        {"a.weight", STORED_F32, 2, {1, 2}, values + 4}};
    const char *path = scratch_path(s, "whole.safetensors");
    assert_true(safetensors_write(path, tensors, 2, NULL, NULL));
    static char bytes[4096];
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    for (size_t cut = 0; cut < size; cut++) {
        struct checkpoint *checkpoint;
        struct error error = {0};
        const char *part = scratch_write(s, "cut.safetensors", bytes, cut);
        if (checkpoint_open(&checkpoint, part, &error))
            fail_msg("%zu of %zu bytes were accepted", cut, size);
        assert_non_null(strstr(error.text, "cut.safetensors"));
    }
    checkpoint_close(open_good(scratch_path(s, "whole.safetensors")));
}

/* Any byte of the header may be anything: nothing but an answer may come of it. */
static void changed_bytes_do_no_harm(void **state)
{
    struct scratch *s = *state;
    const char *header = "{\"__metadata__\":{\"a\":\"b\"},\"w\":{\"dtype\":\"F16\",\"shape\":[2,2],"
                         "\"data_offsets\":[0,8]},\"v\":{\"dtype\":\"F32\",\"shape\":[2],"
                         "\"data_offsets\":[8,16]}}";
    static const char put[] = {'0', '9', '-', '"', '}', ']', ',', '\0', '\377', 'e', '\\'};
    char changed[256];
    for (size_t i = 0; i < strlen(header); i++)
        for (size_t k = 0; k < sizeof put; k++) {
            strcpy(changed, header);
            changed[i] = put[k];
            if (!put[k])
                continue;
            struct checkpoint *checkpoint;
            struct error error = {0};
            const char *path = make(s, "x.safetensors", changed, 16, -1);
            if (!checkpoint_open(&checkpoint, path, &error)) {
                assert_non_null(strstr(error.text, "x.safetensors"));
                continue;
            }
            for (int64_t t = 0; t < checkpoint_count(checkpoint); t++) {
                float out[64];
                const struct stored_tensor *tensor = checkpoint_at(checkpoint, t);
                if (tensor->bytes <= sizeof out)
                    checkpoint_read(checkpoint, tensor->name, tensor->shape, tensor->rank, out,
                                    &error);
            }
            checkpoint_close(checkpoint);
        }
}

static void assert_no_temporary(struct scratch *s, const char *name)
{
    char hidden[64];
    snprintf(hidden, sizeof hidden, ".%s.%ld.part", name, (long)getpid());
    assert_int_not_equal(access(scratch_path(s, hidden), F_OK), 0);
}

static void what_is_written_is_read(void **state)
{
    struct scratch *s = *state;
    const char *path = scratch_path(s, "all.safetensors");
    double f64[2] = {0.1, -1e300};
    float f32[2] = {0.1f, -3e38f};
    uint16_t f16[8] = {0x3c00, 0xc000, 0x0001, 0x83ff, 0x7bff, 0x7c00, 0xfc00, 0x0400};
    uint16_t bf16[4] = {0x3f80, 0xc049, 0x0001, 0xff80};
    int64_t i64[1] = {INT64_MIN};
    int32_t i32[3] = {1, -2, 3};
    uint8_t u8[3] = {1, 2, 255};
    struct tensor_to_write tensors[] = {
        {"f64", STORED_F64, 1, {2}, f64},    {"f32", STORED_F32, 2, {2, 1}, f32},
        {"f16", STORED_F16, 1, {8}, f16},    {"u8", STORED_U8, 1, {3}, u8},
        {"bf16", STORED_BF16, 1, {4}, bf16}, {"i64", STORED_I64, 0, {0}, i64},
        {"i32", STORED_I32, 1, {3}, i32},    {"empty \"\\\n", STORED_F32, 2, {0, 5}, NULL}};
    const char *metadata[] = {"prompt", "a \"red\" ball\\\n", "seed", "1", NULL};
    struct error error = {0};
    if (!safetensors_write(path, tensors, 8, metadata, &error))
        fail_msg("%s", error.text);
    struct checkpoint *c = open_good(path);
    assert_string_equal(checkpoint_path(c), path);
    assert_int_equal(checkpoint_count(c), 8);
    int64_t bytes, elements;
    checkpoint_totals(c, &bytes, &elements);
    assert_int_equal(bytes, 16 + 8 + 16 + 3 + 8 + 8 + 12);
    assert_int_equal(elements, 2 + 2 + 8 + 3 + 4 + 1 + 3);
    for (int i = 0; i < 8; i++) {
        const struct stored_tensor *tensor = checkpoint_find(c, tensors[i].name);
        assert_non_null(tensor);
        assert_int_equal(tensor->dtype, tensors[i].dtype);
        assert_int_equal(tensor->rank, tensors[i].rank);
        assert_memory_equal(tensor->shape, tensors[i].shape, (size_t)tensor->rank * 8);
        assert_string_equal(tensor->file, path);
        if (tensor->bytes)
            assert_memory_equal(tensor->data, tensors[i].data, tensor->bytes);
    }
    float out[8];
    assert_true(checkpoint_read(c, "f64", (int64_t[]){2}, 1, out, &error));
    assert_true(out[0] == 0.1f && out[1] == -INFINITY);
    assert_true(checkpoint_read(c, "f32", (int64_t[]){2}, 1, out, &error));
    assert_memory_equal(out, f32, sizeof f32);
    assert_true(checkpoint_read(c, "f16", (int64_t[]){8}, 1, out, &error));
    const float halves[] = {1, -2, 0x1p-24f, -0x3ffp-24f, 65504, INFINITY, -INFINITY, 0x1p-14f};
    assert_memory_equal(out, halves, sizeof halves);
    assert_true(checkpoint_read(c, "bf16", (int64_t[]){2, 2}, 2, out, &error) == false);
    assert_true(checkpoint_read(c, "bf16", (int64_t[]){4}, 1, out, &error));
    assert_true(out[0] == 1 && out[1] == -3.140625f && out[2] == 0x1p-133f && out[3] == -INFINITY);
    assert_true(checkpoint_read(c, "empty \"\\\n", (int64_t[]){0, 5}, 2, out, &error));
    assert_false(checkpoint_read(c, "u8", (int64_t[]){3}, 1, out, &error));
    assert_non_null(strstr(error.text, "tensor 'u8' is stored as U8, which is not read"));
    checkpoint_close(c);
    assert_no_temporary(s, "all.safetensors");
}

/* All 65536 halves against arithmetic; enough to be shared among threads and to leave a rest. */
static void every_half_converts(void **state)
{
    (void)state;
    enum { COUNT = 65536 * 9 + 5 };
    uint16_t *half = malloc(COUNT * sizeof *half + 1);
    float *got = malloc(COUNT * sizeof *got);
    assert_true(half && got);
    unsigned char *odd = (unsigned char *)half + 1; /* data lie anywhere */
    for (int i = 0; i < COUNT; i++) {
        uint16_t bits = (uint16_t)i;
        memcpy(odd + 2 * (size_t)i, &bits, 2);
    }
    assert_true(stored_to_float(STORED_F16, odd, COUNT, got));
    for (int i = 0; i < COUNT; i++) {
        int exponent = i >> 10 & 31, mantissa = i & 1023;
        double sign = i & 0x8000 ? -1 : 1;
        if (exponent == 31 && mantissa) {
            assert_true(isnan(got[i]));
            continue;
        }
        double want = exponent == 31  ? sign * INFINITY
                      : exponent == 0 ? sign * ldexp(mantissa, -24)
                                      : sign * ldexp(1024 + mantissa, exponent - 25);
        if (got[i] != want || !signbit(got[i]) != !signbit(want))
            fail_msg("half 0x%04x is %.9g, expected %.9g", i & 0xffff, (double)got[i], want);
    }
    assert_true(stored_to_float(STORED_BF16, odd, COUNT, got));
    for (int i = 0; i < COUNT; i++) {
        uint32_t bits;
        memcpy(&bits, &got[i], 4);
        assert_true(bits == (uint32_t)(i & 0xffff) << 16);
    }
    assert_false(stored_to_float(STORED_I32, odd, 1, got));
    free(half);
    free(got);
}

static void shapes_are_checked(void **state)
{
    struct scratch *s = *state;
    const char *path = make(s, "x.safetensors",
                            "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,1,3],\"data_offsets\":[0,24]},"
                            "\"q\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[24,27]},"
                            "\"n\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[27,29]},"
                            "\"b\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[29,32]}}",
                            32, -1);
    struct checkpoint *c = open_good(path);
    struct error error = {0};
    float out[6];
    assert_true(checkpoint_read(c, "w", (int64_t[]){2, 1, 3}, 3, out, &error));
    assert_true(checkpoint_read(c, "w", (int64_t[]){2, 3}, 2, out, &error));
    assert_true(checkpoint_read(c, "w", (int64_t[]){1, 2, 3, 1, 1}, 5, out, &error));
    assert_false(checkpoint_read(c, "w", (int64_t[]){3, 2}, 2, out, &error));
    assert_non_null(
        strstr(error.text, "x.safetensors: tensor 'w' has shape [2, 1, 3], expected [3, 2]"));
    assert_false(checkpoint_read(c, "w", (int64_t[]){6}, 1, out, &error));
    assert_false(checkpoint_read(c, "w", (int64_t[]){2}, 1, out, &error));
    assert_false(checkpoint_read(c, "w", NULL, 0, out, &error));
    assert_false(checkpoint_read(c, "nothing", (int64_t[]){6}, 1, out, &error));
    assert_non_null(strstr(error.text, "tensor 'nothing' is missing among its 4"));
    assert_false(checkpoint_read(c, "q", (int64_t[]){3}, 1, out, &error));
    assert_non_null(strstr(error.text, "tensor 'q' is stored as F8_E4M3, which is not read; use a "
                                       "checkpoint in F32, BF16 or F16"));
    assert_false(checkpoint_read(c, "n", (int64_t[]){3}, 1, out, &error));
    assert_false(checkpoint_read(c, "b", (int64_t[]){3}, 1, out, &error));
    assert_non_null(strstr(error.text, "BOOL"));
    checkpoint_close(c);
}

static const char *upper_w(const char *name, char *buffer, size_t size)
{
    snprintf(buffer, size, "original.%s", name);
    return buffer;
}

static void names_have_aliases(void **state)
{
    struct scratch *s = *state;
    const char *entry = "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\"";
    char header[512];
    snprintf(header, sizeof header,
             "{\"model.diffusion_model.original.w\":{%s:[0,4]},\"shared.weight\":{%s:[4,8]},"
             "\"v\":{%s:[8,12]}}",
             entry, entry, entry);
    struct checkpoint *c = open_good(make(s, "x.safetensors", header, 12, -1));
    assert_non_null(checkpoint_find(c, "original.w"));
    assert_null(checkpoint_find(c, "w"));
    assert_ptr_equal(checkpoint_find(c, "encoder.embed_tokens.weight"),
                     checkpoint_find(c, "shared.weight"));
    checkpoint_set_rename(c, upper_w);
    assert_string_equal(checkpoint_find(c, "w")->name, "original.w");
    assert_string_equal(checkpoint_find(c, "v")->name, "v"); /* a part in the other layout */
    assert_null(checkpoint_find(c, "u"));
    struct error error = {0};
    float out;
    assert_false(checkpoint_read(c, "u", (int64_t[]){1}, 1, &out, &error));
    assert_non_null(strstr(error.text, "'original.u' is missing"));
    checkpoint_close(c);
}

static void shards_through_an_index(void **state)
{
    struct scratch *s = *state;
    char folder[256], index[300];
    snprintf(folder, sizeof folder, "%s", scratch_folder(s, "sharded"));
    snprintf(index, sizeof index, "%s/model.safetensors.index.json", folder);
    float one = 1, two = 2;
    struct tensor_to_write a = {"a", STORED_F32, 1, {1}, &one}, b = {"b", STORED_F32, 1, {1}, &two};
    assert_true(safetensors_write(scratch_path(s, "sharded/1.safetensors"), &a, 1, NULL, NULL));
    assert_true(safetensors_write(scratch_path(s, "sharded/2.safetensors"), &b, 1, NULL, NULL));
    scratch_text(s, "sharded/model.safetensors.index.json",
                 "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"a\":\"1.safetensors\",\"b\":"
                 "\"2.safetensors\"}}");
    const char *paths[] = {folder, index};
    for (int i = 0; i < 2; i++) {
        struct checkpoint *c = open_good(paths[i]);
        assert_string_equal(checkpoint_path(c), index);
        assert_int_equal(checkpoint_count(c), 2);
        float out;
        assert_true(checkpoint_read(c, "b", (int64_t[]){1}, 1, &out, NULL));
        assert_true(out == 2);
        assert_non_null(strstr(checkpoint_find(c, "b")->file, "sharded/2.safetensors"));
        checkpoint_close(c);
    }
    static const char *const broken[][2] = {
        {"{}", "has no 'weight_map'"},
        {"{\"weight_map\":{}}", "has no 'weight_map'"},
        {"{\"weight_map\":[]}", "has no 'weight_map'"},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"3.safetensors\"}}",
         "shard '3.safetensors' is missing beside it (tensor 'b' is in it)"},
        {"{\"weight_map\":{\"a\":\"../sharded/1.safetensors\"}}",
         "said to be in '../sharded/1.safetensors', which is outside the folder"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "which is outside the folder"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "which is outside the folder"},
        {"{\"weight_map\":{\"a\":\"\"}}", "gives no file name for tensor 'a'"},
        {"{\"weight_map\":{\"a\":7}}", "gives no file name for tensor 'a'"},
        {"{\"weight_map\":{\"a\":\"2.safetensors\"}}",
         "tensor 'a' is not in '2.safetensors' as the index says"},
        {"{\"weight_map\":{\"c\":\"1.safetensors\"}}", "tensor 'c' is not in '1.safetensors'"},
        {"{\"weight_map\":{\"a\":\"model.safetensors.index.json\"}}", "header claims"},
        {"{\"weight_map\"", "broken JSON"},
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        struct checkpoint *c;
        struct error error = {0};
        scratch_text(s, "sharded/model.safetensors.index.json", broken[i][0]);
        assert_false(checkpoint_open(&c, folder, &error));
        if (!strstr(error.text, broken[i][1]) ||
            !strstr(error.text, "model.safetensors.index.json"))
            fail_msg("'%s' does not say '%s'", error.text, broken[i][1]);
    }
    assert_true(safetensors_write(scratch_path(s, "sharded/2.safetensors"), &a, 1, NULL, NULL));
    struct checkpoint *c;
    struct error error = {0};
    scratch_text(s, "sharded/model.safetensors.index.json",
                 "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}");
    assert_false(checkpoint_open(&c, folder, &error));
    assert_non_null(strstr(error.text, "tensor 'a' comes twice (also in "));
}

static void failed_writes_leave_nothing(void **state)
{
    struct scratch *s = *state;
    float zeros[1024] = {0};
    struct tensor_to_write tensor = {"w", STORED_F32, 1, {1024}, zeros};
    struct error error = {0};
    const char *path = scratch_path(s, "no/such/folder.safetensors");
    assert_false(safetensors_write(path, &tensor, 1, NULL, &error));
    assert_non_null(strstr(error.text, "no/such/folder.safetensors': cannot write in the folder"));

    /* A limit on the size of files stands in for a full disk. */
    path = scratch_text(s, "kept.safetensors", "what was there before");
    struct rlimit before, little = {512, 512};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    little.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    bool written = safetensors_write(path, &tensor, 1, NULL, &error);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_false(written);
    assert_non_null(strstr(error.text, "kept.safetensors: cannot write: "));
    assert_no_temporary(s, "kept.safetensors");
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 21);

    tensor.shape[0] = INT64_MAX;
    assert_false(safetensors_write(path, &tensor, 1, NULL, &error));
    assert_non_null(strstr(error.text, "cannot describe"));
    tensor.shape[0] = 1;
    tensor.dtype = STORED_OTHER;
    assert_false(safetensors_write(path, &tensor, 1, NULL, &error));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lies_about_offsets),
        cmocka_unit_test(tensors_cover_the_data),
        cmocka_unit_test(lies_about_shapes_and_types),
        cmocka_unit_test(broken_headers),
        cmocka_unit_test(every_truncation_is_found),
        cmocka_unit_test(changed_bytes_do_no_harm),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(every_half_converts),
        cmocka_unit_test(shapes_are_checked),
        cmocka_unit_test(names_have_aliases),
        cmocka_unit_test(shards_through_an_index),
        cmocka_unit_test(failed_writes_leave_nothing),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
