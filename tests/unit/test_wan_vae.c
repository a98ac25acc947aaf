/*
 * The Wan VAE on the rule-made network (base width 8) against numbers of the original code: decode,
 * encode, and what must follow from them: causality, one frame, tiles as the rule of blending says.
 * Then what is refused, and that a NaN is traced to its layer.
 */
#include "golden/golden_common.c"

#include "models/wan_vae.h"
#include "models/wan_vae_layers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

enum { Z = 16, FRAMES = 3, HEIGHT = 4, WIDTH = 6, VIDEO = 4 * (FRAMES - 1) + 1 };

#define CASE TEST_SOURCE_DIR "/tests/golden/cases/wan-vae"

struct fixture {
    struct device *device;
    struct wan_vae_config config;
    struct checkpoint *weights; /* rule-made, under the names of the original code */
    struct wan_vae *vae;
    char path[64];
    struct error error;
};

/* ---- the rule-made network ------------------------------------------------------------------- */

/* NAME of a part in a residual block, in the original code's sequence of modules. */
static const char *residual_part(const char *part)
{
    static const char *const parts[][2] = {
        {"norm1.gamma", "residual.0.gamma"},         {"conv1.weight", "residual.2.weight"},
        {"conv1.bias", "residual.2.bias"},           {"norm2.gamma", "residual.3.gamma"},
        {"conv2.weight", "residual.6.weight"},       {"conv2.bias", "residual.6.bias"},
        {"conv_shortcut.weight", "shortcut.weight"}, {"conv_shortcut.bias", "shortcut.bias"}};
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
        if (!strcmp(part, parts[i][0]))
            return parts[i][1];
    return part;
}

/* From diffusers' names to those of the original code, for two residual blocks a level. */
static const char *original_name(const char *name, char *buffer, size_t size)
{
    int level = 0, block = 0, used = 0;
    if (!strncmp(name, "post_quant_conv.", 16)) {
        snprintf(buffer, size, "conv2.%s", name + 16);
        return buffer;
    }
    if (!strncmp(name, "quant_conv.", 11)) {
        snprintf(buffer, size, "conv1.%s", name + 11);
        return buffer;
    }
    const char *half = !strncmp(name, "encoder.", 8) ? "encoder" : "decoder", *part = name + 8;
    if (!strncmp(part, "conv_in.", 8))
        snprintf(buffer, size, "%s.conv1.%s", half, part + 8);
    else if (!strcmp(part, "norm_out.gamma"))
        snprintf(buffer, size, "%s.head.0.gamma", half);
    else if (!strncmp(part, "conv_out.", 9))
        snprintf(buffer, size, "%s.head.2.%s", half, part + 9);
    else if (sscanf(part, "mid_block.resnets.%d.%n", &block, &used) == 1)
        snprintf(buffer, size, "%s.middle.%d.%s", half, 2 * block, residual_part(part + used));
    else if (!strncmp(part, "mid_block.attentions.0.", 23))
        snprintf(buffer, size, "%s.middle.1.%s", half, part + 23);
    else if (sscanf(part, "down_blocks.%d.%n", &block, &used) == 1)
        snprintf(buffer, size, "%s.downsamples.%d.%s", half, block, residual_part(part + used));
    else if (sscanf(part, "up_blocks.%d.resnets.%d.%n", &level, &block, &used) == 2)
        snprintf(buffer, size, "%s.upsamples.%d.%s", half, 4 * level + block,
                 residual_part(part + used));
    else if (sscanf(part, "up_blocks.%d.upsamplers.0.%n", &level, &used) == 1)
        snprintf(buffer, size, "%s.upsamples.%d.%s", half, 4 * level + 3, part + used);
    else
        return name;
    return buffer;
}

static int64_t elements(const int64_t *shape, int rank)
{
    int64_t total = 1;
    for (int i = 0; i < rank; i++)
        total *= shape[i];
    return total;
}

/* Writes a network with the names and shapes of a stored one, the values from the rule. poison:
 * the name of a tensor whose first value becomes NaN, or NULL. */
static bool write_network(const char *path, const char *poison, struct error *error)
{
    struct checkpoint *shapes = NULL;
    if (!checkpoint_open(&shapes, CASE "/diffusion_pytorch_model.safetensors", error))
        return false;
    const int count = (int)checkpoint_count(shapes);
    struct tensor_to_write *tensors = calloc((size_t)count, sizeof(*tensors));
    char(*names)[128] = calloc((size_t)count, sizeof(*names));
    assert_true(tensors && names);
    for (int i = 0; i < count; i++) {
        const struct stored_tensor *from = checkpoint_at(shapes, i);
        float *values = malloc((size_t)elements(from->shape, from->rank) * sizeof(*values));
        assert_non_null(values);
        const char *name = original_name(from->name, names[i], sizeof(names[i]));
        golden_rule_tensor(name, from->shape, from->rank, values);
        if (poison && !strcmp(from->name, poison))
            values[0] = NAN;
        tensors[i] = (struct tensor_to_write){
            .name = name, .dtype = STORED_F32, .rank = from->rank, .data = values};
        memcpy(tensors[i].shape, from->shape, sizeof(tensors[i].shape));
    }
    bool ok = safetensors_write(path, tensors, count, NULL, error);
    for (int i = 0; i < count; i++)
        free((void *)(uintptr_t)tensors[i].data);
    free(tensors);
    free(names);
    checkpoint_close(shapes);
    return ok;
}

