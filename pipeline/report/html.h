/*
 * Markup into a file. Failures of the file latch and are asked for once, at the end.
 *
 * What comes from outside goes through html_text() and nothing else; html_print() is for markup and
 * numbers of our own.
 */
#ifndef PIPELINE_REPORT_HTML_H
#define PIPELINE_REPORT_HTML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct html {
    FILE *file;
    int64_t bytes; /* written so far */
    int reason;    /* errno of the first failure; 0 = none */
};

void html_print(struct html *html, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Text of any origin, for contents and for quoted attribute values. What is no character that HTML
 * can hold becomes U+FFFD. At most limit bytes of it (0 = all); what is cut is said. */
void html_text(struct html *html, const char *text, size_t limit);

/* One value by a format with one double; NaN as a dash, infinity as the word given. */
void html_number(struct html *html, const char *format, double value, const char *infinite);

/* "data:TYPE;base64,...": bytes, or a file from its beginning to its end. */
void html_data(struct html *html, const char *type, const void *bytes, size_t size);
void html_data_file(struct html *html, const char *type, FILE *file);

/* The characters that so many bytes become in html_data(). */
int64_t html_data_size(int64_t bytes);

#endif
