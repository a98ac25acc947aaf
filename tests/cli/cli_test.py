#!/usr/bin/env python3
"""draftattn from outside: exit codes, messages, files.

Run by CTest, or by hand:
DRAFTATTN_PROGRAM=build/release/bin/draftattn DRAFTATTN_TEST_MODEL=samples/tiny-world/checkpoint \
    python3 tests/cli/cli_test.py [Usage|Generate|Formats|Models|Output|Interrupt|Resume]
"""
import fcntl
import json
import math
import os
import pty
import re
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import termios
import time
import unittest

from cli_common import (MODEL, PROGRAM, SANITIZED, SMALL, TEXT_ENCODER, TRANSFORMER, VAE, Case,
                        bf16_to_f32, generate, join_safetensors, merge_shards, original_config,
                        original_name, read_model_file, split_safetensors)


def on_terminal(case, arguments, columns, stop_at=None):
    """The exit code, and what a terminal of so many columns gets to see; Ctrl-C at stop_at."""
    try:
        controller, terminal = pty.openpty()
    except OSError as error:
        case.skipTest(f"no pseudo-terminal: {error}")
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([PROGRAM, *arguments], cwd=case.work, stderr=terminal,
                               stdout=subprocess.DEVNULL, env=case.environment(TERM="xterm"))
    os.close(terminal)
    text = b""
    while True:
        try:
            part = os.read(controller, 4096)
        except OSError: # the other end is closed
            part = b""
        if not part:
            break
        text += part
        if stop_at and stop_at in text:
            process.send_signal(signal.SIGINT)
            stop_at = None
    os.close(controller)
    return process.wait(60), text


