/*
 * Fully connected layers and convolutions through oneDNN: the one file that knows it. Both API
 * generations (2.x with descriptor structs, 3.x with opaque ones) are met by the few functions of
 * the first section; everything below is written once.
 *
 * Activations are channels-last as everywhere. Weights are reordered to the layout that oneDNN asks
 * for ("any"): once, as that layout was the same for every number of rows and frame size tried; a
 * case that wants another one gets its own copy. A primitive is compiled per shape and kept with
 * its layer, a handful at a time. Bias, activation and the residual sum are fused into the
 * primitive.
 */
#include "onednn_cpu.h"

#include "checked.h"
#include "device_cpu.h"
#include "random_cpu.h"

#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_debug.h>

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- the two API generations ----------------------------------------------------------------- */

#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t layout_ref;
struct layout {
    dnnl_memory_desc_t md;
};

static layout_ref layout_get(const struct layout *layout)
{
    return layout->md;
}

static dnnl_status_t layout_set(struct layout *out, int rank, const dnnl_dims_t dims,
                                dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_create_with_tag(&out->md, rank, dims, dnnl_f32, tag);
}

static void layout_free(struct layout *layout)
{
    if (layout->md)
        dnnl_memory_desc_destroy(layout->md);
}

static dnnl_status_t append_eltwise(dnnl_post_ops_t ops, dnnl_alg_kind_t kind)
{
    return dnnl_post_ops_append_eltwise(ops, kind, 1.0f, 0.0f);
}

static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_f32);
}

static dnnl_status_t describe_matmul(dnnl_primitive_desc_t *out, dnnl_engine_t engine, layout_ref x,
                                     layout_ref weight, layout_ref bias, layout_ref y,
                                     const_dnnl_primitive_attr_t attr)
{
    return dnnl_matmul_primitive_desc_create(out, engine, x, weight, bias, y, attr);
}

static dnnl_status_t describe_conv(dnnl_primitive_desc_t *out, dnnl_engine_t engine, layout_ref x,
                                   layout_ref weight, layout_ref bias, layout_ref y,
                                   const dnnl_dims_t strides, const dnnl_dims_t pad_low,
                                   const dnnl_dims_t pad_high, const_dnnl_primitive_attr_t attr)
{
    const dnnl_dims_t dilates = {0};
    return dnnl_convolution_forward_primitive_desc_create(
        out, engine, dnnl_forward_inference, dnnl_convolution_direct, x, weight, bias, y, strides,
        dilates, pad_low, pad_high, attr);
}
#else
typedef const dnnl_memory_desc_t *layout_ref;
struct layout {
    dnnl_memory_desc_t md;
};

static layout_ref layout_get(const struct layout *layout)
{
    return &layout->md;
}

static dnnl_status_t layout_set(struct layout *out, int rank, const dnnl_dims_t dims,
                                dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_init_by_tag(&out->md, rank, dims, dnnl_f32, tag);
}

static void layout_free(struct layout *layout)
{
    (void)layout;
}

static dnnl_status_t append_eltwise(dnnl_post_ops_t ops, dnnl_alg_kind_t kind)
{
    return dnnl_post_ops_append_eltwise(ops, 1.0f, kind, 1.0f, 0.0f);
}

static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f);
}

static dnnl_status_t describe_matmul(dnnl_primitive_desc_t *out, dnnl_engine_t engine, layout_ref x,
                                     layout_ref weight, layout_ref bias, layout_ref y,
                                     const_dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t desc;
    dnnl_status_t status = dnnl_matmul_desc_init(&desc, x, weight, bias, y);
    return status ? status : dnnl_primitive_desc_create(out, &desc, attr, engine, NULL);
}

static dnnl_status_t describe_conv(dnnl_primitive_desc_t *out, dnnl_engine_t engine, layout_ref x,
                                   layout_ref weight, layout_ref bias, layout_ref y,
                                   const dnnl_dims_t strides, const dnnl_dims_t pad_low,
                                   const dnnl_dims_t pad_high, const_dnnl_primitive_attr_t attr)
{
    dnnl_convolution_desc_t desc;
    dnnl_status_t status =
        dnnl_convolution_forward_desc_init(&desc, dnnl_forward_inference, dnnl_convolution_direct,
                                           x, weight, bias, y, strides, pad_low, pad_high);
    return status ? status : dnnl_primitive_desc_create(out, &desc, attr, engine, NULL);
}
#endif

