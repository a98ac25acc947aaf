/*
 * The GPU's convolutions: cuDNN's (cudnn_plan_cuda.c), and what is around them.
 *
 * cuDNN computes one convolution of float32; conv_parts_cuda.cu adds bias and residual behind it,
 * and in front of it makes channels a multiple of four and paddings equal on both sides, where they
 * are not. A kernel that does not look along time is a 2D convolution with the frames as the batch;
 * one that looks along time alone is 2D as well. The plan of a shape is made when it is met for the
 * first time and kept: the first that cuDNN's heuristics have, not the fastest of a few by the
 * clock, so that the same video comes out of every process. bfloat16 devices multiply TF32, float32
 * devices never. Where cuDNN has no plan that keeps to this, and beyond 31-bit indices, a plain
 * kernel of ours does it.
 *
 * Ladder, a chunk of four frames of the Wan VAE's decoder at 1280x720 on an H100, TF32, medians
 *   v1  plans timed, the fastest of three: 170.5 ms, of that convolutions 156.5. 384 channels on
 *       4x180x320 3.23 ms (284 TFLOP/s), 192 on 6x360x640 6.18 ms (297), 96 on 6x720x1280
 *       13.04 ms (141); bias and residual are 0.1, 0.8 and 1.1 ms of those. All three were engine
 *       67 everywhere
 *   v2  the heuristics' first: 217.7 ms, of that convolutions 203.7
 */
#include "conv_cuda.h"

#include "checked.h"
#include "conv_parts_cuda.h"
#include "cudnn_plan_cuda.h"
#include "random_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHANNEL_GRAIN = CUDNN_PLAN_ALIGNMENT / sizeof(float) };

static const size_t most_bytes = (size_t)INT32_MAX * sizeof(float); /* of what cuDNN is given */

/* How convolutions of one shape are done. */
struct choice {
    struct choice *next;
    struct conv_desc desc;
    struct conv_size in;
    struct cudnn_plan plan; /* none: the plain kernel */
};

struct library {
    cudnnHandle_t handle;
    struct choice *choices;
    int64_t convs; /* that live */
    uint64_t made; /* the seed of the next random one */
};

struct conv {
    struct conv_desc desc;
    int32_t in_padded, out_padded;
    float *weight; /* [out_padded][kt][kh][kw][in_padded] */
    float *bias;   /* [out_padded] */
};

/* ---- cuDNN ----------------------------------------------------------------------------------- */

static bool library_open(struct device *device, struct error *error)
{
    if (device->dnn)
        return true;
    struct library *library = calloc(1, sizeof *library);
    if (!library)
        return error_out_of_memory(error, "cuDNN", sizeof *library);
    cudnnStatus_t status = cudnnCreate(&library->handle);
    if (!status) {
        status = cudnnSetStream(library->handle, device->stream);
        if (status)
            cudnnDestroy(library->handle);
    }
    if (status) {
        free(library);
        return error_set(error, "CUDA device %d: cuDNN %zu cannot be used: %s", device->index,
                         cudnnGetVersion(), cudnnGetErrorString(status));
    }
    device->dnn = library;
    return true;
}

static void choices_free(struct library *library)
{
    while (library->choices) {
        struct choice *first = library->choices;
        library->choices = first->next;
        cudnn_plan_destroy(&first->plan);
        free(first);
    }
}

/* The last convolution takes the library with it. */
static void library_close(struct device *device)
{
    struct library *library = device->dnn;
    choices_free(library);
    cudnnDestroy(library->handle);
    free(library);
    device->dnn = NULL;
}

/* ---- one convolution under way --------------------------------------------------------------- */

/* What cuDNN is given and where it writes. */
struct run {
    struct conv_work work;
    struct conv_desc desc; /* of the padded problem */
    struct conv_size in;
    bool copies_x, copies_y; /* cuDNN's x and y are in scratch */
    size_t x_bytes, y_bytes; /* of scratch */
    const float *x;
    float *y;
    void *workspace;
};

static bool equal_paddings(const struct conv_desc *d)
{
    return d->pad_top == d->pad_bottom && d->pad_left == d->pad_right;
}

