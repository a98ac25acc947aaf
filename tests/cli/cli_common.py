"""What the command-line tests share: a scratch folder, running the program, breaking models."""
import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest

PROGRAM = os.environ["DRAFTATTN_PROGRAM"]
MODEL = os.environ["DRAFTATTN_TEST_MODEL"]
SANITIZED = "DRAFTATTN_TEST_SANITIZED" in os.environ
TRANSFORMER = "transformer/diffusion_pytorch_model-00001-of-00002.safetensors" # most of it
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT_ENCODER = "text_encoder/model.safetensors"

# The smallest video that passes through everything; one thread, as tests share the machine.
SMALL = ["--size", "64x64", "--frames", "5", "--steps", "2", "--seed", "1", "--threads", "1",
         "--min-tokens", "1"]


def generate(*more, output="out.mp4", prompt="a red ball"):
    return ["generate", "-p", prompt, "-o", output, *SMALL, *more]


class Case(unittest.TestCase):
    """Every test has an empty folder of its own, the current one of the programs it runs."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="draftattn-cli-")
        self.work = os.path.join(self.folder, "work")
        os.mkdir(self.work)

    def tearDown(self):
        shutil.rmtree(self.folder)

    def environment(self, **more):
        """No CUDA device: what is expected here is what a CPU does."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DRAFTATTN")}
        return {**kept, "DRAFTATTN_MODEL": MODEL, "CUDA_VISIBLE_DEVICES": "", **more}

    def run_program(self, *arguments, env=None, limits=None):
        return subprocess.run([PROGRAM, *arguments], cwd=self.work, env=env or self.environment(),
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=200,
                              preexec_fn=limits, check=False)

    def files(self):
        return sorted(os.listdir(self.work))

    def path(self, name):
        return os.path.join(self.work, name)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def succeed(self, *arguments, **more):
        """Runs, expects exit code 0, gives (stdout, stderr) as text."""
        done = self.run_program(*arguments, **more)
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace"))
        return done.stdout.decode(), done.stderr.decode()

    def refuse(self, arguments, code, *words, left=(), **more):
        """Expects this exit code, all words in the message, no stdout, no files but left."""
        done = self.run_program(*arguments, **more)
        text = done.stderr.decode(errors="replace")
        self.assertEqual(done.returncode, code, text)
        self.assertEqual(done.stdout, b"")
        message = text[text.rindex("draftattn: "):] if "draftattn: " in text else ""
        for word in words:
            self.assertIn(word, message, text)
        self.assertEqual(self.files(), sorted(left))
        return text

    def probe(self, name):
        """What ffprobe says: (streams[0], tags, number of frames that decode)."""
        done = subprocess.run(["ffprobe", "-v", "error", "-count_frames", "-show_streams",
                               "-show_format", "-of", "json", self.path(name)],
                              capture_output=True, check=True)
        self.assertEqual(done.stderr, b"")
        found = json.loads(done.stdout)
        stream = found["streams"][0]
        return stream, found["format"].get("tags", {}), int(stream["nb_read_frames"])

    def model_copy(self):
        """A folder like the model's whose files are links, to be replaced one by one."""
        root = os.path.join(self.folder, "model")
        for base, _, names in os.walk(MODEL):
            target = os.path.join(root, os.path.relpath(base, MODEL))
            os.makedirs(target, exist_ok=True)
            for name in names:
                os.symlink(os.path.join(base, name), os.path.join(target, name))
        return root

    def replace(self, root, name, data):
        path = os.path.join(root, name)
        if os.path.lexists(path):
            os.remove(path)
        with open(path, "wb") as file:
            file.write(data)


def read_model_file(name):
    with open(os.path.join(MODEL, name), "rb") as file:
        return file.read()


def split_safetensors(data):
    """(header as a dictionary, data bytes)"""
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + length]), data[8 + length:]


def join_safetensors(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def merge_shards():
    """The transformer's shards as one file: (header, data)"""
    header, data = {}, b""
    for number in (1, 2):
        part, bytes_of_part = split_safetensors(read_model_file(
            f"transformer/diffusion_pytorch_model-{number:05d}-of-00002.safetensors"))
        part.pop("__metadata__", None)
        for name, entry in part.items():
            header[name] = {**entry, "data_offsets": [at + len(data) for at in
                                                      entry["data_offsets"]]}
        data += bytes_of_part
    return header, data


def bf16_to_f32(header, data):
    """The same numbers, those in BF16 as F32."""
    wide, out = {}, bytearray()
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        values = data[start:end]
        if entry["dtype"] == "BF16":
            stretched = bytearray(2 * len(values))
            stretched[2::4], stretched[3::4] = values[0::2], values[1::2]
            values = stretched
        wide[name] = {**entry, "dtype": "F32", "data_offsets": [len(out), len(out) + len(values)]}
        out += values
    return wide, bytes(out)


def original_config(config):
    """config.json as Wan-AI publishes it beside its own code."""
    return {"_class_name": "WanModel", "model_type": "t2v", "eps": config["eps"],
            "dim": config["num_attention_heads"] * config["attention_head_dim"],
            "ffn_dim": config["ffn_dim"], "freq_dim": config["freq_dim"],
            "in_dim": config["in_channels"], "out_dim": config["out_channels"],
            "num_heads": config["num_attention_heads"], "num_layers": config["num_layers"],
            "text_len": 512, "text_dim": config["text_dim"]}


def original_name(name):
    """A tensor of the transformer as Wan's model.py calls it."""
    inside, outside = {
        "attn1.": "self_attn.", "attn2.": "cross_attn.", "to_out.0": "o", "to_": "",
        "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2", "norm2": "norm3",
        "scale_shift_table": "modulation",
    }, {
        "condition_embedder.text_embedder.linear_1": "text_embedding.0",
        "condition_embedder.text_embedder.linear_2": "text_embedding.2",
        "condition_embedder.time_embedder.linear_1": "time_embedding.0",
        "condition_embedder.time_embedder.linear_2": "time_embedding.2",
        "condition_embedder.time_proj": "time_projection.1",
        "scale_shift_table": "head.modulation", "proj_out": "head.head",
    }
    for old, new in (inside if name.startswith("blocks.") else outside).items():
        name = name.replace(old, new)
    return name