static bool failed(dnnl_status_t status, const char *what, struct error *error)
{
    if (status == dnnl_success)
        return false;
    error_set(error, "oneDNN: %s: %s", what, dnnl_status2str(status));
    return true;
}

/* ---- engine ---------------------------------------------------------------------------------- */

struct library {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
};

bool onednn_open(struct device *device, struct error *error)
{
    struct library *library = calloc(1, sizeof(*library));
    if (!library)
        return error_out_of_memory(error, "oneDNN", sizeof(*library));
    device->onednn = library;
    if (failed(dnnl_engine_create(&library->engine, dnnl_cpu, 0), "no CPU engine", error) ||
        failed(dnnl_stream_create(&library->stream, library->engine, dnnl_stream_default_flags),
               "no stream", error)) {
        onednn_close(device);
        return false;
    }
    return true;
}

/* oneDNN keeps what it compiled for the process. Of several runs in one, the later ones would then
 * be timed without compiling, and compare would count that as a gain. */
static void forget_compiled(void)
{
    int capacity;
    if (dnnl_get_primitive_cache_capacity(&capacity) == dnnl_success &&
        dnnl_set_primitive_cache_capacity(0) == dnnl_success)
        dnnl_set_primitive_cache_capacity(capacity);
}

void onednn_close(struct device *device)
{
    struct library *library = device->onednn;
    if (!library)
        return;
    forget_compiled();
    if (library->stream)
        dnnl_stream_destroy(library->stream);
    if (library->engine)
        dnnl_engine_destroy(library->engine);
    free(library);
    device->onednn = NULL;
}

/* ---- weights and compiled cases -------------------------------------------------------------- */

enum { CASES = 8, MAX_RANK = 5 };

/* A weight in some layout. */
struct packed {
    dnnl_memory_t memory; /* NULL = none */
    float *data;
};

/* A compiled primitive for one shape; handles of x and y are set before every run. */
struct compiled {
    int64_t key[4];
    dnnl_primitive_t primitive; /* NULL = a free slot */
    dnnl_memory_t x, y;
    struct packed own; /* where this case wants another layout than the layer's */
};

/* What linear and conv have in common. */
struct layer {
    struct packed weight;
    struct packed bias;
    bool plain; /* weight is still as it was stored */
    struct compiled cases[CASES];
    int next; /* the slot that goes when all are taken */
};

struct linear {
    int64_t in, out;
    struct layer *layer;
};

struct conv {
    struct conv_desc desc;
    struct layer *layer;
};

static void packed_free(struct packed *packed)
{
    if (packed->memory)
        dnnl_memory_destroy(packed->memory);
    free(packed->data);
    *packed = (struct packed){0};
}

static bool packed_alloc(struct packed *out, struct library *library, layout_ref layout,
                         struct error *error)
{
    size_t bytes = dnnl_memory_desc_get_size(layout);
    out->data = bytes <= SIZE_MAX - 64 ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
    if (!out->data) {
        error_out_of_memory(error, "weights", bytes);
        return false;
    }
    if (failed(dnnl_memory_create(&out->memory, layout, library->engine, out->data), "weights",
               error)) {
        packed_free(out);
        return false;
    }
    return true;
}

static layout_ref memory_layout(dnnl_memory_t memory)
{
    layout_ref layout = NULL;
    dnnl_memory_get_memory_desc(memory, &layout);
    return layout;
}

static bool reorder(struct library *library, dnnl_memory_t from, dnnl_memory_t to,
                    struct error *error)
{
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t primitive = NULL;
    dnnl_status_t status = dnnl_reorder_primitive_desc_create(
        &desc, memory_layout(from), library->engine, memory_layout(to), library->engine, NULL);
    if (!status)
        status = dnnl_primitive_create(&primitive, desc);
    if (!status) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
        status = dnnl_primitive_execute(primitive, library->stream, 2, args);
    }
    if (!status)
        status = dnnl_stream_wait(library->stream);
    if (primitive)
        dnnl_primitive_destroy(primitive);
    if (desc)
        dnnl_primitive_desc_destroy(desc);
    return !failed(status, "weights cannot be reordered", error);
}

