/*
 * The GPU's convolutions, channel norm and upsampling against sums in double: odd shapes, strides,
 * paddings, residuals in place, channels in fours and not, what cuDNN does and what the plain
 * kernel does. --time prints the shapes of the Wan VAE's decoder at 1280x720.
 */
#include "cuda_support.h"

#include "tensor/conv_cuda.h"
#include "tensor/conv_parts_cuda.h"
#include "tensor/device_cuda.h"
#include "tensor/video_ops_cuda.h"

static struct device *open_device(enum element activations)
{
    struct device_desc desc = {};
    struct device *device = NULL;
    struct error error = {};
    desc.activations = activations;
    if (!device_cuda_create(&device, &desc, &error)) {
        fprintf(stderr, "no device: %s\n", error.text);
        exit(1);
    }
    return device;
}

static std::vector<float> normals(int64_t count, uint64_t seed, float deviation)
{
    std::vector<float> values((size_t)count);
    for (int64_t i = 0; i < count; i++)
        values[(size_t)i] = deviation * random_normal(seed, (uint64_t)i);
    return values;
}

static struct conv *make_conv(struct device *device, const struct conv_desc *desc,
                              const float *weight, const float *bias)
{
    struct conv *conv = NULL;
    struct error error = {};
    if (!conv_cuda_create(device, &conv, desc, weight, bias, &error)) {
        fprintf(stderr, "no convolution: %s\n", error.text);
        exit(1);
    }
    return conv;
}

/* --- convolutions --------------------------------------------------------------------------- */

enum add { NO_ADD, ADD, ADD_IN_PLACE };

static const char *const add_names[] = {"no residual", "residual", "residual in place"};

/* A kernel of the VAE: padded by half of it, or at the bottom and on the right alone. */
static struct conv_desc desc_of(int32_t in, int32_t out, int32_t kt, int32_t k, int32_t stride_t,
                                int32_t stride, bool lopsided)
{
    struct conv_desc desc = {};
    desc.in = in;
    desc.out = out;
    desc.kt = kt;
    desc.kh = desc.kw = k;
    desc.stride_t = stride_t;
    desc.stride_h = desc.stride_w = stride;
    desc.pad_bottom = desc.pad_right = k / 2;
    desc.pad_top = desc.pad_left = lopsided ? 0 : k / 2;
    return desc;
}

static struct conv_size size_of_output(const struct conv_desc *d, struct conv_size in)
{
    struct conv_size out = {};
    out.frames = (in.frames - d->kt) / d->stride_t + 1;
    out.height = (in.height + d->pad_top + d->pad_bottom - d->kh) / d->stride_h + 1;
    out.width = (in.width + d->pad_left + d->pad_right - d->kw) / d->stride_w + 1;
    return out;
}

static int64_t positions(struct conv_size size)
{
    return size.frames * size.height * size.width;
}

struct conv_case {
    struct conv_desc desc;
    struct conv_size in, out;
    std::vector<float> x, weight, bias, add; /* weight [out][in][taps] */
    std::vector<double> want, terms;         /* terms: sums of absolute values */
};

static struct conv_case make_case(struct conv_desc desc, struct conv_size in, uint64_t seed)
{
    struct conv_case c;
    const int64_t taps = (int64_t)desc.kt * desc.kh * desc.kw;
    c.desc = desc;
    c.in = in;
    c.out = size_of_output(&desc, in);
    c.x = normals(positions(in) * desc.in, seed, 1);
    c.weight = normals(desc.out * desc.in * taps, seed + 1, 1 / sqrtf((float)(desc.in * taps)));
    c.bias = normals(desc.out, seed + 2, 1);
    c.add = normals(positions(c.out) * desc.out, seed + 3, 1);
    return c;
}

