/*
 * The noise that torch.randn draws on a CPU generator, so that results can be compared: a Mersenne
 * Twister (MT19937; Matsumoto and Nishimura 1998) seeded with the low 32 bits of the seed, and
 * Box-Muller. From 16 values on it works in blocks of 16 with 24-bit uniforms, values j and j + 8
 * from uniforms j and j + 8; a rest is covered by drawing the last 16 values anew. Fewer than 16
 * values are drawn in pairs from 53-bit uniforms. Values agree with torch to rounding (its
 * vectorised logarithm differs in the last bits).
 */
#include "rng.h"

#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#define WORDS  624
#define OFFSET 397
#define BLOCK  16
#define TWO_PI 6.28318530717958647692

struct twister {
    uint32_t state[WORDS];
    int next;
};

static void twister_seed(struct twister *twister, uint32_t seed)
{
    twister->state[0] = seed;
    for (uint32_t i = 1; i < WORDS; i++) {
        uint32_t last = twister->state[i - 1];
        twister->state[i] = 1812433253u * (last ^ (last >> 30)) + i;
    }
    twister->next = WORDS;
}

static void twister_refill(struct twister *twister)
{
    uint32_t *state = twister->state;
    for (int i = 0; i < WORDS; i++) {
        uint32_t mixed = (state[i] & 0x80000000u) | (state[(i + 1) % WORDS] & 0x7fffffffu);
        state[i] = state[(i + OFFSET) % WORDS] ^ (mixed >> 1) ^ (mixed & 1 ? 0x9908b0dfu : 0);
    }
    twister->next = 0;
}

static uint32_t twister_draw(struct twister *twister)
{
    if (twister->next == WORDS)
        twister_refill(twister);
    uint32_t y = twister->state[twister->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static void draw_uniforms(struct twister *twister, float *out, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)(twister_draw(twister) & 0xffffffu) * 0x1p-24f;
}

static void normal_block(float *block)
{
    for (int j = 0; j < BLOCK / 2; j++) {
        /* Rounded where torch rounds: a float32 angle near 2 pi is off by up to 2^-22. */
        float radius = (float)sqrt((float)(-2.0 * log(1.0 - (double)block[j])));
        float angle = (float)TWO_PI * block[j + BLOCK / 2];
        block[j] = radius * (float)cos((double)angle);
        block[j + BLOCK / 2] = radius * (float)sin((double)angle);
    }
}

static double draw_53_bits(struct twister *twister)
{
    uint64_t high = twister_draw(twister);
    uint64_t both = high << 32 | twister_draw(twister);
    return (double)(both & ((UINT64_C(1) << 53) - 1)) * 0x1p-53;
}

static void normal_pairs(struct twister *twister, float *out, int64_t count)
{
    for (int64_t i = 0; i < count; i += 2) {
        double angle = TWO_PI * draw_53_bits(twister);
        double radius = sqrt(-2.0 * log1p(-draw_53_bits(twister)));
        out[i] = (float)(radius * cos(angle));
        if (i + 1 < count)
            out[i + 1] = (float)(radius * sin(angle));
    }
}

void rng_normal(uint64_t seed, float *out, int64_t count)
{
    struct twister twister;
    twister_seed(&twister, (uint32_t)seed);
    if (count < BLOCK) {
        normal_pairs(&twister, out, count);
        return;
    }
    draw_uniforms(&twister, out, count);
    for (int64_t i = 0; i + BLOCK <= count; i += BLOCK)
        normal_block(out + i);
    if (count % BLOCK) {
        draw_uniforms(&twister, out + count - BLOCK, BLOCK);
        normal_block(out + count - BLOCK);
    }
}

uint32_t rng_random_seed(void)
{
    uint32_t seed;
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        bool whole = read(fd, &seed, sizeof seed) == (ssize_t)sizeof seed;
        close(fd);
        if (whole)
            return seed;
    }
    /* A machine without the device: the clock and the process are different enough. */
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint32_t)now.tv_nsec ^ (uint32_t)now.tv_sec * 2654435761u ^ (uint32_t)getpid() << 16;
}
