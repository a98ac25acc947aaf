#!/usr/bin/env python3
"""draftattn compare from outside: files, figures, refusals, interruption.

Run by CTest, or by hand as cli_test.py: compare_test.py [Compare|CompareErrors]
"""
import json
import math
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import time
import unittest

from cli_common import PROGRAM, SMALL, Case, generate


def compare(*more, output="out", prompt="a red ball"):
    return ["compare", "-p", prompt, "-o", output, *SMALL, *more]


class Compare(Case):
    def figures(self, *more, **kept):
        """(the JSON object that is printed, standard error)"""
        out, err = self.succeed(*compare("--json", *more, **kept))
        return json.loads(out), err

    def folder_files(self, name="out"):
        return sorted(os.listdir(self.path(name)))

    def filter_of_ffmpeg(self, name, key, a, b):
        """Per frame, what FFmpeg's filter says of two files. Its code for x86 is left out: where a
        plane is 8 wider than a multiple of 16 it sums another SSIM than the code in C."""
        subprocess.run(["ffmpeg", "-v", "error", "-cpuflags", "0", "-i", a, "-i", b, "-lavfi",
                        f"[0][1]{name}=stats_file=stats", "-f", "null", "-"], cwd=self.work,
                       check=True)
        lines = self.read("stats").decode().splitlines()
        return [float(re.search(key + r":(\S+)", line).group(1)) for line in lines]

    def test_files(self):
        """Without -o the folder is named by the seed; without variants there are two."""
        at = SMALL.index("--seed")
        out, err = self.succeed("compare", "-p", "a red ball", *SMALL[:at], "--seed", "7",
                                *SMALL[at + 2:])
        self.assertEqual(self.files(), ["compare-7"])
        self.assertEqual(self.folder_files("compare-7"),
                         ["comparison.json", "dense.mp4", "draft-0.75.mp4", "draft-0.9.mp4",
                          "report.html", "side-by-side.mp4"])
        for name in ("dense", "draft-0.75", "draft-0.9"):
            stream, tags, frames = self.probe(f"compare-7/{name}.mp4")
            self.assertEqual((stream["width"], stream["height"], frames), (64, 64, 5))
            self.assertEqual(stream["pix_fmt"], "yuv420p")
            self.assertIn("seed 7", tags["comment"])
        stream, tags, frames = self.probe("compare-7/side-by-side.mp4")
        self.assertEqual((stream["width"], frames), (3 * 256, 5))
        self.assertGreater(stream["height"], 256)
        self.assertEqual(tags["title"], "a red ball")
        for word in ("dense ", "draft 75 % ", "draft 90 % ", "whole run", "density",
                     "PSNR", "SSIM", "compare-7/report.html"):
            self.assertIn(word, out)
        for word in ("run 1 of 3: dense", "draft 75 %: denoise", "run 3 of 3: draft 90 %"):
            self.assertIn(word, err)
        self.assertEqual(err.count("memory plan"), 1)

    def test_report(self):
        out, _ = self.succeed(*compare("-v", "draft:0.9", "--maps", "7:1:2,0:0:2,0:0:1,7:1:2",
                                       "--dense-steps", "0.5"))
        self.assertIn("draft 90 %: 2 of the 3 --maps", out) # step 1 is dense; one is there twice
        page = self.read("out/report.html").decode()
        for word in ("step 2, layer 7, head 1", "step 2, layer 0, head 0", "draft 90 %",
                     "a red ball"):
            self.assertIn(word, page)

    def test_json(self):
        found, err = self.figures("--size", "160x160", "--frames", "17", "--steps", "4", "-q",
                                  "--sparsity", "0.5,0.9", "-v",
                                  "draft:0.75:probes=0:compensation=off")
        self.assertEqual(err, "")
        self.assertEqual(found, json.loads(self.read("out/comparison.json")))
        self.assertEqual([v["label"] for v in found["variants"]],
                         ["dense", "draft 50 %", "draft 90 %",
                          "draft 75 %, probes=0, compensation=off"])
        self.assertEqual(found["variants"][3]["video"], "out/draft-0.75-probes-0-compensation-off"
                         ".mp4")
        for key, value in (("seed", 1), ("width", 160), ("frames", 17), ("steps", 4), ("layers", 8),
                           ("heads", 2), ("prompt", "a red ball")):
            self.assertEqual(found[key], value)
        dense = found["variants"][0]
        for variant in found["variants"]:
            seconds, attention = variant["seconds"], variant["attention"]
            phases = sum(seconds[p] for p in ("load", "text", "denoise", "decode", "write"))
            self.assertTrue(0 < phases <= seconds["total"])
            self.assertEqual((seconds["load"], seconds["text"]),
                             (dense["seconds"]["load"], dense["seconds"]["text"]))
            self.assertAlmostEqual(seconds["attention"], sum(attention["seconds"].values()))
            self.assertTrue(0 <= seconds["collecting"] < 0.2)
            for key, base in dense["seconds"].items():
                if key in variant["speed_up"]:
                    self.assertAlmostEqual(variant["speed_up"][key], base / seconds[key], 9)
            self.assertEqual(attention["calls"], 4 * 2 * 8)
            self.assertEqual((variant["device"], variant["memory"]["device_peak"]), ("cpu", 0))
            self.assertGreater(variant["memory"]["peak"], 10 << 20)
        self.check_errors(found["variants"])

    def check_errors(self, variants):
        """[steps][layers], null where a call was dense or had no probes; 1 of 4 steps is dense."""
        for variant in variants[1:]:
            attention = variant["attention"]
            self.assertEqual(attention["dense_calls"], 2 * 8)
            median = attention["error_median_by_step_and_layer"]
            worst = attention["error_worst_by_step_and_layer"]
            self.assertEqual([len(row) for row in median], [8] * 4)
            self.assertEqual(median[0], [None] * 8)
            if attention["probes"] == 0:
                self.assertEqual(worst, [[None] * 8] * 4)
                self.assertIsNone(attention["error_median"])
                continue
            for low, high in zip(sum(median[1:], []), sum(worst[1:], [])):
                self.assertTrue(0 <= low <= high)
            self.assertAlmostEqual(max(map(max, worst[1:])), attention["error_worst"])
        self.assertEqual(variants[0]["attention"]["density"], 1)
        self.assertEqual(variants[0]["attention"]["error_worst_by_step_and_layer"], [[None] * 8] * 4)

    def test_figures_are_ffmpegs(self):
        """Frame by frame within 0.05 dB and 0.001, on the files that were written."""
        found, _ = self.figures("--size", "144x112", "--frames", "9", "-v", "draft:0.9")
        for variant in found["variants"][1:]:
            quality = variant["quality"]
            pair = (variant["video"], found["variants"][0]["video"])
            psnr = self.filter_of_ffmpeg("psnr", "psnr_avg", *pair)
            ssim = self.filter_of_ffmpeg("ssim", "All", *pair)
            self.assertEqual((len(psnr), len(ssim)), (9, 9))
            for ours, theirs in zip(quality["psnr_of_frames"], psnr):
                self.assertAlmostEqual(ours, theirs, delta=0.05)
            for ours, theirs in zip(quality["ssim_of_frames"], ssim):
                self.assertAlmostEqual(ours, theirs, delta=0.001)
            mean = -10 * math.log10(sum(10 ** (-value / 10) for value in psnr) / 9)
            self.assertAlmostEqual(quality["psnr"], mean, delta=0.05)
            self.assertAlmostEqual(quality["ssim"], sum(ssim) / 9, delta=0.001)
            self.assertEqual(quality["worst_frame"], 1 + psnr.index(min(psnr)))
            self.assertAlmostEqual(quality["worst_frame_psnr"], min(psnr), delta=0.05)
            self.assertLess(abs(quality["psnr"] - quality["psnr_rgb"]), 8)

    def test_variants_are_what_generate_makes(self):
        """The same pictures as from generate; what is left is the codec of either."""
        size = ["--size", "256x128", "--frames", "9"]
        self.figures(*size, "-v", "draft:0.9:probes=64", "-v", "draft-paper:0.5")
        for name, flags in (("dense", ["--attention", "dense"]),
                            ("draft-0.9-probes-64", ["--sparsity", "0.9", "--probes", "64"]),
                            ("draft-paper-0.5", ["--attention", "draft-paper", "--sparsity",
                                                 "0.5"])):
            self.succeed(*generate(*size, *flags, output=name + ".mp4"))
            psnr = self.filter_of_ffmpeg("psnr", "psnr_avg", name + ".mp4", f"out/{name}.mp4")
            self.assertGreater(min(psnr), 40)

    def test_dense_again(self):
        """The baseline is reproduced bit by bit: what is measured of a variant is the variant."""
        found, _ = self.figures("-v", "dense")
        again = found["variants"][1]
        self.assertEqual(again["label"], "dense again")
        self.assertTrue(again["quality"]["identical"])
        self.assertIsNone(again["quality"]["psnr"])
        self.assertEqual(again["quality"]["ssim"], 1)
        self.assertEqual(self.read("out/dense.mp4"), self.read("out/dense-again.mp4"))
        out, _ = self.succeed(*compare("-v", "dense", output="other"))
        self.assertIn("same", out)

    def test_ran_dense(self):
        """Below break-even a variant runs dense, and that is said."""
        at = SMALL.index("--min-tokens")
        small = SMALL[:at] + SMALL[at + 2:]
        out, _ = self.succeed("compare", "-p", "a ball", "-o", "out", *small, "--sparsity", "0.75")
        self.assertRegex(out, r"draft 75 % ran dense throughout: .*dense")
        found = json.loads(self.read("out/comparison.json"))
        self.assertTrue(found["variants"][1]["attention"]["ran_dense"])
        self.assertIsNone(found["variants"][1]["attention"]["error_median"])

    def test_page_name(self):
        """NAME.html puts everything beside it as NAME-...; what is there is replaced."""
        os.mkdir(self.path("sub"))
        with open(self.path("sub/x.json"), "w", encoding="utf-8") as file:
            file.write("not ours")
        for _ in range(2):
            self.succeed(*compare("--sparsity", "0.9", output="sub/x.html"))
        self.assertEqual(self.files(), ["sub"])
        self.assertEqual(self.folder_files("sub"), ["x-comparison.json", "x-dense.mp4",
                                                    "x-draft-0.9.mp4", "x-side-by-side.mp4",
                                                    "x.html", "x.json"])
        self.assertEqual(self.read("sub/x.json"), b"not ours")

    def test_command(self):
        """The command in the figures is the one that was typed, in a shell's words."""
        arguments = compare("--json", "-v", "dense", prompt="a 'ball', \"red\" & $wet * 雪\n")
        out, _ = self.succeed(*arguments)
        self.assertEqual(shlex.split(json.loads(out)["command"]), ["draftattn", *arguments])

    def test_command_repeats(self):
        """Where no seed is given the command has the one that was drawn."""
        at = SMALL.index("--seed")
        arguments = ["compare", "-p", "a ball", "-o", "out", "--json", *SMALL[:at], *SMALL[at + 2:]]
        first = json.loads(self.succeed(*arguments)[0])
        words = shlex.split(first["command"])
        self.assertEqual(words, ["draftattn", "compare", "--seed", str(first["seed"]),
                                 *arguments[1:]])
        second = json.loads(self.succeed(*words[1:])[0])
        for a, b in zip(first["variants"], second["variants"]):
            self.assertEqual(a["quality"], b["quality"])

    def test_long_side(self):
        """Pictures of the page shrink to one row, not to none."""
        self.succeed(*compare("--size", "16384x16", "--frames", "1", "--steps", "1", "--cfg", "1",
                              "--sparsity", "0.9"))
        self.assertIn("draft 90 %", self.read("out/report.html").decode())

    def test_many(self):
        """The grid shows the first six."""
        found, _ = self.figures("--sparsity", "0.3,0.4,0.5,0.6,0.7,0.8,0.9", "--steps", "1")
        self.assertEqual(len(found["variants"]), 8)
        stream, _, _ = self.probe("out/side-by-side.mp4")
        self.assertEqual(stream["width"], 3 * 256)