/* One element, without its residual. */
static void sum_one(struct conv_case *c, int64_t frame, int64_t y, int64_t x, int32_t out)
{
    const struct conv_desc &d = c->desc;
    double sum = c->bias[(size_t)out], terms = fabs(sum);
    for (int32_t kt = 0; kt < d.kt; kt++)
        for (int32_t kh = 0; kh < d.kh; kh++)
            for (int32_t kw = 0; kw < d.kw; kw++) {
                const int64_t f = frame * d.stride_t + kt, h = y * d.stride_h + kh - d.pad_top;
                const int64_t w = x * d.stride_w + kw - d.pad_left;
                if (h < 0 || h >= c->in.height || w < 0 || w >= c->in.width)
                    continue;
                const float *from = c->x.data() + ((f * c->in.height + h) * c->in.width + w) * d.in;
                const int64_t tap = (kt * d.kh + kh) * d.kw + kw, taps = d.kt * d.kh * d.kw;
                for (int32_t i = 0; i < d.in; i++) {
                    const double term =
                        (double)from[i] * c->weight[(size_t)((out * d.in + i) * taps + tap)];
                    sum += term;
                    terms += fabs(term);
                }
            }
    c->want.push_back(sum);
    c->terms.push_back(terms);
}

static void sum_all(struct conv_case *c)
{
    for (int64_t frame = 0; frame < c->out.frames; frame++)
        for (int64_t y = 0; y < c->out.height; y++)
            for (int64_t x = 0; x < c->out.width; x++)
                for (int32_t out = 0; out < c->desc.out; out++)
                    sum_one(c, frame, y, x, out);
}

/* No element is further off than most of its terms, nor all together of their norm. */
static bool close_to(const struct conv_case *c, const std::vector<float> &y, bool added,
                     double most)
{
    double off = 0, norm = 0;
    for (size_t i = 0; i < y.size(); i++) {
        const double add = added ? c->add[i] : 0, want = c->want[i] + add;
        const double difference = y[i] - want;
        if (!(fabs(difference) <= most * (c->terms[i] + fabs(add))))
            return false;
        off += difference * difference;
        norm += want * want;
    }
    return sqrt(off) <= most * sqrt(norm);
}

/* work NULL: conv_cuda(); else the plain kernel, on the weights of work. */
static bool conv_matches(struct device *device, const struct conv_case *c, const struct conv *conv,
                         struct conv_work *work, enum add add, double most)
{
    struct device_buffer x = device_from(c->x), other = device_from(c->add);
    struct device_buffer y = device_make(c->want.size() * sizeof(float), 0xff);
    struct error error = {};
    if (add == ADD_IN_PLACE)
        device_upload(&y, c->add.data());
    CUDA_FINISH();
    const float *added = add == NO_ADD         ? NULL
                         : add == ADD_IN_PLACE ? (float *)y.data
                                               : (float *)other.data;
    bool ok = true;
    if (work) {
        work->x = (float *)x.data;
        work->add = added;
        work->y = (float *)y.data;
        conv_cuda_plain(device, work);
    } else {
        ok = conv_cuda(device, conv, (float *)x.data, c->in.frames, c->in.height, c->in.width,
                       added, (float *)y.data, &error);
    }
    ok = device_cuda_synchronise(device, &error) && ok;
    if (!ok)
        printf("%s\n", error.text);
    ok = ok && close_to(c, device_vector<float>(&y), add != NO_ADD, most);
    ok = ok && device_guards_hold(&y) && device_guards_hold(&x);
    device_free(&x);
    device_free(&other);
    device_free(&y);
    return ok;
}

/* [out][taps][in], as the plain kernel reads it where channels are not padded. */
static std::vector<float> turned(const struct conv_case *c)
{
    const struct conv_desc &d = c->desc;
    const int64_t taps = d.kt * d.kh * d.kw;
    std::vector<float> to(c->weight.size());
    for (int64_t out = 0; out < d.out; out++)
        for (int64_t in = 0; in < d.in; in++)
            for (int64_t tap = 0; tap < taps; tap++)
                to[(size_t)((out * taps + tap) * d.in + in)] =
                    c->weight[(size_t)((out * d.in + in) * taps + tap)];
    return to;
}

