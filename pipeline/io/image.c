/*
 * Still images through FFmpeg's encoders, into memory and from there to a file in one piece. (They
 * say when there is no memory; stb_image_write.h goes on without it.)
 */
#include "image.h"

#include <libavcodec/avcodec.h>
#include <libavutil/log.h>
#include <libswscale/swscale.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JPEG_QUALITY 2 /* the best of 2 to 31 */

void image_free(struct image *image)
{
    free(image->rgb);
    *image = (struct image){0};
}

/* name: of the file, or what the image is, for messages. */
static bool fail(struct error *error, const char *name, int code)
{
    char why[AV_ERROR_MAX_STRING_SIZE] = "";
    av_strerror(code, why, sizeof why);
    return error_set(error, "image '%s': cannot encode: %s", name, why);
}

static AVCodecContext *open_encoder(enum image_format format, const struct image *image, int *code)
{
    const AVCodec *type =
        avcodec_find_encoder(format == IMAGE_PNG ? AV_CODEC_ID_PNG : AV_CODEC_ID_MJPEG);
    AVCodecContext *codec = type ? avcodec_alloc_context3(type) : NULL;
    *code = type ? AVERROR(ENOMEM) : AVERROR_ENCODER_NOT_FOUND;
    if (!codec)
        return NULL;
    av_log_set_level(AV_LOG_QUIET); /* what matters is said in our messages */
    codec->width = image->width;
    codec->height = image->height;
    codec->pix_fmt = format == IMAGE_PNG ? AV_PIX_FMT_RGB24 : AV_PIX_FMT_YUVJ444P;
    codec->color_range = AVCOL_RANGE_JPEG;
    codec->time_base = (AVRational){1, 1};
    codec->thread_count = 1;
    codec->flags |= AV_CODEC_FLAG_QSCALE;
    codec->global_quality = JPEG_QUALITY * FF_QP2LAMBDA;
    AVDictionary *options = NULL;
    *code = format == IMAGE_PNG ? av_dict_set(&options, "pred", "mixed", 0) : 0;
    if (*code >= 0)
        *code = avcodec_open2(codec, type, &options);
    av_dict_free(&options);
    if (*code < 0)
        avcodec_free_context(&codec);
    return codec;
}

/* The picture in the encoder's colours. */
static int fill_frame(AVFrame *frame, const AVCodecContext *codec, const struct image *image)
{
    frame->format = codec->pix_fmt;
    frame->width = image->width;
    frame->height = image->height;
    frame->color_range = AVCOL_RANGE_JPEG;
    frame->quality = codec->global_quality;
    int code = av_frame_get_buffer(frame, 0);
    if (code < 0)
        return code;
    struct SwsContext *scale = sws_getContext(
        image->width, image->height, AV_PIX_FMT_RGB24, image->width, image->height, codec->pix_fmt,
        SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP, NULL, NULL, NULL);
    if (!scale)
        return AVERROR(ENOMEM);
    const uint8_t *const source[4] = {image->rgb};
    const int stride[4] = {3 * image->width};
    sws_scale(scale, source, stride, 0, image->height, frame->data, frame->linesize);
    sws_freeContext(scale);
    return 0;
}

static bool encode(AVPacket *packet, enum image_format format, const struct image *image,
                   const char *name, struct error *error)
{
    int code;
    if (image->width < 1 || image->height < 1 || image->width > IMAGE_MAX_SIDE ||
        image->height > IMAGE_MAX_SIDE)
        return error_set(error, "image '%s': %d x %d pixels; a side takes 1 to %d", name,
                         image->width, image->height, IMAGE_MAX_SIDE);
    AVFrame *frame = av_frame_alloc();
    AVCodecContext *codec = open_encoder(format, image, &code);
    if (codec)
        code = frame ? fill_frame(frame, codec, image) : AVERROR(ENOMEM);
    if (code >= 0)
        code = avcodec_send_frame(codec, frame);
    if (code >= 0)
        code = avcodec_send_frame(codec, NULL); /* there is no second one */
    if (code >= 0)
        code = avcodec_receive_packet(codec, packet);
    avcodec_free_context(&codec);
    av_frame_free(&frame);
    return code >= 0 || fail(error, name, code);
}

bool image_encode(uint8_t **bytes, size_t *size, enum image_format format,
                  const struct image *image, struct error *error)
{
    static const char name[] = "in memory";
    AVPacket *packet = av_packet_alloc();
    *bytes = NULL;
    *size = 0;
    bool ok = packet ? encode(packet, format, image, name, error)
                     : error_out_of_memory(error, name, sizeof *packet);
    if (ok) {
        *size = (size_t)packet->size;
        *bytes = malloc(*size);
        if (*bytes)
            memcpy(*bytes, packet->data, *size);
        else
            ok = error_out_of_memory(error, "an encoded image", *size);
    }
    av_packet_free(&packet);
    return ok;
}

static bool write_file(const struct output_file *file, const AVPacket *packet, struct error *error)
{
    FILE *out = fopen(file->temporary, "wb");
    if (!out)
        return error_set(error, "image '%s': %s", file->target, output_file_reason(errno));
    size_t size = (size_t)packet->size;
    bool ok = fwrite(packet->data, 1, size, out) == size;
    int reason = errno;
    if (fclose(out) != 0 && ok) {
        reason = errno;
        ok = false;
    }
    return ok || error_set(error, "image '%s': %s", file->target, output_file_reason(reason));
}

bool image_write_png_to(const struct output_file *file, const struct image *image,
                        struct error *error)
{
    AVPacket *packet = av_packet_alloc();
    bool ok = packet ? encode(packet, IMAGE_PNG, image, file->target, error) &&
                           write_file(file, packet, error)
                     : error_out_of_memory(error, file->target, sizeof *packet);
    av_packet_free(&packet);
    return ok;
}

bool image_write_png(const char *path, const struct image *image, struct error *error)
{
    struct output_file file;
    if (!output_file_create(&file, path, error))
        return false;
    if (image_write_png_to(&file, image, error))
        return output_file_commit(&file, error);
    output_file_discard(&file);
    return false;
}