static bool open_network(struct fixture *fixture, const char *poison, struct checkpoint **weights,
                         struct wan_vae **vae)
{
    struct error *error = &fixture->error;
    if (!write_network(fixture->path, poison, error) ||
        !checkpoint_open(weights, fixture->path, error))
        return false;
    checkpoint_set_rename(*weights, original_name);
    return wan_vae_load(vae, &fixture->config, WAN_VAE_DECODER | WAN_VAE_ENCODER, *weights,
                        &ops_cpu, fixture->device, NULL, error);
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    *state = fixture;
    if (!fixture)
        return -1;
    snprintf(fixture->path, sizeof(fixture->path), "test_wan_vae.%ld.safetensors", (long)getpid());
    bool ok =
        ops_cpu.create(&fixture->device, &(struct device_desc){.threads = 1}, &fixture->error) &&
        wan_vae_config_read(&fixture->config, CASE "/config.json", &fixture->error) &&
        open_network(fixture, NULL, &fixture->weights, &fixture->vae);
    if (!ok)
        print_error("%s\n", fixture->error.text);
    return ok ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    wan_vae_free(fixture->vae);
    checkpoint_close(fixture->weights);
    if (fixture->device)
        ops_cpu.destroy(fixture->device);
    remove(fixture->path);
    free(fixture);
    return 0;
}

static float *rule_input(const char *name, int64_t count)
{
    float *values = malloc((size_t)count * sizeof(*values));
    assert_non_null(values);
    golden_rule_tensor(name, &count, 1, values);
    return values;
}

/* ---- numbers of the original code ------------------------------------------------------------ */

struct expected {
    double sum, abssum, first[8], last[4];
};

static void assert_matches(const float *values, int64_t count, const struct expected *expected)
{
    double sum = 0, abssum = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += values[i];
        abssum += fabs(values[i]);
    }
    for (int i = 0; i < 8; i++)
        assert_true(fabs(values[i] - expected->first[i]) < 1e-4);
    for (int i = 0; i < 4; i++)
        assert_true(fabs(values[count - 4 + i] - expected->last[i]) < 1e-4);
    assert_true(fabs(sum - expected->sum) < 2e-2);
    assert_true(fabs(abssum - expected->abssum) < 2e-2);
}

struct clip {
    float *values; /* [frames][height][width][3] */
    int64_t frames, capacity, frame;
    int64_t refuse_after; /* frames; 0 = never */
};

static struct clip clip_make(int64_t latent_frames, int64_t height, int64_t width)
{
    struct clip clip = {.capacity = 4 * (latent_frames - 1) + 1, .frame = height * width * 64 * 3};
    clip.values = calloc((size_t)(clip.capacity * clip.frame), sizeof(*clip.values));
    assert_non_null(clip.values);
    return clip;
}

/* Decodes latents [Z][frames][height][width] below the public functions, which clamp. */
static struct clip decode_unclamped(struct fixture *fixture, const float *latents, int64_t frames,
                                    int64_t height, int64_t width)
{
    struct vae_net net;
    struct vae_pass pass;
    struct clip clip = clip_make(frames, height, width);
    vae_net_describe(&net, &fixture->config, true);
    assert_true(
        vae_net_load(&net, fixture->weights, &ops_cpu, fixture->device, NULL, &fixture->error));
    assert_true(vae_pass_begin(&pass, &net, 1, height, width, frames == 1, &fixture->error));
    vae_pass_start(&pass, height, width);
    for (int64_t t = 0; t < frames; t++) {
        for (int64_t i = 0; i < Z * height * width; i++) {
            const int64_t z = i % Z, at = (z * frames + t) * height * width + i / Z;
            pass.values[0][i] =
                latents[at] * (float)fixture->config.std[z] + (float)fixture->config.mean[z];
        }
        assert_true(vae_pass_chunk(&pass, 1, &fixture->error));
        memcpy(clip.values + clip.frames * clip.frame, pass.values[0],
               (size_t)(pass.frames * clip.frame) * sizeof(float));
        clip.frames += pass.frames;
    }
    assert_int_equal(clip.frames, clip.capacity);
    vae_pass_end(&pass);
    vae_net_free(&net);
    return clip;
}