static void check_case(struct tally *tally, struct device *device, struct conv_desc desc,
                       struct conv_size in, uint64_t seed)
{
    struct conv_case c = make_case(desc, in, seed);
    sum_all(&c);
    struct conv *conv = make_conv(device, &desc, c.weight.data(), c.bias.data());
    struct device_buffer weight = device_from(turned(&c)), bias = device_from(c.bias);
    struct conv_work work = {};
    const bool half = device->activations == ELEMENT_BF16;
    work.desc = desc;
    work.in_padded = desc.in;
    work.in = c.in;
    work.out = c.out;
    work.weight = (float *)weight.data;
    work.bias = (float *)bias.data;
    for (enum add add : {NO_ADD, ADD, ADD_IN_PLACE}) {
        char how[256];
        bool ok = conv_matches(device, &c, conv, NULL, add, half ? 2e-3 : 1e-5);
        conv_cuda_describe(device, conv, in.frames, in.height, in.width, how, sizeof how);
        tally_case(tally, ok,
                   "%s, %d to %d channels, %dx%dx%d, strides %d %d, %lldx%lldx%lld, %s (%s)",
                   half ? "TF32" : "float32", desc.in, desc.out, desc.kt, desc.kh, desc.kw,
                   desc.stride_t, desc.stride_h, (long long)in.frames, (long long)in.height,
                   (long long)in.width, add_names[add], how);
        if (half)
            continue;
        ok = conv_matches(device, &c, conv, &work, add, 1e-5);
        tally_case(tally, ok, "plain, %d to %d channels, %dx%dx%d, %lldx%lldx%lld, %s", desc.in,
                   desc.out, desc.kt, desc.kh, desc.kw, (long long)in.frames, (long long)in.height,
                   (long long)in.width, add_names[add]);
    }
    device_free(&weight);
    device_free(&bias);
    conv_cuda_destroy(device, conv);
}

static void check_convs(struct tally *tally, enum element activations)
{
    struct device *device = open_device(activations);
    const int32_t channels[][2] = {{3, 96}, {5, 5}, {16, 48}, {48, 3}, {96, 96}, {8, 130}, {1, 1}};
    const struct conv_size sizes[] = {{3, 1, 1}, {3, 5, 7}, {4, 16, 9}, {6, 12, 33}};
    uint64_t seed = 1;
    for (const auto &pair : channels)
        for (struct conv_size in : sizes) {
            const int32_t from = pair[0], to = pair[1];
            check_case(tally, device, desc_of(from, to, 3, 3, 1, 1, false), in, seed += 10);
            check_case(tally, device, desc_of(from, to, 1, 3, 1, 1, false), in, seed += 10);
            check_case(tally, device, desc_of(from, to, 3, 1, 1, 1, false), in, seed += 10);
            check_case(tally, device, desc_of(from, to, 3, 1, 2, 1, false), in, seed += 10);
            check_case(tally, device, desc_of(from, to, 1, 1, 1, 1, false), in, seed += 10);
            if (in.height > 2)
                check_case(tally, device, desc_of(from, to, 1, 3, 1, 2, true), in, seed += 10);
        }
    check_case(tally, device, desc_of(96, 96, 3, 3, 1, 1, false), {4, 48, 64}, seed + 10);
    tally_case(tally, device->dnn == NULL, "cuDNN stays when the last convolution is gone");
    device_cuda_destroy(device);
}

