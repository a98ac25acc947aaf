/*
 * Frames to mp4, webm and gif: the one file that knows libavcodec, libavformat and libswscale.
 *
 * Which encoders a system's FFmpeg has is known at run time only, so every container has a list of
 * them, best first, and takes the first that opens. Pictures are RGB of the full range on our side
 * and BT.709 of the limited range in the file, and the file says so. Every write is checked: a full
 * disk shows late, when buffers are flushed or the index is moved to the front.
 */
#include "video_encoder.h"

#include "gif_palette.h"
#include "output_file.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct encoder_choice {
    const char *name;
    const char *options;   /* key=value:... */
    double bits_per_pixel; /* for encoders without a constant quality; 0 = by the options */
};

/* x264's macroblock tree reads memory that it has not set (release 164, sides such as 80): the same
 * frames would give other files, and compare would see a difference where there is none. */
static const struct encoder_choice mp4_choices[] = {
    {"libx264", "preset=medium:crf=16:mbtree=0", 0},
    {"libopenh264", "", 0.4},
    {"h264_nvenc", "", 0.4},
    {"h264_v4l2m2m", "", 0.4},
    {"mpeg4", "", 0.6},
    {0},
};
static const struct encoder_choice webm_choices[] = {
    {"libvpx-vp9", "crf=18:deadline=good:cpu-used=4:row-mt=1", 0},
    {"libaom-av1", "crf=22:cpu-used=6:row-mt=1", 0},
    {"libvpx", "crf=8:deadline=good", 0.6},
    {0},
};
static const struct encoder_choice gif_choices[] = {{"gif", "", 0}, {0}};

static const struct container {
    const char *format;
    const struct encoder_choice *choices;
    const char *wanted; /* for the message when there is no encoder */
} containers[] = {
    [VIDEO_MP4] = {"mp4", mp4_choices, "H.264"},
    [VIDEO_WEBM] = {"webm", webm_choices, "VP9, AV1 or VP8"},
    [VIDEO_GIF] = {"gif", gif_choices, "GIF"},
};

struct video_encoder {
    const char *path; /* a copy, for messages */
    AVFormatContext *format;
    AVCodecContext *codec;
    AVStream *stream;
    AVFrame *frame;
    AVPacket *packet;
    struct SwsContext *scale;    /* NULL for gif */
    struct gif_palette *palette; /* gif only */
    int64_t next;
    bool begun; /* a header is written, a trailer not yet */
};

static bool fail(struct error *error, const char *path, const char *what, int code)
{
    char words[AV_ERROR_MAX_STRING_SIZE] = "";
    const char *reason = words;
    if (code == AVERROR(ENOSPC) || code == AVERROR(EDQUOT) || code == AVERROR(EFBIG))
        reason = output_file_reason(AVUNERROR(code));
    else
        av_strerror(code, words, sizeof words);
    return error_set(error, "video '%s': %s: %s", path, what, reason);
}

static void describe_colours(AVCodecContext *codec)
{
    codec->color_range = AVCOL_RANGE_MPEG;
    codec->colorspace = AVCOL_SPC_BT709;
    codec->color_primaries = AVCOL_PRI_BT709;
    codec->color_trc = AVCOL_TRC_BT709;
}

/* The choice's options, its constant rate factor moved by offset. */
static int make_options(AVDictionary **options, const struct encoder_choice *choice, int offset)
{
    int code = av_dict_parse_string(options, choice->options, "=", ":", 0);
    const AVDictionaryEntry *crf = code >= 0 ? av_dict_get(*options, "crf", NULL, 0) : NULL;
    if (crf && offset) {
        int value = atoi(crf->value) + offset;
        code = av_dict_set_int(options, "crf", value < 0 ? 0 : value > 50 ? 50 : value, 0);
    }
    return code;
}

