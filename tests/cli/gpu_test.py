#!/usr/bin/env python3
"""draftattn on a GPU from outside; exits with 77 where none works. Latents are compared, not files:
they are what comes back bit for bit, and no video decoder is needed.

DRAFTATTN_PROGRAM=build/cuda/bin/draftattn DRAFTATTN_TEST_MODEL=samples/tiny-world/checkpoint \
    python3 tests/cli/gpu_test.py
"""
import array
import json
import math
import os
import signal
import subprocess
import sys
import time
import unittest

from cli_common import PROGRAM, SMALL, Case, generate, split_safetensors

# What shows the device that other tests hide.
DEVICES = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}


class Gpu(Case):
    def environment(self, **more):
        return super().environment(**{**DEVICES, **more})

    def latents(self, *more, name="kept", env=None):
        """The latents a run ends with, and what it says of itself."""
        out, _ = self.succeed(*generate("--save-latents", name, "--json", "--size", "128x128",
                                        *more, output="x.gif"), env=env)
        header, data = split_safetensors(self.read(name))
        self.assertEqual(header["latents"]["shape"], [16, 2, 16, 16])
        values = array.array("f", data)
        self.assertTrue(all(map(math.isfinite, values)))
        return values, json.loads(out)

    def distance(self, found, expected):
        """Relative L2."""
        return math.sqrt(sum((a - b) ** 2 for a, b in zip(found, expected)) /
                         sum(b * b for b in expected))

    def test_like_the_cpu(self):
        expected, about = self.latents("--device", "cpu")
        self.assertEqual((about["device"], about["precision"]), ("cpu", "float32"))
        for precision, bound in (("float32", 1e-3), ("bf16", 5e-2)):
            for attention in ("dense", "draft"):
                with self.subTest(precision=precision, attention=attention):
                    reference = expected
                    if attention == "dense":
                        reference, _ = self.latents("--device", "cpu", "-a", attention)
                    found, about = self.latents("--device", "cuda", "--precision", precision, "-a",
                                                attention)
                    self.assertTrue(about["device"].startswith("cuda ("))
                    self.assertEqual(about["precision"], precision)
                    self.assertGreater(about["memory"]["device_peak"], 1 << 20)
                    self.assertLess(self.distance(found, reference), bound)

    def test_chosen(self):
        """Without a wish the GPU is taken, in bfloat16."""
        _, about = self.latents()
        self.assertTrue(about["device"].startswith("cuda ("))
        self.assertEqual((about["precision"], about["offload"]), ("bf16", False))
        self.assertEqual(about["attention"]["backend"], "cuda")
        _, about = self.latents("--backend", "portable")
        self.assertEqual(about["device"], "cpu")
        for variable, value in (("DRAFTATTN_BACKEND", "avx2"), ("DRAFTATTN_KERNEL", "reference")):
            _, about = self.latents(env=self.environment(**{variable: value}))
            self.assertEqual(about["device"], "cpu")
        self.assertIn("the networks run on it", self.succeed("info")[0])
        self.refuse(generate("--device", "cuda:99"), 2, "--device cuda:99", "no CUDA device 99",
                    left=["kept", "x.gif"])

    def test_repeats(self):
        """A seed names a video here, too, and offload changes where weights are, not the result."""
        first, _ = self.latents()
        again, _ = self.latents()
        self.assertEqual(first, again)
        offloaded, about = self.latents("--offload")
        self.assertTrue(about["offload"])
        self.assertGreater(about["memory"]["offloaded"], 0)
        self.assertEqual(first, offloaded)

    def test_decode(self):
        self.succeed(*generate("--save-latents", "kept", "--device", "cuda", "--precision",
                               "float32", output="a-%d.png"))
        for device, precision in (("cuda", "float32"), ("cuda", "bf16"), ("cpu", "float32")):
            self.succeed("decode", "kept", "-o", device + precision + "-%d.png", "--device", device,
                         "--precision", precision)
            self.assertIn(f"{device}{precision}-5.png", self.files())

    def test_resume(self):
        run = ["generate", "-p", "a ball", *SMALL[:-2], "--size", "128x128", "--steps", "80",
               "--save-every", "5", "--save-latents"]
        self.succeed(*run, "whole", "-o", "x.gif")
        state = "y.gif.state.safetensors"
        for signal_number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
            process = subprocess.Popen([PROGRAM, *run, "part", "-o", "y.gif"], cwd=self.work,
                                       stderr=subprocess.PIPE, env=self.environment())
            while state not in self.files():
                self.assertIsNone(process.poll(), "ended before it was stopped")
                time.sleep(0.002)
            process.send_signal(signal_number)
            process.communicate(timeout=120)
            self.assertEqual(process.returncode, code)
            self.succeed("generate", "--resume", state, "--save-latents", "part")
            self.assertEqual(split_safetensors(self.read("part"))[1],
                             split_safetensors(self.read("whole"))[1])
            self.assertNotIn(state, self.files())

    def test_synthetic(self):
        """The 1.3B transformer at full width, a few tokens."""
        out, err = self.succeed("generate", "--synthetic", "wan2.1-t2v-1.3b", "-p", "a red ball",
                                "-o", "noise.gif", "--size", "128x128", "-f", "5", "-s", "2",
                                "--save-latents", "kept", "--json")
        self.assertIn("the weights are random", err)
        memory = json.loads(out)["memory"]
        self.assertLess(memory["transformer_weights"], 3.0e9)
        self.assertTrue(all(map(math.isfinite,
                                array.array("f", split_safetensors(self.read("kept"))[1]))))

    def test_too_large(self):
        self.refuse(["generate", "-p", "x", "-o", "x.gif", "--synthetic", "wan2.1-t2v-14b",
                     "--device", "cuda", "--size", "4096x4096", "-f", "161"], 1,
                    "not enough memory on the GPU", "would fit")

    def test_compare(self):
        out, _ = self.succeed("compare", "-p", "a ball", "-o", "all", "--sparsity", "0.5",
                              "--json", *SMALL)
        found = json.loads(out)
        self.assertIn("cuda", found["machine"])
        for variant in found["variants"]:
            self.assertTrue(variant["device"].startswith("cuda ("))
            self.assertGreater(variant["memory"]["device_peak"], 1 << 20)
            # Stages are not waited for, so their times are not known.
            self.assertEqual(set(variant["attention"]["seconds"].values()), {None})
            self.assertIsNone(variant["seconds"]["attention"])
        with open(self.path("all/report.html"), encoding="utf-8") as file:
            self.assertRegex(file.read(), r"\d+ of the GPU, \d+ of the host")


if __name__ == "__main__":
    about = json.loads(subprocess.run([PROGRAM, "info", "--json"], capture_output=True, check=True,
                                      env={**os.environ, **DEVICES}).stdout)["gpu"]
    if not about["works"]:
        print("skipped:", about["why_not"])
        sys.exit(77)
    unittest.main(verbosity=2)
