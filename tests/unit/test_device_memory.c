/* Device memory: what goes there comes back; without a device every call says so and harms
 * nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "device_memory.h"

static void test_way_there_and_back(void **state)
{
    (void)state;
    static const char sent[] = "there and back";
    char received[sizeof sent] = "", device[320];
    struct error error = {0};
    void *memory;
    device_memory_device(device, sizeof device);
    if (!device[0])
        skip();
    assert_true(device_memory_available() > 0);
    if (!device_memory_alloc(&memory, sizeof sent, "the text", &error))
        fail_msg("%s", error.text);
    assert_int_equal((uintptr_t)memory % 256, 0);
    assert_true(device_memory_copy(memory, sent, sizeof sent, &error));
    assert_true(device_memory_copy(received, memory, sizeof sent, &error));
    assert_string_equal(received, sent);
    assert_true(device_memory_synchronise(&error));
    device_memory_free(memory);
}

static void test_too_much(void **state)
{
    (void)state;
    struct error error = {0};
    char anything;
    void *memory = &anything;
    assert_false(device_memory_alloc(&memory, (size_t)1 << 50, "the text", &error));
    assert_null(memory);
    assert_non_null(strstr(error.text, "CUDA"));
    device_memory_free(NULL);
}

static void test_without_device(void **state)
{
    (void)state;
    struct error error = {0};
    char device[320] = "something", byte = 1;
    device_memory_device(device, sizeof device);
    if (device[0])
        skip();
    assert_int_equal(device_memory_available(), 0);
    assert_false(device_memory_synchronise(&error));
    assert_non_null(strstr(error.text, "CUDA"));
    assert_false(device_memory_copy(&byte, &byte, 1, &error));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_way_there_and_back),
                                       cmocka_unit_test(test_too_much),
                                       cmocka_unit_test(test_without_device)};
    return cmocka_run_group_tests_name("device_memory", tests, NULL, NULL);
}