class Usage(Case):
    def test_help(self):
        for arguments in (["--help"], ["help"], ["-h"]):
            out, err = self.succeed(*arguments)
            self.assertTrue(out.startswith("Usage: draftattn COMMAND"))
            self.assertEqual(err, "")
        for command in ("generate", "compare", "bench", "decode", "inspect", "info"):
            page, _ = self.succeed("help", command)
            self.assertEqual(page, self.succeed(command, "--help")[0])
            self.assertTrue(page.startswith(f"Usage: draftattn {command} "))
            self.assertTrue(all(len(line) <= 80 for line in page.splitlines()))
        self.assertRegex(self.succeed("--version")[0], r"^draftattn \d+\.\d+\.\d+\n$")

    def test_commands(self):
        self.refuse([], 2, "no command")
        self.refuse(["genrate"], 2, "unknown command 'genrate'", "did you mean 'generate'?",
                    "decode")
        self.refuse(["tune"], 2, "unknown command 'tune'", "generate, compare", "info", "help")
        self.refuse(["help", "decod"], 2, "did you mean 'decode'?")

    def test_options(self):
        for flags, *words in (
                (["--stepz", "3"], "'--stepz'", "did you mean '--steps'?"),
                (["-x"], "unknown option '-x'"),
                (["stray"], "unexpected argument 'stray'"),
                (["--steps"], "'--steps' needs a value"),
                (["--steps", "0"], "--steps '0'", "from 1 to 1000"),
                (["--steps", "-4"], "--steps '-4'"),
                (["--steps", "12abc"], "--steps '12abc'"),
                (["--frames", "0"], "--frames '0'"),
                (["--size", "64"], "--size '64'", "832x480"),
                (["--size", "0x64"], "--size '0x64'"),
                (["--width", "64"], "--size, or --width and --height"),
                (["--sparsity", "1"], "--sparsity '1'", "below 1"),
                (["--sparsity", "-0.5"], "--sparsity '-0.5'"),
                (["--sparsity", "many"], "--sparsity 'many'"),
                (["--dense-steps", "1.5"], "--dense-steps '1.5'"),
                (["--dense-layers", "0,99"], "--dense-layers", "99", "0 to 7"),
                (["--dense-layers", "1-"], "--dense-layers '1-'"),
                (["--compensation", "maybe"], "on or off"),
                (["--attention", "drafft"], "'drafft'", "did you mean 'draft'?", "dense"),
                (["--attention", "magic"], "'magic'", "draft-paper"),
                (["--sampler", "heun"], "heun", "unipc", "euler"),
                (["--backend", "gpu9"], "'gpu9'", "avx2"),
                (["--device", "gpu"], "--device 'gpu'", "cuda:N"),
                (["--device", "cuda:x"], "--device 'cuda:x'"),
                (["--device", "cuda"], "--device cuda"), # none is in sight
                (["--device", "cuda:7", "--backend", "avx2"], "--backend avx2", "GPU"),
                (["--device", "cpu", "--backend", "cuda"], "--backend cuda", "--device cpu"),
                (["--device", "cpu", "--precision", "bf16"], "--precision bf16", "--device cpu"),
                (["--device", "cpu", "--offload"], "--offload", "--device cpu"),
                (["--offload"], "--offload: "),
                (["--precision", "int4"], "--precision 'int4'", "float32"),
                (["--synthetic", "wan2.1-t2v-1.5b"], "did you mean 'wan2.1-t2v-1.3b'?", "14b"),
                (["--synthetic", "wan2.1-t2v-14b", "-m", MODEL], "--model or --synthetic"),
                (["--save-every", "0"], "--save-every '0'"),
                (["--seed", "-1"], "--seed '-1'", "4294967295"),
                (["--cfg", "nan"], "--cfg 'nan'"),
                (["--flow-shift", "0"], "--flow-shift '0'"),
                (["--fps", "0"], "--fps '0'"),
                (["--threads", "0"], "--threads '0'"),
                (["--tile", "100"], "--tile '100'", "multiple of 8"),
                (["--attention", "draft-paper", "--compensation", "on"], "--compensation"),
                # 64x64 is a grid of 4x4 tokens: the published 8x16 patches do not divide it
                (["--attention", "draft-paper"], "8", "16")):
            with self.subTest(flags=flags):
                self.refuse(generate(*flags), 2, *words)

    def test_prompts(self):
        self.refuse(["generate"], 2, "prompt is empty", "--prompt")
        for prompt in ("", "   ", "\n\t"):
            self.refuse(generate(prompt=prompt), 2, "prompt is empty")
        self.refuse(["generate", "-p", b"caf\xe9 at night"], 2, "--prompt", "UTF-8")
        self.refuse(generate("-n", b"caf\xe9", "--cfg", "1"), 2, "--negative-prompt", "UTF-8")
        self.refuse(generate("--synthetic", "wan2.1-t2v-1.3b", prompt=b"caf\xe9"), 2, "UTF-8")
        self.refuse(generate(prompt="@missing.txt"), 2, "@missing.txt", "No such file")
        self.refuse(["decode"], 2, "no latents")
        self.refuse(["decode", "x.safetensors"], 2, "--output")

    def test_environment(self):
        for name in ("DRAFTATTN_BACKEND", "DRAFTATTN_KERNEL"):
            self.refuse(generate(), 2, name, "'foo'", "avx2",
                        env=self.environment(**{name: "foo"}))

    def test_extensions(self):
        self.refuse(generate(output="out.avi"), 2, "'.avi'", ".mp4, .webm, .gif")
        self.refuse(generate(output="out"), 2, "no extension")
        self.refuse(generate(output="out-%s.png"), 2, "out-%s.png", "%0Nd")
        self.refuse(generate(output="out-%d-%n.png"), 2, "exactly one")
        self.refuse(generate(output="out.png"), 2, "one PNG holds one frame", "out-%05d.png")

    def test_info(self):
        out, _ = self.succeed("info")
        for word in ("draftattn", "backends:", "portable", "encoders:", "mp4", MODEL):
            self.assertIn(word, out)
        info = json.loads(self.succeed("info", "--json")[0])
        self.assertTrue(any(b["works"] for b in info["backends"]))
        for backend in info["backends"]:
            self.assertEqual(backend["works"], backend["why_not"] == "")
        self.assertEqual(info["model"], MODEL)
        self.assertEqual(info["gpu"]["works"], info["gpu"]["why_not"] == "")
        self.assertIn("gpu: none", out)

    def test_inspect(self):
        out, _ = self.succeed("inspect")
        self.assertIn("8.08 M parameters", out)
        self.assertIn("BF16", out)
        found = json.loads(self.succeed("inspect", MODEL, "--json", "--size", "512x512")[0])
        self.assertEqual(found["layout"], "diffusers")
        self.assertEqual([n["name"] for n in found["networks"]],
                         ["text encoder", "transformer", "vae"])
        self.assertEqual(found["config"]["layers"], 8)
        self.assertEqual(found["memory"]["width"], 512)
        self.assertGreater(found["memory"]["peak"], 1 << 20)
        found = json.loads(self.succeed("inspect", "--json", "--size", "60x70", "-f", "6")[0])
        self.assertEqual([found["memory"][k] for k in ("width", "height", "frames")], [64, 64, 5])

    def test_synthetic(self):
        """Their shapes and what they need; running one takes hours on a CPU."""
        for name, layers, low, high in (("wan2.1-t2v-1.3b", 30, 5.6, 5.8),
                                        ("wan2.1-t2v-14b", 40, 57.0, 57.4)):
            found = json.loads(self.succeed("inspect", "--synthetic", name, "--json")[0])
            self.assertEqual(found["layout"], "synthetic")
            self.assertEqual(found["config"]["layers"], layers)
            weights = float(re.search(r"= weights (\d+)", found["memory"]["text"]).group(1))
            self.assertTrue(low < weights * 1048576e-9 < high, weights)
        self.refuse(["inspect", "--synthetic", "wan"], 2, "--synthetic 'wan'", "wan2.1-t2v-14b")

    def test_inspect_dtypes(self):
        """F16 is told from BF16."""
        root = self.model_copy()
        header, data = split_safetensors(read_model_file(VAE))
        first = min((n for n in header if n != "__metadata__"), key=lambda n: header[n]["dtype"] !=
                    "BF16")
        self.assertEqual(header[first]["dtype"], "BF16")
        header[first]["dtype"] = "F16"
        self.replace(root, VAE, join_safetensors(header, data))
        found = json.loads(self.succeed("inspect", root, "--json")[0])
        self.assertEqual(sorted(found["networks"][2]["stored"].split()), ["BF16", "F16"])


