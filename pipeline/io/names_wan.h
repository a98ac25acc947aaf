/* From the tensor names of the diffusers layout to those of Wan's original layout. */
#ifndef PIPELINE_IO_NAMES_WAN_H
#define PIPELINE_IO_NAMES_WAN_H

#include <stddef.h>

/* checkpoint_rename_fn each: the answer is in buffer, or name itself where it has no other name. */
const char *names_wan_transformer(const char *name, char *buffer, size_t size);
const char *names_wan_vae(const char *name, char *buffer, size_t size);
const char *names_wan_umt5(const char *name, char *buffer, size_t size);

#endif
