/*
 * What video_writer writes is read back with libav and compared with what went in; what it refuses
 * leaves nothing behind.
 */
#include "io/image.h"
#include "io/video_writer.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>

#include <dirent.h>
#include <malloc.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { WIDTH = 96, HEIGHT = 64, FRAMES = 9 };

struct fixture {
    char folder[64];
    uint8_t rgb[FRAMES][HEIGHT][WIDTH][3];
};

/* A smooth colour field that moves, no two channels alike. */
static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    strcpy(f->folder, "/tmp/draftattn-test-XXXXXX");
    if (!mkdtemp(f->folder))
        return -1;
    for (int t = 0; t < FRAMES; t++)
        for (int y = 0; y < HEIGHT; y++)
            for (int x = 0; x < WIDTH; x++) {
                f->rgb[t][y][x][0] = (uint8_t)(128 + 100 * sin(0.05 * x + 0.2 * t));
                f->rgb[t][y][x][1] = (uint8_t)(128 + 100 * sin(0.06 * y));
                f->rgb[t][y][x][2] = (uint8_t)(40 + x + y);
            }
    *state = f;
    return 0;
}

static int entries(const char *folder)
{
    int count = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(dir);
    return count;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    DIR *dir = opendir(f->folder);
    char path[512];
    for (struct dirent *e; dir && (e = readdir(dir));) {
        snprintf(path, sizeof path, "%s/%s", f->folder, e->d_name);
        unlink(path);
    }
    closedir(dir);
    rmdir(f->folder);
    free(f);
    return 0;
}

static const char *in_folder(const struct fixture *f, const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", f->folder, name);
    return path;
}

static const char *const metadata[] = {"title", "a red ball", "comment", "seed 7", NULL};
static const struct video_desc desc = {
    .width = WIDTH, .height = HEIGHT, .frames = FRAMES, .fps = 16, .metadata = metadata};

static bool write_all(const struct fixture *f, const char *path, const struct video_desc *d,
                      struct error *error)
{
    struct video_writer *writer = NULL;
    if (!video_writer_check(path, d, error) || !video_writer_open(&writer, path, d, error))
        return false;
    for (int t = 0; t < d->frames; t++)
        if (!video_writer_frame(writer, &f->rgb[t][0][0][0], error)) {
            video_writer_abort(writer);
            return false;
        }
    return video_writer_finish(writer, error);
}

/* Adds the squared error of a decoded frame against rgb. */
static double squared_error(const AVFrame *frame, const uint8_t *rgb)
{
    uint8_t *got = malloc(WIDTH * HEIGHT * 3);
    struct SwsContext *convert =
        sws_getContext(frame->width, frame->height, frame->format, WIDTH, HEIGHT, AV_PIX_FMT_RGB24,
                       SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT, NULL, NULL, NULL);
    if (!(av_pix_fmt_desc_get(frame->format)->flags & AV_PIX_FMT_FLAG_RGB))
        sws_setColorspaceDetails(convert, sws_getCoefficients(SWS_CS_ITU709), 0,
                                 sws_getCoefficients(SWS_CS_ITU709), 1, 0, 1 << 16, 1 << 16);
    uint8_t *planes[4] = {got};
    int strides[4] = {WIDTH * 3};
    sws_scale(convert, (const uint8_t *const *)frame->data, frame->linesize, 0, frame->height,
              planes, strides);
    sws_freeContext(convert);
    double sum = 0;
    for (int i = 0; i < WIDTH * HEIGHT * 3; i++)
        sum += (double)(got[i] - rgb[i]) * (got[i] - rgb[i]);
    free(got);
    return sum;
}

struct seen {
    int frames;
    double psnr, seconds;
    enum AVCodecID codec;
    enum AVColorSpace space;
    enum AVColorRange range;
    int format;
    char title[64], comment[64];
};

static void note_tags(AVFormatContext *format, struct seen *seen)
{
    AVDictionaryEntry *title = av_dict_get(format->metadata, "title", NULL, 0);
    AVDictionaryEntry *comment = av_dict_get(format->metadata, "comment", NULL, 0);
    snprintf(seen->title, sizeof seen->title, "%s", title ? title->value : "");
    snprintf(seen->comment, sizeof seen->comment, "%s", comment ? comment->value : "");
    const AVCodecParameters *p = format->streams[0]->codecpar;
    seen->codec = p->codec_id;
    seen->space = p->color_space;
    seen->range = p->color_range;
    seen->format = p->format;
    seen->seconds = (double)format->duration / AV_TIME_BASE;
}

