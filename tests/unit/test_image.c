/* Still images: a round trip, and what is refused. */
#include "io/image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "%s/draftattn-test-XXXXXX", P_tmpdir);
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder); /* fails where a test has left something */
}

static const char *in_folder(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void test_round_trip(void **state)
{
    (void)state;
    uint8_t rgb[7 * 5 * 3];
    struct image image = {7, 5, rgb}, back;
    struct error error = {0};
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i * 37);
    assert_true(image_write_png(in_folder("a.png"), &image, &error));
    assert_true(image_read(&back, in_folder("a.png"), &error));
    assert_int_equal(back.width, 7);
    assert_int_equal(back.height, 5);
    assert_memory_equal(back.rgb, rgb, sizeof rgb);
    image_free(&back);
    unlink(in_folder("a.png"));
}

/* The bytes in memory are those of a file: PNG exactly, JPEG nearly. */
static void test_encode(void **state)
{
    (void)state;
    uint8_t rgb[32 * 24 * 3], *bytes = NULL;
    size_t size = 0;
    struct image image = {32, 24, rgb}, back;
    struct error error = {0};
    for (int i = 0; i < 32 * 24; i++)
        for (int c = 0; c < 3; c++)
            rgb[i * 3 + c] = (uint8_t)(i % 32 * 5 + i / 32 * (c + 1));
    for (int format = IMAGE_PNG; format <= IMAGE_JPEG; format++) {
        int64_t difference = 0;
        assert_true(image_encode(&bytes, &size, (enum image_format)format, &image, &error));
        FILE *file = fopen(in_folder("encoded"), "wb");
        assert_int_equal(fwrite(bytes, 1, size, file), size);
        fclose(file);
        free(bytes);
        assert_true(image_read(&back, in_folder("encoded"), &error));
        assert_int_equal(back.width, 32);
        assert_int_equal(back.height, 24);
        for (size_t i = 0; i < sizeof rgb; i++)
            difference += abs(back.rgb[i] - rgb[i]);
        assert_true(difference <= (format == IMAGE_PNG ? 0 : (int64_t)sizeof rgb * 4));
        image_free(&back);
        unlink(in_folder("encoded"));
    }
    image.width = 0;
    assert_false(image_encode(&bytes, &size, IMAGE_PNG, &image, &error));
    assert_null(bytes);
}

static void write_file(const char *name, const void *bytes, size_t size)
{
    FILE *file = fopen(in_folder(name), "wb");
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

static void refused(const char *name, const char *words)
{
    struct image image;
    struct error error = {0};
    assert_false(image_read(&image, in_folder(name), &error));
    assert_null(image.rgb);
    assert_non_null(strstr(error.text, name));
    assert_non_null(strstr(error.text, words));
    unlink(in_folder(name));
}

static void test_refused(void **state)
{
    (void)state;
    refused("none.png", "No such file");
    write_file("empty.png", "", 0);
    refused("empty.png", "not a PNG or JPEG");
    write_file("text.png", "hello", 5);
    refused("text.png", "not a PNG or JPEG");
    /* a header that asks for 2^31 - 1 squared pixels */
    static const uint8_t huge[] =
        "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02"
        "\0\0\0\0\0\0\0";
    write_file("huge.png", huge, sizeof huge - 1);
    refused("huge.png", "at most 16384");
    uint8_t pixel[3] = {0};
    struct image none = {0, 1, pixel};
    struct error error = {0};
    assert_false(image_write_png(in_folder("zero.png"), &none, &error));
    assert_false(image_write_png("/dev/null/a.png", &(struct image){1, 1, pixel}, &error));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