static void compiled_free(struct compiled *compiled)
{
    if (compiled->primitive)
        dnnl_primitive_destroy(compiled->primitive);
    if (compiled->x)
        dnnl_memory_destroy(compiled->x);
    if (compiled->y)
        dnnl_memory_destroy(compiled->y);
    packed_free(&compiled->own);
    *compiled = (struct compiled){0};
}

static void layer_free(struct layer *layer)
{
    if (!layer)
        return;
    for (int i = 0; i < CASES; i++)
        compiled_free(&layer->cases[i]);
    packed_free(&layer->weight);
    packed_free(&layer->bias);
    free(layer);
}

/* Where the values of a layer come from: weight NULL = random, count of them. */
struct values {
    const float *weight, *bias; /* bias NULL = none, or zeros */
    bool has_bias;
    int64_t count, fan_in;
    uint64_t seed;
};

/* Copies weight and bias as they are; they are packed when the first shape is known. */
static bool layer_create(struct layer **out, struct device *device, layout_ref weight_layout,
                         layout_ref bias_layout, const struct values *values, struct error *error)
{
    struct library *library = device->onednn;
    struct layer *layer = calloc(1, sizeof(*layer));
    *out = NULL;
    if (!layer)
        return error_out_of_memory(error, "layer", sizeof(*layer));
    layer->plain = true;
    if (!packed_alloc(&layer->weight, library, weight_layout, error) ||
        (values->has_bias && !packed_alloc(&layer->bias, library, bias_layout, error))) {
        layer_free(layer);
        return false;
    }
    if (values->weight)
        memcpy(layer->weight.data, values->weight, dnnl_memory_desc_get_size(weight_layout));
    else
        random_weights_cpu(device, layer->weight.data, values->count, values->fan_in, values->seed);
    if (values->has_bias && values->bias)
        memcpy(layer->bias.data, values->bias, dnnl_memory_desc_get_size(bias_layout));
    else if (values->has_bias)
        memset(layer->bias.data, 0, dnnl_memory_desc_get_size(bias_layout));
    *out = layer;
    return true;
}

static struct compiled *layer_find(struct layer *layer, const int64_t key[4])
{
    for (int i = 0; i < CASES; i++)
        if (layer->cases[i].primitive && !memcmp(layer->cases[i].key, key, 4 * sizeof(*key)))
            return &layer->cases[i];
    return NULL;
}

/* Sees that a weight in this layout exists: the layer's, or one of the case's own. */
static bool layer_pack(struct layer *layer, struct compiled *compiled, struct library *library,
                       layout_ref wanted, struct error *error)
{
    if (dnnl_memory_desc_equal(wanted, memory_layout(layer->weight.memory))) {
        layer->plain = false;
        return true;
    }
    struct packed packed = {0};
    if (!packed_alloc(&packed, library, wanted, error))
        return false;
    if (!reorder(library, layer->weight.memory, packed.memory, error)) {
        packed_free(&packed);
        return false;
    }
    if (layer->plain) {
        packed_free(&layer->weight);
        layer->weight = packed;
        layer->plain = false;
    } else {
        compiled->own = packed;
    }
    return true;
}

/* Compiles desc and puts it into a slot of the layer. Takes desc. */
static struct compiled *layer_compile(struct layer *layer, struct library *library,
                                      dnnl_primitive_desc_t desc, const int64_t key[4],
                                      struct error *error)
{
    struct compiled *compiled = &layer->cases[layer->next];
    layer->next = (layer->next + 1) % CASES;
    compiled_free(compiled);

    layout_ref x = dnnl_primitive_desc_query_md(desc, dnnl_query_src_md, 0);
    layout_ref y = dnnl_primitive_desc_query_md(desc, dnnl_query_dst_md, 0);
    layout_ref weight = dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    bool ok =
        layer_pack(layer, compiled, library, weight, error) &&
        !failed(dnnl_memory_create(&compiled->x, x, library->engine, DNNL_MEMORY_NONE), "input",
                error) &&
        !failed(dnnl_memory_create(&compiled->y, y, library->engine, DNNL_MEMORY_NONE), "output",
                error) &&
        !failed(dnnl_primitive_create(&compiled->primitive, desc), "cannot compile a layer", error);
    dnnl_primitive_desc_destroy(desc);
    if (!ok) {
        compiled_free(compiled);
        return NULL;
    }
    memcpy(compiled->key, key, sizeof(compiled->key));
    return compiled;
}