class Generate(Case):
    def test_mp4(self):
        out, err = self.succeed(*generate("--fps", "12"))
        self.assertEqual(out, "")
        for word in ("seed 1", "memory plan", "denoise", "density", "time:", "wrote out.mp4"):
            self.assertIn(word, err)
        self.assertEqual(self.files(), ["out.mp4"])
        stream, tags, frames = self.probe("out.mp4")
        self.assertEqual((stream["width"], stream["height"], frames), (64, 64, 5))
        self.assertEqual(stream["r_frame_rate"], "12/1")
        self.assertEqual(stream["pix_fmt"], "yuv420p")
        self.assertEqual(tags["title"], "a red ball")
        for word in ("seed 1", "size 64x64", "steps 2", "cfg 4", "unipc", "attention draft",
                     "sparsity 0.", "draftattn "):
            self.assertIn(word, tags["comment"])

    def test_json(self):
        out, err = self.succeed(*generate("--json", "--quiet", "--size", "128x128", "--frames",
                                          "9", "--sparsity", "0.5", "--dense-steps", "0.5",
                                          "--probes", "16"))
        self.assertEqual(err, "")
        found = json.loads(out)
        self.assertEqual(len(out.splitlines()), 1)
        for key, value in (("seed", 1), ("width", 128), ("frames", 9), ("steps", 2),
                           ("prompt", "a red ball"), ("output", "out.mp4"), ("sampler", "unipc")):
            self.assertEqual(found[key], value)
        attention = found["attention"]
        self.assertEqual(attention["tokens"], 3 * 8 * 8)
        self.assertEqual(attention["calls"], 2 * 2 * 8)
        self.assertEqual(attention["dense_calls"], 2 * 8)
        self.assertGreaterEqual(attention["error_worst"], attention["error_median"])
        self.assertLessEqual(set(("load", "text", "denoise", "decode", "write", "total")),
                             set(found["seconds"]))
        self.assertGreater(found["memory"]["peak"], 0)
        out, _ = self.succeed(*generate("--json", "-q", output=b"caf\xe9.gif"))
        self.assertEqual(json.loads(out)["output"], "caf?.gif") # JSON is UTF-8

    def test_density(self):
        """512 pixels a side are 1,024 tokens a frame, 8 blocks: sparsity shows in the density."""
        arguments = ["--json", "-q", "--size", "512x512", "--frames", "1", "--steps", "1", "--cfg",
                     "1", "--dense-steps", "0"]
        for policy, low, high in (("draft", .4, .6), ("draft-paper", .4, .6), ("dense", 1, 1)):
            out, _ = self.succeed(*generate("--attention", policy, "--sparsity", "0.5", *arguments,
                                            output=policy + ".png"))
            density = json.loads(out)["attention"]["density"]
            self.assertGreaterEqual(density, low)
            self.assertLessEqual(density, high)

    def test_seed(self):
        """A seed names a video; without one it is random, printed, and in the file's name."""
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
            self.succeed(*generate("--save-latents", name, "--seed", seed, output=name + ".gif"))
        latents = [self.read(name) for name in "abc"]
        self.assertEqual(latents[0], latents[1])
        self.assertNotEqual(latents[0], latents[2])
        for name in self.files():
            os.remove(self.path(name))
        at = SMALL.index("--seed")
        _, err = self.succeed("generate", "-p", "a ball", *SMALL[:at], *SMALL[at + 2:])
        seed = re.search(r"seed (\d+)", err).group(1)
        self.assertEqual(self.files(), [f"draftattn-{seed}.mp4"])

    def test_rounding(self):
        _, err = self.succeed(*generate("--size", "60x70", "--frames", "6"))
        self.assertIn("size 60x70 rounded to 64x64", err)
        self.assertIn("6 frames rounded to 5", err)
        stream, _, frames = self.probe("out.mp4")
        self.assertEqual((stream["width"], stream["height"], frames), (64, 64, 5))

    @unittest.skipIf(SANITIZED, "sanitizers take memory of their own")
    @unittest.skipIf(SANITIZED, "sanitizers take memory of their own")
    def test_memory_plan(self):
        """The plan is what the run then takes."""
        out, _ = self.succeed(*generate("--json", "-q", "--size", "272x144"))
        memory = json.loads(out)["memory"]
        self.assertGreater(memory["planned"], 0.9 * memory["peak"])
        self.assertLess(memory["planned"], 1.2 * memory["peak"])

    def test_latents_and_decode(self):
        """decode makes the very frames that generate made."""
        self.succeed(*generate("--save-latents", "kept.safetensors", "--fps", "23.976",
                               output="a-%d.png"))
        header, data = split_safetensors(self.read("kept.safetensors"))
        self.assertEqual(header["latents"]["shape"], [16, 2, 8, 8])
        self.assertEqual(header["__metadata__"]["prompt"], "a red ball")
        self.assertIn("seed 1", header["__metadata__"]["settings"])
        self.assertTrue(header["__metadata__"]["settings"].endswith("; device cpu, float32"))
        out, _ = self.succeed("decode", "kept.safetensors", "-m", MODEL, "-o", "b-%d.png", "-t",
                              "1", "--json")
        found = json.loads(out)
        self.assertEqual((found["frames"], found["fps"], found["device"], found["precision"]),
                         (5, 23.976, "cpu", "float32"))
        for i in range(1, 6):
            self.assertEqual(self.read(f"a-{i}.png"), self.read(f"b-{i}.png"))
        header["__metadata__"]["fps"] = "1e9"
        with open(self.path("kept.safetensors"), "wb") as file:
            file.write(join_safetensors(header, data))
        self.refuse(["decode", "kept.safetensors", "-o", "c.mp4"], 1, "'fps' is \"1e9\"", "--fps",
                    left=self.files())
        self.succeed("decode", "kept.safetensors", "-o", "c.gif", "--fps", "8", "-q")

    def test_noise(self):
        self.succeed(*generate("--save-latents", "kept.safetensors"))
        self.succeed(*generate("--noise", "kept.safetensors", output="again.mp4"))
        files = self.files()
        self.refuse(generate("--noise", "kept.safetensors", "--frames", "9", output="x.mp4"), 2,
                    "--noise", "kept.safetensors", "2 x 8 x 8", "3 x 8 x 8", left=files)
        self.refuse(generate("--noise", os.path.join(MODEL, VAE), output="x.mp4"), 1, "--noise",
                    "'latents' or 'noise'", left=files)

    def test_samplers(self):
        for sampler in ("unipc", "dpm++", "euler"):
            _, err = self.succeed(*generate("--sampler", sampler, "--cfg", "1", "--dense-layers",
                                            "0,2-3", output=sampler + ".gif"))
            self.assertIn(sampler, err)

    def test_prompts(self):
        with open(self.path("prompt.txt"), "w", encoding="utf-8") as file:
            file.write("a big red ball\n")
        self.succeed(*generate(prompt="@prompt.txt"))
        self.assertEqual(self.probe("out.mp4")[1]["title"], "a big red ball")
        _, err = self.succeed(*generate(prompt="ball " * 700))
        self.assertRegex(err, r"--prompt is \d+ tokens longer than the 512")
        self.succeed(*generate("-n", "blurry", prompt="ein Ball fällt “schnell” 雪"))

    def test_quiet(self):
        self.assertEqual(self.succeed(*generate("-q")), ("", ""))

    def test_terminal(self):
        """On a terminal progress is a bar."""
        code, text = on_terminal(self, generate(), 80)
        self.assertEqual(code, 0)
        self.assertRegex(text, rb"\rdenoise +\[#{30}\] 2 of 2")

    def test_narrow_terminal(self):
        """The bar never wraps, which would leave its pieces standing."""
        for columns in (20, 50):
            lines = re.findall(rb"\r([^\r\n]*)\x1b\[K", on_terminal(self, generate(), columns)[1])
            self.assertTrue(lines)
            self.assertLess(max(map(len, lines)), columns)


