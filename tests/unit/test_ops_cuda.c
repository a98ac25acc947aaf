/* The GPU's table where no GPU is in sight: nothing, or a refusal in words. */
#include "tensor/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void a_device_that_is_not_there(void **state)
{
    (void)state;
    const struct ops *ops = ops_cuda();
    const struct device_desc desc = {.activations = ELEMENT_BF16};
    struct device *device = (struct device *)&desc;
    struct error error = {0};
    if (!ops)
        skip();
    assert_false(ops->create(&device, &desc, &error));
    assert_null(device);
    assert_non_null(strstr(error.text, "nvidia-smi"));
    ops->destroy(NULL);
}

static void every_operation(void **state)
{
    (void)state;
    const struct ops *ops = ops_cuda();
    if (!ops)
        skip();
    /* The name, then functions alone. */
    void (*entry)(void);
    const char *bytes = (const char *)ops;
    for (size_t at = offsetof(struct ops, create); at < sizeof *ops; at += sizeof entry) {
        memcpy(&entry, bytes + at, sizeof entry);
        assert_true(entry);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_that_is_not_there),
        cmocka_unit_test(every_operation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
