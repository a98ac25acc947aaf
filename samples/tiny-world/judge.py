"""Judges videos of JUDGE_PROMPTS: does each show the sky and the ground that its prompt names?

The colours of every row of the picture, means over columns and frames, are compared with rendered
scenes of all skies and grounds; the nearest is what the video shows. Objects are not counted here:
look at the contact sheet. `train.py judge` judges the weights of the work folder in the same way.
"""

import argparse
import glob
import itertools
import os
import random
import subprocess
import tempfile

import torch

import world
from settings import JUDGE_PROMPTS

FRAMES = 5  # of each video that are looked at


def named(prompt, words):
    """The key in words of which a wording occurs in the prompt."""
    return next(k for k, texts in words.items() if any(t.strip(" ,") in prompt for t in texts if t))


def wanted(prompt):
    return named(prompt, world.SKY_WORDS), named(prompt, world.GROUND_WORDS)


def profile(video):
    """Mean colour by row: [3, 64]."""
    at = torch.linspace(0, video.shape[1] - 1, FRAMES).round().long()
    rows = video[:, at].float().mean((1, 3))
    return torch.nn.functional.adaptive_avg_pool1d(rows[None], 64)[0].cpu()


def shown(video, references):
    """Sky and ground of the rendered scene that is nearest."""
    rows = profile(video)
    return min(references, key=lambda kind: (references[kind] - rows).square().sum().item())


def make_references(aspect):
    """Profiles of scenes without objects, by sky and ground."""
    rnd, out = random.Random(5), {}
    for sky, ground in itertools.product(world.SKIES, world.GROUNDS):
        empty = dict(world.scene(rnd), objects=[], sky=sky, ground=ground, camera="static")
        video = world.render([empty], FRAMES, 64, round(64 * aspect))[0]
        out[sky, ground] = profile(video)
    return out


def judge(videos, prompts=JUDGE_PROMPTS):
    """Prints what is wrong and how many are right; returns that number. videos: [3, T, H, W] in
    [-1, 1]."""
    references = make_references(videos[0].shape[3] / videos[0].shape[2])
    right = 0
    for number, (video, prompt) in enumerate(zip(videos, prompts), 1):
        sky, ground = shown(video, references)
        if (sky, ground) == wanted(prompt):
            right += 1
        else:
            print(f"{number}: {sky}, {ground} for '{prompt}'")
    print(f"sky and ground as named: {right} of {len(prompts)}", flush=True)
    return right


def read_frames(pattern):
    import numpy
    from PIL import Image

    frames = [numpy.asarray(Image.open(path).convert("RGB")) for path in sorted(glob.glob(pattern))]
    return torch.tensor(numpy.stack(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1


def generate(program, prompt, seed, options):
    """One video made by the program."""
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "generate", "-q", "-p", prompt, "--seed", str(seed), *options]
        subprocess.run(command + ["-o", os.path.join(folder, "%05d.png")], check=True)
        return read_frames(os.path.join(folder, "*.png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="the program draftattn")
    parser.add_argument("png", help="prefix of the contact sheets: PNG-1.png and on")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="for 'draftattn generate', as --model FOLDER"
    )
    a = parser.parse_args()
    videos = [
        generate(a.program, prompt, seed, a.options) for seed, prompt in enumerate(JUDGE_PROMPTS)
    ]
    judge(videos)
    world.sheets(videos, a.png, height=min(160, videos[0].shape[2]))


if __name__ == "__main__":
    main()
