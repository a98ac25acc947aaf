#!/usr/bin/env python3
"""draftattn beside diffusers' WanPipeline: one checkpoint, prompt, noise and machine, float32.

Both sides get the same number of threads and run one after the other, in one go. Loading and
writing files are not timed on either side. See README.md beside this file.
"""

import argparse
import contextlib
import glob
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PHASES = ("text", "denoise", "decode")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=f"{ROOT}/samples/tiny-world/checkpoint")
    parser.add_argument("--program", default=f"{ROOT}/build/release/bin/draftattn")
    parser.add_argument("--prompt", help="default: the model's own")
    parser.add_argument("--size", default="256x256", metavar="WxH")
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--shift", type=float, help="flow shift (default: 3, above 256x256x33 5)")
    parser.add_argument(
        "--sparsity",
        type=float,
        action="append",
        help="of a draft run; repeatable (default: 0.5 and 0.75)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=1, help="of everything; medians are printed")
    a = parser.parse_args()
    a.width, a.height = map(int, a.size.split("x"))
    a.sparsity = a.sparsity or [0.5, 0.75]
    if a.shift is None:
        a.shift = 3.0 if a.width * a.height * a.frames <= 256 * 256 * 33 else 5.0
    if a.prompt is None:
        with open(f"{a.model}/generation_defaults.json") as f:
            a.prompt = json.load(f)["prompt"]
    return a


@contextlib.contextmanager
def timed(seconds, phase):
    start = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - start


class Theirs:
    """diffusers, timed by the same phases."""

    def __init__(self, a):
        import torch
        from diffusers import UniPCMultistepScheduler, WanPipeline

        self.a, self.torch = a, torch
        torch.set_num_threads(a.threads)
        self.pipe = WanPipeline.from_pretrained(a.model, torch_dtype=torch.float32)
        self.pipe.set_progress_bar_config(disable=True)
        config = self.pipe.scheduler.config
        self.pipe.scheduler = UniPCMultistepScheduler.from_config(config, flow_shift=a.shift)

    def run(self, noise, steps=None):
        """Seconds by phase, and frames [frame, height, width, 3] as bytes."""
        torch, pipe, a = self.torch, self.pipe, self.a
        seconds = {}
        with torch.no_grad():
            with timed(seconds, "text"):
                text, empty = pipe.encode_prompt(a.prompt, "", max_sequence_length=512)
            with timed(seconds, "denoise"):
                latents = pipe(
                    prompt_embeds=text,
                    negative_prompt_embeds=empty,
                    height=a.height,
                    width=a.width,
                    num_frames=a.frames,
                    num_inference_steps=steps or a.steps,
                    guidance_scale=a.guidance,
                    latents=noise[None].clone(),
                    output_type="latent",
                ).frames
            with timed(seconds, "decode"):
                mean, std = (
                    torch.tensor(pipe.vae.config[k]).view(1, -1, 1, 1, 1)
                    for k in ("latents_mean", "latents_std")
                )
                video = pipe.vae.decode(latents * std + mean).sample[0]
        pixels = ((video.clamp(-1, 1) + 1) * 127.5).round().byte()
        return seconds, pixels.permute(1, 2, 3, 0).numpy()


def ours(a, noise_file, extra, folder):
    """The same from the program."""
    import numpy
    from PIL import Image

    command = [a.program, "generate", "--model", a.model, "--prompt", a.prompt]
    command += ["--negative-prompt", "", "--size", a.size, "--frames", a.frames, "--steps", a.steps]
    command += ["--cfg", a.guidance, "--flow-shift", a.shift, "--noise", noise_file]
    command += ["--threads", a.threads, "--json", "--quiet"]
    command += ["--output", f"{folder}/%05d.png", *extra]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    report = json.loads(done.stdout)
    files = sorted(glob.glob(f"{folder}/*.png"))
    frames = numpy.stack([numpy.asarray(Image.open(f).convert("RGB")) for f in files])
    for f in files:
        os.remove(f)
    return report, frames


def psnr(x, y):
    import numpy

    error = ((x.astype(numpy.float64) - y) ** 2).mean()
    return 10 * math.log10(255**2 / error) if error else math.inf


def cpu():
    with open("/proc/cpuinfo") as f:
        names = [line.split(":")[1].strip() for line in f if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main():
    a = arguments()
    import diffusers
    import torch
    from safetensors.torch import save_file

    shape = 16, (a.frames - 1) // 4 + 1, a.height // 8, a.width // 8
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(a.seed))[0]
    rows = {"draftattn, dense": ["--attention", "dense"]}
    for sparsity in a.sparsity:
        flags = ["--attention", "draft", "--sparsity", sparsity]
        rows[f"draftattn, draft, sparsity {sparsity:g}"] = flags
    seconds, frames, density = {}, {}, {}
    theirs = Theirs(a)
    theirs.run(noise, steps=1)  # not timed: what a process pays once; our runs pay it every time
    with tempfile.TemporaryDirectory() as folder:
        save_file({"noise": noise}, f"{folder}/noise.safetensors")
        for _ in range(a.runs):
            times, frames["diffusers"] = theirs.run(noise)
            seconds.setdefault("diffusers", []).append(times)
            for name, flags in rows.items():
                report, frames[name] = ours(a, f"{folder}/noise.safetensors", flags, folder)
                seconds.setdefault(name, []).append(report["seconds"])
                density[name] = report["attention"]["density"]

    print(f"{cpu()}, {a.threads} threads; ", end="")
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}")
    print(f"{a.size}, {a.frames} frames, {a.steps} steps, guidance {a.guidance:g}, ", end="")
    print(f"float32, median of {a.runs}; seconds")
    header = ("", *PHASES, "total", "ratio", "density", "PSNR to diffusers", "PSNR to dense")
    print("| " + " | ".join(header) + " |")
    print("|---" * len(header) + "|")
    base = None
    for name, runs in seconds.items():
        times = [statistics.median(r[phase] for r in runs) for phase in PHASES]
        base = base or sum(times)
        cells = [f"{t:.2f}" for t in (*times, sum(times))] + [f"{base / sum(times):.2f}"]
        same = name == "diffusers"
        cells.append("1" if same else f"{density[name]:.3f}")
        cells.append("" if same else f"{psnr(frames[name], frames['diffusers']):.1f} dB")
        dense = "draftattn, dense"
        cells.append(
            "" if name in ("diffusers", dense) else f"{psnr(frames[name], frames[dense]):.1f} dB"
        )
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
