#!/usr/bin/env python3
"""draftattn bench from outside, and what the break-even does to draftattn generate.

Run by CTest, or by hand as cli_test.py is.
"""
import csv
import io
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import time
import unittest

from cli_common import PROGRAM, SANITIZED, SMALL, Case

STAGES = ("order", "pool", "draft map", "select", "attend", "repair")

# What shows the device that other tests hide.
DEVICES = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
CUDA = any(backend["name"] == "cuda" and backend["works"] for backend in json.loads(
    subprocess.run([PROGRAM, "info", "--json"], capture_output=True, check=True,
                   env={**os.environ, **DEVICES}).stdout)["backends"])

# 1,024 tokens, 8 blocks; sharing the machine.
GRID = ["--grid", "4x16x16", "--heads", "2", "--head-dim", "64", "--runs", "2", "--threads", "1",
        "--backend", "auto", "--time-limit", "60"]


class Bench(Case):
    def check_row(self, row, dense, flops_per_key, tokens):
        """Columns of one row against each other. flops_per_key: of all heads and rows."""
        seconds = row["seconds"]
        self.assertLessEqual(seconds["min"], seconds["median"])
        self.assertLessEqual(seconds["median"], seconds["max"])
        self.assertTrue(math.isclose(row["speedup"], dense / seconds["median"], rel_tol=1e-6))
        self.assertTrue(math.isclose(row["gflops"], row["flops"] / seconds["median"] * 1e-9,
                                     rel_tol=1e-6))
        self.assertEqual(sorted(row["stages"]), sorted(STAGES))
        keys = tokens
        if row["policy"] != "dense":
            skipped = (1 - row["density"]) * tokens / 128
            keys = row["density"] * tokens + skipped + 32
        self.assertTrue(math.isclose(row["flops"], keys * flops_per_key, rel_tol=1e-6))

    def test_json(self):
        out, err = self.succeed("bench", *GRID, "--sparsity", "0.5,0.9", "--probes", "32", "--json")
        found = json.loads(out)
        self.assertEqual((found["threads"], found["probes"], found["break_even"]), (1, 32, []))
        self.assertRegex(found["commit"], r"^[\w.-]+$")
        self.assertEqual(found["device"], "")
        self.assertIn("4x16x16 on ", err)
        self.assertGreaterEqual(len(found["results"]), 1)
        for result in found["results"]:
            self.assertEqual((result["tokens"], result["head_dim"], result["heads_asked"],
                              result["dtype"]), (1024, 64, 2, "float32"))
            rows = result["rows"]
            self.assertEqual([(row["policy"], row["sparsity"]) for row in rows],
                             [("dense", 0), ("draft", 0.5), ("draft", 0.9)])
            self.assertEqual([row["density"] for row in rows], [1, 0.5, 8 / 64])
            self.assertEqual(rows[0]["error"], 0)
            self.assertTrue(0 < rows[1]["error"] < 1 and 0 < rows[2]["error"] < 1)
            peak = found["peak_gflops"][result["backend"]]
            for row in rows:
                self.check_row(row, rows[0]["seconds"]["median"], 4 * 64 * result["heads"] * 1024,
                               1024)
                self.assertTrue(math.isclose(row["peak_share"], row["gflops"] / peak,
                                             rel_tol=1e-6))
            self.assertTrue(all(rows[0]["stages"][stage] == 0 for stage in ("draft map", "repair")))

    def test_csv(self):
        out, err = self.succeed("bench", *GRID, "--probes", "0", "--csv", "--quiet")
        self.assertEqual(err, "")
        rows = list(csv.DictReader(io.StringIO(out)))
        self.assertEqual([row["sparsity"] for row in rows[:4]], ["0", "0.5", "0.75", "0.9"])
        dense = float(rows[0]["median"])
        for row in rows:
            self.assertNotIn(None, row)
            self.assertEqual((row["grid"], row["tokens"]), ("4x16x16", "1024"))
            self.assertTrue(math.isclose(float(row["gflops"]) * 1e9 * float(row["median"]),
                                         float(row["flops"]), rel_tol=1e-6))
            stages = sum(float(row[stage]) for stage in STAGES)
            self.assertLess(stages, 1.5 * float(row["max"]))
        self.assertEqual(rows[1]["error"], "") # nothing measures it without probe rows
        self.assertTrue(math.isclose(float(rows[1]["speedup"]), dense / float(rows[1]["median"]),
                                     rel_tol=1e-6))

    def test_table(self):
        out, _ = self.succeed("bench", *GRID, "--sparsity", "0.5", "--policy", "draft-paper")
        for words in ("draftattn ", ", commit ", "1 thread\n", "GFLOP/s", "seed 1",
                      "draft-paper, 256 probe rows", "4x16x16, 1024 tokens",
                      "2 heads x 64, float32, 2 runs", "dense", "speed-up"):
            self.assertIn(words, out)
        self.assertNotIn("break-even", out)

    def test_bfloat16(self):
        out, _ = self.succeed("bench", *GRID, "--sparsity", "0.5", "--dtype", "bfloat16", "--csv")
        rows = list(csv.DictReader(io.StringIO(out)))
        self.assertEqual({row["dtype"] for row in rows}, {"bfloat16"})
        self.assertEqual(len({row["commit"] for row in rows}), 1)
        self.assertTrue(0 < float(rows[1]["error"]) < 1)

    def test_commit(self):
        """Of the sources, where they are a checkout: HEAD when the program was built."""
        source = os.path.dirname(os.path.abspath(__file__))
        git = subprocess.run(["git", "-C", source, "rev-parse", "HEAD"], capture_output=True,
                             text=True, check=False) if shutil.which("git") else None
        if not git or git.returncode:
            self.skipTest("the sources are no checkout")
        out, _ = self.succeed("bench", *GRID, "--sparsity", "0.5", "--json")
        commit = json.loads(out)["commit"].removesuffix("-dirty").split("-g")[-1]
        known = subprocess.run(["git", "-C", source, "cat-file", "-t", commit],
                               capture_output=True, text=True, check=False)
        self.assertEqual(known.stdout.strip(), "commit")

    @unittest.skipUnless(CUDA, "backend cuda does not work here")
    def test_cuda(self):
        """The device's rows: bfloat16 in its memory, no stages; a peak where cuBLAS is."""
        out, _ = self.succeed("bench", "--grid", "16x16x16+40", "--heads", "4", "--backend", "cuda",
                              "--sparsity", "0.75", "--json", "--time-limit", "60",
                              env=self.environment(**DEVICES))
        found = json.loads(out)
        self.assertIn("multiprocessors", found["device"])
        peak = found["peak_gflops"].get("cuda")
        measured = [result for result in found["results"] if result["rows"]]
        self.assertIn("bfloat16", {result["dtype"] for result in measured})
        for result in measured:
            dense, draft = result["rows"]
            self.assertEqual((result["backend"], dense["density"], dense["error"]),
                             ("cuda", 1, 0))
            self.assertTrue(0.2 < draft["density"] < 0.4 and 0 < draft["error"] < 1)
            self.assertEqual(set(draft["stages"].values()), {None})
            self.assertEqual(draft["peak_share"] is None, peak is None)
            self.assertTrue(math.isclose(draft["speedup"], dense["seconds"]["median"] /
                                         draft["seconds"]["median"], rel_tol=1e-6))

    def test_break_even(self):
        out, _ = self.succeed("bench", *GRID, "--sparsity", "0.9", "--break-even", "on", "--json")
        rows = json.loads(out)["break_even"]
        self.assertEqual([row["probes"] for row in rows[:2]], [0, 256])
        self.assertLess(rows[0]["predicted"], rows[1]["predicted"])
        if rows[0]["measured"] and rows[1]["measured"]:
            self.assertLess(rows[0]["measured"], rows[1]["measured"])

    def test_break_even_of_many(self):
        """As many sparsities as are taken, each with probe rows and without."""
        values = [round(0.05 * (i + 1), 2) for i in range(16)]
        out, _ = self.succeed("bench", *GRID, "--break-even", "on", "--json", "--sparsity",
                              ",".join(map(str, values)), "--runs", "1", "--time-limit", "4")
        rows = json.loads(out)["break_even"]
        kernel = rows[0]["kernel"]
        self.assertEqual([(row["sparsity"], row["probes"]) for row in rows
                          if row["kernel"] == kernel],
                         [(value, probes) for value in values for probes in (0, 256)])

    @unittest.skipIf(SANITIZED, "sanitizers reserve more address space than there is memory")
    def test_break_even_without_memory(self):
        """512 MiB of data where there is room for fewer: said, and the grid is measured."""
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))
        out, err = self.succeed("bench", "--grid", "2x8x16", "--heads", "1024", "--runs", "1",
                                "--threads", "1", "--kernel", "attend_portable_d128", "--sparsity",
                                "0.5", "--probes", "0", "--break-even", "on", "--time-limit",
                                "86400", limits=limit)
        self.assertIn("left out: not enough memory", err)
        self.assertRegex(out, "break-even, .*\n  left out: not enough memory")
        self.assertIn("speed-up", out)

    def test_usage(self):
        for flags, *words in (
                (["--grid", "4x16"], "--grid '4x16'", "21x30x52"),
                (["--grid", "0x16x16"], "--grid '0x16x16'"),
                (["--grid", "4x16x16+"], "'4x16x16+'"),
                (["--grid", "4x16x99999999999999999999"], "65536"),
                (["--preset", "wan-480"], "--preset 'wan-480'", "did you mean 'wan-480p'?",
                 "hunyuan-720p"),
                (["--preset", "wan-480p,"], "--preset ''"),
                (["--preset", "wan-480p", "--grid", "4x16x16"], "--grid or --preset"),
                (["--sparsity", "0.5,1"], "--sparsity '1'", "below 1"),
                (["--sparsity", "0.5,,0.6"], "--sparsity ''"),
                (["--sparsity", ",".join(["0.5"] * 17)], "at most 16"),
                (["--policy", "drafft"], "--policy 'drafft'", "did you mean 'draft'?"),
                (["--policy", "dense", "--sparsity", "0.5"], "--sparsity"),
                (["--policy", "draft-paper", "--compensation", "on"], "--compensation"),
                (["--policy", "draft-paper", "--grid", "1x30x52", "--backend", "portable"],
                 "32 x 48"),
                (["--backend", "gpu9"], "--backend 'gpu9'", "avx2"),
                (["--backend", "cuda"], "--backend cuda"),
                (["--dtype", "fp8"], "--dtype 'fp8'", "float32", "bfloat16"),
                (["--kernel", "attend_portable_d12"], "did you mean 'attend_portable_d128'?"),
                (["--kernel", "attend_portable_d64", "--preset", "wan-480p"], "--head-dim 64"),
                (["--kernel", "attend_portable_d64", "--backend", "portable"], "not both"),
                (["--head-dim", "96"], "64 and 128"),
                (["--json", "--csv"], "--json or --csv"),
                (["--time-limit", "0"], "--time-limit '0'"),
                (["--runs", "0"], "--runs '0'"),
                (["stray"], "unexpected argument")):
            with self.subTest(flags=flags):
                self.refuse(["bench", *flags], 2, *words)
        self.refuse(["bench", "--head-dim", "64"], 2, "DRAFTATTN_KERNEL", "'foo'",
                    env=self.environment(DRAFTATTN_KERNEL="foo"))

    def test_environment(self):
        """What forces backend and kernel elsewhere does here."""
        for name, value in (("KERNEL", "attend_portable_d64"), ("BACKEND", "portable")):
            out, _ = self.succeed("bench", *GRID[:8], "--json", "--sparsity", "0.5",
                                  env=self.environment(**{"DRAFTATTN_" + name: value}))
            self.assertEqual([result["kernel"] for result in json.loads(out)["results"]],
                             ["attend_portable_d64"])

    def test_reference_only_where_asked(self):
        out, _ = self.succeed("bench", "--grid", "2x8x16", "--heads", "1", "--head-dim", "80",
                              "--runs", "1", "--backend", "reference", "--json")
        self.assertEqual(json.loads(out)["results"][0]["kernel"], "reference")

    def test_time_limit(self):
        """Heads and runs are cut to the time; what takes longer is left out and says so."""
        start = time.monotonic()
        out, _ = self.succeed("bench", "--grid", "4x16x16", "--heads", "1024", "--runs", "100",
                              "--threads", "1", "--backend", "auto", "--time-limit", "3", "--json")
        self.assertLess(time.monotonic() - start, 100 if SANITIZED else 30) # the machine is shared
        result = json.loads(out)["results"][0]
        self.assertLess(result["heads"], 1024)
        self.assertLess(result["heads"] * result["rows"][0]["runs"], 1024 * 100)
        self.refuse(["bench", "--preset", "hunyuan-720p", "--time-limit", "1", "--threads", "1"], 1,
                    "nothing was measured", "--preset hunyuan-720p", "--time-limit")

    def test_interrupt(self):
        process = subprocess.Popen([PROGRAM, "bench", "--grid", "9x16x16", "--runs", "100",
                                    "--threads", "1", "--time-limit", "3600"], cwd=self.work,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=self.environment())
        self.assertIn(b"9x16x16 on ", process.stderr.readline())
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, err.decode())
        self.assertIn(b"draftattn: interrupted", err)
        self.assertEqual(self.files(), [])


