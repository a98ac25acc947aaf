/*
 * What compare keeps of a run's attention: the estimated error of every step and layer, and the
 * draft map and block mask of a few heads. It listens through struct generate_events.
 */
#ifndef PIPELINE_CAPTURE_H
#define PIPELINE_CAPTURE_H

#include "comparison.h"

/* A head at a step, all counted from 0. */
struct capture_place {
    int32_t layer, head, step;
};

struct capture_desc {
    int32_t steps, layers, heads;
    int32_t passes; /* forward passes of a step: 2 with guidance */
    /* Heads whose maps are kept; none = a spread over the sparse steps and layers, and the head
     * with the worst estimated error. */
    const struct capture_place *places;
    int32_t place_count;
};

#define CAPTURE_PLACES_MAX 64

struct capture;

bool capture_create(struct capture **out, const struct capture_desc *desc, struct error *error);
void capture_destroy(struct capture *capture); /* accepts NULL */

/* For struct generate_events. After a map that cannot be had none are taken; the rest goes on. */
void capture_attention(struct capture *capture, struct self_attention *attention,
                       const draftattn_step *step);

/* Why maps are missing, valid as long as the capture; NULL where none is for want of anything. */
const char *capture_trouble(const struct capture *capture);

/* Seconds spent in capture_attention(). */
double capture_seconds(const struct capture *capture);

/* Hands over errors, maps and words; the variant frees them. Maps come in the order of places, the
 * worst last; places whose calls were dense have none. */
bool capture_finish(struct capture *capture, struct comparison_variant *variant,
                    struct error *error);

#endif