/* Frames must not depend on the process: a fresh device gives the same bits. */
static void check_bits(struct tally *tally)
{
    const struct conv_case c = make_case(desc_of(96, 96, 3, 3, 1, 1, false), {4, 48, 64}, 77);
    std::vector<float> results[2];
    for (auto &result : results) {
        struct device *device = open_device(ELEMENT_BF16);
        struct conv *conv = make_conv(device, &c.desc, c.weight.data(), c.bias.data());
        struct device_buffer x = device_from(c.x);
        struct device_buffer y = device_make(c.add.size() * sizeof(float), 0xff);
        struct error error = {};
        CUDA_FINISH();
        const bool ok = conv_cuda(device, conv, (float *)x.data, c.in.frames, c.in.height,
                                  c.in.width, NULL, (float *)y.data, &error) &&
                        device_cuda_synchronise(device, &error);
        tally_case(tally, ok, "a convolution on a fresh device: %s", error.text);
        result = device_vector<float>(&y);
        device_free(&x);
        device_free(&y);
        conv_cuda_destroy(device, conv);
        device_cuda_destroy(device);
    }
    tally_case(tally, results[0] == results[1], "a convolution on two devices");
}

/* Random weights keep the variance of what they multiply; sizes that do not fit are refused. */
static void check_random(struct tally *tally)
{
    struct device *device = open_device(ELEMENT_F32);
    const struct conv_desc desc = desc_of(48, 64, 3, 3, 1, 1, false);
    struct conv *conv = make_conv(device, &desc, NULL, NULL);
    struct device_buffer x = device_from(normals(5 * 12 * 12 * 48, 3, 1));
    struct device_buffer y = device_make(3 * 12 * 12 * 64 * sizeof(float), 0xff);
    struct error error = {};
    CUDA_FINISH();
    bool ok = conv_cuda(device, conv, (float *)x.data, 5, 12, 12, NULL, (float *)y.data, &error) &&
              device_cuda_synchronise(device, &error);
    double squares = 0;
    int64_t inner = 0;
    const std::vector<float> values = device_vector<float>(&y);
    for (int64_t i = 0; i < (int64_t)values.size(); i++) {
        const int64_t column = i / 64 % 12, row = i / 64 / 12 % 12;
        if (row == 0 || row == 11 || column == 0 || column == 11)
            continue;
        squares += (double)values[(size_t)i] * values[(size_t)i];
        inner++;
    }
    const double variance = squares / (double)inner;
    tally_case(tally, ok && variance > 0.9 && variance < 1.1, "random weights: variance %g",
               variance);
    error = {};
    ok = conv_cuda(device, conv, (float *)x.data, 2, 12, 12, NULL, (float *)y.data, &error);
    tally_case(tally, !ok && strstr(error.text, "3x3x3"), "two frames under a 3x3x3 kernel: %s",
               error.text);
    conv_cuda_destroy(device, conv);
    device_free(&x);
    device_free(&y);
    device_cuda_destroy(device);
}

/* --- channel norm, upsampling --------------------------------------------------------------- */

/* Position 1 is all zeros, position 2 has a NaN. */
static bool norm_matches(struct device *device, int64_t rows, int64_t channels, bool silu,
                         bool in_place, size_t offset)
{
    std::vector<float> x = normals(rows * channels, 5, 3), gamma = normals(channels, 6, 1);
    for (int64_t i = channels; i < 2 * channels && rows > 1; i++)
        x[(size_t)i] = 0;
    if (rows > 2)
        x[(size_t)(3 * channels - 1)] = NAN;
    struct device_buffer dx = device_make(x.size() * sizeof(float), 0, offset);
    struct device_buffer dy = device_make(x.size() * sizeof(float), 0xff, offset);
    struct device_buffer dg = device_from(gamma);
    const struct device_buffer *out = in_place ? &dx : &dy;
    struct error error = {};
    device_upload(&dx, x.data());
    CUDA_FINISH();
    video_cuda_channel_norm(device, (float *)dx.data, (float *)out->data, rows, channels,
                            (float *)dg.data, silu);
    bool ok = device_cuda_synchronise(device, &error);
    const std::vector<float> y = device_vector<float>(out);
    for (int64_t r = 0; ok && r < rows; r++) {
        double squares = 0;
        for (int64_t c = 0; c < channels; c++)
            squares += (double)x[(size_t)(r * channels + c)] * x[(size_t)(r * channels + c)];
        for (int64_t c = 0; ok && c < channels; c++) {
            const size_t i = (size_t)(r * channels + c);
            const double t =
                x[i] / fmax(sqrt(squares), 1e-12) * sqrt((double)channels) * gamma[(size_t)c];
            const double want = silu ? t / (1 + exp(-t)) : t;
            ok = r == 2 ? std::isnan(y[i]) : fabs(y[i] - want) <= 5e-6 * (1 + fabs(want));
        }
    }
    ok = ok && device_guards_hold(&dx) && device_guards_hold(&dy);
    device_free(&dx);
    device_free(&dy);
    device_free(&dg);
    return ok;
}

