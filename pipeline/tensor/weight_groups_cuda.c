/*
 * Owns offload: the homes of weights in pinned host memory, the two slots on the device, and who is
 * in them.
 *
 * A slot is overwritten only after an event of the stream that lies behind every use of what was
 * there: whoever asks for a group has enqueued all that works with the one before. Slots grow with
 * the largest group and go with the last weight. Refused: working with a group that was not asked
 * for.
 *
 * Ladder, H100: groups of 671 MB, one after the other, come at 54.9 GB/s.
 */
#include "weight_groups_cuda.h"

#include <stdlib.h>

enum { SLOTS = 2, ALIGNMENT = 256 };

struct group {
    struct grouped_weight *weights;
    size_t bytes;
};

struct slot {
    void *memory;
    int64_t group;       /* -1 = none */
    cudaEvent_t arrived; /* on the copies' stream, after the group's last byte */
};

struct groups {
    struct group *list;
    int64_t count, weights; /* weights that have a home */
    bool open;              /* the last group of the list is being made */
    size_t pinned;          /* bytes of all homes */
    struct slot slots[SLOTS];
    size_t slot_bytes;
    int current; /* the slot whose group was asked for last */
    cudaEvent_t done;
};

bool weight_groups_cuda_open(struct device *device, struct error *error)
{
    struct groups *groups = calloc(1, sizeof *groups);
    if (!groups)
        return error_out_of_memory(error, "groups of weights", sizeof *groups);
    device->groups = groups;
    bool ok = device_cuda_check(
        device, cudaEventCreateWithFlags(&groups->done, cudaEventDisableTiming), "event");
    for (int i = 0; i < SLOTS; i++) {
        struct slot *slot = &groups->slots[i];
        slot->group = -1;
        ok = ok &&
             device_cuda_check(
                 device, cudaEventCreateWithFlags(&slot->arrived, cudaEventDisableTiming), "event");
    }
    return device_cuda_ok(device, error) && ok;
}

static void free_slots(struct device *device)
{
    struct groups *groups = device->groups;
    device_cuda_check(device, cudaStreamSynchronize(device->copies), "weights from the host");
    for (int i = 0; i < SLOTS; i++) {
        device_cuda_free(device, groups->slots[i].memory);
        groups->slots[i].memory = NULL;
        groups->slots[i].group = -1;
    }
    groups->slot_bytes = 0;
}

void weight_groups_cuda_close(struct device *device)
{
    struct groups *groups = device->groups;
    if (!groups)
        return;
    free_slots(device);
    for (int i = 0; i < SLOTS; i++)
        if (groups->slots[i].arrived)
            cudaEventDestroy(groups->slots[i].arrived);
    if (groups->done)
        cudaEventDestroy(groups->done);
    free(groups->list);
    free(groups);
    device->groups = NULL;
}

/* ---- making groups --------------------------------------------------------------------------- */

bool weight_groups_cuda_wanted(const struct device *device)
{
    const struct groups *groups = device->groups;
    return groups->open;
}

bool weight_groups_cuda_add(struct device *device, struct grouped_weight *weight, size_t bytes,
                            struct error *error)
{
    struct groups *groups = device->groups;
    struct group *group = &groups->list[groups->count - 1];
    void *home = NULL;
    cudaError_t status = cudaHostAlloc(&home, bytes, cudaHostAllocDefault);
    if (status) {
        cudaGetLastError();
        return error_set(error,
                         "offload: %zu bytes of pinned host memory are refused after %zu bytes "
                         "(%s); free host memory, raise its limit, or go without --offload",
                         bytes, groups->pinned, cudaGetErrorString(status));
    }
    *weight = (struct grouped_weight){.home = home,
                                      .bytes = bytes,
                                      .offset = group->bytes,
                                      .group = groups->count - 1,
                                      .next = group->weights};
    group->weights = weight;
    group->bytes += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    groups->pinned += bytes;
    groups->weights++;
    return true;
}