static bool layer_run(const struct layer *layer, const struct compiled *compiled,
                      struct library *library, const float *x, float *y, struct error *error)
{
    const dnnl_memory_t weight = compiled->own.memory ? compiled->own.memory : layer->weight.memory;
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, compiled->x},
                                    {DNNL_ARG_DST, compiled->y},
                                    {DNNL_ARG_WEIGHTS, weight},
                                    {DNNL_ARG_BIAS, layer->bias.memory}};
    /* oneDNN does not write what is bound as the input; its API has no const. */
    dnnl_status_t status = dnnl_memory_set_data_handle(compiled->x, (void *)(uintptr_t)x);
    if (!status)
        status = dnnl_memory_set_data_handle(compiled->y, y);
    if (!status)
        status = dnnl_primitive_execute(compiled->primitive, library->stream,
                                        layer->bias.memory ? 4 : 3, args);
    if (!status)
        status = dnnl_stream_wait(library->stream);
    return !failed(status, "a layer failed", error);
}

/* Attributes with one fused operation. NULL on failure. */
static dnnl_primitive_attr_t attributes(enum activation activation, bool sum)
{
    static const dnnl_alg_kind_t kinds[] = {[ACTIVATION_GELU_TANH] = dnnl_eltwise_gelu_tanh,
                                            [ACTIVATION_GELU_ERF] = dnnl_eltwise_gelu_erf,
                                            [ACTIVATION_SILU] = dnnl_eltwise_swish};
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    if (dnnl_primitive_attr_create(&attr))
        return NULL;
    dnnl_status_t status = dnnl_post_ops_create(&ops);
    if (!status && sum)
        status = append_sum(ops);
    if (!status && activation != ACTIVATION_NONE)
        status = append_eltwise(ops, kinds[activation]);
    if (!status)
        status = dnnl_primitive_attr_set_post_ops(attr, ops);
    if (ops)
        dnnl_post_ops_destroy(ops);
    if (status) {
        dnnl_primitive_attr_destroy(attr);
        return NULL;
    }
    return attr;
}

/* ---- linear ---------------------------------------------------------------------------------- */

bool onednn_linear_create(struct device *device, struct linear **out,
                          const struct linear_desc *desc, struct error *error)
{
    const struct values values = {.weight = desc->weight,
                                  .bias = desc->weight ? desc->bias_values : NULL,
                                  .has_bias = desc->bias,
                                  .count = desc->in * desc->out,
                                  .fan_in = desc->in,
                                  .seed = desc->seed};
    /* y = x W^T: oneDNN's matmul takes W^T [in][out], which is W [out][in] read down its
     * columns. */
    const dnnl_dims_t weight_dims = {desc->in, desc->out};
    const dnnl_dims_t bias_dims = {1, desc->out};
    struct layout weight_layout = {0}, bias_layout = {0};
    struct linear *linear = calloc(1, sizeof(*linear));
    *out = NULL;
    if (!linear)
        return error_out_of_memory(error, "layer", sizeof(*linear));
    linear->in = desc->in;
    linear->out = desc->out;
    bool ok = !failed(layout_set(&weight_layout, 2, weight_dims, dnnl_ba), "weight shape", error) &&
              !failed(layout_set(&bias_layout, 2, bias_dims, dnnl_ab), "bias shape", error) &&
              layer_create(&linear->layer, device, layout_get(&weight_layout),
                           layout_get(&bias_layout), &values, error);
    layout_free(&weight_layout);
    layout_free(&bias_layout);
    if (!ok) {
        free(linear);
        return false;
    }
    *out = linear;
    return true;
}

void onednn_linear_destroy(struct device *device, struct linear *linear)
{
    (void)device;
    if (!linear)
        return;
    layer_free(linear->layer);
    free(linear);
}

