/*
 * PNG and JPEG to RGB bytes through FFmpeg, which is built to read what strangers send. (The
 * stb_image.h of Debian 12 writes beside its table when a JPEG's Huffman table is too long.)
 *
 * The size of the file and of the picture are bounded before anything is decoded, so that a header
 * of a few bytes cannot ask for gigabytes. Transparency is dropped, not blended.
 */
#include "image.h"

#include <libavcodec/avcodec.h>
#include <libavutil/log.h>
#include <libswscale/swscale.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_BYTES_MAX ((int64_t)256 << 20)

static bool refuse(struct error *error, const char *path, const char *why)
{
    return error_set(error,
                     "image '%s': not a PNG or JPEG of at most %d x %d that can be read (%s)", path,
                     IMAGE_MAX_SIDE, IMAGE_MAX_SIDE, why);
}

static bool refuse_code(struct error *error, const char *path, int code)
{
    char why[AV_ERROR_MAX_STRING_SIZE] = "";
    av_strerror(code, why, sizeof why);
    return refuse(error, path, why);
}

/* The whole file as a packet, which has the padding that decoders ask for. */
static bool read_file(AVPacket *packet, const char *path, struct error *error)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return error_set(error, "image '%s': %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode)) /* looked at before it is opened: opening a pipe would wait */
        return error_set(error, "image '%s': is not a regular file", path);
    if (info.st_size == 0 || info.st_size > FILE_BYTES_MAX)
        return refuse(error, path, info.st_size ? "too large" : "empty");
    FILE *file = fopen(path, "rb");
    if (!file)
        return error_set(error, "image '%s': %s", path, strerror(errno));
    bool ok = true;
    size_t size = (size_t)info.st_size;
    if (av_new_packet(packet, (int)size) < 0)
        ok = error_out_of_memory(error, path, size);
    else if (fread(packet->data, 1, size, file) != size)
        ok = error_set(error, "image '%s': cannot read all of its %zu bytes", path, size);
    fclose(file);
    return ok;
}

static enum AVCodecID kind_of(const AVPacket *packet)
{
    static const uint8_t png[] = {0x89, 'P', 'N', 'G'}, jpeg[] = {0xff, 0xd8, 0xff};
    if (packet->size > (int)sizeof png && memcmp(packet->data, png, sizeof png) == 0)
        return AV_CODEC_ID_PNG;
    if (packet->size > (int)sizeof jpeg && memcmp(packet->data, jpeg, sizeof jpeg) == 0)
        return AV_CODEC_ID_MJPEG;
    return AV_CODEC_ID_NONE;
}

static bool decode(AVFrame *frame, const AVPacket *packet, const char *path, struct error *error)
{
    const AVCodec *type = avcodec_find_decoder(kind_of(packet));
    if (!type)
        return refuse(error, path, "unknown kind");
    AVCodecContext *codec = avcodec_alloc_context3(type);
    if (!codec)
        return error_out_of_memory(error, path, sizeof *codec);
    av_log_set_level(AV_LOG_QUIET); /* what matters is said in our messages */
    codec->max_pixels = IMAGE_MAX_PIXELS;
    codec->thread_count = 1;
    codec->err_recognition = AV_EF_EXPLODE; /* no pictures with holes */
    int code = avcodec_open2(codec, type, NULL);
    if (code >= 0)
        code = avcodec_send_packet(codec, packet);
    if (code >= 0)
        code = avcodec_send_packet(codec, NULL); /* there is no second one */
    if (code >= 0)
        code = avcodec_receive_frame(codec, frame);
    avcodec_free_context(&codec);
    if (code < 0)
        return refuse_code(error, path, code);
    if (frame->width > IMAGE_MAX_SIDE || frame->height > IMAGE_MAX_SIDE)
        return refuse(error, path, "too large");
    return true;
}

static bool convert(struct image *out, const AVFrame *frame, const char *path, struct error *error)
{
    int width = frame->width, height = frame->height, row = 3 * width;
    uint8_t *rgb = malloc((size_t)row * (size_t)height);
    if (!rgb)
        return error_out_of_memory(error, path, (unsigned long long)row * (size_t)height);
    struct SwsContext *scale =
        sws_getContext(width, height, frame->format, width, height, AV_PIX_FMT_RGB24,
                       SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT, NULL, NULL, NULL);
    uint8_t *const to[4] = {rgb};
    const int stride[4] = {row};
    bool ok = scale && sws_scale(scale, (const uint8_t *const *)frame->data, frame->linesize, 0,
                                 height, to, stride) == height;
    sws_freeContext(scale);
    if (!ok) {
        free(rgb);
        return refuse(error, path, "its colours cannot be converted");
    }
    *out = (struct image){.width = width, .height = height, .rgb = rgb};
    return true;
}

bool image_read(struct image *out, const char *path, struct error *error)
{
    *out = (struct image){0};
    AVPacket *packet = av_packet_alloc();
    AVFrame *frame = av_frame_alloc();
    bool ok = packet && frame;
    if (!ok)
        error_out_of_memory(error, path, sizeof *packet + sizeof *frame);
    ok = ok && read_file(packet, path, error) && decode(frame, packet, path, error) &&
         convert(out, frame, path, error);
    av_frame_free(&frame);
    av_packet_free(&packet);
    return ok;
}
