#!/usr/bin/env python3
"""draftattn beside diffusers' WanTransformer3DModel on one GPU: seconds of a forward pass.

    python tests/bench/compare_diffusers_gpu.py --model 14b --size 720p --sparsity 0.9

diffusers runs in bfloat16 (with what it keeps in float32) and cuDNN attention, ours as `draftattn
bench --end-to-end` runs it, both with random weights of the same shapes, on the same grid, with 512
rows of text that both attend to in full. They cannot be on the card together, so they take turns as
processes: diffusers, ours, diffusers; the two runs of diffusers show the drift. Medians after one
pass that is not timed. The ratio is ours over diffusers: below 1 ours is faster.

It needs torch and diffusers. With --device cpu and --model FOLDER the same runs in float32 on the
CPU: that shows that the script works.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GIB = 2**30

COMMON = {"patch_size": (1, 2, 2), "attention_head_dim": 128, "in_channels": 16,
          "out_channels": 16, "text_dim": 4096, "freq_dim": 256, "cross_attn_norm": True,
          "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 1024}
MODELS = {"1.3b": {**COMMON, "num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
          "14b": {**COMMON, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}}
SIZES = {"480p": (832, 480), "720p": (1280, 720)}
TEXT_ROWS = 512


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="14b", help="1.3b, 14b or the folder of a checkpoint, "
                        "of which the shapes are taken (default: 14b)")
    parser.add_argument("--size", default="720p", help="480p, 720p or WxH (default: 720p)")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--sparsity", default="0.9", help="of ours, a list (default: 0.9)")
    parser.add_argument("--runs", type=int, default=3, help="timed passes (default: 3)")
    parser.add_argument("--once", action="store_true", help="diffusers before ours alone")
    parser.add_argument("--compile", action="store_true", help="diffusers through torch.compile()")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU")
    parser.add_argument("--program", default=os.environ.get(
        "DRAFTATTN", f"{ROOT}/build/release/bin/draftattn"))
    parser.add_argument("--ours", default="", metavar="OPTIONS",
                        help="more options for draftattn bench, such as '--offload'")
    parser.add_argument("--json", metavar="FILE", help="the figures, for machines")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    try:
        a.width, a.height = SIZES.get(a.size) or map(int, a.size.split("x"))
    except ValueError:
        parser.error(f"--size '{a.size}': takes 480p, 720p or WxH")
    if a.model not in MODELS and not os.path.isdir(a.model):
        parser.error(f"--model '{a.model}': takes 1.3b, 14b or a folder")
    return a


# ---- diffusers, in a process of its own ------------------------------------------------------


def config_of(a):
    if a.model in MODELS:
        return MODELS[a.model]
    with open(f"{a.model}/transformer/config.json", encoding="utf-8") as file:
        return {k: v for k, v in json.load(file).items() if not k.startswith("_")}


def make_peer(a, torch):
    """Random weights, made on the device; float32 where from_pretrained() would keep it."""
    from diffusers import WanTransformer3DModel

    dtype = torch.bfloat16 if a.device == "cuda" else torch.float32
    torch.set_default_dtype(dtype)
    with torch.device(a.device):
        model = WanTransformer3DModel(**config_of(a)).eval()
    torch.set_default_dtype(torch.float32)
    kept = model._keep_in_fp32_modules
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if any(part in name.split(".") for part in kept):
            tensor.data = tensor.data.float()
    return (torch.compile(model) if a.compile else model), dtype


def run_peer(a):
    """Prints one line of JSON: seconds of each pass, versions, memory."""
    import diffusers
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(a.threads)
    cuda = a.device == "cuda"
    model, dtype = make_peer(a, torch)
    shape = (1, 16, (a.frames - 1) // 4 + 1, a.height // 8, a.width // 8)
    text = torch.randn(1, TEXT_ROWS, config_of(a)["text_dim"], device=a.device, dtype=dtype)
    latents = torch.randn(shape, device=a.device, dtype=dtype)
    timestep = torch.tensor([500], device=a.device)
    wait = torch.cuda.synchronize if cuda else lambda: None
    attention = contextlib.nullcontext()
    if cuda:
        attention = torch.nn.attention.sdpa_kernel([torch.nn.attention.SDPBackend.CUDNN_ATTENTION])
    seconds = []
    with torch.inference_mode(), attention:
        for _ in range(a.runs + 1):
            wait()
            start = time.perf_counter()
            out = model(hidden_states=latents, timestep=timestep, encoder_hidden_states=text,
                        return_dict=False)[0]
            wait()
            seconds.append(time.perf_counter() - start)
    if not bool(out.isfinite().all()):
        sys.exit("diffusers' output is not finite")
    print(json.dumps({
        "seconds": seconds[1:], "shape": list(shape),
        "peak": torch.cuda.max_memory_allocated() if cuda else 0,
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "CPU",
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__,
                     "cudnn": torch.backends.cudnn.version() if cuda else None}}))


# ---- both ------------------------------------------------------------------------------------


def last_json(command, what):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what} failed with exit code {done.returncode}: {' '.join(command)}")
    text = done.stdout.strip()
    return json.loads(text if text.startswith("{") else text.splitlines()[-1])


def measure_peer(a):
    return last_json([sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--peer"],
                     "diffusers")


def measure_ours(a):
    model = ["--synthetic", f"wan2.1-t2v-{a.model}"] if a.model in MODELS else ["-m", a.model]
    return last_json([a.program, "bench", "--end-to-end", *model,
                      "--size", f"{a.width}x{a.height}", "--frames", str(a.frames),
                      "--sparsity", a.sparsity, "--runs", str(a.runs), "--device", a.device,
                      "--threads", str(a.threads), "--json", "--quiet", *a.ours.split()],
                     "draftattn")


def print_row(name, seconds, median, peer, peak):
    print(f"| {name} | {median:.3f} | {min(seconds):.3f} | {max(seconds):.3f} "
          f"| {median / peer:.3f} | {peer / median:.2f}x | {peak / GIB:.1f} |")


def main():
    a = arguments()
    if a.peer:
        return run_peer(a)
    before = measure_peer(a)
    ours = measure_ours(a)
    after = None if a.once else measure_peer(a)
    passes = before["seconds"] + (after["seconds"] if after else [])
    peer = statistics.median(passes)
    versions = ", ".join(f"{k} {v}" for k, v in before["versions"].items() if v)
    print(f"{before['device']}; draftattn {ours['commit']} ({ours['kernel']}, "
          f"{ours['precision']}); {versions}")
    print(f"{a.model}, {a.width}x{a.height}x{a.frames}, {ours['tokens']} tokens, {TEXT_ROWS} rows "
          f"of text on both sides, median of {a.runs}\n")
    print("| seconds of a forward pass | median | min | max | of diffusers | speed-up | GiB |\n"
          "|:--|--:|--:|--:|--:|--:|--:|")
    attention = "cuDNN attention" if a.device == "cuda" else "float32"
    compiled = ", compiled" if a.compile else ""
    for name, run in (("before", before), ("after", after)):
        if run:
            print_row(f"diffusers, {attention}{compiled}, {name}", run["seconds"],
                      statistics.median(run["seconds"]), peer, run["peak"])
    for row in ours["rows"]:
        name = "ours, dense" if row["dense"] else f"ours, {100 * row['sparsity']:.4g} % sparse"
        found = row["forward_seconds"]
        print_row(name, [found["min"], found["max"]], found["median"], peer,
                  ours["memory"]["denoise"] or ours["memory"]["peak"])
    if after:
        drift = statistics.median(after["seconds"]) / statistics.median(before["seconds"]) - 1
        print(f"\ndrift of diffusers from before to after: {drift:+.1%}")
    if a.json:
        with open(a.json, "w", encoding="utf-8") as file:
            json.dump({"peer_seconds": peer, "before": before, "after": after, "ours": ours}, file,
                      indent=1)
    return None


if __name__ == "__main__":
    main()