static void test_decode_of_the_original_code(void **state)
{
    const struct expected expected = {
        -2685.578892,
        14153.582146,
        {0.037386, 0.155186, 0.037999, -0.093718, -0.159597, -0.093481, -0.072151, 0.039480},
        {0.255500, 0.237077, 0.535524, 0.125954}};
    float *latents = rule_input("input.z", Z * FRAMES * HEIGHT * WIDTH);
    struct clip clip = decode_unclamped(*state, latents, FRAMES, HEIGHT, WIDTH);
    const int64_t total = clip.frames * clip.frame;
    float *planes = malloc((size_t)total * sizeof(*planes));
    assert_non_null(planes);
    for (int64_t i = 0; i < total; i++)
        planes[i % 3 * (total / 3) + i / 3] = clip.values[i];
    assert_matches(planes, total, &expected);
    free(planes);
    free(clip.values);
    free(latents);
}

static float *channels_last(const float *video, int64_t positions)
{
    float *out = malloc((size_t)(3 * positions) * sizeof(*out));
    assert_non_null(out);
    for (int64_t i = 0; i < 3 * positions; i++)
        out[i] = video[i % 3 * positions + i / 3];
    return out;
}

static float *rule_video(void)
{
    const int64_t positions = VIDEO * 64 * HEIGHT * WIDTH;
    float *planes = rule_input("input.video", 3 * positions);
    float *video = channels_last(planes, positions);
    free(planes);
    return video;
}

static void test_encode_of_the_original_code(void **state)
{
    struct fixture *fixture = *state;
    const struct expected expected = {
        73.032072,
        413.883682,
        {0.388054, 0.214087, 0.502606, 0.283085, 0.340606, 0.289017, 0.333101, 0.346265},
        {0.240921, 0.131549, -0.078283, 0.278071}};
    float mean[Z * FRAMES * HEIGHT * WIDTH];
    float *video = rule_video();
    assert_true(wan_vae_encode(fixture->vae, video, VIDEO, 8 * HEIGHT, 8 * WIDTH, true, NULL, mean,
                               NULL, NULL, &fixture->error));
    assert_matches(mean, Z * FRAMES * HEIGHT * WIDTH, &expected);
    free(video);
}

/* ---- the public functions -------------------------------------------------------------------- */

static bool collect(void *user, const float *values, int64_t count, struct error *error)
{
    struct clip *clip = user;
    assert_true(clip->frames + count <= clip->capacity);
    memcpy(clip->values + clip->frames * clip->frame, values,
           (size_t)(count * clip->frame) * sizeof(*values));
    clip->frames += count;
    if (clip->refuse_after && clip->frames >= clip->refuse_after)
        return error_set(error, "the disk is full");
    return true;
}

/* The clip of latents [Z][frames][height][width]. */
static struct clip decode(struct fixture *fixture, const float *latents, int64_t frames,
                          int64_t height, int64_t width, const struct wan_vae_tiling *tiling)
{
    struct clip clip = clip_make(frames, height, width);
    if (!wan_vae_decode(fixture->vae, latents, frames, height, width, true, tiling, collect, &clip,
                        NULL, &fixture->error))
        fail_msg("%s", fixture->error.text);
    assert_int_equal(clip.frames, clip.capacity);
    return clip;
}

static void test_decode_clamps(void **state)
{
    float *latents = rule_input("input.z", Z * FRAMES * HEIGHT * WIDTH);
    struct clip want = decode_unclamped(*state, latents, FRAMES, HEIGHT, WIDTH);
    struct clip got = decode(*state, latents, FRAMES, HEIGHT, WIDTH, NULL);
    int64_t clamped = 0;
    for (int64_t i = 0; i < want.frames * want.frame; i++) {
        clamped += fabsf(want.values[i]) > 1;
        assert_true(got.values[i] == fminf(fmaxf(want.values[i], -1), 1));
    }
    assert_true(clamped > 0);
    free(got.values);
    free(want.values);
    free(latents);
}

/* Frames depend on nothing that comes later, and a one-frame clip is the first frame of a longer
 * one. */
static void test_decode_is_causal(void **state)
{
    const int64_t plane = HEIGHT * WIDTH;
    float *latents = rule_input("input.z", Z * FRAMES * plane);
    struct clip all = decode(*state, latents, FRAMES, HEIGHT, WIDTH, NULL);
    for (int64_t frames = 1; frames < FRAMES; frames++) {
        float *start = malloc((size_t)(Z * frames * plane) * sizeof(*start));
        assert_non_null(start);
        for (int64_t z = 0; z < Z; z++)
            memcpy(start + z * frames * plane, latents + z * FRAMES * plane,
                   (size_t)(frames * plane) * sizeof(*start));
        struct clip some = decode(*state, start, frames, HEIGHT, WIDTH, NULL);
        assert_memory_equal(some.values, all.values,
                            (size_t)(some.frames * some.frame) * sizeof(float));
        free(some.values);
        free(start);
    }
    free(all.values);
    free(latents);
}

