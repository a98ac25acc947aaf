#!/usr/bin/env python3
"""A program that is killed, and a disk that is full: no broken file is left.

Run by CTest, or by hand with more rounds:
DRAFTATTN_PROGRAM=build/release/bin/draftattn DRAFTATTN_TEST_MODEL=samples/tiny-world/checkpoint \
    DRAFTATTN_FAULT_IO=build/release/tests/faults/libfault_io.so DRAFTATTN_FAULT_ROUNDS=50 \
    python3 tests/faults/faults_test.py [Killed|CutShort|FullDisk]
"""
import json
import os
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import time
import unittest
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cli"))
# pylint: disable=wrong-import-position
from cli_common import (PROGRAM, SANITIZED, SMALL, TEXT_ENCODER, TRANSFORMER, VAE, Case, generate,
                        read_model_file, split_safetensors)

FAULT_IO = os.environ["DRAFTATTN_FAULT_IO"]
ROUNDS = int(os.environ.get("DRAFTATTN_FAULT_ROUNDS", "4"))
FRAMES = 5
TEMPORARY = re.compile(r"\..+\.\d+\.part")
OUTPUTS = ("out.mp4", "out.gif", "out.webm", "out-%d.png")


def png_is_whole(data):
    """Signature, chunks with the right checksums, an end."""
    at, kinds, pixels = 8, [], b""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return False
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        if data[at + 8 + length:at + 12 + length] != struct.pack(">I", zlib.crc32(kind + body)):
            return False
        kinds.append(kind)
        pixels += body if kind == b"IDAT" else b""
        at += 12 + length
    return kinds[-1] == b"IEND" and len(zlib.decompress(pixels)) == 64 * (1 + 3 * 64)


class Faults(Case):
    def setUp(self):
        super().setUp()
        self.random = random.Random(os.environ.get("DRAFTATTN_FAULT_SEED", self.id()))

    def is_whole(self, name):
        data = self.read(name)
        if name.endswith(".png"):
            return png_is_whole(data)
        if name.endswith(".safetensors"):
            header, values = split_safetensors(data)
            return header["latents"]["data_offsets"] == [0, len(values)]
        if name.endswith(".json"):
            return "variants" in json.loads(data)
        if name.endswith(".html"):
            return data.rstrip().endswith(b"</html>")
        return self.probe(name)[2] == FRAMES

    def check_files(self, old=()):
        """Every file is whole, one of an earlier run (old), or a hidden temporary. Returns the
        temporaries."""
        left = []
        for name in self.files():
            if TEMPORARY.fullmatch(name):
                left.append(name)
            elif (name, self.read(name)) not in old:
                self.assertFalse(name.startswith("."), name)
                self.assertTrue(self.is_whole(name), name)
        return left

    def clear(self):
        for name in self.files():
            os.remove(self.path(name))

    def preload(self, **settings):
        return self.environment(LD_PRELOAD=FAULT_IO, **{k: str(v) for k, v in settings.items()})

    def count(self, arguments):
        """How many file operations and bytes a run makes."""
        report = os.path.join(self.folder, "count")
        self.succeed(*arguments, env=self.preload(FAULT_COUNT=report))
        with open(report, encoding="utf-8") as file:
            counts = [int(word) for word in file.read().split()]
        self.assertTrue(all(counts), "the library that counts is not in the program's way")
        return counts

    def commands(self):
        """Each way to write a file, with a name for messages."""
        for output in OUTPUTS:
            yield output, generate("--steps", "1", output=output)
        yield "latents", generate("--steps", "1", "--save-latents", "kept.safetensors",
                                  output="out.gif")
        kept = os.path.join(self.folder, "latents.safetensors")
        if not os.path.exists(kept):
            self.succeed(*generate("--steps", "1", "--save-latents", kept, output="out.gif"))
            self.clear()
        yield "decode", ["decode", kept, "-o", "out.mp4", "-t", "1"]


class Killed(Faults):
    def all_commands(self):
        yield from self.commands()
        yield "compare", ["compare", "-p", "a ball", "-o", "all.html", "--sparsity", "0.5", *SMALL]

    def killed(self, arguments, **options):
        done = self.run_program(*arguments, **options)
        self.assertIn(done.returncode, (0, -9), done.stderr.decode(errors="replace"))
        return done.returncode

    def test_any_moment(self):
        """A signal from outside, whenever it comes."""
        for name, arguments in self.all_commands():
            start = time.monotonic()
            self.succeed(*arguments)
            whole = time.monotonic() - start
            old = [(name, self.read(name)) for name in self.files()]
            for _ in range(ROUNDS):
                with self.subTest(name=name):
                    if self.random.random() < 0.5:
                        self.clear()
                    process = subprocess.Popen([PROGRAM, *arguments], cwd=self.work,
                                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                               stderr=subprocess.DEVNULL, env=self.environment())
                    time.sleep(self.random.uniform(0, whole))
                    process.kill()
                    process.wait()
                    self.check_files(old)
            self.clear()

    def test_every_operation(self):
        """Before each operation on files, of which there are few or, in CI, some are taken."""
        if SANITIZED:
            self.skipTest("the sanitizer's library wants to be the first one loaded")
        for name, arguments in self.all_commands():
            operations, _ = self.count(arguments)
            self.clear()
            moments = range(1, operations + 1)
            if ROUNDS < operations:
                # the last ones are where files get their names
                moments = sorted({*self.random.sample(moments, ROUNDS), *moments[-ROUNDS:]})
            for moment in moments:
                with self.subTest(name=name, moment=moment):
                    code = self.killed(arguments, env=self.preload(FAULT_KILL_AT=moment))
                    self.assertEqual(code, -9)
                    self.check_files()
            # what is left does not disturb the next run, nor does that touch it
            left = self.check_files()
            self.succeed(*arguments)
            self.assertEqual(self.check_files(), left)
            self.clear()


