/* Owns the calling thread's last failure in words. What does not fit is cut, never lost. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char last_error[1024];

draftattn_status error_report(draftattn_status status, const char *format, ...)
{
    char text[sizeof(last_error)];
    va_list arguments;
    va_start(arguments, format);
    /* By way of text: an argument may point into the sentence before. */
    if (vsnprintf(text, sizeof(text), format, arguments) < 0)
        text[0] = '\0';
    va_end(arguments);
    snprintf(last_error, sizeof(last_error), "%s", text);
    return status;
}

const char *error_last(void)
{
    return last_error;
}

draftattn_status error_backend(draftattn_status status, const char *what)
{
    if (status == DRAFTATTN_SUCCESS)
        return status;
    const char *why =
        status == DRAFTATTN_DEVICE_ERROR ? last_error : draftattn_status_string(status);
    return error_report(status, "%s failed: %s", what, why);
}
