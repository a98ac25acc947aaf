/*
 * Frames to a file by its extension: a movie through video_encoder.c, or PNG files through image.c.
 *
 * Owns the choice of the kind, the checks before the work and the temporaries. A numbered series is
 * written under temporary names throughout and renamed as a whole at the end. A name pattern comes
 * from the user and never meets printf: it is taken apart here, one %d or %0Nd and nothing else.
 */
#include "video_writer.h"

#include "image.h"
#include "output_file.h"
#include "video_encoder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum kind { KIND_MOVIE, KIND_IMAGE, KIND_SERIES };

struct target {
    enum kind kind;
    enum video_container container; /* of a movie */
    size_t prefix, suffix;          /* of a series: where the conversion begins and ends */
    int digits;
};

struct video_writer {
    struct target target;
    char *path;
    struct video_desc desc;
    struct video_encoder *encoder; /* of a movie */
    struct output_file *files;     /* one, or one a frame of a series */
    int64_t file_count;            /* created so far */
    int64_t frames;                /* written so far */
};

static const struct {
    const char *extension;
    enum kind kind;
    enum video_container container;
} extensions[] = {
    {"mp4", KIND_MOVIE, VIDEO_MP4},
    {"webm", KIND_MOVIE, VIDEO_WEBM},
    {"gif", KIND_MOVIE, VIDEO_GIF},
    {"png", KIND_IMAGE, VIDEO_MP4},
};

/* Exactly one %d or %0Nd in the file's name. */
static bool parse_pattern(const char *path, struct target *target, struct error *error)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *percent = strchr(name, '%');
    if (!percent)
        return true;
    const char *end = percent + 1;
    int digits = 1;
    if (end[0] == '0' && end[1] >= '1' && end[1] <= '9') {
        digits = end[1] - '0';
        end += 2;
    }
    if (*end != 'd' || strchr(end, '%'))
        return error_set_usage(
            error,
            "output '%s': a numbered series takes exactly one %%d or %%0Nd (N = 1 to "
            "9) in its name and no other %%, such as out-%%05d.png",
            path);
    target->kind = KIND_SERIES;
    target->prefix = (size_t)(percent - path);
    target->suffix = (size_t)(end + 1 - path);
    target->digits = digits;
    return true;
}

static bool parse_target(const char *path, struct target *out, struct error *error)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    *out = (struct target){0};
    for (size_t i = 0; dot && i < sizeof extensions / sizeof *extensions; i++)
        if (strcasecmp(dot + 1, extensions[i].extension) == 0) {
            out->kind = extensions[i].kind;
            out->container = extensions[i].container;
            return out->kind != KIND_IMAGE || parse_pattern(path, out, error);
        }
    return error_set_usage(error,
                           "output '%s': %s '%s'; use .mp4, .webm, .gif, or out-%%05d.png for PNG "
                           "frames",
                           path, dot ? "unknown extension" : "no extension in", dot ? dot : name);
}

static bool check_desc(const char *path, const struct target *target, const struct video_desc *desc,
                       struct error *error)
{
    if (desc->width < 1 || desc->height < 1 || desc->width > IMAGE_MAX_SIDE ||
        desc->height > IMAGE_MAX_SIDE)
        return error_set(error, "output '%s': %d x %d pixels; a side takes 1 to %d", path,
                         desc->width, desc->height, IMAGE_MAX_SIDE);
    if (desc->frames < 1 || desc->frames > 999999)
        return error_set(error, "output '%s': %lld frames; a video takes 1 to 999999", path,
                         (long long)desc->frames);
    if (!(desc->fps > 0 && desc->fps <= 1000))
        return error_set_usage(error, "output '%s': %g frames a second; above 0 up to 1000", path,
                               desc->fps);
    if (target->kind == KIND_MOVIE && target->container == VIDEO_GIF && desc->fps > 50)
        return error_set_usage(error,
                               "output '%s': %g frames a second; a GIF takes up to 50, .mp4 and "
                               ".webm take more",
                               path, desc->fps);
    if (target->kind == KIND_IMAGE && desc->frames > 1)
        return error_set_usage(
            error,
            "output '%s': one PNG holds one frame, the video has %lld; name a series "
            "such as %.*s-%%05d.png",
            path, (long long)desc->frames, (int)(strlen(path) - 4), path);
    bool chroma = target->kind == KIND_MOVIE && target->container != VIDEO_GIF;
    if (chroma && (desc->width % 2 || desc->height % 2))
        return error_set(
            error,
            "output '%s': %d x %d pixels; this kind of video takes even sides (.gif and "
            ".png take any)",
            path, desc->width, desc->height);
    return true;
}

/* The name of a file of a series, or the path itself. malloc'd; NULL without memory. */
static char *file_name(const char *path, const struct target *target, int64_t number)
{
    if (target->kind != KIND_SERIES)
        return strdup(path);
    size_t size = strlen(path) + 24;
    char *name = malloc(size);
    if (name)
        snprintf(name, size, "%.*s%0*lld%s", (int)target->prefix, path, target->digits,
                 (long long)number, path + target->suffix);
    return name;
}