static bool upsample_matches(struct device *device, struct conv_size size, int64_t channels,
                             size_t offset)
{
    const std::vector<float> x = normals(positions(size) * channels, 7, 1);
    struct device_buffer dx = device_make(x.size() * sizeof(float), 0, offset);
    struct device_buffer dy = device_make(4 * x.size() * sizeof(float), 0xff, offset);
    struct error error = {};
    device_upload(&dx, x.data());
    CUDA_FINISH();
    video_cuda_upsample2(device, (float *)dx.data, (float *)dy.data, size.frames, size.height,
                         size.width, channels);
    bool ok = device_cuda_synchronise(device, &error);
    const std::vector<float> y = device_vector<float>(&dy);
    for (size_t i = 0; ok && i < y.size(); i++) {
        const int64_t c = (int64_t)i % channels, pixel = (int64_t)i / channels;
        const int64_t column = pixel % (2 * size.width), line = pixel / (2 * size.width);
        const int64_t frame = line / (2 * size.height), row = line % (2 * size.height);
        ok =
            y[i] ==
            x[(size_t)(((frame * size.height + row / 2) * size.width + column / 2) * channels + c)];
    }
    ok = ok && device_guards_hold(&dx) && device_guards_hold(&dy);
    device_free(&dx);
    device_free(&dy);
    return ok;
}

static void check_video_ops(struct tally *tally)
{
    struct device *device = open_device(ELEMENT_F32);
    for (int64_t channels : {1, 3, 4, 8, 16, 20, 32, 33, 64, 96, 100, 128, 192, 256, 384, 512, 516})
        for (int64_t rows : {1, 2, 3, 7, 33, 1000})
            for (int kind = 0; kind < 6; kind++) {
                const bool silu = kind % 2, in_place = kind / 2 == 1;
                const size_t offset = kind / 2 == 2 ? 4 : 0;
                tally_case(tally, norm_matches(device, rows, channels, silu, in_place, offset),
                           "channel norm, %lld rows of %lld, SiLU %d, in place %d, offset %zu",
                           (long long)rows, (long long)channels, silu, in_place, offset);
            }
    tally_case(tally, norm_matches(device, 70000, 96, true, false, 0), "channel norm, 70,000 rows");
    const struct conv_size sizes[] = {{1, 1, 1}, {2, 3, 5}, {1, 9, 300}, {3, 40, 17}};
    for (int64_t channels : {1, 3, 4, 16, 96, 130})
        for (struct conv_size size : sizes)
            for (size_t offset : {(size_t)0, (size_t)4})
                tally_case(tally, upsample_matches(device, size, channels, offset),
                           "upsampling, %lldx%lldx%lldx%lld, offset %zu", (long long)size.frames,
                           (long long)size.height, (long long)size.width, (long long)channels,
                           offset);
    device_cuda_destroy(device);
}

/* --- timing --------------------------------------------------------------------------------- */