static void test_encode_is_causal(void **state)
{
    struct fixture *fixture = *state;
    float all[Z * FRAMES * HEIGHT * WIDTH], some[Z * FRAMES * HEIGHT * WIDTH];
    float *video = rule_video();
    assert_true(wan_vae_encode(fixture->vae, video, VIDEO, 8 * HEIGHT, 8 * WIDTH, true, NULL, all,
                               NULL, NULL, &fixture->error));
    for (int frames = 1; frames < FRAMES; frames++) {
        assert_true(wan_vae_encode(fixture->vae, video, 4 * (frames - 1) + 1, 8 * HEIGHT, 8 * WIDTH,
                                   true, NULL, some, NULL, NULL, &fixture->error));
        for (int z = 0; z < Z; z++)
            assert_memory_equal(some + z * frames * HEIGHT * WIDTH,
                                all + z * FRAMES * HEIGHT * WIDTH,
                                (size_t)(frames * HEIGHT * WIDTH) * sizeof(float));
    }
    free(video);
}

static void test_normalising_is_undone(void **state)
{
    struct fixture *fixture = *state;
    float raw[Z * HEIGHT * WIDTH], normalised[Z * HEIGHT * WIDTH];
    float *video = rule_video();
    for (int pass = 0; pass < 2; pass++)
        assert_true(wan_vae_encode(fixture->vae, video, 1, 8 * HEIGHT, 8 * WIDTH, pass, NULL,
                                   pass ? normalised : raw, NULL, NULL, &fixture->error));
    for (int i = 0; i < Z * HEIGHT * WIDTH; i++) {
        const int z = i / (HEIGHT * WIDTH);
        const double back = normalised[i] * fixture->config.std[z] + fixture->config.mean[z];
        assert_true(fabs(raw[i] - back) < 1e-5);
    }
    free(video);
}

/* The same bits from one thread and from two. */
static void test_threads_do_not_matter(void **state)
{
    struct fixture *fixture = *state;
    struct device *device = NULL;
    struct wan_vae *vae = NULL;
    float *latents = rule_input("input.z", Z * FRAMES * HEIGHT * WIDTH);
    struct clip one = decode(fixture, latents, FRAMES, HEIGHT, WIDTH, NULL);
    struct clip two = clip_make(FRAMES, HEIGHT, WIDTH);
    assert_true(ops_cpu.create(&device, &(struct device_desc){.threads = 2}, &fixture->error));
    assert_true(wan_vae_load(&vae, &fixture->config, WAN_VAE_DECODER, fixture->weights, &ops_cpu,
                             device, NULL, &fixture->error));
    assert_true(wan_vae_decode(vae, latents, FRAMES, HEIGHT, WIDTH, true, NULL, collect, &two, NULL,
                               &fixture->error));
    assert_memory_equal(one.values, two.values, (size_t)(one.frames * one.frame) * sizeof(float));
    wan_vae_free(vae);
    ops_cpu.destroy(device);
    free(one.values);
    free(two.values);
    free(latents);
}

static void test_random_weights_stay_finite(void **state)
{
    struct fixture *fixture = *state;
    struct wan_vae *vae = NULL;
    float *latents = rule_input("input.z", Z * FRAMES * HEIGHT * WIDTH);
    struct clip clip = clip_make(FRAMES, HEIGHT, WIDTH);
    assert_true(wan_vae_check(&fixture->config, WAN_VAE_DECODER, NULL, &fixture->error));
    assert_true(wan_vae_load(&vae, &fixture->config, WAN_VAE_DECODER, NULL, &ops_cpu,
                             fixture->device, NULL, &fixture->error));
    assert_true(wan_vae_decode(vae, latents, FRAMES, HEIGHT, WIDTH, true, NULL, collect, &clip,
                               NULL, &fixture->error));
    double squares = 0;
    for (int64_t i = 0; i < clip.frames * clip.frame; i++)
        squares += (double)clip.values[i] * clip.values[i] / (double)(clip.frames * clip.frame);
    assert_true(squares > 1e-3 && squares <= 1);
    wan_vae_free(vae);
    free(clip.values);
    free(latents);
}

/* ---- tiles ----------------------------------------------------------------------------------- */

enum { ROWS = 5, COLUMNS = 7, TILE = 4, STRIDE = 3, OVERLAP = 8 * (TILE - STRIDE) };

/* What tiling means: every tile decoded on its own, then in the order top to bottom, left to
 * right mixed with the one above and the one to its left, weights k / overlap; the clamp comes
 * last. */
struct naive_tile {
    struct clip clip;
    int64_t height, width; /* in pixels */
};