static struct seen read_back(const struct fixture *f, const char *path)
{
    struct seen seen = {0};
    AVFormatContext *format = NULL;
    assert_int_equal(avformat_open_input(&format, path, NULL, NULL), 0);
    assert_true(avformat_find_stream_info(format, NULL) >= 0);
    note_tags(format, &seen);
    const AVCodecParameters *parameters = format->streams[0]->codecpar;
    const AVCodec *type = avcodec_find_decoder(parameters->codec_id);
    AVCodecContext *codec = avcodec_alloc_context3(type);
    assert_true(avcodec_parameters_to_context(codec, parameters) >= 0);
    assert_int_equal(avcodec_open2(codec, type, NULL), 0);
    AVPacket *packet = av_packet_alloc();
    AVFrame *frame = av_frame_alloc();
    double sum = 0;
    for (bool more = true; more;) {
        more = av_read_frame(format, packet) >= 0;
        avcodec_send_packet(codec, more ? packet : NULL);
        av_packet_unref(packet);
        while (avcodec_receive_frame(codec, frame) >= 0) {
            assert_int_equal(frame->width, WIDTH);
            assert_int_equal(frame->height, HEIGHT);
            assert_true(seen.frames < FRAMES);
            sum += squared_error(frame, &f->rgb[seen.frames++][0][0][0]);
        }
    }
    seen.psnr = 10 * log10(255.0 * 255.0 * WIDTH * HEIGHT * 3 * FRAMES / sum);
    av_frame_free(&frame);
    av_packet_free(&packet);
    avcodec_free_context(&codec);
    avformat_close_input(&format);
    return seen;
}

static void test_mp4(void **state)
{
    struct fixture *f = *state;
    struct error error = {0};
    const char *path = in_folder(f, "out.mp4");
    assert_true(write_all(f, path, &desc, &error));
    assert_int_equal(entries(f->folder), 1);
    struct seen seen = read_back(f, path);
    assert_int_equal(seen.frames, FRAMES);
    assert_float_equal(seen.seconds, FRAMES / 16.0, 0.01);
    assert_true(seen.psnr > 36);
    assert_string_equal(seen.title, "a red ball");
    assert_string_equal(seen.comment, "seed 7");
    assert_int_equal(seen.format, AV_PIX_FMT_YUV420P);
    if (strcmp(video_writer_encoder(path), "mpeg4") != 0) {
        assert_int_equal(seen.codec, AV_CODEC_ID_H264);
        assert_int_equal(seen.space, AVCOL_SPC_BT709);
        assert_int_equal(seen.range, AVCOL_RANGE_MPEG);
    }
    /* +faststart: the index comes before the data */
    uint8_t head[4096];
    FILE *file = fopen(path, "rb");
    size_t length = fread(head, 1, sizeof head, file);
    fclose(file);
    size_t moov = 0, mdat = 0;
    for (size_t i = 4; i + 4 < length; i++) {
        if (!moov && memcmp(head + i, "moov", 4) == 0)
            moov = i;
        if (!mdat && memcmp(head + i, "mdat", 4) == 0)
            mdat = i;
    }
    assert_true(moov > 0 && (mdat == 0 || moov < mdat));
}

/* A coarser encoding takes fewer bytes and says the same. */
static void test_crf_offset(void **state)
{
    struct fixture *f = *state;
    struct error error = {0};
    struct video_desc coarse = desc;
    struct stat fine, small;
    coarse.crf_offset = 18;
    const char *path = in_folder(f, "out.mp4");
    assert_true(write_all(f, path, &desc, &error));
    assert_int_equal(stat(path, &fine), 0);
    assert_true(write_all(f, path, &coarse, &error));
    assert_int_equal(stat(path, &small), 0);
    assert_true(small.st_size < fine.st_size);
    struct seen seen = read_back(f, path);
    assert_int_equal(seen.frames, FRAMES);
    assert_true(seen.psnr > 25);
}

static size_t read_all(const char *path, uint8_t *bytes, size_t size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size = fread(bytes, 1, size, file);
    fclose(file);
    return size;
}