/* Median milliseconds of what work() enqueues on the device's stream. */
template <typename Work> float time_ms(struct device *device, Work work)
{
    enum { WARM = 2, TIMED = 7 };
    cudaEvent_t begin, end;
    std::vector<float> times(TIMED);
    CUDA_OK(cudaEventCreate(&begin));
    CUDA_OK(cudaEventCreate(&end));
    for (int i = -WARM; i < TIMED; i++) {
        CUDA_OK(cudaEventRecord(begin, device->stream));
        work();
        CUDA_OK(cudaEventRecord(end, device->stream));
        CUDA_OK(cudaEventSynchronize(end));
        if (i >= 0)
            CUDA_OK(cudaEventElapsedTime(&times[(size_t)i], begin, end));
    }
    CUDA_OK(cudaEventDestroy(begin));
    CUDA_OK(cudaEventDestroy(end));
    std::sort(times.begin(), times.end());
    return times[TIMED / 2];
}

/* How often a chunk of four frames does it; returns the milliseconds of a chunk. */
static float time_conv(struct device *device, struct conv_desc desc, struct conv_size in, bool add,
                       int times)
{
    const struct conv_size out = size_of_output(&desc, in);
    struct conv *conv = make_conv(device, &desc, NULL, NULL);
    struct device_buffer x = device_make((size_t)(positions(in) * desc.in) * sizeof(float), 0);
    struct device_buffer y = device_make((size_t)(positions(out) * desc.out) * sizeof(float), 0);
    struct error error = {};
    char how[256];
    bool ok = true;
    device_random(&x, DRAFTATTN_F32, 8, 1);
    CUDA_FINISH();
    const float *added = add ? (float *)y.data : NULL;
    const float ms = time_ms(device, [&] {
        ok = ok && conv_cuda(device, conv, (float *)x.data, in.frames, in.height, in.width, added,
                             (float *)y.data, &error);
    });
    if (!ok)
        printf("%s\n", error.text);
    conv_cuda_describe(device, conv, in.frames, in.height, in.width, how, sizeof how);
    const double flops =
        2.0 * (double)positions(out) * desc.out * desc.in * desc.kt * desc.kh * desc.kw;
    printf("%3d -> %3d, %dx%dx%d, %lldx%lldx%lld%s: %7.3f ms, %5.1f TFLOP/s, %d a chunk; %s\n",
           desc.in, desc.out, desc.kt, desc.kh, desc.kw, (long long)in.frames, (long long)in.height,
           (long long)in.width, add ? ", in place" : "", ms, flops / 1e9 / (double)ms, times, how);
    conv_cuda_destroy(device, conv);
    device_free(&x);
    device_free(&y);
    return ms * (float)times;
}

static float time_norm(struct device *device, int64_t rows, int64_t channels, int times)
{
    struct device_buffer x = device_make((size_t)(rows * channels) * sizeof(float), 0);
    struct device_buffer y = device_make((size_t)(rows * channels) * sizeof(float), 0);
    struct device_buffer gamma = device_from(normals(channels, 9, 1));
    device_random(&x, DRAFTATTN_F32, 10, 1);
    CUDA_FINISH();
    const float ms = time_ms(device, [&] {
        video_cuda_channel_norm(device, (float *)x.data, (float *)y.data, rows, channels,
                                (float *)gamma.data, true);
    });
    printf("channel norm, %lld x %lld: %.3f ms, %.0f GB/s\n", (long long)rows, (long long)channels,
           ms, 8e-6 * (double)(rows * channels) / (double)ms);
    device_free(&x);
    device_free(&y);
    device_free(&gamma);
    return ms * (float)times;
}