static void naive_blend(struct naive_tile *to, const struct naive_tile *from, bool vertical)
{
    const int64_t side = vertical ? to->height : to->width;
    const int64_t other = vertical ? from->height : from->width;
    const int64_t extent = side < OVERLAP ? side : OVERLAP;
    for (int64_t f = 0; f < to->clip.frames; f++)
        for (int64_t y = 0; y < to->height; y++)
            for (int64_t x = 0; x < to->width; x++)
                for (int64_t c = 0; c < 3; c++) {
                    const int64_t k = vertical ? y : x, source = other - extent + k;
                    if (k >= extent)
                        continue;
                    const int64_t from_y = vertical ? source : y, from_x = vertical ? x : source;
                    const float a =
                        from->clip
                            .values[((f * from->height + from_y) * from->width + from_x) * 3 + c];
                    float *b = &to->clip.values[((f * to->height + y) * to->width + x) * 3 + c];
                    *b = a * (1 - (float)k / (float)extent) + *b * ((float)k / (float)extent);
                }
}

static struct naive_tile naive_decode(struct fixture *fixture, const float *latents, int64_t y,
                                      int64_t x)
{
    const int64_t height = ROWS - y < TILE ? ROWS - y : TILE;
    const int64_t width = COLUMNS - x < TILE ? COLUMNS - x : TILE;
    float *part = malloc((size_t)(Z * 2 * height * width) * sizeof(*part));
    assert_non_null(part);
    for (int64_t plane = 0; plane < Z * 2; plane++)
        for (int64_t i = 0; i < height * width; i++)
            part[plane * height * width + i] =
                latents[(plane * ROWS + y + i / width) * COLUMNS + x + i % width];
    struct naive_tile tile = {.clip = decode_unclamped(fixture, part, 2, height, width),
                              .height = 8 * height,
                              .width = 8 * width};
    free(part);
    return tile;
}

static void test_tiles_are_blended(void **state)
{
    enum { DOWN = 2, ACROSS = 3 }; /* ceil(ROWS / STRIDE), ceil(COLUMNS / STRIDE) */
    struct naive_tile tiles[DOWN][ACROSS];
    float *latents = rule_input("input.tiles", Z * 2 * ROWS * COLUMNS);
    const struct wan_vae_tiling tiling = {TILE, STRIDE};
    struct clip got = decode(*state, latents, 2, ROWS, COLUMNS, &tiling);
    for (int row = 0; row < DOWN; row++)
        for (int column = 0; column < ACROSS; column++) {
            struct naive_tile *tile = &tiles[row][column];
            *tile = naive_decode(*state, latents, row * STRIDE, column * STRIDE);
            if (row > 0)
                naive_blend(tile, &tiles[row - 1][column], true);
            if (column > 0)
                naive_blend(tile, &tiles[row][column - 1], false);
        }
    for (int64_t i = 0; i < got.frames * got.frame; i++) {
        const int64_t c = i % 3, x = i / 3 % (8 * COLUMNS), y = i / 3 / (8 * COLUMNS) % (8 * ROWS);
        const int64_t f = i / got.frame, row = y / (8 * STRIDE), column = x / (8 * STRIDE);
        const struct naive_tile *tile = &tiles[row][column];
        const float want =
            tile->clip.values[((f * tile->height + y - row * 8 * STRIDE) * tile->width + x -
                               column * 8 * STRIDE) *
                                  3 +
                              c];
        assert_true(fabsf(got.values[i] - fminf(fmaxf(want, -1), 1)) < 1e-6f);
    }
    for (int i = 0; i < DOWN * ACROSS; i++)
        free(tiles[i / ACROSS][i % ACROSS].clip.values);
    free(got.values);
    free(latents);
}

static void test_one_large_tile_changes_nothing(void **state)
{
    struct fixture *fixture = *state;
    const struct wan_vae_tiling tiling = {WIDTH, 1};
    float plain[2 * Z * FRAMES * HEIGHT * WIDTH], tiled[2 * Z * FRAMES * HEIGHT * WIDTH];
    float *video = rule_video();
    for (int pass = 0; pass < 2; pass++) {
        float *out = pass ? tiled : plain;
        assert_true(wan_vae_encode(fixture->vae, video, VIDEO, 8 * HEIGHT, 8 * WIDTH, false,
                                   pass ? &tiling : NULL, out, out + Z * FRAMES * HEIGHT * WIDTH,
                                   NULL, &fixture->error));
    }
    assert_memory_equal(plain, tiled, sizeof(plain));
    free(video);
}