void weight_groups_cuda_remove(struct device *device, struct grouped_weight *weight)
{
    struct groups *groups = device->groups;
    if (!weight->home)
        return;
    device_cuda_check(device, cudaStreamSynchronize(device->copies), "weights from the host");
    device_cuda_check(device, cudaStreamSynchronize(device->stream), "work");
    struct grouped_weight **link = &groups->list[weight->group].weights;
    while (*link != weight)
        link = &(*link)->next;
    *link = weight->next;
    device_cuda_check(device, cudaFreeHost(weight->home), "pinned memory");
    groups->pinned -= weight->bytes;
    weight->home = NULL;
    if (--groups->weights == 0)
        free_slots(device);
}

void weight_groups_cuda_begin(struct device *device)
{
    struct groups *groups = device->groups;
    if (!device->offload)
        return;
    if (groups->weights == 0) /* those of another network are gone */
        groups->count = 0;
    struct group *grown = realloc(groups->list, (size_t)(groups->count + 1) * sizeof *grown);
    if (!grown) { /* group_end() reports it */
        device_cuda_check(device, cudaErrorMemoryAllocation, "a group of weights");
        return;
    }
    groups->list = grown;
    groups->list[groups->count++] = (struct group){0};
    groups->open = true;
}

/* Every byte of the group is at home, and the slots are large enough. */
bool weight_groups_cuda_end(struct device *device, struct error *error)
{
    struct groups *groups = device->groups;
    if (!groups->open)
        return device_cuda_ok(device, error);
    groups->open = false;
    device_cuda_check(device, cudaStreamSynchronize(device->stream), "weights to the host");
    if (!device_cuda_ok(device, error))
        return false;
    const size_t bytes = groups->list[groups->count - 1].bytes;
    if (bytes <= groups->slot_bytes)
        return true;
    free_slots(device);
    for (int i = 0; i < SLOTS; i++) {
        groups->slots[i].memory = device_cuda_alloc(device, bytes);
        if (!groups->slots[i].memory)
            return error_out_of_memory(error, "a slot for weights on the GPU", bytes);
    }
    groups->slot_bytes = bytes;
    return true;
}

/* ---- using groups ---------------------------------------------------------------------------- */

static int slot_of(const struct groups *groups, int64_t group)
{
    for (int i = 0; i < SLOTS; i++)
        if (groups->slots[i].group == group)
            return i;
    return -1;
}

const void *weight_groups_cuda_find(const struct device *device,
                                    const struct grouped_weight *weight)
{
    const struct groups *groups = device->groups;
    const struct slot *slot = &groups->slots[groups->current];
    return slot->group == weight->group ? (const char *)slot->memory + weight->offset : NULL;
}

/* Brings group into a slot, behind all that the stream has been given so far. */
static void fetch(struct device *device, int64_t group, int into)
{
    struct groups *groups = device->groups;
    struct slot *slot = &groups->slots[into];
    slot->group = group;
    device_cuda_check(device, cudaEventRecord(groups->done, device->stream), "offload");
    device_cuda_check(device, cudaStreamWaitEvent(device->copies, groups->done, 0), "offload");
    for (const struct grouped_weight *weight = groups->list[group].weights; weight;
         weight = weight->next)
        device_cuda_check(device,
                          cudaMemcpyAsync((char *)slot->memory + weight->offset, weight->home,
                                          weight->bytes, cudaMemcpyHostToDevice, device->copies),
                          "weights from the host");
    device_cuda_check(device, cudaEventRecord(slot->arrived, device->copies), "offload");
}

bool weight_groups_cuda_need(struct device *device, int64_t group, int64_t next,
                             struct error *error)
{
    struct groups *groups = device->groups;
    if (!device->offload)
        return device_cuda_ok(device, error);
    if (group < 0 || group >= groups->count || next < -1 || next >= groups->count)
        return error_set(error, "offload: there is no group %lld or %lld of weights, only %lld",
                         (long long)group, (long long)next, (long long)groups->count);
    int here = slot_of(groups, group);
    if (here < 0) {
        here = (groups->current + 1) % SLOTS;
        fetch(device, group, here);
    }
    groups->current = here;
    /* Asked for before the stream waits: what lies in the other slot has been used by then. */
    if (next >= 0 && slot_of(groups, next) < 0)
        fetch(device, next, (here + 1) % SLOTS);
    device_cuda_check(device, cudaStreamWaitEvent(device->stream, groups->slots[here].arrived, 0),
                      "offload");
    return device_cuda_ok(device, error);
}