static float time_upsample(struct device *device, struct conv_size size, int64_t channels,
                           int times)
{
    const size_t bytes = (size_t)(positions(size) * channels) * sizeof(float);
    struct device_buffer x = device_make(bytes, 0), y = device_make(4 * bytes, 0);
    CUDA_FINISH();
    const float ms = time_ms(device, [&] {
        video_cuda_upsample2(device, (float *)x.data, (float *)y.data, size.frames, size.height,
                             size.width, channels);
    });
    printf("upsampling, %lldx%lld x %lld: %.3f ms, %.0f GB/s\n", (long long)size.height,
           (long long)size.width, (long long)channels, ms, 5e-6 * (double)bytes / (double)ms);
    device_free(&x);
    device_free(&y);
    return ms * (float)times;
}

/* The decoder's operations for four frames of 1280x720, by level. */
static float time_decoder(struct device *device)
{
    const struct conv_desc time = desc_of(384, 384, 3, 1, 1, 1, false);
    float ms = time_conv(device, desc_of(16, 384, 3, 3, 1, 1, false), {3, 90, 160}, false, 1);
    ms += time_conv(device, desc_of(384, 384, 3, 3, 1, 1, false), {3, 90, 160}, false, 5);
    ms += time_conv(device, desc_of(384, 384, 3, 3, 1, 1, false), {3, 90, 160}, true, 5);
    ms += time_conv(device, time, {3, 90, 160}, false, 2);
    ms += time_conv(device, desc_of(384, 192, 1, 3, 1, 1, false), {1, 180, 320}, false, 2);
    ms += time_conv(device, desc_of(192, 384, 3, 3, 1, 1, false), {4, 180, 320}, false, 1);
    ms += time_conv(device, desc_of(384, 384, 3, 3, 1, 1, false), {4, 180, 320}, false, 2);
    ms += time_conv(device, desc_of(384, 384, 3, 3, 1, 1, false), {4, 180, 320}, true, 3);
    ms += time_conv(device, time, {3, 180, 320}, false, 4);
    ms += time_conv(device, desc_of(384, 192, 1, 3, 1, 1, false), {1, 360, 640}, false, 4);
    ms += time_conv(device, desc_of(192, 192, 3, 3, 1, 1, false), {6, 360, 640}, false, 3);
    ms += time_conv(device, desc_of(192, 192, 3, 3, 1, 1, false), {6, 360, 640}, true, 3);
    ms += time_conv(device, desc_of(192, 96, 1, 3, 1, 1, false), {1, 720, 1280}, false, 4);
    ms += time_conv(device, desc_of(96, 96, 3, 3, 1, 1, false), {6, 720, 1280}, false, 3);
    ms += time_conv(device, desc_of(96, 96, 3, 3, 1, 1, false), {6, 720, 1280}, true, 3);
    ms += time_conv(device, desc_of(96, 3, 3, 3, 1, 1, false), {6, 720, 1280}, false, 1);
    const float convs = ms;
    ms += time_norm(device, 90 * 160, 384, 11);
    ms += time_norm(device, 2 * 180 * 320, 384, 6);
    ms += time_norm(device, 4 * 360 * 640, 192, 6);
    ms += time_norm(device, 4 * 720 * 1280, 96, 7);
    ms += time_upsample(device, {1, 90, 160}, 384, 2);
    ms += time_upsample(device, {1, 180, 320}, 384, 4);
    ms += time_upsample(device, {1, 360, 640}, 192, 4);
    printf("a chunk of four frames: %.1f ms, of that convolutions %.1f\n", ms, convs);
    return ms;
}

int main(int argc, char **argv)
{
    struct tally tally = {};
    cuda_device_or_skip(80, 999);
    if (asked_to_time(argc, argv)) {
        struct device *device = open_device(ELEMENT_BF16);
        printf("81 frames: %.1f s\n", 20.25 * (double)time_decoder(device) / 1e3);
        device_cuda_destroy(device);
        return 0;
    }
    check_convs(&tally, ELEMENT_F32);
    check_convs(&tally, ELEMENT_BF16);
    check_bits(&tally);
    check_random(&tally);
    check_video_ops(&tally);
    return tally_end(&tally);
}
