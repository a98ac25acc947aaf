"""Writes the trained model in the diffusers layout of Wan2.1, and looks at it through diffusers.

Everything but `checkpoint` and `restore` works from the written folder alone.
"""

import argparse
import glob
import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file

import transformer
import vae
import world
from settings import DEVICE, SCHEDULER, TEST_PROMPTS, Work, flow_shift, latent_shape
from train import size

REFERENCE = dict(
    prompt=TEST_PROMPTS[0], size=(33, 256, 256), steps=12, guidance=4.0, shift=3.0, seed=1
)
INDEX = {
    "_class_name": "WanPipeline",
    "_diffusers_version": "0.35.0",
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}
TOKENIZER_CONFIG = dict(
    tokenizer_class="T5TokenizerFast",
    pad_token="<pad>",
    eos_token="</s>",
    unk_token="<unk>",
    extra_ids=0,
    additional_special_tokens=[],
    model_max_length=512,
    clean_up_tokenization_spaces=False,
)
# What the program draftattn takes where the user says nothing.
DEFAULTS = dict(
    width=256,
    height=256,
    frames=33,
    steps=12,
    steps_large=20,
    guidance=4,
    flow_shift=3,
    flow_shift_large=9,
    sparsity=0.4,
    probes=128,
    fps=16,
    negative_prompt="",
    prompt=REFERENCE["prompt"],
)


def write_json(path, value, indent=1):
    with open(path, "w") as f:
        json.dump(value, f, indent=indent, ensure_ascii=False)
        f.write("\n")


def write_tokenizer(spiece, folder):
    """spiece.model, and the same model for the tokenizers library."""
    from sentencepiece import sentencepiece_model_pb2 as pb
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    os.makedirs(folder, exist_ok=True)
    shutil.copyfile(spiece, f"{folder}/spiece.model")
    model = pb.ModelProto()
    with open(spiece, "rb") as f:
        model.ParseFromString(f.read())
    fast = Tokenizer(models.Unigram([(p.piece, p.score) for p in model.pieces], 2, False))
    fast.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    spaces = dict(replacement="\u2581", prepend_scheme="always")
    fast.pre_tokenizer = pre_tokenizers.Metaspace(**spaces)
    fast.decoder = decoders.Metaspace(**spaces)
    fast.post_processor = TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    fast.add_special_tokens(["<pad>", "</s>", "<unk>", "<s>"])
    fast.save(f"{folder}/tokenizer.json")
    write_json(f"{folder}/tokenizer_config.json", TOKENIZER_CONFIG)


def checkpoint(work, folder):
    from diffusers import UniPCMultistepScheduler

    dit, text_encoder = transformer.make()
    stats, vae_weights = work.load("stats"), work.load("vae")
    if not transformer.load(work, dit, text_encoder) or not stats or not vae_weights:
        raise SystemExit(f"{work.folder}: training is not complete there")
    mean, std = ([round(float(x), 4) for x in stats[k]] for k in ("mean", "std"))
    video_vae = vae.make(mean, std)
    video_vae.load_state_dict(vae_weights)
    os.makedirs(folder)  # fails where there is one: nothing is overwritten
    dit.bfloat16().save_pretrained(f"{folder}/transformer", max_shard_size="13MB")
    video_vae.bfloat16().save_pretrained(f"{folder}/vae")
    text_encoder.bfloat16().save_pretrained(f"{folder}/text_encoder")
    write_tokenizer(work.path("spiece.model"), f"{folder}/tokenizer")
    UniPCMultistepScheduler(**SCHEDULER, flow_shift=3.0).save_pretrained(f"{folder}/scheduler")
    write_json(f"{folder}/model_index.json", INDEX)
    write_json(f"{folder}/generation_defaults.json", DEFAULTS, indent=2)
    files = [p for p in glob.glob(f"{folder}/**", recursive=True) if os.path.isfile(p)]
    for path in sorted(files):
        print(f"{os.path.getsize(path):10d} {os.path.relpath(path, folder)}")
    print(f"{sum(map(os.path.getsize, files)):10d} in all")


def restore(work, folder):
    def read(part):
        weights = {}
        for path in sorted(glob.glob(f"{folder}/{part}/*.safetensors")):
            weights.update({k: v.float() for k, v in load_file(path).items()})
        return weights

    shutil.copyfile(f"{folder}/tokenizer/spiece.model", work.path("spiece.model"))
    dit = {"dit." + k: v for k, v in read("transformer").items()}
    work.save("dit", dit | {"te." + k: v for k, v in read("text_encoder").items()})
    work.save("vae", read("vae"))
    with open(f"{folder}/vae/config.json") as f:
        config = json.load(f)
    work.save("stats", {k: torch.tensor(config["latents_" + k]) for k in ("mean", "std")})


def open_pipeline(folder, shift):
    from diffusers import UniPCMultistepScheduler, WanPipeline

    pipe = WanPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(DEVICE)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=shift)
    return pipe


def noise_of(seed, frames, height, width):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, *latent_shape(frames, height, width), generator=generator)