static struct compiled *linear_compile(struct library *library, const struct linear *linear,
                                       const int64_t key[4], struct error *error)
{
    const dnnl_dims_t x_dims = {key[0], linear->in}, y_dims = {key[0], linear->out};
    const dnnl_dims_t weight_dims = {linear->in, linear->out}, bias_dims = {1, linear->out};
    struct layout x = {0}, y = {0}, weight = {0}, bias = {0};
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_attr_t attr = attributes((enum activation)key[1], false);
    dnnl_status_t status = attr ? dnnl_success : dnnl_out_of_memory;
    if (!status)
        status = layout_set(&x, 2, x_dims, dnnl_ab);
    if (!status)
        status = layout_set(&y, 2, y_dims, dnnl_ab);
    if (!status)
        status = layout_set(&weight, 2, weight_dims, dnnl_format_tag_any);
    if (!status)
        status = layout_set(&bias, 2, bias_dims, dnnl_ab);
    if (!status)
        status = describe_matmul(&desc, library->engine, layout_get(&x), layout_get(&weight),
                                 linear->layer->bias.memory ? layout_get(&bias) : NULL,
                                 layout_get(&y), attr);
    layout_free(&x);
    layout_free(&y);
    layout_free(&weight);
    layout_free(&bias);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    if (status) {
        error_set(error, "oneDNN has no matrix product for [%lld, %lld] x [%lld, %lld]: %s",
                  (long long)key[0], (long long)linear->in, (long long)linear->in,
                  (long long)linear->out, dnnl_status2str(status));
        return NULL;
    }
    return layer_compile(linear->layer, library, desc, key, error);
}

bool onednn_linear(struct device *device, const struct linear *linear, const void *x,
                   enum element x_type, void *y, enum element y_type, int64_t rows,
                   enum activation activation, struct error *error)
{
    assert(x_type == ELEMENT_F32 && y_type == ELEMENT_F32);
    (void)x_type, (void)y_type; /* where assert() is nothing */
    struct library *library = device->onednn;
    const int64_t key[4] = {rows, activation};
    if (rows == 0)
        return true;
    struct compiled *compiled = layer_find(linear->layer, key);
    if (!compiled)
        compiled = linear_compile(library, linear, key, error);
    return compiled && layer_run(linear->layer, compiled, library, x, y, error);
}

/* ---- convolution ----------------------------------------------------------------------------- */

/* A kernel that does not look along time is a 2D convolution with the frames as the batch. */
static int conv_rank(const struct conv_desc *desc)
{
    return desc->kt == 1 && desc->stride_t == 1 ? 4 : MAX_RANK;
}

/* Puts [frames, height, width] behind the first entries: {1, channels, ...} or {frames,
 * channels, ..} */
static void conv_dims(dnnl_dims_t dims, int rank, int64_t frames, int64_t channels, int64_t height,
                      int64_t width)
{
    dims[0] = rank == 4 ? frames : 1;
    dims[1] = channels;
    dims[2] = frames;
    dims[rank - 2] = height;
    dims[rank - 1] = width;
}

static void conv_weight_dims(dnnl_dims_t dims, const struct conv_desc *desc)
{
    conv_dims(dims, conv_rank(desc), desc->kt, desc->in, desc->kh, desc->kw);
    dims[0] = desc->out;
}

bool onednn_conv_create(struct device *device, struct conv **out, const struct conv_desc *desc,
                        const float *weight, const float *bias, struct error *error)
{
    int rank = conv_rank(desc);
    dnnl_dims_t weight_dims;
    const dnnl_dims_t bias_dims = {desc->out};
    struct layout weight_layout = {0}, bias_layout = {0};
    struct conv *conv = calloc(1, sizeof(*conv));
    *out = NULL;
    if (!conv)
        return error_out_of_memory(error, "layer", sizeof(*conv));
    conv->desc = *desc;
    conv_weight_dims(weight_dims, desc);
    const int64_t taps = (int64_t)desc->in * desc->kt * desc->kh * desc->kw;
    const struct values values = {.weight = weight,
                                  .bias = bias,
                                  .has_bias = bias != NULL,
                                  .count = desc->out * taps,
                                  .fan_in = taps,
                                  .seed = (uint64_t)(desc->out * taps)};
    bool ok =
        !failed(layout_set(&weight_layout, rank, weight_dims, rank == 4 ? dnnl_oihw : dnnl_oidhw),
                "weight shape", error) &&
        !failed(layout_set(&bias_layout, 1, bias_dims, dnnl_a), "bias shape", error) &&
        layer_create(&conv->layer, device, layout_get(&weight_layout), layout_get(&bias_layout),
                     &values, error);
    layout_free(&weight_layout);
    layout_free(&bias_layout);
    if (!ok) {
        free(conv);
        return false;
    }
    *out = conv;
    return true;
}