/* The same frames make the same file, whatever fresh memory holds. */
static void test_same_file(void **state)
{
    enum { BYTES = 1 << 20 };
    struct fixture *f = *state;
    struct error error = {0};
    uint32_t random = 1;
    uint8_t *bytes[2] = {malloc(BYTES), malloc(BYTES)}, *rgb = &f->rgb[0][0][0][0];
    size_t size[2];
    for (size_t i = 0; i < sizeof f->rgb; i++) {
        random = random * 1664525 + 1013904223;
        rgb[i] = (uint8_t)(rgb[i] * 3 / 4 + (random >> 27));
    }
    for (int i = 0; i < 2; i++) {
        const char *path = in_folder(f, "out.mp4");
        mallopt(M_PERTURB, i ? 90 : 165);
        assert_true(write_all(f, path, &desc, &error));
        size[i] = read_all(path, bytes[i], BYTES);
    }
    mallopt(M_PERTURB, 0);
    assert_in_range(size[0], 1000, BYTES - 1);
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(bytes[0], bytes[1], size[0]);
    free(bytes[0]);
    free(bytes[1]);
}

static void test_webm(void **state)
{
    struct fixture *f = *state;
    struct error error = {0};
    const char *path = in_folder(f, "out.webm");
    if (!video_writer_encoder(path)[0])
        skip();
    assert_true(write_all(f, path, &desc, &error));
    struct seen seen = read_back(f, path);
    assert_int_equal(seen.frames, FRAMES);
    assert_true(seen.psnr > 34);
    assert_string_equal(seen.title, "a red ball");
}

static void test_gif(void **state)
{
    struct fixture *f = *state;
    struct error error = {0};
    const char *path = in_folder(f, "out.gif");
    assert_true(write_all(f, path, &desc, &error));
    struct seen seen = read_back(f, path);
    assert_int_equal(seen.frames, FRAMES);
    assert_true(seen.psnr > 30); /* 256 colours for a field of thousands */
}

/* A video of few colours keeps them exactly. */
static void test_gif_few_colours(void **state)
{
    struct fixture *f = *state;
    struct error error = {0};
    for (int t = 0; t < FRAMES; t++)
        for (int y = 0; y < HEIGHT; y++)
            for (int x = 0; x < WIDTH; x++) {
                static const uint8_t colours[3][3] = {{250, 20, 30}, {10, 200, 60}, {16, 24, 200}};
                memcpy(f->rgb[t][y][x], colours[(x / 32 + t) % 3], 3);
            }
    const char *path = in_folder(f, "flat.gif");
    assert_true(write_all(f, path, &desc, &error));
    assert_true(read_back(f, path).psnr > 60);
}

static void test_png_series(void **state)
{
    struct fixture *f = *state;
    struct error error = {0};
    assert_true(write_all(f, in_folder(f, "out-%05d.png"), &desc, &error));
    assert_int_equal(entries(f->folder), FRAMES);
    for (int t = 0; t < FRAMES; t++) {
        char name[32];
        struct image image;
        snprintf(name, sizeof name, "out-%05d.png", t + 1);
        assert_true(image_read(&image, in_folder(f, name), &error));
        assert_int_equal(image.width, WIDTH);
        assert_memory_equal(image.rgb, f->rgb[t], sizeof f->rgb[t]);
        image_free(&image);
    }
}

static void test_single_png(void **state)
{
    struct fixture *f = *state;
    struct error error = {0};
    struct video_desc one = desc;
    one.frames = 1;
    assert_true(write_all(f, in_folder(f, "one.png"), &one, &error));
    assert_int_equal(entries(f->folder), 1);
    assert_false(write_all(f, in_folder(f, "many.png"), &desc, &error));
    assert_true(error.usage);
    assert_non_null(strstr(error.text, "many-%05d.png"));
}

