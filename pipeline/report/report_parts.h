/* The sections of the report, in the order of the page; report.c puts heads around them. Each says
 * in words what it has nothing to show of. */
#ifndef PIPELINE_REPORT_REPORT_PARTS_H
#define PIPELINE_REPORT_REPORT_PARTS_H

#include "html.h"
#include "report.h"

#include <stdbool.h>
#include <stdint.h>

struct report {
    struct html html;
    const char *path; /* of the report; temporaries stand beside it */
    const struct comparison *comparison;
};

/* Up to here a section may fill the page, so that those after it have room. */
#define REPORT_VIDEOS_END 9000000
#define REPORT_FRAMES_END 12000000
#define REPORT_ERRORS_END 12700000
#define REPORT_MAPS_END   14200000

/* Whether so many bytes more end before the limit. */
static inline bool report_room(const struct report *report, int64_t bytes, int64_t limit)
{
    return report->html.bytes + bytes <= limit;
}

bool report_results(struct report *report, struct error *error);
bool report_videos(struct report *report, struct error *error);
bool report_quality(struct report *report, struct error *error);
bool report_frames(struct report *report, struct error *error);
bool report_errors(struct report *report, struct error *error);
bool report_maps(struct report *report, struct error *error);
bool report_times(struct report *report, struct error *error);
bool report_settings(struct report *report, struct error *error);

/* The style sheet and the script; report_page.c. */
extern const char report_style[], report_script[];

#endif
