/*
 * Movie files to planes through libavformat and libavcodec: the other way of video_encoder.c.
 *
 * Owns the decoder. Nothing is converted: what a measure sees is what is in the file. Refuses what
 * has no 8 bit 4:2:0 planes, and damaged packets, where a player would conceal them.
 */
#include "video_reader.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct video_reader {
    char *path; /* a copy, for messages */
    AVFormatContext *format;
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
    int stream;
    int32_t width, height; /* of the first frame; 0 = none yet */
    bool drained;          /* the decoder has been told that no packet follows */
};

static bool fail(const struct video_reader *reader, const char *what, int code, struct error *error)
{
    char reason[AV_ERROR_MAX_STRING_SIZE] = "";
    av_strerror(code, reason, sizeof reason);
    return error_set(error, "video '%s': %s: %s", reader->path, what, reason);
}

static bool open_file(struct video_reader *reader, struct error *error)
{
    size_t size = strlen(reader->path) + sizeof "file:";
    char *url = malloc(size); /* a name such as "a:b.mp4" would read as a protocol */
    if (!url)
        return error_out_of_memory(error, "the video's name", size);
    snprintf(url, size, "file:%s", reader->path);
    av_log_set_level(AV_LOG_QUIET); /* what matters is said in our messages */
    int code = avformat_open_input(&reader->format, url, NULL, NULL);
    free(url);
    if (code >= 0)
        code = avformat_find_stream_info(reader->format, NULL);
    if (code < 0)
        return fail(reader, "cannot read", code, error);
    reader->stream = av_find_best_stream(reader->format, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
    return reader->stream >= 0 || fail(reader, "no video in it", reader->stream, error);
}

static bool open_decoder(struct video_reader *reader, struct error *error)
{
    const AVCodecParameters *kind = reader->format->streams[reader->stream]->codecpar;
    const AVCodec *type = avcodec_find_decoder(kind->codec_id);
    if (!type)
        return fail(reader, "no decoder for it in this system's FFmpeg", AVERROR_DECODER_NOT_FOUND,
                    error);
    reader->codec = avcodec_alloc_context3(type);
    reader->packet = av_packet_alloc();
    reader->frame = av_frame_alloc();
    if (!reader->codec || !reader->packet || !reader->frame)
        return error_out_of_memory(error, "the video decoder", sizeof *reader->codec);
    int code = avcodec_parameters_to_context(reader->codec, kind);
    reader->codec->thread_count = 0;
    reader->codec->err_recognition = AV_EF_EXPLODE;
    if (code >= 0)
        code = avcodec_open2(reader->codec, type, NULL);
    return code >= 0 || fail(reader, "cannot decode", code, error);
}

bool video_reader_open(struct video_reader **out, const char *path, struct error *error)
{
    struct video_reader *reader = calloc(1, sizeof *reader);
    *out = NULL;
    if (!reader || !(reader->path = strdup(path))) {
        free(reader);
        return error_out_of_memory(error, "the video reader", sizeof *reader);
    }
    if (!open_file(reader, error) || !open_decoder(reader, error)) {
        video_reader_close(reader);
        return false;
    }
    *out = reader;
    return true;
}

/* Hands the decoder the next packet of the video, or the news that there is none. */
static int feed(struct video_reader *reader)
{
    int code;
    while ((code = av_read_frame(reader->format, reader->packet)) >= 0) {
        bool ours = reader->packet->stream_index == reader->stream;
        if (ours)
            code = avcodec_send_packet(reader->codec, reader->packet);
        av_packet_unref(reader->packet);
        if (ours)
            return code;
    }
    if (code != AVERROR_EOF || reader->drained)
        return code;
    reader->drained = true;
    return avcodec_send_packet(reader->codec, NULL);
}

static bool take_frame(struct video_reader *reader, struct video_planes *planes,
                       struct error *error)
{
    const AVFrame *frame = reader->frame;
    if (frame->format != AV_PIX_FMT_YUV420P && frame->format != AV_PIX_FMT_YUVJ420P)
        return error_set(error, "video '%s': its pixels are not 8 bit YUV 4:2:0", reader->path);
    if (!reader->width) {
        reader->width = frame->width;
        reader->height = frame->height;
    }
    if (frame->width != reader->width || frame->height != reader->height)
        return error_set(error, "video '%s': its frames change from %d x %d to %d x %d",
                         reader->path, reader->width, reader->height, frame->width, frame->height);
    for (int i = 0; i < 3; i++) {
        planes->data[i] = frame->data[i];
        planes->stride[i] = frame->linesize[i];
        planes->width[i] = i ? (frame->width + 1) / 2 : frame->width;
        planes->height[i] = i ? (frame->height + 1) / 2 : frame->height;
    }
    return true;
}

bool video_reader_next(struct video_reader *reader, struct video_planes *planes, bool *more,
                       struct error *error)
{
    int code;
    *more = false;
    while ((code = avcodec_receive_frame(reader->codec, reader->frame)) == AVERROR(EAGAIN))
        if ((code = feed(reader)) < 0)
            break;
    if (code == AVERROR_EOF)
        return true;
    if (code < 0)
        return fail(reader, "damaged", code, error);
    *more = true;
    return take_frame(reader, planes, error);
}

void video_reader_close(struct video_reader *reader)
{
    if (!reader)
        return;
    av_frame_free(&reader->frame);
    av_packet_free(&reader->packet);
    avcodec_free_context(&reader->codec);
    avformat_close_input(&reader->format);
    free(reader->path);
    free(reader);
}