static void refuse(const struct fixture *f, const char *name, const struct video_desc *d,
                   const char *words)
{
    struct error error = {0};
    int before = entries(f->folder);
    assert_false(video_writer_check(in_folder(f, name), d, &error));
    if (!strstr(error.text, words))
        fail_msg("'%s' does not say '%s'", error.text, words);
    assert_int_equal(entries(f->folder), before);
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    struct video_desc odd = desc, slow = desc;
    odd.width = 95;
    slow.fps = 0;
    refuse(f, "out.avi", &desc, "unknown extension '.avi'");
    refuse(f, "out", &desc, "no extension");
    refuse(f, "out-%s.png", &desc, "exactly one %d or %0Nd");
    refuse(f, "out-%d-%d.png", &desc, "exactly one");
    refuse(f, "out-%5d.png", &desc, "exactly one");
    refuse(f, "out-%0d.png", &desc, "exactly one");
    refuse(f, "out-%012d.png", &desc, "exactly one");
    refuse(f, "out-%n.png", &desc, "exactly one");
    refuse(f, "out-%d%%.png", &desc, "exactly one");
    refuse(f, "out.mp4", &odd, "even sides");
    refuse(f, "out.mp4", &slow, "frames a second");
    refuse(f, "missing/out.mp4", &desc, "cannot write in the folder");
    assert_int_equal(mkdir(in_folder(f, "dir.mp4"), 0777), 0);
    refuse(f, "dir.mp4", &desc, "is a folder");
    rmdir(in_folder(f, "dir.mp4"));
    struct error error = {0};
    assert_false(video_writer_check("/dev/null/out.mp4", &desc, &error));
    assert_false(video_writer_check("/tmp/", &desc, &error));
    assert_non_null(strstr(error.text, "extension"));
}

/* A percent sign is only special in the name of a .png, and a colon is no protocol. */
static void test_odd_names(void **state)
{
    struct fixture *f = *state;
    struct error error = {0};
    assert_true(write_all(f, in_folder(f, "100%s.mp4"), &desc, &error));
    assert_true(write_all(f, in_folder(f, "http:x y.gif"), &desc, &error));
    assert_int_equal(entries(f->folder), 2);
}

static void test_abort(void **state)
{
    struct fixture *f = *state;
    struct error error = {0};
    static const char *const names[] = {"a.mp4", "a.gif", "a-%d.png"};
    for (int i = 0; i < 3; i++) {
        struct video_writer *writer = NULL;
        assert_true(video_writer_open(&writer, in_folder(f, names[i]), &desc, &error));
        assert_true(video_writer_frame(writer, &f->rgb[0][0][0][0], &error));
        assert_true(video_writer_frame(writer, &f->rgb[1][0][0][0], &error));
        video_writer_abort(writer);
        assert_int_equal(entries(f->folder), 0);
        /* finishing too early is an error and leaves nothing either */
        assert_true(video_writer_open(&writer, in_folder(f, names[i]), &desc, &error));
        assert_true(video_writer_frame(writer, &f->rgb[0][0][0][0], &error));
        assert_false(video_writer_finish(writer, &error));
        assert_int_equal(entries(f->folder), 0);
    }
    video_writer_abort(NULL);
}

/* A file size limit acts as a full disk does: the message names the file, nothing is left, and a
 * file that was there before stays as it was. */
static void test_full_disk(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"full.mp4", "full.gif", "full-%d.png"};
    for (int i = 0; i < 3; i++) {
        struct error error = {0};
        struct rlimit before, small;
        getrlimit(RLIMIT_FSIZE, &before);
        small = before;
        small.rlim_cur = 300;
        const char *path = in_folder(f, names[i]);
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &small);
        bool ok = write_all(f, path, &desc, &error);
        setrlimit(RLIMIT_FSIZE, &before);
        signal(SIGXFSZ, SIG_DFL);
        assert_false(ok);
        assert_non_null(strstr(error.text, "full"));
        assert_int_equal(entries(f->folder), 0);
    }
    FILE *old = fopen(in_folder(f, "old.mp4"), "w");
    fputs("kept", old);
    fclose(old);
    struct video_writer *writer = NULL;
    struct error error = {0};
    assert_true(video_writer_open(&writer, in_folder(f, "old.mp4"), &desc, &error));
    video_writer_abort(writer);
    char text[8] = "";
    old = fopen(in_folder(f, "old.mp4"), "r");
    assert_non_null(fgets(text, sizeof text, old));
    fclose(old);
    assert_string_equal(text, "kept");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_mp4, setup, teardown),
        cmocka_unit_test_setup_teardown(test_crf_offset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_webm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gif, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gif_few_colours, setup, teardown),
        cmocka_unit_test_setup_teardown(test_png_series, setup, teardown),
        cmocka_unit_test_setup_teardown(test_single_png, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_odd_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_abort, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