static void test_encoding_in_tiles(void **state)
{
    struct fixture *fixture = *state;
    const struct wan_vae_tiling tiling = {4, 4}; /* no overlap: every tile as if alone */
    float whole[Z * FRAMES * HEIGHT * WIDTH], left[Z * FRAMES * HEIGHT * 4];
    float *video = rule_video(),
          *part = malloc((size_t)VIDEO * 8 * HEIGHT * 32 * 3 * sizeof(*part));
    assert_non_null(part);
    for (int line = 0; line < VIDEO * 8 * HEIGHT; line++)
        memcpy(part + line * 32 * 3, video + line * 8 * WIDTH * 3, 32 * 3 * sizeof(*part));
    assert_true(wan_vae_encode(fixture->vae, video, VIDEO, 8 * HEIGHT, 8 * WIDTH, true, &tiling,
                               whole, NULL, NULL, &fixture->error));
    assert_true(wan_vae_encode(fixture->vae, part, VIDEO, 8 * HEIGHT, 32, true, NULL, left, NULL,
                               NULL, &fixture->error));
    for (int line = 0; line < Z * FRAMES * HEIGHT; line++)
        assert_memory_equal(whole + line * WIDTH, left + line * 4, 4 * sizeof(float));
    free(video);
    free(part);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void assert_says(const struct fixture *fixture, const char *words)
{
    if (!strstr(fixture->error.text, words))
        fail_msg("'%s' does not say '%s'", fixture->error.text, words);
}

static bool count_frames(void *user, const float *values, int64_t count, struct error *error)
{
    (void)values;
    (void)error;
    *(int64_t *)user += count;
    return true;
}

static bool decode_fails(struct fixture *fixture, struct wan_vae *vae, const float *latents,
                         const struct wan_vae_tiling *tiling)
{
    int64_t frames = 0;
    return !wan_vae_decode(vae, latents, FRAMES, HEIGHT, WIDTH, true, tiling, count_frames, &frames,
                           NULL, &fixture->error);
}

static void test_not_finite_is_named(void **state)
{
    struct fixture *fixture = *state;
    const struct wan_vae_tiling tiling = {3, 2};
    float *latents = rule_input("input.z", Z * FRAMES * HEIGHT * WIDTH), *video = rule_video();
    float mean[Z * FRAMES * HEIGHT * WIDTH];
    static const char *const layers[] = {"decoder.up_blocks.1.resnets.0.conv_shortcut",
                                         "decoder.up_blocks.0.upsamplers.0.time_conv",
                                         "decoder.mid_block.attentions.0.to_qkv",
                                         "encoder.down_blocks.5.time_conv", "decoder.conv_out"};
    for (int i = 0; i < 5; i++) {
        char name[128];
        struct checkpoint *weights = NULL;
        struct wan_vae *vae = NULL;
        snprintf(name, sizeof(name), "%s.weight", layers[i]);
        assert_true(open_network(fixture, name, &weights, &vae));
        if (!strncmp(layers[i], "encoder", 7)) {
            assert_false(wan_vae_encode(vae, video, VIDEO, 8 * HEIGHT, 8 * WIDTH, true, NULL, mean,
                                        NULL, NULL, &fixture->error));
        } else {
            assert_true(decode_fails(fixture, vae, latents, &tiling));
            assert_says(fixture, layers[i]);
            assert_true(decode_fails(fixture, vae, latents, NULL));
        }
        assert_says(fixture, layers[i]);
        wan_vae_free(vae);
        checkpoint_close(weights);
    }
    latents[(3 * FRAMES + 2) * HEIGHT * WIDTH + 1 * WIDTH + 5] = INFINITY;
    assert_true(decode_fails(fixture, fixture->vae, latents, NULL));
    assert_says(fixture, "channel 3, frame 2, row 1, column 5");
    video[(4 * 8 * HEIGHT + 2) * 8 * WIDTH * 3 + 7 * 3] = NAN;
    assert_false(wan_vae_encode(fixture->vae, video, VIDEO, 8 * HEIGHT, 8 * WIDTH, true, NULL, mean,
                                NULL, NULL, &fixture->error));
    assert_says(fixture, "frame 4, row 2, column 7");
    free(latents);
    free(video);
}

static void test_wrong_sizes_are_refused(void **state)
{
    struct fixture *fixture = *state;
    float *video = rule_video(), mean[Z * FRAMES * HEIGHT * WIDTH], latents[Z * 4] = {0};
    int64_t frames = 0;
    static const struct {
        int64_t frames, height, width;
        const char *words;
    } cases[] = {{8, 32, 48, "4n + 1 frames, such as 5 or 9"},
                 {0, 32, 48, "4n + 1 frames, such as 1 or 5"},
                 {9, 30, 48, "multiples of 8"},
                 {9, 32, 0, "multiples of 8"},
                 {INT64_MAX - 2, 32, 48, "too large"}};
    for (int i = 0; i < 5; i++) {
        assert_false(wan_vae_encode(fixture->vae, video, cases[i].frames, cases[i].height,
                                    cases[i].width, true, NULL, mean, NULL, NULL, &fixture->error));
        assert_says(fixture, cases[i].words);
    }
    assert_false(wan_vae_decode(fixture->vae, latents, 0, 2, 2, true, NULL, count_frames, &frames,
                                NULL, &fixture->error));
    assert_false(wan_vae_decode(fixture->vae, latents, INT64_MAX / 2, 2, 2, true, NULL,
                                count_frames, &frames, NULL, &fixture->error));
    const struct wan_vae_tiling tilings[] = {{2, 3}, {2, 0}, {-1, 1}};
    for (int i = 0; i < 3; i++) {
        assert_true(decode_fails(fixture, fixture->vae, latents, &tilings[i]));
        assert_says(fixture, "stride");
    }
    free(video);
}

static void test_a_missing_half_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct wan_vae *vae = NULL;
    float latents[Z * FRAMES * HEIGHT * WIDTH] = {0};
    float *video = rule_video();
    assert_true(wan_vae_load(&vae, &fixture->config, WAN_VAE_ENCODER, fixture->weights, &ops_cpu,
                             fixture->device, NULL, &fixture->error));
    assert_true(decode_fails(fixture, vae, latents, NULL));
    assert_says(fixture, "without its decoder");
    wan_vae_free(vae);
    assert_true(wan_vae_load(&vae, &fixture->config, WAN_VAE_DECODER, fixture->weights, &ops_cpu,
                             fixture->device, NULL, &fixture->error));
    assert_false(
        wan_vae_encode(vae, video, 1, 8, 8, true, NULL, latents, NULL, NULL, &fixture->error));
    assert_says(fixture, "without its encoder");
    wan_vae_free(vae);
    wan_vae_free(NULL);
    free(video);
}

