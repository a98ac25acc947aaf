/*
 * What a Wan VAE's config.json may say. Fields that are missing have the values of the published
 * Wan2.1 VAE; what would need another network (the Wan2.2 VAE, attention at other places) is
 * refused by name.
 */
#include "wan_vae.h"
#include "wan_vae_layers.h"

#include "../io/config.h"

#include <string.h>

static const struct wan_vae_config published = {
    .base_dim = 96,
    .z_dim = 16,
    .res_blocks = 2,
    .dim_mult = {1, 2, 4, 4},
    .temporal_down = {false, true, true},
    .mean = {-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715,
             0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921},
    .std = {2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652,
            1.5579, 1.6382, 1.1253, 2.8251, 1.9160}};

/* A field that, where it is there, must have one value. */
static bool only(const struct config *config, const char *field, int64_t value, struct error *error)
{
    int64_t ignored;
    return config_int_or(config, field, value, value, value, &ignored, error);
}

static bool refuse_other_networks(const struct config *config, struct error *error)
{
    const char *path = config_path(config), *class_name = config_string(config, "_class_name");
    bool residual;
    if (class_name && strcmp(class_name, "AutoencoderKLWan"))
        return error_set(error, "%s: _class_name is '%s', expected 'AutoencoderKLWan'", path,
                         class_name);
    if (!config_bool_or(config, "is_residual", false, &residual, error))
        return false;
    if (residual || config_has(config, "patch_size"))
        return error_set(error,
                         "%s: '%s' is set: this is a Wan2.2 VAE (TI2V-5B); only the Wan2.1 VAE is "
                         "supported",
                         path, residual ? "is_residual" : "patch_size");
    if (config_has(config, "attn_scales") && !config_floats(config, "attn_scales", NULL, 0, error))
        return error_prefix(error, "attention outside the middle of the VAE is not supported: ");
    return only(config, "in_channels", 3, error) && only(config, "out_channels", 3, error) &&
           only(config, "scale_factor_temporal", 4, error) &&
           only(config, "scale_factor_spatial", 8, error);
}

static bool read_statistics(const struct config *config, struct wan_vae_config *out,
                            struct error *error)
{
    const int count = (int)out->z_dim;
    if (!config_has(config, "latents_mean") && !config_has(config, "latents_std")) {
        if (out->z_dim == published.z_dim)
            return true;
        return error_set(error,
                         "%s: z_dim is %d, but 'latents_mean' and 'latents_std' are missing (they "
                         "can be left out for z_dim 16 alone)",
                         config_path(config), count);
    }
    if (!config_floats(config, "latents_mean", out->mean, count, error) ||
        !config_floats(config, "latents_std", out->std, count, error))
        return false;
    for (int i = 0; i < count; i++)
        if (!(out->std[i] > 0))
            return error_set(error, "%s: latents_std[%d] is %g; a deviation is above 0",
                             config_path(config), i, out->std[i]);
    return true;
}

static bool read_sizes(const struct config *config, struct wan_vae_config *out, struct error *error)
{
    int64_t decoder_dim;
    if (!config_int_or(config, "base_dim", 1, 1024, out->base_dim, &out->base_dim, error) ||
        !config_int_or(config, "decoder_base_dim", out->base_dim, out->base_dim, out->base_dim,
                       &decoder_dim, error) ||
        !config_int_or(config, "z_dim", 1, WAN_VAE_MAX_Z, out->z_dim, &out->z_dim, error) ||
        !config_int_or(config, "num_res_blocks", 1, VAE_MAX_RES_BLOCKS, out->res_blocks,
                       &out->res_blocks, error))
        return false;
    if (config_has(config, "dim_mult") &&
        !config_ints(config, "dim_mult", 1, 16, out->dim_mult, 4, error))
        return false;
    /* The decoder halves the channels of all levels but the first. */
    for (int i = 0; i < 4; i++) {
        const int64_t channels = out->base_dim * out->dim_mult[i];
        if (channels < (i ? 2 : 1) || channels > 4096)
            return error_set(error,
                             "%s: base_dim times dim_mult[%d] gives %lld channels, expected 2 to "
                             "4096",
                             config_path(config), i, (long long)channels);
    }
    if (config_has(config, "temperal_downsample") &&
        !config_bools(config, "temperal_downsample", out->temporal_down, 3, error))
        return false;
    if (out->temporal_down[0] + out->temporal_down[1] + out->temporal_down[2] != 2)
        return error_set(error,
                         "%s: temperal_downsample must be true for two of three levels: only a "
                         "compression of 4 along time is supported",
                         config_path(config));
    return true;
}

bool wan_vae_config_read(struct wan_vae_config *out, const char *path, struct error *error)
{
    struct config *config;
    *out = published;
    if (!path[0])
        return true;
    if (!config_open(&config, path, error))
        return false;
    bool ok = refuse_other_networks(config, error) && read_sizes(config, out, error) &&
              read_statistics(config, out, error);
    config_close(config);
    return ok;
}