class EndToEnd(Case):
    """Whole networks, on the bundled model."""

    FLOW = ["bench", "--end-to-end", "--size", "64x64", "--frames", "5", "--steps", "5",
            "--dense-steps", "0.4,0", "--sparsity", "0.5", "--runs", "1", "--threads", "1"]

    def test_json(self):
        out, err = self.succeed(*self.FLOW, "--json")
        found = json.loads(out)
        self.assertEqual((found["width"], found["height"], found["frames"], found["steps"]),
                         (64, 64, 5, 5))
        self.assertEqual((found["tokens"], found["text_tokens"], found["passes"]), (32, 512, 2))
        self.assertEqual((found["device"], found["precision"], found["offload"]),
                         ("cpu", "float32", False))
        self.assertIn("denoise", err)
        rows, seconds = found["rows"], found["seconds"]
        self.assertEqual([(row["dense"], row["sparsity"]) for row in rows],
                         [(True, 0), (False, 0.5)])
        for row in rows:
            pass_ = row["forward_seconds"]
            self.assertTrue(0 < pass_["min"] <= pass_["median"] <= pass_["max"])
            self.assertLessEqual(2 * pass_["min"], row["step_seconds"] * (1 + 1e-9))
            self.assertTrue(math.isclose(sum(row["shares"].values()), 1, rel_tol=1e-9))
            self.assertTrue(all(0 < row["shares"][kind] < 1 for kind in
                                ("attention", "cross-attention", "matmul", "elementwise")))
            self.assertTrue(math.isclose(row["speedup"], rows[0]["forward_seconds"]["median"] /
                                         pass_["median"], rel_tol=1e-9))
        self.assertTrue(all(value > 0 for value in seconds.values()))
        # Reckoned: text, 2 or no dense steps of 5, decoding.
        dense, sparse = (row["step_seconds"] for row in rows)
        outside = seconds["text"] + seconds["decode"]
        expected = [outside + 5 * dense, outside + 2 * dense + 3 * sparse, outside + 5 * sparse]
        for entry, value in zip(found["generations"], expected, strict=True):
            self.assertTrue(math.isclose(entry["seconds"], value, rel_tol=1e-9))
            self.assertTrue(math.isclose(entry["speedup"], expected[0] / value, rel_tol=1e-9))
            self.assertTrue(math.isclose(sum(entry["parts"].values()), value, rel_tol=1e-9))
            self.assertFalse(entry["measured"])
        self.assertEqual([entry["dense_steps"] for entry in found["generations"]], [1, 0.4, 0])
        self.assertGreater(found["memory"]["peak"], 10 << 20)

    def test_tables(self):
        words = ("draftattn ", ", commit ", "float32", "64x64, 5 frames: 32 tokens, 512 of text; "
                 "1 pass a step", "density", "speed-up", "cross-attention", "50 %",
                 "text encoder ", "GiB at most", "a generation of 5 steps")
        out, _ = self.succeed(*self.FLOW, "--cfg", "1", "--quiet")
        for word in words + ("reckoned from",):
            self.assertIn(word, out)
        out, _ = self.succeed(*self.FLOW, "--cfg", "1", "--full", "--markdown", "--quiet")
        for word in words + ("all steps measured",):
            self.assertIn(word, out)
        rows = [line for line in out.splitlines() if line.startswith("|")]
        self.assertEqual(len(rows), (2 + 2) + (2 + 3)) # two heads with the line below, and rows
        self.assertEqual({row.count("|") for row in rows[:4]}, {13})
        self.assertEqual({row.count("|") for row in rows[4:]}, {12})

    def test_dense_alone(self):
        out, _ = self.succeed(*[word for word in self.FLOW if word not in ("--sparsity", "0.5")],
                              "--policy", "dense", "--json", "--quiet")
        self.assertEqual([row["dense"] for row in json.loads(out)["rows"]], [True])

    def test_interrupt(self):
        """What was done until then is shown."""
        process = subprocess.Popen([PROGRAM, *self.FLOW, "--size", "128x128", "--frames", "9",
                                    "--runs", "20"], cwd=self.work, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=self.environment())
        while b"sparsity 0.5: steps" not in process.stderr.readline():
            self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, err.decode())
        self.assertRegex(out.decode(), r"\n +dense .*-\n$")
        self.assertEqual(self.files(), [])

    def test_refusals(self):
        for flags, words in (
                (["--end-to-end", "--grid", "4x16x16"], ("--grid", "not with --end-to-end")),
                (["--size", "64x64"], ("--size", "only with --end-to-end")),
                (["--end-to-end", "--json", "--markdown"], ("--json", "--markdown")),
                (["--end-to-end", "--dense-steps", "0.1,1.5"], ("--dense-steps", "1.5")),
                (["--end-to-end", "--dense-steps", "0,0,0,0,0"], ("--dense-steps", "at most 4")),
                (["--end-to-end", "--synthetic", "wan2.1-t2v-13b"],
                 ("--synthetic", "wan2.1-t2v-1.3b")),
                (["--end-to-end", "--synthetic", "wan2.1-t2v-14b", "-m", "x"],
                 ("--synthetic", "--model")),
                (["--end-to-end", "--device", "gpu"], ("--device", "cuda")),
                (["--end-to-end", "--offload", "--device", "cpu"], ("--offload",))):
            self.refuse(["bench", *flags], 2, *words)


class BreakEven(Case):
    """generate stays dense where sparse attention would take longer, and says so."""

    def run_small(self, *more):
        at = SMALL.index("--min-tokens")
        out, err = self.succeed("generate", "-p", "a ball", "-o", "out.gif", *SMALL[:at],
                                *SMALL[at + 2:], "--dense-steps", "0", "--json", *more)
        return json.loads(out)["attention"], err

    def test_small_grid(self):
        attention, err = self.run_small()
        self.assertEqual(attention["dense_calls"], attention["calls"])
        self.assertIn("the grid has 32 tokens", err)
        self.assertIn("estimated to pay from", err)

    def test_min_tokens(self):
        attention, err = self.run_small("--min-tokens", "32")
        self.assertEqual(attention["dense_calls"], 0)
        attention, err = self.run_small("--min-tokens", "33")
        self.assertEqual(attention["dense_calls"], attention["calls"])
        self.assertIn("stays dense below 33 (min_tokens)", err)


if __name__ == "__main__":
    unittest.main()
