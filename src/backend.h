/*
 * The seam between the library and its kernels, and the only way across it: one constant table of
 * function pointers per backend. src/ decides what is to be done and hands over a struct run; a
 * backend does it in its own memory space. Nothing here knows an instruction set or a device.
 *
 * The table is versioned: new members go to the end and raise BACKEND_VERSION.
 */
#ifndef DRAFTATTN_BACKEND_H
#define DRAFTATTN_BACKEND_H

#include <draftattn.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BACKEND_VERSION 4

/* One compiled attention kernel: a line of kernels/variants.def. */
struct kernel_row {
    const char *name;
    draftattn_backend backend;
    int32_t head_dim;           /* 0 = any */
    const void *implementation; /* only its backend knows the type */
};

/* What a plan settled. Positions are places in block order; block b is [begin[b], begin[b + 1]). */
struct problem {
    draftattn_plan_desc
        desc; /* checked; softmax_scale is never 0, dense_layers is the plan's copy */
    const struct kernel_row *kernel;
    int32_t threads;      /* >= 1 */
    int32_t device;       /* of the context */
    void *prepared;       /* what prepare() made of the plan; NULL = nothing */
    const int64_t *order; /* [tokens] position -> token; NULL = the caller holds block order */
    const int64_t *query_begin; /* [query_blocks + 1], video blocks first */
    const int64_t *key_begin;   /* [key_blocks + 1], video blocks first */
    int64_t tokens, video_tokens;
    int64_t query_blocks, video_query_blocks;
    int64_t key_blocks, video_key_blocks;
    int64_t probes; /* rows per head, <= video_tokens */
    int64_t heads;  /* batch * heads */
};

/* One call. Heads are counted through the batch: batch * heads + head. */
struct run {
    const struct problem *problem;
    const draftattn_tensor *q, *k, *v, *o;
    const draftattn_tensor *lse;       /* NULL = not wanted */
    const draftattn_block_list *list;  /* NULL = every pair, and then neither means nor probes; else
                                         with room for any list: select fills it */
    const draftattn_block_list *given; /* the caller's list; NULL = select by the plan's policy */
    const float *map;                  /* what it ranks then */
    bool compensation;                 /* unlisted blocks enter through their means */
    bool probes;                       /* compute the probe rows, estimate the error */
    bool repair;                       /* and apply the correction */
    draftattn_head_stats *heads;       /* [heads]; select fills in the density, repair the rest */
    void *select_scratch;              /* select_size() bytes */
    void *scratch;                     /* scratch_size() bytes */
    void *stream;
};

/* Where a pointer leads, as a backend sees it. */
enum memory {
    MEMORY_OWN,     /* its stages can work there */
    MEMORY_HOST,    /* the host alone can */
    MEMORY_FOREIGN, /* another device's */
    MEMORY_UNKNOWN  /* the device does not tell; its words are in error.h */
};

/* Most that store() takes at once. */
#define BACKEND_STORE_BYTES 128

/* What the stages of a sparse run cost, in exact keys per query row (cost.c). Measured. */
struct backend_cost {
    double row;   /* pool, draft map and selection */
    double apply; /* correcting a row, per element of head_dim */
    double fit;   /* the fit of a head, per n^2 (1 + n / (2 head_dim)) of its n probe rows */
};

/*
 * Stages return SUCCESS, OUT_OF_MEMORY or DEVICE_ERROR, the last with the device's words in
 * error.h. They run in this order, select between draft_map and gather; gather, attend and repair
 * once per group of heads [first, first + count) with count <= group_heads(). All that a run
 * touches, list, heads and map included, is in the backend's memory space: src/ looks at it through
 * store() and read() alone.
 */
struct backend {
    int32_t version;
    draftattn_backend id;
    bool automatic; /* may be chosen without being asked for */

    /* NULL = works on this machine, else why not, in words (static). */
    const char *(*why_not)(int32_t device);
    /* Bytes of scratch; false where the number does not fit. */
    bool (*scratch_size)(const struct problem *problem, size_t *bytes);
    /* Of this call; scratch is there, but nothing has been written. */
    int64_t (*group_heads)(const struct run *run);

    /* Block means of q, k, v for all heads; v may be NULL where only the map is wanted. */
    draftattn_status (*pool)(const struct run *run);
    /* map [heads, video_query_blocks, video_key_blocks] from the means. */
    draftattn_status (*draft_map)(const struct run *run, draftattn_score score, float *map);
    /* Into block order and the compute type. */
    draftattn_status (*gather)(const struct run *run, int64_t first, int64_t count);
    /* Delivers o and lse; with probes, video rows of o wait in scratch for repair. */
    draftattn_status (*attend)(const struct run *run, int64_t first, int64_t count);
    /* Fit, correction, head stats, delivery of o. Called only with probes. */
    draftattn_status (*repair)(const struct run *run, int64_t first, int64_t count);

    const struct backend_cost *cost; /* NULL = no estimate */

    /* Version 3. A NULL function: all rows of its head_dim fit, there is nothing to prepare, all
     * memory is MEMORY_OWN. */

    bool asynchronous; /* stages return before their work is done, so their times say nothing */
    /* NULL = the row can do the problem (NULL = some problem) on this device, else why not. */
    const char *(*row_why_not)(const struct kernel_row *row, const struct problem *problem,
                               int32_t device);
    /* Once per plan: what runs read in the backend's memory space. */
    draftattn_status (*prepare)(const struct problem *problem, void **prepared);
    void (*release)(const struct problem *problem, void *prepared);
    enum memory (*memory)(const struct problem *problem, const void *data);

    bool (*select_size)(const struct problem *problem, size_t *bytes);
    /* The list, from given or from map, and the heads' density. */
    draftattn_status (*select)(const struct run *run);

    /* Into the workspace, in the order of the stream; from is free on return. */
    draftattn_status (*store)(const struct problem *problem, void *stream, void *to,
                              const void *from, size_t bytes);
    /* Out of it, when all that was enqueued before is done. */
    draftattn_status (*read)(const struct problem *problem, void *to, const void *from,
                             size_t bytes);

    /* Version 4: within the backend's memory space, in the order of the stream. */
    draftattn_status (*copy)(const struct problem *problem, void *stream, void *to,
                             const void *from, size_t bytes);
};

/* All backends of this build, in the order in which AUTO tries them; ended by NULL. */
const struct backend *const *backends_all(void);

/* NULL where this build has none. */
const struct backend *backends_find(draftattn_backend id);

/* All compiled kernels, fastest first; each names its backend. */
const struct kernel_row *kernels_all(int32_t *count);

/* Block order position of probe row index: one in each of equal shares of the video, at a place in
 * it that follows the golden ratio. Equal distances would keep meeting the same rows of every strip
 * and block, and estimate the error of those alone. */
static inline int64_t probe_position(const struct problem *problem, int64_t index)
{
    int64_t begin = index * problem->video_tokens / problem->probes;
    int64_t end = (index + 1) * problem->video_tokens / problem->probes;
    uint64_t place = (uint32_t)((uint64_t)index * 0x9e3779b9u);
    return begin + (int64_t)(place * (uint64_t)(end - begin) >> 32);
}

/* Row of the block list. */
static inline int64_t list_row(const struct problem *problem, int64_t head, int64_t query_block)
{
    return head * problem->query_blocks + query_block;
}

#endif