/* Behind a shorter series the rest of an earlier one would play on. */
static bool check_behind(const char *path, const char *behind, struct error *error)
{
    return access(behind, F_OK) != 0 ||
           error_set_usage(error,
                           "output '%s': '%s' is there from a longer series and would follow the "
                           "last new frame; remove it with those after it, or name another series",
                           path, behind);
}

bool video_writer_check(const char *path, const struct video_desc *desc, struct error *error)
{
    struct target target;
    if (!parse_target(path, &target, error) || !check_desc(path, &target, desc, error))
        return false;
    char *name = file_name(path, &target, 1), *behind = file_name(path, &target, desc->frames + 1);
    bool ok = (name && behind) || error_out_of_memory(error, "the output's name", strlen(path));
    ok = ok && output_file_check(name, error) &&
         (target.kind != KIND_SERIES || check_behind(path, behind, error));
    free(name);
    free(behind);
    if (ok && target.kind == KIND_MOVIE && !video_encoder_probe(target.container, desc, error))
        return error_prefix(error, "output '%s': ", path);
    return ok;
}

const char *video_writer_encoder(const char *path)
{
    const struct video_desc desc = {.width = 256, .height = 256, .frames = 1, .fps = 16};
    struct target target;
    if (!parse_target(path, &target, NULL))
        return "";
    if (target.kind != KIND_MOVIE)
        return "png";
    const char *name = video_encoder_probe(target.container, &desc, NULL);
    return name ? name : "";
}

/* Makes the temporary of the next file. */
static bool add_file(struct video_writer *writer, struct error *error)
{
    char *name = file_name(writer->path, &writer->target, writer->file_count + 1);
    bool ok = name ? output_file_create(&writer->files[writer->file_count], name, error)
                   : error_out_of_memory(error, "the output's name", strlen(writer->path));
    free(name);
    writer->file_count += ok;
    return ok;
}

bool video_writer_open(struct video_writer **out, const char *path, const struct video_desc *desc,
                       struct error *error)
{
    struct target target;
    *out = NULL;
    if (!parse_target(path, &target, error) || !check_desc(path, &target, desc, error))
        return false;
    struct video_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return error_out_of_memory(error, "the video writer", sizeof *writer);
    writer->target = target;
    writer->desc = *desc;
    writer->desc.metadata = NULL; /* the caller's; used by the encoder below and not later */
    writer->path = strdup(path);
    size_t files = target.kind == KIND_SERIES ? (size_t)desc->frames : 1;
    writer->files = calloc(files, sizeof *writer->files);
    bool ok = writer->path && writer->files;
    if (!ok)
        error_out_of_memory(error, "the video writer", files * sizeof *writer->files);
    if (ok && target.kind != KIND_SERIES)
        ok = add_file(writer, error);
    if (ok && target.kind == KIND_MOVIE)
        ok = video_encoder_open(&writer->encoder, target.container, path,
                                writer->files[0].temporary, desc, error);
    if (!ok) {
        video_writer_abort(writer);
        return false;
    }
    *out = writer;
    return true;
}

bool video_writer_frame(struct video_writer *writer, const uint8_t *rgb, struct error *error)
{
    if (writer->frames >= writer->desc.frames)
        return error_set(error, "output '%s': more frames than the %lld that were announced",
                         writer->path, (long long)writer->desc.frames);
    writer->frames++;
    if (writer->target.kind == KIND_MOVIE)
        return video_encoder_frame(writer->encoder, rgb, error);
    if (writer->target.kind == KIND_SERIES && !add_file(writer, error))
        return false;
    struct image image = {writer->desc.width, writer->desc.height, (uint8_t *)rgb};
    return image_write_png_to(&writer->files[writer->file_count - 1], &image, error);
}

/* Renames all, or removes all. */
static bool commit_files(struct video_writer *writer, struct error *error)
{
    for (int64_t i = 0; i < writer->file_count; i++) {
        if (output_file_commit(&writer->files[i], error))
            continue;
        for (int64_t j = 0; j < i; j++) {
            char *name = file_name(writer->path, &writer->target, j + 1);
            if (name)
                unlink(name);
            free(name);
        }
        return false;
    }
    return true;
}

bool video_writer_finish(struct video_writer *writer, struct error *error)
{
    bool ok = writer->frames == writer->desc.frames ||
              error_set(error, "output '%s': %lld frames came, %lld were announced", writer->path,
                        (long long)writer->frames, (long long)writer->desc.frames);
    if (ok && writer->encoder)
        ok = video_encoder_finish(writer->encoder, error);
    if (ok)
        ok = commit_files(writer, error);
    video_writer_abort(writer); /* what is committed has no temporary any more */
    return ok;
}

void video_writer_abort(struct video_writer *writer)
{
    if (!writer)
        return;
    video_encoder_free(writer->encoder);
    for (int64_t i = 0; writer->files && i < writer->file_count; i++)
        output_file_discard(&writer->files[i]);
    free(writer->files);
    free(writer->path);
    free(writer);
}