/* NULL where this encoder is not there or does not open; *code says why. */
static AVCodecContext *open_choice(const struct encoder_choice *choice, bool gif,
                                   bool global_header, const struct video_desc *desc, int *code)
{
    const AVCodec *type = avcodec_find_encoder_by_name(choice->name);
    *code = AVERROR_ENCODER_NOT_FOUND;
    AVCodecContext *codec = type ? avcodec_alloc_context3(type) : NULL;
    if (!codec)
        return NULL;
    codec->width = desc->width;
    codec->height = desc->height;
    codec->framerate = av_d2q(desc->fps, 60000); /* mpeg4 takes 16 bits for the time base */
    codec->time_base = av_inv_q(codec->framerate);
    codec->pix_fmt = gif ? AV_PIX_FMT_PAL8 : AV_PIX_FMT_YUV420P;
    codec->thread_count = 0;
    codec->bit_rate = (int64_t)(choice->bits_per_pixel * desc->width * desc->height *
                                fmax(desc->fps, 1) * exp2(-desc->crf_offset / 6.0));
    if (!gif)
        describe_colours(codec);
    if (global_header)
        codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    AVDictionary *options = NULL;
    *code = make_options(&options, choice, desc->crf_offset);
    if (*code >= 0)
        *code = avcodec_open2(codec, type, &options);
    av_dict_free(&options);
    if (*code < 0)
        avcodec_free_context(&codec);
    return codec;
}

static AVCodecContext *open_first(enum video_container container, bool global_header,
                                  const struct video_desc *desc, struct error *error)
{
    const struct container *c = &containers[container];
    int code = 0;
    char tried[256] = "";
    av_log_set_level(AV_LOG_QUIET); /* what matters is said in our messages */
    for (const struct encoder_choice *choice = c->choices; choice->name; choice++) {
        AVCodecContext *codec =
            open_choice(choice, container == VIDEO_GIF, global_header, desc, &code);
        if (codec)
            return codec;
        size_t length = strlen(tried);
        snprintf(tried + length, sizeof tried - length, "%s%s", length ? ", " : "", choice->name);
    }
    error_set(
        error,
        "this system's FFmpeg has no working %s encoder for %d x %d (tried %s); install one or "
        "choose another extension: .mp4, .webm, .gif, or out-%%05d.png",
        c->wanted, desc->width, desc->height, tried);
    return NULL;
}

const char *video_encoder_probe(enum video_container container, const struct video_desc *desc,
                                struct error *error)
{
    AVCodecContext *codec = open_first(container, false, desc, error);
    const char *name = codec ? codec->codec->name : NULL;
    avcodec_free_context(&codec);
    return name;
}

static bool open_file(struct video_encoder *e, enum video_container container,
                      const char *temporary, const struct video_desc *desc, struct error *error)
{
    size_t size = strlen(temporary) + sizeof "file:";
    char *url = av_malloc(size); /* a name such as "a:b.mp4" would read as a protocol */
    if (!url) {
        error_out_of_memory(error, "the video's name", size);
        return false;
    }
    snprintf(url, size, "file:%s", temporary);
    int code = avformat_alloc_output_context2(&e->format, NULL, containers[container].format, url);
    if (code < 0) {
        av_free(url);
        fail(error, e->path, "FFmpeg cannot make this kind of file", code);
        return false;
    }
    e->codec = open_first(container, e->format->oformat->flags & AVFMT_GLOBALHEADER, desc, error);
    if (e->codec) {
        code = avio_open(&e->format->pb, url, AVIO_FLAG_WRITE);
        if (code < 0)
            fail(error, e->path, "cannot write", code);
    }
    av_free(url);
    return e->codec && code >= 0;
}

static bool write_header(struct video_encoder *e, const struct video_desc *desc,
                         struct error *error)
{
    e->stream = avformat_new_stream(e->format, NULL);
    if (!e->stream)
        return error_out_of_memory(error, "the video stream", sizeof *e->stream);
    e->stream->time_base = e->codec->time_base;
    e->stream->avg_frame_rate = e->codec->framerate;
    int code = avcodec_parameters_from_context(e->stream->codecpar, e->codec);
    for (const char *const *pair = desc->metadata; code >= 0 && pair && pair[0]; pair += 2)
        code = av_dict_set(&e->format->metadata, pair[0], pair[1], 0);
    AVDictionary *options = NULL;
    if (code >= 0 && strcmp(e->format->oformat->name, "mp4") == 0)
        code = av_dict_set(&options, "movflags", "+faststart", 0);
    if (code >= 0)
        code = avformat_write_header(e->format, &options);
    av_dict_free(&options);
    e->begun = code >= 0;
    return e->begun || fail(error, e->path, "cannot write the header", code);
}

static bool make_frame(struct video_encoder *e, struct error *error)
{
    e->packet = av_packet_alloc();
    e->frame = av_frame_alloc();
    if (!e->packet || !e->frame)
        return error_out_of_memory(error, "a video frame", sizeof *e->frame);
    e->frame->format = e->codec->pix_fmt;
    e->frame->width = e->codec->width;
    e->frame->height = e->codec->height;
    e->frame->color_range = e->codec->color_range;
    e->frame->colorspace = e->codec->colorspace;
    e->frame->color_primaries = e->codec->color_primaries;
    e->frame->color_trc = e->codec->color_trc;
    int code = av_frame_get_buffer(e->frame, 0);
    return code >= 0 || fail(error, e->path, "no memory for a frame", code);
}