class Formats(Case):
    def test_movies(self):
        for name, codecs in (("out.webm", ("vp9", "vp8", "av1")), ("out.gif", ("gif",)),
                             ("UPPER.MP4", ("h264", "mpeg4"))):
            encoder = json.loads(self.succeed("info", "--json")[0])["encoders"][name[-4:].strip(".")
                                                                                .lower()]
            if not encoder:
                continue
            self.succeed(*generate(output=name))
            stream, _, frames = self.probe(name)
            self.assertIn(stream["codec_name"], codecs)
            self.assertEqual((stream["width"], frames), (64, 5))

    def test_png(self):
        self.succeed(*generate(output="f%03d.png"))
        self.assertEqual(self.files(), [f"f{i:03d}.png" for i in range(1, 6)])
        self.assertEqual(self.probe("f001.png")[0]["width"], 64)
        self.refuse(generate("--frames", "1", output="f%03d.png"), 2, "'f002.png'", "longer series",
                    left=self.files())

    def test_single_png(self):
        self.succeed(*generate("--frames", "1", output="one.png"))
        self.assertEqual(self.files(), ["one.png"])

    def test_tiles(self):
        """Tiles change what is near their seams, not the picture."""
        self.succeed(*generate("--size", "128x128", "--save-latents", "kept"))
        for name, tile in (("whole", "off"), ("tiled", "64")):
            self.succeed("decode", "kept", "-o", name + ".gif", "--tile", tile, "-t", "1")
        done = subprocess.run(["ffmpeg", "-v", "info", "-i", self.path("whole.gif"), "-i",
                               self.path("tiled.gif"), "-lavfi", "psnr", "-f", "null", "-"],
                              capture_output=True, check=True)
        psnr = re.search(rb"average:([\d.]+|inf)", done.stderr).group(1)
        self.assertGreater(float(psnr), 15)

    def test_replaces(self):
        with open(self.path("out.mp4"), "w", encoding="utf-8") as file:
            file.write("old")
        self.succeed(*generate())
        self.assertEqual(self.probe("out.mp4")[2], 5)


