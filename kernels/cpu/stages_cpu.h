/* The stages of backend.h as the CPU backends share them. */
#ifndef DRAFTATTN_KERNELS_CPU_STAGES_CPU_H
#define DRAFTATTN_KERNELS_CPU_STAGES_CPU_H

#include "backend.h"
#include "scratch_cpu.h"

bool cpu_scratch_size(const struct problem *problem, size_t *bytes);
int64_t cpu_group_heads(const struct run *run);

draftattn_status cpu_pool(const struct run *run);
draftattn_status cpu_draft_map(const struct run *run, draftattn_score score, float *map);
draftattn_status cpu_gather(const struct run *run, int64_t first, int64_t count);
draftattn_status cpu_attend(const struct run *run, int64_t first, int64_t count);
draftattn_status cpu_repair(const struct run *run, int64_t first, int64_t count);

#endif
