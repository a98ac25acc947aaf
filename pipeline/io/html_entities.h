/* Character references of HTML (&amp; &#39; &#x27;) to the characters they stand for. */
#ifndef PIPELINE_IO_HTML_ENTITIES_H
#define PIPELINE_IO_HTML_ENTITIES_H

#include "codepoints.h"

/* As a browser reads text, once: numbers with or without a semicolon, the old names without one
 * too, "&notit;" as "¬it;". What is no reference stays. */
void html_unescape(struct codepoints *text);

/* Only what is surely meant as a reference: a known name or number with its semicolon; names that
 * were turned into capitals (&EACUTE;) as well. */
void html_unescape_careful(struct codepoints *text);

/* What 0x80 to 0x9f mean in windows-1252; any other code, and the five it leaves open, stay. */
int32_t html_windows_1252(int32_t code);

#endif