static size_t rounded(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

/* The problem that is left for cuDNN, and the scratch that this takes. false: sizes overflow. */
static bool run_plan(struct run *run, const struct conv *conv)
{
    const struct conv_work *work = &run->work;
    run->desc = conv->desc;
    run->desc.in = conv->in_padded;
    run->desc.out = conv->out_padded;
    run->in = work->in;
    run->copies_x = conv->in_padded != conv->desc.in || !equal_paddings(&conv->desc);
    run->copies_y = conv->out_padded != conv->desc.out || work->add;
    if (run->copies_x) {
        run->in.height += conv->desc.pad_top + conv->desc.pad_bottom;
        run->in.width += conv->desc.pad_left + conv->desc.pad_right;
        run->desc.pad_top = run->desc.pad_bottom = run->desc.pad_left = run->desc.pad_right = 0;
    }
    const int64_t x[] = {run->in.frames, run->in.height, run->in.width, conv->in_padded};
    const int64_t y[] = {work->out.frames, work->out.height, work->out.width, conv->out_padded};
    return checked_bytes(x, 4, sizeof(float), &run->x_bytes) &&
           checked_bytes(y, 4, sizeof(float), &run->y_bytes) && run->x_bytes < SIZE_MAX / 4 &&
           run->y_bytes < SIZE_MAX / 4;
}

/* Scratch is x, y, workspace, each where it is wanted. */
static bool run_place(struct run *run, struct device *device, size_t workspace, struct error *error)
{
    const size_t x_bytes = run->copies_x ? rounded(run->x_bytes) : 0;
    const size_t y_bytes = run->copies_y ? rounded(run->y_bytes) : 0;
    const size_t bytes = x_bytes + y_bytes + workspace;
    char *scratch = NULL;
    if (bytes > 0) {
        scratch = device_cuda_scratch(device, bytes);
        if (!scratch)
            return device_cuda_ok(device, error) &&
                   error_out_of_memory(
                       error, "a convolution of the VAE (a smaller tile needs less)", bytes);
    }
    run->x = run->copies_x ? (float *)scratch : run->work.x;
    run->y = run->copies_y ? (float *)(scratch + x_bytes) : run->work.y;
    run->workspace = workspace ? scratch + x_bytes + y_bytes : NULL;
    if (run->copies_x)
        conv_cuda_pad(device, &run->work, (float *)scratch);
    return true;
}

/* ---- choosing -------------------------------------------------------------------------------- */

static void tensor_dims(int64_t *dims, int64_t batch, int64_t channels, int spatial,
                        const int64_t *size)
{
    dims[0] = batch;
    dims[1] = channels;
    memcpy(dims + 2, size, (size_t)spatial * sizeof *size);
}

/* desc and in are what cuDNN sees: padded to equal paddings and to whole groups of channels. */
static struct cudnn_problem problem_of(const struct conv_desc *d, struct conv_size in,
                                       struct conv_size out)
{
    struct cudnn_problem p = {.spatial = 3};
    const int64_t x[] = {in.frames, in.height, in.width}, k[] = {d->kt, d->kh, d->kw};
    const int64_t y[] = {out.frames, out.height, out.width};
    const int64_t padding[] = {0, d->pad_top, d->pad_left};
    const int64_t stride[] = {d->stride_t, d->stride_h, d->stride_w};
    const bool flat = d->kh == 1 && d->kw == 1 && d->stride_h == 1 && d->stride_w == 1 &&
                      d->pad_top == 0 && d->pad_left == 0;
    if (d->kt == 1 && d->stride_t == 1) {
        p.spatial = 2;
        tensor_dims(p.x, in.frames, d->in, 2, x + 1);
        tensor_dims(p.weight, d->out, d->in, 2, k + 1);
        tensor_dims(p.y, in.frames, d->out, 2, y + 1);
        memcpy(p.padding, padding + 1, 2 * sizeof *padding);
        memcpy(p.stride, stride + 1, 2 * sizeof *stride);
    } else if (flat) {
        /* Frames are the height, and a frame is one line. */
        p.spatial = 2;
        tensor_dims(p.x, 1, d->in, 2, (int64_t[]){in.frames, in.height * in.width});
        tensor_dims(p.weight, d->out, d->in, 2, (int64_t[]){d->kt, 1});
        tensor_dims(p.y, 1, d->out, 2, (int64_t[]){out.frames, out.height * out.width});
        p.stride[0] = d->stride_t;
        p.stride[1] = 1;
    } else {
        tensor_dims(p.x, 1, d->in, 3, x);
        tensor_dims(p.weight, d->out, d->in, 3, k);
        tensor_dims(p.y, 1, d->out, 3, y);
        memcpy(p.padding, padding, sizeof padding);
        memcpy(p.stride, stride, sizeof stride);
    }
    return p;
}

static bool same_shape(const struct choice *choice, const struct conv_desc *desc,
                       struct conv_size in)
{
    return memcmp(&choice->desc, desc, sizeof *desc) == 0 &&
           memcmp(&choice->in, &in, sizeof in) == 0;
}

static const struct choice *find_choice(const struct library *library, const struct conv *conv,
                                        struct conv_size in)
{
    const struct choice *choice = library->choices;
    while (choice && !same_shape(choice, &conv->desc, in))
        choice = choice->next;
    return choice;
}

static const struct choice *make_choice(struct device *device, const struct conv *conv,
                                        const struct run *run, struct error *error)
{
    struct library *library = device->dnn;
    struct choice *choice = calloc(1, sizeof *choice);
    if (!choice) {
        error_out_of_memory(error, "a convolution", sizeof *choice);
        return NULL;
    }
    choice->desc = conv->desc;
    choice->in = run->work.in;
    struct cudnn_problem problem = problem_of(&run->desc, run->in, run->work.out);
    problem.tensor_cores = device->activations == ELEMENT_BF16;
    problem.most_workspace = CONV_CUDA_WORKSPACE;
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
    if (run->x_bytes <= most_bytes && run->y_bytes <= most_bytes)
        status = cudnn_plan_create(&choice->plan, library->handle, &problem);
    if (status) {
        free(choice);
        error_set(error,
                  "CUDA device %d: cuDNN %zu makes no plan of a convolution: %s; is it whole, all "
                  "of its libraries of one version, and is there memory left?",
                  device->index, cudnnGetVersion(), cudnnGetErrorString(status));
        return NULL;
    }
    choice->next = library->choices;
    library->choices = choice;
    return choice;
}

/* ---- the entries ----------------------------------------------------------------------------- */

static int32_t padded(int32_t channels)
{
    return (channels + CHANNEL_GRAIN - 1) / CHANNEL_GRAIN * CHANNEL_GRAIN;
}

/* [out][in][taps] to [out_padded][taps][in_padded], zeros beyond. */
static void pack_weight(const struct conv *conv, const float *from, float *to)
{
    const struct conv_desc *d = &conv->desc;
    const int64_t taps = (int64_t)d->kt * d->kh * d->kw;
    for (int64_t out = 0; out < d->out; out++)
        for (int64_t in = 0; in < d->in; in++)
            for (int64_t tap = 0; tap < taps; tap++)
                to[(out * taps + tap) * conv->in_padded + in] =
                    from[(out * d->in + in) * taps + tap];
}

static bool fill_weight(struct device *device, struct conv *conv, size_t bytes, const float *weight,
                        struct error *error)
{
    const struct conv_desc *d = &conv->desc;
    struct library *library = device->dnn;
    if (!weight) {
        /* What is beyond the channels meets zeros, or is dropped. */
        random_cuda_fill(device, conv->weight, ELEMENT_F32, 0, (int64_t)(bytes / sizeof(float)),
                         (int64_t)d->in * d->kt * d->kh * d->kw, library->made++);
        return true;
    }
    float *packed = calloc(1, bytes);
    if (!packed)
        return error_out_of_memory(error, "the weight of a convolution", bytes);
    pack_weight(conv, weight, packed);
    device_cuda_upload(device, conv->weight, packed, bytes);
    free(packed);
    return true;
}

static bool fill_bias(struct device *device, struct conv *conv, const float *bias,
                      struct error *error)
{
    const size_t bytes = (size_t)conv->out_padded * sizeof(float);
    float *values = calloc(1, bytes);
    if (!values)
        return error_out_of_memory(error, "the bias of a convolution", bytes);
    if (bias)
        memcpy(values, bias, (size_t)conv->desc.out * sizeof(float));
    device_cuda_upload(device, conv->bias, values, bytes);
    free(values);
    return true;
}

bool conv_cuda_create(struct device *device, struct conv **out, const struct conv_desc *desc,
                      const float *weight, const float *bias, struct error *error)
{
    *out = NULL;
    struct conv *conv = calloc(1, sizeof *conv);
    if (!conv)
        return error_out_of_memory(error, "a convolution", sizeof *conv);
    if (!library_open(device, error)) {
        free(conv);
        return false;
    }
    conv->desc = *desc;
    conv->in_padded = padded(desc->in);
    conv->out_padded = padded(desc->out);
    ((struct library *)device->dnn)->convs++;
    const int64_t dims[] = {conv->out_padded, desc->kt, desc->kh, desc->kw, conv->in_padded};
    size_t bytes = 0;
    bool ok = checked_bytes(dims, 5, sizeof(float), &bytes);
    if (!ok)
        error_set(error, "a convolution from %d to %d channels is too large", desc->in, desc->out);
    if (ok) {
        conv->weight = device_cuda_alloc(device, bytes);
        conv->bias = device_cuda_alloc(device, (size_t)conv->out_padded * sizeof(float));
        ok = conv->weight && conv->bias;
        if (!ok)
            error_out_of_memory(error, "the weights of a convolution on the GPU", bytes);
    }
    ok = ok && fill_weight(device, conv, bytes, weight, error) &&
         fill_bias(device, conv, bias, error) && device_cuda_ok(device, error);
    if (!ok) {
        conv_cuda_destroy(device, conv);
        return false;
    }
    *out = conv;
    return true;
}

void conv_cuda_destroy(struct device *device, struct conv *conv)
{
    if (!conv)
        return;
    struct library *library = device->dnn;
    device_cuda_free(device, conv->weight);
    device_cuda_free(device, conv->bias);
    free(conv);
    if (--library->convs == 0)
        library_close(device);
}

static bool output_size(struct conv_work *work, struct error *error)
{
    const struct conv_desc *d = &work->desc;
    const struct conv_size in = work->in;
    const int64_t height = in.height + d->pad_top + d->pad_bottom - d->kh;
    const int64_t width = in.width + d->pad_left + d->pad_right - d->kw;
    if (in.frames < d->kt || height < 0 || width < 0)
        return error_set(error, "a %dx%dx%d convolution does not fit on %lldx%lldx%lld", d->kt,
                         d->kh, d->kw, (long long)in.frames, (long long)in.height,
                         (long long)in.width);
    work->out = (struct conv_size){(in.frames - d->kt) / d->stride_t + 1, height / d->stride_h + 1,
                                   width / d->stride_w + 1};
    return true;
}

bool conv_cuda(struct device *device, const struct conv *conv, const float *x, int64_t frames,
               int64_t height, int64_t width, const float *add, float *y, struct error *error)
{
    const struct library *library = device->dnn;
    struct run run = {.work = {.desc = conv->desc,
                               .in_padded = conv->in_padded,
                               .in = {frames, height, width},
                               .x = x,
                               .weight = conv->weight,
                               .bias = conv->bias,
                               .add = add,
                               .y = y}};
    if (!output_size(&run.work, error))
        return false;
    if (!run_plan(&run, conv))
        return error_set(error, "the output of a convolution is too large");
    const struct choice *choice = find_choice(library, conv, run.work.in);
    if (!choice)
        choice = make_choice(device, conv, &run, error);
    if (!choice)
        return false;
    if (!choice->plan.plan) {
        conv_cuda_plain(device, &run.work);
        return device_cuda_ok(device, error);
    }
    if (!run_place(&run, device, (size_t)choice->plan.workspace, error))
        return false;
    cudnnStatus_t status =
        cudnn_plan_run(&choice->plan, library->handle, run.x, conv->weight, run.y, run.workspace);
    if (status)
        return device_cuda_ok(device, error) &&
               error_set(error,
                         "cuDNN, a convolution from %d to %d channels, %dx%dx%d, on %lldx"
                         "%lldx%lld: %s",
                         conv->desc.in, conv->desc.out, conv->desc.kt, conv->desc.kh, conv->desc.kw,
                         (long long)frames, (long long)height, (long long)width,
                         cudnnGetErrorString(status));
    conv_cuda_finish(device, &run.work, run.y, conv->out_padded);
    return device_cuda_ok(device, error);
}

void conv_cuda_describe(const struct device *device, const struct conv *conv, int64_t frames,
                        int64_t height, int64_t width, char *text, size_t size)
{
    const struct choice *choice =
        find_choice(device->dnn, conv, (struct conv_size){frames, height, width});
    if (!choice)
        snprintf(text, size, "not done yet");
    else if (!choice->plan.plan)
        snprintf(text, size, "the plain kernel");
    else
        snprintf(text, size, "cuDNN, engine %lld, %.1f MB of workspace",
                 (long long)choice->plan.engine, (double)choice->plan.workspace * 1e-6);
}