@torch.no_grad()
def generate(pipe, prompt, size, steps, guidance, noise):
    """Final latents, normalised, and the video in [-1, 1]."""
    frames, height, width = size
    latents = pipe(
        prompt=prompt,
        negative_prompt="",
        height=height,
        width=width,
        num_frames=frames,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=noise.to(DEVICE),
        output_type="latent",
        max_sequence_length=512,
    ).frames
    mean, std = (
        torch.tensor(pipe.vae.config[k]).view(1, -1, 1, 1, 1).to(latents)
        for k in ("latents_mean", "latents_std")
    )
    return latents, pipe.vae.decode(latents * std + mean).sample.clamp(-1, 1)


def reference(folder, out, stride):
    """One run in float32: the golden case tiny-world."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    r = REFERENCE
    pipe = open_pipeline(folder, r["shift"])
    noise = noise_of(r["seed"], *r["size"])
    with torch.no_grad():
        texts = pipe.encode_prompt(r["prompt"], "", max_sequence_length=512)
    ids = pipe.tokenizer([r["prompt"], ""]).input_ids
    latents, video = generate(pipe, r["prompt"], r["size"], r["steps"], r["guidance"], noise)
    video = video[0].cpu()
    tensors = dict(
        noise=noise[0],
        latents=latents[0],
        timesteps=pipe.scheduler.timesteps.float(),
        sigmas=pipe.scheduler.sigmas.float(),
    )
    for name, token, text in zip(("prompt", "empty"), ids, texts):
        tensors[name + "_ids"] = torch.tensor(token, dtype=torch.int32)
        tensors[name + "_embeds"] = text[0, : len(token)]
    os.makedirs(out, exist_ok=True)
    tensors = {k: v.cpu().contiguous() for k, v in tensors.items()}
    save_file(tensors, f"{out}/sampling.safetensors", dict(prompt=r["prompt"]))
    pixels = ((video + 1) * 127.5).round().byte().permute(1, 2, 3, 0)
    frames = dict(
        frames=pixels[::stride].contiguous(), mean_colour=video.mean((2, 3)).T.contiguous()
    )
    save_file(frames, f"{out}/frames.safetensors")
    about = dict(
        r,
        text_rows=[len(token) for token in ids],
        context_rows=512,
        scheduler="UniPC, order 2, bh2, flow sigmas",
        precision="float32, weights as stored in bfloat16",
        noise=f"{list(noise[0].shape)} float32, standard normal",
        latents="final latents, normalised, float32",
        frames_file=f"frames 0, {stride}, ... as {list(frames['frames'].shape)} uint8 = "
        "round((clamp(x) + 1) * 127.5); mean_colour of all frames in [-1, 1]",
    )
    write_json(f"{out}/reference.json", about)
    print(f"{out}: deviation of the final latents {latents.std().item():.3f}")


def sample(folder, png, video_size, steps, guidance, prompts):
    width, height, frames = video_size
    shape = frames, height, width
    pipe = open_pipeline(folder, flow_shift(*shape))
    videos = []
    for seed, prompt in enumerate(prompts):
        _, video = generate(pipe, prompt, shape, steps, guidance, noise_of(seed, *shape))
        videos.append(video[0].cpu())
    world.sheet(videos, png, height=min(height, 160))


def psnr(folder):
    from diffusers import AutoencoderKLWan

    model = AutoencoderKLWan.from_pretrained(f"{folder}/vae", torch_dtype=torch.float32)
    vae.held_out(model.to(DEVICE).eval(), count=2 if DEVICE == "cpu" else 8)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", default="work", help="folder of the state (default: work)")
    actions = parser.add_subparsers(dest="action", required=True)
    p = actions.add_parser("checkpoint", help="write FOLDER, bfloat16, from the work folder")
    p.add_argument("folder")
    p = actions.add_parser("restore", help="fill the work folder from FOLDER, to train on from it")
    p.add_argument("folder")
    p = actions.add_parser("reference", help="one float32 run of FOLDER as a golden case in OUT")
    p.add_argument("folder")
    p.add_argument("out")
    p.add_argument("--stride", type=int, default=8, help="every how many frames are kept")
    p = actions.add_parser("sample", help="contact sheet of FOLDER through WanPipeline")
    p.add_argument("folder")
    p.add_argument("png")
    p.add_argument("prompts", nargs="*", default=TEST_PROMPTS, metavar="PROMPT")
    p.add_argument("--size", type=size, default=(256, 256, 33), metavar="WxHxFRAMES")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--guidance", type=float, default=4.0)
    p = actions.add_parser("psnr", help="quality of FOLDER's VAE on videos held out")
    p.add_argument("folder")
    return parser.parse_args()


def main():
    a = arguments()
    if a.action == "checkpoint":
        checkpoint(Work(a.work), a.folder)
    elif a.action == "restore":
        restore(Work(a.work), a.folder)
    elif a.action == "reference":
        reference(a.folder, a.out, a.stride)
    elif a.action == "sample":
        sample(a.folder, a.png, a.size, a.steps, a.guidance, a.prompts)
    else:
        psnr(a.folder)


if __name__ == "__main__":
    main()
