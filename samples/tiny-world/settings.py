"""What the model is, and the folder that training keeps its state in."""

import os

import torch
from safetensors.torch import load_file, save_file

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

VAE = dict(
    base_dim=16,
    z_dim=16,
    dim_mult=[1, 2, 4, 4],
    num_res_blocks=2,
    temperal_downsample=[False, True, True],
)
TRANSFORMER = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=2,
    attention_head_dim=128,
    in_channels=16,
    out_channels=16,
    text_dim=256,
    freq_dim=256,
    ffn_dim=768,
    num_layers=8,
    cross_attn_norm=True,
    qk_norm="rms_norm_across_heads",
    eps=1e-6,
)
TEXT = dict(
    vocab_size=256,
    d_model=256,
    d_kv=32,
    d_ff=320,
    num_layers=2,
    num_heads=4,
    feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
    pad_token_id=0,
    eos_token_id=1,
)
TOKENS = 56  # most tokens of a caption
CONTEXT = 512  # length of the zero-padded context, as in Wan
SCHEDULER = dict(prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000)

TEST_PROMPTS = [
    "a big red ball bounces on green grass under a blue sky",
    "a small blue cube spins on a checkerboard floor at night",
    "a big yellow ball rolls to the right on sand at sunset while a small purple cube stays still",
    "a small white ball moves in a circle on snow on a sunny day, the camera zooms in",
    "a big green cube floats up on a grassy field at sunset, the camera orbits",
    "a small orange ball rolls to the left on a checkered floor on a sunny day, the camera pans "
    "right",
]

# Every sky, ground, shape and motion, one object or two: what judge.py judges by.
JUDGE_PROMPTS = TEST_PROMPTS + [
    "a small pink ball rises into the air on grass on a sunny day",
    "a big white cube spins on green grass while a small blue ball bounces at sunset",
    "a big orange ball circles around on a grassy field at night",
    "a small yellow cube slides to the left on grass and a big pink ball stays still at night",
    "a big purple cube slides to the right on sand under a blue sky",
    "a small green ball bounces up and down on a sandy desert while a big red cube spins in place "
    "on a sunny day",
    "a big blue ball spins on sand at sunset, the camera pans left",
    "a small white cube rises into the air on a sandy desert at night",
    "a big red ball rolls to the left on sand while a small white ball stays still at night",
    "a big purple ball rolls right on a snowy field while a small green cube floats up under a "
    "blue sky",
    "a small red cube moves in a circle on snow at sunset",
    "a big yellow cube bounces on snow while a big blue cube stays still at sunset",
    "a small orange ball bounces up and down on snow at night, the camera zooms in",
    "a big green ball rises into the air on a snowy field and a small pink cube spins at night",
    "a big pink cube bounces on a checkerboard floor while a small orange ball rolls to the right "
    "on a sunny day",
    "a small purple ball circles around on a checkered floor at sunset, the camera orbits",
    "a big green cube slides to the left on a checkerboard floor while a small yellow ball does "
    "not move at sunset",
    "a big white ball bounces on a checkered floor at night, the camera pans right",
]


def autocast():
    return torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda")


def gpu_memory():
    """Peak, in MiB."""
    return torch.cuda.max_memory_allocated() >> 20 if DEVICE == "cuda" else 0


def latent_shape(frames, height, width):
    return 16, (frames - 1) // 4 + 1, height // 8, width // 8


def flow_shift(frames, height, width):
    return 3.0 if frames * height * width <= 33 * 256 * 256 else 9.0


class Work:
    """A folder of named weights, each in parts that stay small."""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def save(self, name, tensors, limit=14e6):
        part, size, count = {}, 0, 0
        for key, value in tensors.items():
            value = value.detach().cpu().contiguous()
            bytes_ = value.numel() * value.element_size()
            if part and size + bytes_ > limit:
                self.save_part(name, count, part)
                part, size, count = {}, 0, count + 1
            part[key] = value
            size += bytes_
        self.save_part(name, count, part)

    def save_part(self, name, count, tensors):
        """Whole or not at all, also where several processes do it at once."""
        own = self.path(f"{name}-{count}.{os.getpid()}")
        save_file(tensors, own)
        os.replace(own, self.path(f"{name}-{count}.safetensors"))

    def forget(self, name):
        count = 0
        while os.path.exists(path := self.path(f"{name}-{count}.safetensors")):
            os.remove(path)
            count += 1

    def load(self, name):
        """An empty dict where nothing was saved."""
        out, count = {}, 0
        while os.path.exists(path := self.path(f"{name}-{count}.safetensors")):
            out.update(load_file(path))
            count += 1
        return out