static void test_weights_of_other_shapes_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct wan_vae_config config = fixture->config;
    struct wan_vae *vae = NULL;
    config.base_dim = 16;
    assert_false(wan_vae_load(&vae, &config, WAN_VAE_DECODER, fixture->weights, &ops_cpu,
                              fixture->device, NULL, &fixture->error));
    assert_null(vae);
    assert_says(fixture, "decoder.conv1.weight");
    /* the same is found without loading */
    assert_false(wan_vae_check(&config, WAN_VAE_DECODER, fixture->weights, &fixture->error));
    assert_says(fixture, "decoder.conv1.weight");
    assert_true(wan_vae_check(&fixture->config, WAN_VAE_DECODER | WAN_VAE_ENCODER, fixture->weights,
                              &fixture->error));
}

static bool stop_at_two(void *user, int64_t done, int64_t total)
{
    *(int64_t *)user = total;
    return done < 2;
}

static void test_the_caller_can_stop(void **state)
{
    struct fixture *fixture = *state;
    float *latents = rule_input("input.z", Z * FRAMES * HEIGHT * WIDTH);
    struct clip clip = clip_make(FRAMES, HEIGHT, WIDTH);
    clip.refuse_after = 5;
    assert_false(wan_vae_decode(fixture->vae, latents, FRAMES, HEIGHT, WIDTH, true, NULL, collect,
                                &clip, NULL, &fixture->error));
    assert_says(fixture, "the disk is full");
    assert_int_equal(clip.frames, 5);
    free(clip.values);

    int64_t total = 0, frames = 0;
    const struct wan_vae_tiling tiling = {4, 2};
    const struct progress progress = {stop_at_two, &total};
    fixture->error.interrupted = false;
    assert_false(wan_vae_decode(fixture->vae, latents, FRAMES, HEIGHT, WIDTH, true, &tiling,
                                count_frames, &frames, &progress, &fixture->error));
    assert_true(fixture->error.interrupted);
    assert_int_equal(total, FRAMES * 2 * 3); /* tiles at rows 0, 2 and columns 0, 2, 4 */
    assert_int_equal(frames, 0);
    free(latents);
}

static bool fail_late(struct device *device, struct error *error)
{
    (void)device;
    return error_set(error, "what was enqueued has failed");
}

/* A GPU tells of a failure after the calls that enqueued the work. */
static void test_late_failures_deliver_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct ops late = ops_cpu;
    struct wan_vae *vae = NULL;
    int64_t frames = 0;
    float *latents = rule_input("input.z", Z * FRAMES * HEIGHT * WIDTH);
    late.synchronise = fail_late;
    assert_true(wan_vae_load(&vae, &fixture->config, WAN_VAE_DECODER, fixture->weights, &late,
                             fixture->device, NULL, &fixture->error));
    assert_false(wan_vae_decode(vae, latents, FRAMES, HEIGHT, WIDTH, true, NULL, count_frames,
                                &frames, NULL, &fixture->error));
    assert_says(fixture, "what was enqueued has failed");
    assert_int_equal(frames, 0);
    wan_vae_free(vae);
    free(latents);
}