class Models(Case):
    def broken(self, name, data, *words, code=1, arguments=()):
        """A model with one file replaced is refused, the file named."""
        root = self.model_copy()
        if data is None:
            os.remove(os.path.join(root, name))
        else:
            self.replace(root, name, data)
        text = self.refuse(generate("-m", root, *arguments), code, os.path.basename(name), *words)
        shutil.rmtree(root)
        return text

    def test_folders(self):
        self.refuse(generate("-m", "nowhere"), 1, "nowhere")
        self.refuse(generate(), 1, "elsewhere", env=self.environment(DRAFTATTN_MODEL="elsewhere"))
        empty = os.path.join(self.folder, "empty")
        os.mkdir(empty)
        self.refuse(generate("-m", empty), 1, "empty", "model_index.json")
        self.refuse(["inspect", empty], 1, "empty")

    def test_missing_files(self):
        for name in (TRANSFORMER, VAE, TEXT_ENCODER, "transformer/config.json",
                     "tokenizer/spiece.model"):
            with self.subTest(name=name):
                root = self.model_copy()
                os.remove(os.path.join(root, name))
                self.refuse(generate("-m", root), 1, os.path.dirname(name))
                shutil.rmtree(root)

    def test_configs(self):
        name = "transformer/config.json"
        config = json.loads(read_model_file(name))
        self.broken(name, b"{ not json", "JSON")
        self.broken(name, b"", "config.json")
        self.broken(name, b"[" * 100000, "config.json")
        for field, value in (("num_layers", -1), ("num_layers", 1e30), ("num_layers", "eight"),
                             ("attention_head_dim", 96), ("num_attention_heads", 0)):
            with self.subTest(field=field, value=value):
                self.broken(name, json.dumps({**config, field: value}).encode(), field[:5])
        root = self.model_copy()
        self.replace(root, name, json.dumps({**config, "in_channels": 36}).encode())
        self.refuse(generate("-m", root), 1, "image-to-video", "T2V")

    def test_truncated(self):
        data = read_model_file(TRANSFORMER)
        for length in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
            with self.subTest(length=length):
                self.broken(TRANSFORMER, data[:length])
        self.broken(VAE, read_model_file(VAE)[:-2])
        self.broken(TEXT_ENCODER, read_model_file(TEXT_ENCODER)[:-2])

    def test_headers(self):
        header, data = split_safetensors(read_model_file(TRANSFORMER))
        name = "blocks.0.attn1.to_q.weight"
        start, end = header[name]["data_offsets"]

        def patched(**entry):
            return join_safetensors({**header, name: {**header[name], **entry}}, data)

        self.broken(TRANSFORMER, struct.pack("<Q", 1 << 62) + b"{}")
        self.broken(TRANSFORMER, struct.pack("<Q", 4) + b"nope")
        self.broken(TRANSFORMER, patched(data_offsets=[start + len(data), end + len(data)]), name)
        self.broken(TRANSFORMER, patched(data_offsets=[start + 2, end + 2])) # overlaps the next
        self.broken(TRANSFORMER, patched(data_offsets=[end, start]), name)
        self.broken(TRANSFORMER, patched(data_offsets=[1 << 63, (1 << 63) + 16]), name)
        self.broken(TRANSFORMER, patched(data_offsets=[-8, 8]), name)
        self.broken(TRANSFORMER, patched(shape=[1 << 40, 1 << 40]), name)
        self.broken(TRANSFORMER, patched(shape=[-256, -256]), name)
        self.broken(TRANSFORMER, patched(shape=[128, 512]), name, "256")
        self.broken(TRANSFORMER, patched(dtype="I16"), name)
        self.broken(TRANSFORMER, patched(dtype="Q7"), name, "stored as")
        renamed = {("x" + k if k == name else k): v for k, v in header.items()}
        self.broken(TRANSFORMER, join_safetensors(renamed, data), name)

    def test_index(self):
        root = self.model_copy()
        index = "transformer/diffusion_pytorch_model.safetensors.index.json"
        header, _ = split_safetensors(read_model_file(TRANSFORMER))
        for shard in ("gone-00001-of-00002.safetensors", "../../etc/passwd"):
            names = {name: shard for name in header if name != "__metadata__"}
            self.replace(root, index, json.dumps({"weight_map": names}).encode())
            self.refuse(generate("-m", root), 1, shard)
        self.replace(root, index, b"{")
        self.refuse(generate("-m", root), 1, "index.json")

    def float_latents(self, *arguments):
        """The latents that a run ends with, as bytes: one step of Euler from noise to the end, which
        both timetables agree about."""
        self.succeed(*generate("--save-latents", "kept", "--sampler", "euler", "--steps", "1",
                               "--cfg", "1", "--flow-shift", "3", *arguments, output="x.gif"))
        return split_safetensors(self.read("kept"))[1]

    def test_layouts(self):
        """Shards or one file, BF16 or F32, diffusers' names or Wan's: the same latents."""
        expected = self.float_latents()
        header, data = merge_shards()
        root = self.model_copy()
        shutil.rmtree(os.path.join(root, "transformer"))
        os.mkdir(os.path.join(root, "transformer"))
        single = "diffusion_pytorch_model.safetensors"
        config = read_model_file("transformer/config.json")
        self.replace(root, "transformer/config.json", config)
        self.replace(root, "transformer/" + single, join_safetensors(header, data))
        self.assertEqual(self.float_latents("-m", root), expected)
        self.replace(root, "transformer/" + single, join_safetensors(*bf16_to_f32(header, data)))
        self.assertEqual(self.float_latents("-m", root), expected)

        shutil.rmtree(os.path.join(root, "transformer"))
        os.remove(os.path.join(root, "model_index.json"))
        self.replace(root, "config.json", json.dumps(original_config(json.loads(config))).encode())
        renamed = {original_name(name): entry for name, entry in header.items()}
        self.assertEqual(len(renamed), len(header))
        self.replace(root, single, join_safetensors(renamed, data))
        self.assertEqual(json.loads(self.succeed("inspect", root, "--json")[0])["layout"],
                         "original")
        self.assertEqual(self.float_latents("-m", root), expected)

    def test_control_characters(self):
        """Names from files cannot steer the terminal."""
        header, data = split_safetensors(read_model_file(TRANSFORMER))
        entry = header.pop("blocks.0.attn1.to_q.weight")
        header["\x1b[31mevil\x07\x7f\x9b"] = {**entry, "dtype": 7}
        text = self.broken(TRANSFORMER, join_safetensors(header, data), "?[31mevil????")
        self.assertFalse(set("\x1b\x07\x7f\x9b") & set(text))

    def test_tokenizer(self):
        self.broken("tokenizer/spiece.model", b"this is no model", "spiece.model")
        self.broken("tokenizer/spiece.model", b"", "spiece.model")

    def with_nan(self, file, tensor):
        header, data = split_safetensors(read_model_file(file))
        start = header[tensor]["data_offsets"][0]
        return join_safetensors(header, data[:start] + b"\xc0\x7f" + data[start + 2:])

    def test_nan(self):
        """A NaN is reported with the layer where it first shows."""
        for tensor in ("attn1.to_q.weight", "attn1.norm_k.weight", "attn1.to_v.weight",
                       "attn2.to_k.weight", "ffn.net.2.weight", "scale_shift_table"):
            root = self.model_copy()
            self.replace(root, TRANSFORMER, self.with_nan(TRANSFORMER, "blocks.3." + tensor))
            text = self.refuse(generate("-m", root), 1, "blocks.3")
            self.assertNotIn("blocks.2", text)
            shutil.rmtree(root)

    def test_decoder_tensor(self):
        """A wrong tensor of the last network is found before the work: nothing is kept."""
        header, data = split_safetensors(read_model_file(VAE))
        header["decoder.conv_in.weights"] = header.pop("decoder.conv_in.weight")
        text = self.broken(VAE, join_safetensors(header, data), "decoder.conv_in.weight", "missing")
        self.assertNotIn("text:", text)

    def test_nan_in_decoder(self):
        """What was denoised is kept when decoding fails, and can be decoded then."""
        root = self.model_copy()
        header, _ = split_safetensors(read_model_file(VAE))
        tensor = next(n for n in header if n.startswith("decoder.up_blocks.1") and
                      n.endswith("conv1.weight"))
        self.replace(root, VAE, self.with_nan(VAE, tensor))
        kept = "out.mp4.state.safetensors"
        self.refuse(generate("-m", root), 1, "up_blocks.1", kept, "2 of 2 steps", "--resume",
                    left=[kept])
        self.succeed("decode", kept, "-o", "decoded.mp4", "-t", "1")
        self.assertEqual(self.probe("decoded.mp4")[2], 5)
        os.remove(self.path("decoded.mp4"))
        self.replace(root, VAE, read_model_file(VAE))
        _, err = self.succeed("generate", "--resume", kept)
        self.assertNotIn("load: 8", err) # not the transformer
        self.assertEqual(self.files(), ["out.mp4"])
        resumed = self.read("out.mp4")
        self.succeed(*generate("-m", root))
        self.assertEqual(self.read("out.mp4"), resumed)

    def test_latents(self):
        for name, data in (("text.st", b"no safetensors"), ("empty.st", b"")):
            with open(self.path(name), "wb") as file:
                file.write(data)
            self.refuse(["decode", name, "-o", "x.mp4"], 1, name, left=[name])
            os.remove(self.path(name))
        self.refuse(["decode", "gone.st", "-o", "x.mp4"], 1, "gone.st")
        good = {"latents": {"dtype": "F32", "shape": [16, 1, 1, 1], "data_offsets": [0, 64]}}
        with open(self.path("nan.st"), "wb") as file:
            file.write(join_safetensors(good, bytes(62) + b"\xc0\x7f"))
        self.refuse(["decode", "nan.st", "-o", "x.mp4"], 1, "nan.st", "NaN", "element 15",
                    left=["nan.st"])
        self.refuse(["decode", "nan.st", "-o", "./nan.st"], 2, "--output './nan.st'",
                    left=["nan.st"])
        os.remove(self.path("nan.st"))
        bad = {"latents": {"dtype": "F32", "shape": [8, 1, 2, 2], "data_offsets": [0, 128]}}
        with open(self.path("bad.st"), "wb") as file:
            file.write(join_safetensors(bad, bytes(128)))
        self.refuse(["decode", "bad.st", "-o", "x.mp4"], 1, "bad.st", "latents", "16",
                    left=["bad.st"])


