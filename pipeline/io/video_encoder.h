/* One movie file through libavcodec and libavformat: what video_writer.c uses for mp4, webm and
 * gif. */
#ifndef PIPELINE_IO_VIDEO_ENCODER_H
#define PIPELINE_IO_VIDEO_ENCODER_H

#include "video_writer.h"

struct video_encoder;

enum video_container { VIDEO_MP4, VIDEO_WEBM, VIDEO_GIF };

/* path is the file as the user knows it, for messages; temporary is what is written. */
bool video_encoder_open(struct video_encoder **out, enum video_container container,
                        const char *path, const char *temporary, const struct video_desc *desc,
                        struct error *error);
bool video_encoder_frame(struct video_encoder *encoder, const uint8_t *rgb, struct error *error);
/* Writes what is left, closes the file. The encoder still has to be freed. */
bool video_encoder_finish(struct video_encoder *encoder, struct error *error);
void video_encoder_free(struct video_encoder *encoder); /* accepts NULL */

/* The name of the encoder that opens for this desc on this machine; NULL with the reason where none
 * does. Static. */
const char *video_encoder_probe(enum video_container container, const struct video_desc *desc,
                                struct error *error);

#endif