class CompareErrors(Case):
    def test_variants(self):
        for flags, *words in (
                (["--sparsity", "0.5,x"], "--sparsity 'x'", "0.75,0.9"),
                (["--sparsity", "0.5,"], "--sparsity ''"),
                (["--sparsity", "1"], "--sparsity '1'", "below 1"),
                (["--sparsity", "0.5,0.5"], "'draft 50 %' is there twice"),
                (["--sparsity", "0.5", "-v", "draft:0.5"], "'draft 50 %' is there twice"),
                (["-v", "drafft"], "--variant 'drafft'", "did you mean 'draft'?"),
                (["-v", "draft:0.9:probe=1"], "'probe'", "did you mean 'probes'?"),
                (["-v", "dense:0.5"], "dense has no sparsity"),
                (["-v"], "'--variant' needs a value"),
                (["--sparsity", ",".join(str(i / 20) for i in range(19))], "more than 15"),
                (["--maps", "0:0:0"], "--maps '0:0:0'", "steps 1 to 2"),
                (["--maps", "8:0:1"], "--maps '8:0:1'", "layers 0 to 7"),
                (["--maps", "0:0:1,"], "--maps"),
                (["--maps", "0:0"], "layer:head:step"),
                (["--steps", "0"], "--steps '0'"),
                # 64x64 is a grid of 4x4 tokens: the published 8x16 patches do not divide it
                (["--sparsity", "0.5", "-v", "draft-paper:0.5"], "'draft-paper 50 %'", "8", "16")):
            with self.subTest(flags=flags):
                text = self.refuse(compare(*flags), 2, *words)
                self.assertNotIn("run 1", text)

    def test_prompts(self):
        self.refuse(["compare"], 2, "prompt is empty", "--prompt")
        self.refuse(compare(prompt="@missing.txt"), 2, "@missing.txt")
        text = self.refuse(compare(prompt="\udcff"), 2, "--prompt", "not UTF-8")
        self.assertNotIn("variant", text)

    def test_outputs(self):
        with open(self.path("file"), "w", encoding="utf-8"):
            pass
        self.refuse(compare(output="file"), 1, "--output 'file'", "no folder", left=["file"])
        self.refuse(compare(output="file/x"), 1, "--output 'file/x'", left=["file"])
        self.refuse(compare(output="missing/x"), 1, "missing/x", "No such file", left=["file"])
        self.refuse(compare(output="missing/x.html"), 1, "missing/", left=["file"])
        self.refuse(compare(output=""), 2, "--output", left=["file"])
        self.refuse(compare(output="x" * 9000), 2, "--output", left=["file"])

    def test_videos_in_the_way(self):
        """What cannot be written is said before the first run."""
        for name in ("draft-0.9.mp4", "side-by-side.mp4", "report.html", "comparison.json"):
            os.makedirs(self.path("out/" + name))
            text = self.refuse(compare(), 2, name, "is a folder", left=["out"])
            self.assertNotIn("run 1", text)
            shutil.rmtree(self.path("out"))

    def test_memory(self):
        start = time.monotonic()
        self.refuse(compare("--size", "8192x8192", "--frames", "801"), 1, "not enough memory",
                    "8192x8192", "fewer variants")
        self.assertLess(time.monotonic() - start, 20)

    def test_file_size_limit(self):
        """As on a full disk: nothing is left of what could not be written."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        self.refuse(compare(), 1, "File too large", limits=limit)

    def test_late_files(self):
        """What was measured is shown and kept, whichever file there is no room for."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        done = self.run_program(*compare("--sparsity", "0.9"), limits=limit)
        self.assertEqual(done.returncode, 1)
        out, err = done.stdout.decode(), done.stderr.decode()
        for word in ("draft 90 % ", "PSNR"):
            self.assertIn(word, out)
        for word in ("Report:", "Side by side:"):
            self.assertNotIn(word, out)
        message = err[err.rindex("draftattn: "):]
        for name in ("out/side-by-side.mp4", "out/report.html"):
            self.assertIn(f"{name}'", message)
        self.assertEqual(sorted(os.listdir(self.path("out"))),
                         ["comparison.json", "dense.mp4", "draft-0.9.mp4"])
        found = json.loads(self.read("out/comparison.json"))
        self.assertIsNone(found["side_by_side"])
        self.assertEqual(len(found["variants"]), 2)

    def test_full_stdout(self):
        """Also where the figures are more than the stream's buffer."""
        with open("/dev/full", "wb") as full:
            done = subprocess.run([PROGRAM, *compare("--json")], cwd=self.work, stdout=full,
                                  stderr=subprocess.PIPE, env=self.environment(), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"cannot write to standard output: ", done.stderr)

    def interrupt(self, wait_for, left, *more, frames=33):
        process = subprocess.Popen([PROGRAM, *compare("--size", "128x128", "--frames", str(frames),
                                                      "--steps", "4", *more)], cwd=self.work,
                                   stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                                   env=self.environment())
        seen = b""
        while wait_for not in seen:
            line = process.stderr.readline()
            self.assertTrue(line, f"ended without '{wait_for.decode()}'")
            seen += line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, (seen + err).decode())
        self.assertIn(b"draftattn: interrupted", err)
        self.assertEqual(out, b"")
        self.assertEqual(sorted(os.listdir(self.path("out"))) if self.files() else [], left)

    def test_interrupted_first(self):
        self.interrupt(b"run 1 of 3", [])

    def test_interrupted_later(self):
        """Finished videos stay, whole."""
        self.interrupt(b"run 2 of 3", ["dense.mp4"], "--steps", "40")
        self.assertEqual(self.probe("out/dense.mp4")[2], 33)

    def test_interrupted_at_the_end(self):
        """Frames enough that measuring them takes longer than this process may be kept waiting."""
        self.interrupt(b"PSNR and SSIM", ["dense.mp4", "draft-0.75.mp4", "draft-0.9.mp4"],
                       "--steps", "1", "--cfg", "1", frames=129)


if __name__ == "__main__":
    unittest.main(verbosity=2)