class CutShort(Faults):
    """A model's file that loses bytes while it is mapped, as by a download that begins again."""

    def test_weights(self):
        if SANITIZED:
            self.skipTest("the sanitizer's library wants to be the first one loaded")
        for name in (TEXT_ENCODER, TRANSFORMER, VAE):
            with self.subTest(name=name):
                root = self.model_copy()
                self.replace(root, name, read_model_file(name))
                done = self.run_program(*generate("-m", root), env=self.preload(
                    FAULT_CUT=os.path.join(root, name)))
                shutil.rmtree(root)
                text = done.stderr.decode(errors="replace")
                self.assertEqual(done.returncode, 1, text)
                self.assertIn("draftattn: a file of the model was changed or cut short", text)
                self.assertEqual(self.files(), [])


class FullDisk(Faults):
    def refused(self, name, arguments, **options):
        """Exit code 1, the file named and the way out; nothing broken is left. What is there may
        be the latents, or the names of a series that were given before."""
        done = self.run_program(*arguments, **options)
        text = done.stderr.decode(errors="replace")
        self.assertEqual(done.returncode, 1, text)
        message = text[text.rindex("draftattn: "):]
        words = "kept" if name == "latents" else "out"
        self.assertIn(words, message)
        self.assertRegex(message, "No space left on device; make room|File too large; raise")
        self.assertEqual(self.check_files(), [])
        for file in self.files():
            self.assertIn("safetensors", file)
        self.clear()

    def test_after_any_number_of_bytes(self):
        if SANITIZED:
            self.skipTest("the sanitizer's library wants to be the first one loaded")
        for name, arguments in self.commands():
            _, size = self.count(arguments)
            self.clear()
            # the index of an mp4 is moved to the front: some bytes are written twice
            for limit in [0, size - 1] + [self.random.randrange(size) for _ in range(ROUNDS)]:
                with self.subTest(name=name, limit=limit):
                    self.refused(name, arguments, env=self.preload(FAULT_DISK_BYTES=limit))

    def test_file_size_limit(self):
        """The system's own limit: no library in between."""
        for name, arguments in self.commands():
            self.succeed(*arguments)
            largest = max(os.path.getsize(self.path(file)) for file in self.files())
            self.clear()
            for _ in range(max(1, ROUNDS // 4)):
                limit = self.random.randrange(1, largest)
                with self.subTest(name=name, limit=limit):
                    self.refused(name, arguments, limits=lambda limit=limit: resource.setrlimit(
                        resource.RLIMIT_FSIZE, (limit, limit)))

    def test_small_file_system(self):
        """A real one that is full, where we may make one."""
        disk = os.path.join(self.folder, "disk")
        os.mkdir(disk)
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk],
                              capture_output=True, check=False)
        if made.returncode:
            self.skipTest("only root makes a small file system: " + made.stderr.decode().strip())
        self.work, work = disk, self.work
        try:
            for name, arguments in self.commands():
                self.succeed(*arguments)
                size = sum(os.path.getsize(self.path(file)) for file in self.files())
                self.clear()
                for _ in range(max(1, ROUNDS // 4)):
                    pages = (size - 1) // 4096
                    filler = os.path.join(disk, "filler.safetensors")
                    free = shutil.disk_usage(disk).free
                    with open(filler, "wb") as file:
                        file.write(bytes(free - 4096 * self.random.randint(0, pages)))
                    with self.subTest(name=name):
                        self.refuse_beside(filler, name, arguments)
        finally:
            self.work = work
            subprocess.run(["umount", disk], check=True)

    def refuse_beside(self, filler, name, arguments):
        done = self.run_program(*arguments)
        text = done.stderr.decode(errors="replace")
        os.remove(filler)
        self.assertEqual(done.returncode, 1, text)
        self.assertIn("No space left on device; make room", text, name)
        self.assertEqual(self.check_files(), [])
        self.clear()


if __name__ == "__main__":
    unittest.main(verbosity=2)