class Output(Case):
    def test_unwritable(self):
        with open(self.path("file"), "w", encoding="utf-8"):
            pass
        os.mkdir(self.path("dir.mp4"))
        left = ["file", "dir.mp4"]
        self.refuse(generate(output="file/out.mp4"), 1, "file/out.mp4", "Not a directory",
                    left=left)
        self.refuse(generate(output="/proc/out.mp4"), 1, "/proc/out.mp4", left=left)
        self.refuse(generate(output="missing/out.mp4"), 1, "missing/", left=left)
        self.refuse(generate(output="dir.mp4"), 2, "dir.mp4", "folder", left=left)
        self.refuse(generate("--save-latents", "missing/x"), 1, "--save-latents", left=left)
        self.refuse(generate("--save-latents", "./out.mp4"), 2, "--save-latents", "the output too",
                    left=left)
        self.refuse(generate("--save-latents", "file", "--noise", "./file"), 2, "--save-latents",
                    "the --noise file too", left=left)
        self.refuse(generate("--fps", "60", output="out.gif"), 2, "a GIF takes up to 50", left=left)
        self.refuse(generate(output=224 * "n" + ".mp4"), 1, "the state of the run", "name it short",
                    left=left)
        os.symlink("/dev/full", self.path("full.mp4"))
        self.refuse(generate(output="full.mp4"), 2, "not a regular file", left=left + ["full.mp4"])

    def test_file_size_limit(self):
        """As on a full disk, writes fail part of the way; nothing is left."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        for name in ("out.mp4", "out.webm", "out.gif", "out-%d.png"):
            with self.subTest(name=name):
                self.refuse(generate(output=name), 1, name[:3], "File too large",
                            "what was denoised could not be kept", limits=limit)
        self.refuse(generate("--save-latents", "kept"), 1, "kept", limits=limit)

    def test_full_disk(self):
        disk = os.path.join(self.folder, "disk")
        os.mkdir(disk)
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", disk],
                              capture_output=True, check=False)
        if made.returncode:
            self.skipTest("cannot make a small file system")
        try:
            with open(os.path.join(disk, "filler"), "wb") as file:
                file.write(bytes(4096))
            self.refuse(generate(output=os.path.join(disk, "out.gif")), 1, "out.gif",
                        "No space left")
            self.assertEqual(os.listdir(disk), ["filler"])
        finally:
            subprocess.run(["umount", disk], check=True)

    def test_closed_streams(self):
        """The video does not take the number of a closed stream, to be written into by messages."""
        subprocess.run([PROGRAM, *generate()], cwd=self.work, env=self.environment(), check=True,
                       preexec_fn=lambda: (os.close(0), os.close(1), os.close(2)))
        self.assertEqual(self.probe("out.mp4")[2], 5)

    def test_full_stdout(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([PROGRAM, "help"], stdout=full, stderr=subprocess.PIPE,
                                  check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"standard output: No space left on device; make room", done.stderr)

    def test_too_large(self):
        """Said before the work, with a size that would fit."""
        start = time.monotonic()
        self.refuse(generate("--size", "16384x16384", "--frames", "9999"), 1, "not enough memory",
                    "16384x16384", "frames")
        self.assertLess(time.monotonic() - start, 20)

    @unittest.skipIf(SANITIZED, "sanitizers reserve more address space than there is memory")
    def test_memory_limit(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        text = self.refuse(generate("--size", "4096x2048", "--frames", "81"), 1,
                           "not enough memory for 4096x2048", "would fit", limits=limit)
        width, height = map(int, re.search(r"--size (\d+)x(\d+) would fit", text).groups())
        self.assertTrue(64 <= width < 4096 and width % 16 == 0 and height % 16 == 0)
        self.assertLess(abs(width / height - 2), 0.4)


class Interrupt(Case):
    """Ctrl-C at each phase: exit code 130, no file left but the state of what was denoised."""

    def interrupt(self, arguments, wait_for, signal_number=signal.SIGINT, left=()):
        process = subprocess.Popen([PROGRAM, *arguments], cwd=self.work, stderr=subprocess.PIPE,
                                   stdout=subprocess.PIPE, env=self.environment())
        seen = b""
        while wait_for not in seen:
            line = process.stderr.readline()
            self.assertTrue(line, f"ended without '{wait_for.decode()}'")
            seen += line
        time.sleep(0.1)
        process.send_signal(signal_number)
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, (seen + err).decode())
        self.assertIn(b"draftattn: interrupted", err)
        self.assertEqual(out, b"")
        found = self.files()
        kept = [name for name in found if name.endswith(".state.safetensors")]
        self.assertEqual([name for name in found if name not in kept], sorted(left))
        self.assertEqual(bool(kept), b"steps are kept" in err)
        for name in kept:
            os.remove(self.path(name))
        return kept

    def long(self, *more, output="out.mp4"):
        return ["generate", "-p", "a ball", "-o", output, "--size", "128x128", "--frames", "33",
                "--steps", "200", "--threads", "1", "--seed", "1", *more]

    def test_loading(self):
        self.interrupt(self.long(), b"model ")

    def test_denoising(self):
        self.interrupt(self.long(), b"load: 8 of 8")

    def test_terminated(self):
        self.interrupt(self.long(), b"text: ", signal.SIGTERM)
        self.interrupt(self.long(), b"text: ", signal.SIGHUP)

    def test_on_terminal(self):
        """Who presses Ctrl-C is told that it was heard, and what a second one does."""
        code, text = on_terminal(self, self.long(), 80, stop_at=b"denoise")
        self.assertEqual(code, 130)
        self.assertIn(b"stops after this pass; once more stops at once", text)
        self.assertIn(b"draftattn: interrupted", text)

    def test_ignored(self):
        """What the parent ignores, as nohup does, does not stop the work."""
        process = subprocess.Popen([PROGRAM, *generate()], cwd=self.work, stderr=subprocess.PIPE,
                                   env=self.environment(), preexec_fn=lambda: signal.signal(
                                       signal.SIGHUP, signal.SIG_IGN))
        process.stderr.readline()
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0)
        self.assertEqual(self.files(), ["out.mp4"])

    def test_decoding(self):
        for name in ("out.mp4", "out-%d.png"):
            kept = self.interrupt(["generate", "-p", "a ball", "-o", name, "--size", "256x256",
                                   "--frames", "33", "--steps", "1", "--cfg", "1", "--threads",
                                   "1", "--seed", "1"], b"denoise: 1 of 1")
            self.assertEqual(kept, [name + ".state.safetensors"])

    def test_decode_command(self):
        self.succeed(*generate("--size", "256x256", "--frames", "17", "--steps", "1", "--cfg", "1",
                               "--save-latents", "kept", output="first.gif"))
        process = subprocess.Popen([PROGRAM, "decode", "kept", "-o", "x.mp4", "-t", "1"],
                                   cwd=self.work, stderr=subprocess.PIPE, env=self.environment())
        while not any(".x.mp4" in name for name in self.files()):
            self.assertIsNone(process.poll())
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(self.files(), ["first.gif", "kept"])


class Resume(Case):
    """What was denoised is not lost: the rest of an interrupted run gives the same file."""
    STATE = "out.mp4.state.safetensors"

    def run_of(self, *more, output="out.mp4"):
        return ["generate", "-p", "a \"red\" ball", "-n", "blurry", "-o", output, "--size", "64x64",
                "--frames", "5", "--steps", "60", "--seed", "7", "--threads", "1", "--min-tokens",
                "1", "--dense-layers", "1,3", *more]

    def stop(self, arguments, signal_number=signal.SIGINT):
        """Stops a run once it has saved its state, gives its exit code and standard error."""
        process = subprocess.Popen([PROGRAM, *arguments], cwd=self.work, stdin=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, env=self.environment())
        before = self.read(self.STATE) if self.STATE in self.files() else b""
        while self.STATE not in self.files() or self.read(self.STATE) == before:
            self.assertIsNone(process.poll(), "ended before it was stopped")
            time.sleep(0.005)
        process.send_signal(signal_number)
        _, err = process.communicate(timeout=120)
        return process.returncode, err.decode()

    def step(self):
        header, _ = split_safetensors(self.read(self.STATE))
        return int(header["__metadata__"]["step"])

    def test_same_video(self):
        for sampler in ("unipc", "dpm++", "euler"):
            with self.subTest(sampler=sampler):
                run = self.run_of("--sampler", sampler, "--save-every", "3")
                self.succeed(*run)
                self.assertEqual(self.files(), ["out.mp4"])
                whole = self.read("out.mp4")
                os.remove(self.path("out.mp4"))
                code, err = self.stop(run)
                self.assertEqual(code, 130)
                self.assertRegex(err, r"draftattn: interrupted; (\d+) of 60 steps are kept, go on from "
                                      r"there with: draftattn generate --resume " + self.STATE)
                self.assertEqual(self.files(), [self.STATE])
                self.refuse(["generate", "--resume", self.STATE, "-o", "./" + self.STATE], 2,
                            left=[self.STATE])
                os.link(self.path(self.STATE), self.path("linked.mp4"))
                self.refuse(["generate", "--resume", self.STATE, "-o", "linked.mp4"], 2,
                            "the state is kept in", left=[self.STATE, "linked.mp4"])
                os.remove(self.path("linked.mp4"))
                first = self.step()
                code, err = self.stop(["generate", "--resume", self.STATE])
                self.assertEqual(code, 130)
                self.assertGreater(self.step(), first)
                out, err = self.succeed("generate", "--resume", self.STATE, "--json", "--threads",
                                        "2")
                self.assertIn("of 60 steps", err)
                self.assertEqual(json.loads(out)["seed"], 7)
                self.assertEqual(self.files(), ["out.mp4"])
                self.assertEqual(self.read("out.mp4"), whole)

    def test_killed(self):
        """A killed run leaves what it saved last, whole."""
        run = self.run_of("--save-every", "1")
        self.succeed(*run)
        whole = self.read("out.mp4")
        self.assertEqual(self.stop(run, signal.SIGKILL)[0], -9)
        self.succeed("generate", "--resume", self.STATE, "-o", "again.mp4", "-q")
        self.assertNotIn(self.STATE, self.files())
        self.assertEqual(self.read("again.mp4"), whole)

    def test_elsewhere(self):
        """A state finds its model from any folder; a moved one is taken, another is not."""
        root = self.model_copy()
        run = self.run_of("--save-every", "1", "-m", os.path.relpath(root, self.work))
        self.stop(run)
        moved = os.path.join(self.folder, "moved.safetensors")
        os.rename(self.path(self.STATE), moved)
        self.refuse(["generate", "--resume", moved], 2, "--output")
        copied = os.path.join(self.folder, "copied.safetensors")
        shutil.copy(moved, copied)
        done = subprocess.run([PROGRAM, "generate", "--resume", moved, "-o", "x.gif", "-q"],
                              cwd=self.folder, env=self.environment(), check=False)
        self.assertEqual(done.returncode, 0)
        self.assertFalse(os.path.exists(moved))
        resume = ["generate", "--resume", copied, "-o", "x.gif", "-q"]
        os.rename(root, root + "-elsewhere")
        self.refuse(resume, 1, "../model", "if it was moved, say where to with --model")
        config = json.loads(read_model_file("transformer/config.json"))
        self.replace(self.model_copy(), "transformer/config.json",
                     json.dumps({**config, "eps": 0.5}).encode())
        self.refuse([*resume, "-m", root], 1, "copied.safetensors",
                    "was made with the model 'model ", "--model")
        self.succeed(*resume, "-m", root + "-elsewhere")

    def test_refused(self):
        self.stop(self.run_of("--save-every", "1"))
        kept = self.read(self.STATE)
        for flags in (["-p", "x"], ["--steps", "9"], ["--seed", "1"], ["--sampler", "euler"],
                      ["--sparsity", "0.5"], ["--precision", "float32"], ["--save-every", "1"]):
            self.refuse(["generate", "--resume", self.STATE, *flags], 2, "--resume",
                        "does not go with", left=[self.STATE])
        for wish in ("--device cuda", "--offload"): # the flag that was given is the one to blame
            self.refuse(["generate", "--resume", self.STATE, *wish.split()], 2, wish + ": ",
                        left=[self.STATE])
        self.refuse(["generate", "--resume", "gone"], 1, "gone", "No such file", left=[self.STATE])
        header, data = split_safetensors(kept)
        about = header["__metadata__"]

        def broken(*words, code=1, change=(), drop=None, tensors=None):
            changed = {**(tensors or header), "__metadata__": {**about, **dict(change)}}
            if drop:
                del changed["__metadata__"][drop]
            with open(self.path(self.STATE), "wb") as file:
                file.write(join_safetensors(changed, data))
            self.refuse(["generate", "--resume", self.STATE], code, *words, left=[self.STATE])

        broken("'steps'", "is missing", drop="steps")
        broken("'step'", "1 to 60", change={"step": "61"})
        broken("'width'", change={"width": "1e9"})
        broken("latents", change={"width": "16384", "height": "16384"})
        broken("latents", change={"frames": "9"})
        broken("format 2", "version of draftattn", change={"draftattn_state": "2"})
        broken("no sampler 'x'", code=2, change={"sampler": "x"})
        broken("history", "dpm++", change={"sampler": "dpm++"})
        broken("layer 9", code=2, change={"attention.dense_layers": "9"})
        broken("nowhere", change={"model": "/nowhere"})
        broken("prompt is empty", code=2, change={"prompt": " "})
        broken("metadata", tensors={**header, "__metadata__": 1}, change={"x": 7})
        renamed = {("history.9" if k == "history.0" else k): v for k, v in header.items()}
        broken("history", tensors=renamed)
        with open(self.path(self.STATE), "wb") as file:
            file.write(kept[:-4])
        self.refuse(["generate", "--resume", self.STATE], 1, self.STATE, "truncated",
                    left=[self.STATE])
        with open(self.path(self.STATE), "wb") as file:
            file.write(kept[:-4] + struct.pack("<f", math.nan))
        self.refuse(["generate", "--resume", self.STATE], 1, "'history.2'", "NaN",
                    left=[self.STATE])

    def test_as_suggested(self):
        """The command that is suggested works in a shell; so do settings at their limits."""
        self.STATE = "it's $x.mp4.state.safetensors"
        _, err = self.stop(self.run_of("--save-every", "1", "--sparsity", "0.99999999", "--fps",
                                       "23.976", output="it's $x.mp4"))
        command = shlex.split(err.split(" with: ")[1])
        self.assertEqual(command, ["draftattn", "generate", "--resume", self.STATE])
        out, _ = self.succeed("decode", self.STATE, "-o", "x.gif", "--json")
        self.assertEqual(json.loads(out)["fps"], 23.976)
        header, data = split_safetensors(self.read(self.STATE))
        self.succeed(*command[1:])
        self.assertEqual(self.files(), ["it's $x.mp4", "x.gif"])
        # After the last step: nothing is known of attention that did not run. Nor can the state
        # be written again under this name.
        header["__metadata__"]["step"] = "60"
        with open(self.path("s" * 250), "wb") as file:
            file.write(join_safetensors(header, data))
        out, err = self.succeed("generate", "--resume", "s" * 250, "-o", "x.gif", "--json")
        self.assertIn("the state stays as it is", err)
        attention = json.loads(out)["attention"]
        for name in ("ran_dense", "density", "density_sparse_calls", "error_median", "error_worst",
                     "repaired_share"):
            self.assertIsNone(attention[name], name)
        self.assertNotIn("worst", attention)

    def test_earlier_state(self):
        """A run that begins again says what it leaves behind, and leaves it."""
        self.stop(self.run_of("--save-every", "1"))
        _, err = self.succeed(*self.run_of("--steps", "2"))
        self.assertIn(self.STATE + " is there from an earlier run", err)
        self.assertEqual(self.files(), ["out.mp4", self.STATE])


if __name__ == "__main__":
    unittest.main(verbosity=2)