void onednn_conv_destroy(struct device *device, struct conv *conv)
{
    (void)device;
    if (!conv)
        return;
    layer_free(conv->layer);
    free(conv);
}

struct conv_size {
    int64_t frames, height, width;
};

static struct conv_size conv_output(const struct conv_desc *d, struct conv_size x)
{
    return (struct conv_size){(x.frames - d->kt) / d->stride_t + 1,
                              (x.height + d->pad_top + d->pad_bottom - d->kh) / d->stride_h + 1,
                              (x.width + d->pad_left + d->pad_right - d->kw) / d->stride_w + 1};
}

static struct compiled *conv_compile(struct library *library, const struct conv *conv,
                                     const int64_t key[4], struct error *error)
{
    const struct conv_desc *d = &conv->desc;
    const struct conv_size in = {key[0], key[1], key[2]}, out = conv_output(d, in);
    int rank = conv_rank(d), time = rank - 4;
    /* Without time its entry falls away: the arrays below start one later. */
    const dnnl_dims_t strides = {d->stride_t, d->stride_h, d->stride_w};
    const dnnl_dims_t low = {0, d->pad_top, d->pad_left}, high = {0, d->pad_bottom, d->pad_right};
    dnnl_format_tag_t tag = time ? dnnl_ndhwc : dnnl_nhwc;
    dnnl_dims_t x_dims, y_dims, weight_dims;
    const dnnl_dims_t bias_dims = {d->out};
    struct layout x = {0}, y = {0}, weight = {0}, bias = {0};
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_attr_t attr = attributes(ACTIVATION_NONE, key[3] != 0);

    conv_dims(x_dims, rank, in.frames, d->in, in.height, in.width);
    conv_dims(y_dims, rank, out.frames, d->out, out.height, out.width);
    conv_weight_dims(weight_dims, d);
    dnnl_status_t status = attr ? dnnl_success : dnnl_out_of_memory;
    if (!status)
        status = layout_set(&x, rank, x_dims, tag);
    if (!status)
        status = layout_set(&y, rank, y_dims, tag);
    if (!status)
        status = layout_set(&weight, rank, weight_dims, dnnl_format_tag_any);
    if (!status)
        status = layout_set(&bias, 1, bias_dims, dnnl_a);
    if (!status)
        status = describe_conv(&desc, library->engine, layout_get(&x), layout_get(&weight),
                               conv->layer->bias.memory ? layout_get(&bias) : NULL, layout_get(&y),
                               strides + 1 - time, low + 1 - time, high + 1 - time, attr);
    layout_free(&x);
    layout_free(&y);
    layout_free(&weight);
    layout_free(&bias);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    if (status) {
        error_set(error,
                  "oneDNN has no convolution %d -> %d, kernel %dx%dx%d, on %lldx%lldx%lld: %s",
                  d->in, d->out, d->kt, d->kh, d->kw, (long long)in.frames, (long long)in.height,
                  (long long)in.width, dnnl_status2str(status));
        return NULL;
    }
    return layer_compile(conv->layer, library, desc, key, error);
}

bool onednn_conv(struct device *device, const struct conv *conv, const float *x, int64_t frames,
                 int64_t height, int64_t width, const float *add, float *y, struct error *error)
{
    struct library *library = device->onednn;
    const int64_t key[4] = {frames, height, width, add != NULL};
    const struct conv_size out =
        conv_output(&conv->desc, (struct conv_size){frames, height, width});
    if (frames < conv->desc.kt || out.height < 1 || out.width < 1)
        return error_set(error, "a %dx%dx%d convolution does not fit on %lldx%lldx%lld",
                         conv->desc.kt, conv->desc.kh, conv->desc.kw, (long long)frames,
                         (long long)height, (long long)width);
    struct compiled *compiled = layer_find(conv->layer, key);
    if (!compiled)
        compiled = conv_compile(library, conv, key, error);
    if (!compiled)
        return false;
    if (add && add != y) {
        const int64_t dims[] = {out.frames, out.height, out.width, conv->desc.out};
        size_t bytes;
        if (!checked_bytes(dims, 4, sizeof(*y), &bytes))
            return error_set(error, "the output of a convolution is too large");
        memcpy(y, add, bytes);
    }
    return layer_run(conv->layer, compiled, library, x, y, error);
}