static bool make_converter(struct video_encoder *e, struct error *error)
{
    int width = e->codec->width, height = e->codec->height;
    if (e->codec->pix_fmt == AV_PIX_FMT_PAL8) {
        e->palette = malloc(sizeof *e->palette);
        return e->palette || error_out_of_memory(error, "the GIF palette", sizeof *e->palette);
    }
    e->scale =
        sws_getContext(width, height, AV_PIX_FMT_RGB24, width, height, e->codec->pix_fmt,
                       SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP, NULL, NULL, NULL);
    const int *bt709 = sws_getCoefficients(SWS_CS_ITU709);
    if (!e->scale ||
        sws_setColorspaceDetails(e->scale, bt709, 1, bt709, 0, 0, 1 << 16, 1 << 16) < 0)
        return error_set(error, "video '%s': FFmpeg cannot convert %d x %d RGB to YUV", e->path,
                         width, height);
    return true;
}

bool video_encoder_open(struct video_encoder **out, enum video_container container,
                        const char *path, const char *temporary, const struct video_desc *desc,
                        struct error *error)
{
    struct video_encoder *e = calloc(1, sizeof *e);
    *out = NULL;
    if (!e || !(e->path = strdup(path))) {
        free(e);
        return error_out_of_memory(error, "the video encoder", sizeof *e);
    }
    if (!open_file(e, container, temporary, desc, error) || !write_header(e, desc, error) ||
        !make_frame(e, error) || !make_converter(e, error)) {
        video_encoder_free(e);
        return false;
    }
    *out = e;
    return true;
}

/* Sends a frame (NULL = the end) and writes the packets that are ready. */
static bool encode(struct video_encoder *e, const AVFrame *frame, struct error *error)
{
    int code = avcodec_send_frame(e->codec, frame);
    while (code >= 0) {
        code = avcodec_receive_packet(e->codec, e->packet);
        if (code == AVERROR(EAGAIN) || code == AVERROR_EOF)
            return true;
        if (code < 0)
            break;
        if (!e->packet->duration)
            e->packet->duration = 1; /* or the last frame would last no time */
        e->packet->stream_index = e->stream->index;
        av_packet_rescale_ts(e->packet, e->codec->time_base, e->stream->time_base);
        code = av_interleaved_write_frame(e->format, e->packet);
        if (code >= 0 && e->format->pb->error < 0)
            code = e->format->pb->error;
    }
    return fail(error, e->path, "cannot write frames", code);
}

bool video_encoder_frame(struct video_encoder *e, const uint8_t *rgb, struct error *error)
{
    AVFrame *frame = e->frame;
    int code = av_frame_make_writable(frame);
    if (code < 0)
        return fail(error, e->path, "no memory for a frame", code);
    if (e->palette) {
        gif_palette_frame(e->palette, rgb, frame->width, frame->height, frame->data[0],
                          frame->linesize[0]);
        memcpy(frame->data[1], e->palette->argb, sizeof e->palette->argb);
    } else {
        const uint8_t *const source[4] = {rgb};
        const int stride[4] = {3 * frame->width};
        sws_scale(e->scale, source, stride, 0, frame->height, frame->data, frame->linesize);
    }
    frame->pts = e->next++;
    return encode(e, frame, error);
}

bool video_encoder_finish(struct video_encoder *e, struct error *error)
{
    if (!encode(e, NULL, error))
        return false;
    e->begun = false;
    int code = av_write_trailer(e->format);
    if (code >= 0 && e->format->pb->error < 0)
        code = e->format->pb->error;
    int closed = avio_closep(&e->format->pb);
    if (code >= 0)
        code = closed;
    return code >= 0 || fail(error, e->path, "cannot finish the file", code);
}

void video_encoder_free(struct video_encoder *e)
{
    if (!e)
        return;
    if (e->begun)
        av_write_trailer(e->format); /* some muxers free what they hold here alone */
    if (e->format)
        avio_closep(&e->format->pb);
    sws_freeContext(e->scale);
    av_packet_free(&e->packet);
    av_frame_free(&e->frame);
    avcodec_free_context(&e->codec);
    avformat_free_context(e->format);
    free(e->palette);
    free((char *)e->path);
    free(e);
}
