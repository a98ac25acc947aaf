"""Trains the tiny Wan-format text-to-video model on the rendered world: README.md has the order of stages.

Every stage is limited by time, not by steps, and keeps its state in the work folder, so that it can go on
from there. Do not run two stages in one work folder at once. The stage dit uses several GPUs when
torchrun starts it: torchrun --nproc-per-node 2 train.py dit SECONDS.
"""

import argparse

import judge
import transformer
import vae
import world
from settings import JUDGE_PROMPTS, Work


def size(text):
    try:
        width, height, frames = map(int, text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not WIDTHxHEIGHTxFRAMES")
    if width % 16 or height % 16 or frames % 4 != 1:
        raise argparse.ArgumentTypeError(f"'{text}': sides divide by 16, frames are 4n + 1")
    return width, height, frames


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", default="work", help="folder of the state (default: work)")
    stages = parser.add_subparsers(dest="stage", required=True)
    stages.add_parser("tokenizer", help="make spiece.model")
    stages.add_parser(
        "check", help="compare the whole-sequence VAE with the library's chunked code"
    )
    p = stages.add_parser("vae", help="train the VAE, or train it on")
    p.add_argument("seconds", type=float)
    p.add_argument("--size", type=int, choices=(128, 256, 512), default=128, help="of the videos")
    p = stages.add_parser("dit", help="train transformer and text encoder, or train them on")
    p.add_argument("seconds", type=float, help="making latents included")
    p.add_argument("--rate", type=float, default=1.2e-3, help="learning rate")
    p.add_argument("--large", type=float, default=0.15, help="share of steps at large sizes")
    p.add_argument("--fill", type=float, default=60, help="seconds for making latents")
    p.add_argument("--decay", type=float, default=0.5, help="share of time the rate falls over")
    p.add_argument("--seed", type=int, help="default: from the clock")
    p = stages.add_parser("sample", help="contact sheets of the test prompts")
    p.add_argument("sizes", type=size, nargs="*", default=[(256, 256, 33)], metavar="WxHxFRAMES")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--guidance", type=float, default=4.0)
    p = stages.add_parser("judge", help="sky and ground of the judge's prompts, and contact sheets")
    p.add_argument("size", type=size, nargs="?", default=(256, 256, 33), metavar="WxHxFRAMES")
    p.add_argument("--steps", type=int, default=12)
    p.add_argument("--guidance", type=float, default=4.0)
    return parser.parse_args()


def main():
    a = arguments()
    work = Work(a.work)
    if a.stage == "tokenizer":
        transformer.train_tokenizer(work)
    elif a.stage == "check":
        vae.check()
    elif a.stage == "vae":
        vae.train(work, a.seconds, a.size)
    elif a.stage == "dit":
        transformer.train(work, a.seconds, a.rate, a.large, a.fill, a.decay, a.seed)
    elif a.stage == "sample":
        transformer.sample(work, a.sizes, a.steps, a.guidance)
    else:
        videos = transformer.Sampler(work).videos(JUDGE_PROMPTS, a.size, a.steps, a.guidance)
        judge.judge(videos)
        world.sheets(videos, work.path("judge"), height=min(a.size[1], 160))


if __name__ == "__main__":
    main()