/* ---- configuration and memory ---------------------------------------------------------------- */

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void test_configurations(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        const char *json, *words;
    } cases[] = {
        {"{}", NULL},
        {"{\"base_dim\": 16, \"num_res_blocks\": 1, \"attn_scales\": []}", NULL},
        {"{\"temperal_downsample\": [true, true, false]}", NULL},
        {"{\"_class_name\": \"AutoencoderKL\"}", "AutoencoderKLWan"},
        {"{\"is_residual\": true}", "Wan2.2"},
        {"{\"patch_size\": 2}", "Wan2.2"},
        {"{\"base_dim\": 0}", "base_dim"},
        {"{\"base_dim\": 1, \"dim_mult\": [1, 1, 2, 2]}", "dim_mult[1]"},
        {"{\"base_dim\": 1024, \"dim_mult\": [1, 2, 4, 8]}", "dim_mult[3]"},
        {"{\"base_dim\": 1000000}", "base_dim"},
        {"{\"decoder_base_dim\": 256}", "decoder_base_dim"},
        {"{\"z_dim\": 65}", "z_dim"},
        {"{\"z_dim\": 8}", "latents_mean"},
        {"{\"z_dim\": 1, \"latents_mean\": [0], \"latents_std\": [0]}", "latents_std"},
        {"{\"latents_mean\": [0]}", "latents_mean"},
        {"{\"num_res_blocks\": 0}", "num_res_blocks"},
        {"{\"num_res_blocks\": 17}", "num_res_blocks"},
        {"{\"dim_mult\": [1, 2, 4]}", "dim_mult"},
        {"{\"dim_mult\": [1, 2, 4, 0]}", "dim_mult"},
        {"{\"temperal_downsample\": [true, true, true]}", "temperal_downsample"},
        {"{\"attn_scales\": [0.5]}", "attn_scales"},
        {"{\"in_channels\": 12}", "in_channels"},
        {"{\"scale_factor_spatial\": 16}", "scale_factor_spatial"},
    };
    char path[80];
    snprintf(path, sizeof(path), "%s.json", fixture->path);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct wan_vae_config config;
        write_text(path, cases[i].json);
        bool ok = wan_vae_config_read(&config, path, &fixture->error);
        if (ok != !cases[i].words)
            fail_msg("%s: %s", cases[i].json, ok ? "accepted" : fixture->error.text);
        if (cases[i].words)
            assert_says(fixture, cases[i].words);
    }
    remove(path);
}

static void test_the_published_network(void **state)
{
    struct fixture *fixture = *state;
    struct wan_vae_config config;
    struct vae_net net;
    struct vae_sizes sizes;
    assert_true(wan_vae_config_read(&config, "", &fixture->error));
    assert_int_equal(wan_vae_weight_bytes(&config, WAN_VAE_DECODER | WAN_VAE_ENCODER),
                     126892531LL * 4);
    /* The 1x1x1 layers next to the latents: 16 -> 16 and 32 -> 32. */
    assert_int_equal(wan_vae_weight_bytes(&config, WAN_VAE_DECODER), (73295331LL + 272) * 4);
    assert_int_equal(wan_vae_weight_bytes(&config, WAN_VAE_ENCODER), (53595872LL + 1056) * 4);
    vae_net_describe(&net, &config, true);
    assert_true(vae_net_sizes(&net, 1, 60, 104, false, &sizes));
    assert_true(fabs((double)sizes.history_total * 4 / (1 << 30) - 3.52) < 0.005);
    assert_true(vae_net_sizes(&net, 1, 90, 160, false, &sizes));
    assert_true(fabs((double)sizes.history_total * 4 / (1 << 30) - 8.12) < 0.005);
}

static void test_memory_grows_with_the_tile(void **state)
{
    const struct fixture *fixture = *state;
    const int64_t small = wan_vae_decode_bytes(&fixture->config, 16, 16, false);
    const int64_t large = wan_vae_decode_bytes(&fixture->config, 32, 32, false);
    assert_true(small > 0);
    assert_true(large == 4 * small);
    assert_true(wan_vae_decode_bytes(&fixture->config, 32, 32, true) > large);
    assert_true(wan_vae_decode_bytes(&fixture->config, INT64_MAX / 4, 1 << 20, false) >=
                INT64_MAX / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_of_the_original_code),
        cmocka_unit_test(test_encode_of_the_original_code),
        cmocka_unit_test(test_decode_clamps),
        cmocka_unit_test(test_decode_is_causal),
        cmocka_unit_test(test_encode_is_causal),
        cmocka_unit_test(test_normalising_is_undone),
        cmocka_unit_test(test_tiles_are_blended),
        cmocka_unit_test(test_one_large_tile_changes_nothing),
        cmocka_unit_test(test_encoding_in_tiles),
        cmocka_unit_test(test_not_finite_is_named),
        cmocka_unit_test(test_wrong_sizes_are_refused),
        cmocka_unit_test(test_a_missing_half_is_refused),
        cmocka_unit_test(test_weights_of_other_shapes_are_refused),
        cmocka_unit_test(test_the_caller_can_stop),
        cmocka_unit_test(test_late_failures_deliver_nothing),
        cmocka_unit_test(test_configurations),
        cmocka_unit_test(test_the_published_network),
        cmocka_unit_test(test_memory_grows_with_the_tile),
        cmocka_unit_test(test_threads_do_not_matter), /* last: it changes the number of threads */
        cmocka_unit_test(
            test_random_weights_stay_finite), /* last: it changes the number of threads */
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
