#!/usr/bin/env python3
"""libdraftattn, through its C ABI, beside cuDNN, FlashAttention and others on one GPU.

    python tests/bench/compare_gpu.py dense:24x118784 sparse:24x118784:0.9 call:33x45x80+256:24:0.9

Without a job: Wan2.1's and HunyuanVideo's shapes. After several jobs one table has all ratios. A
job is one of

    dense:HxN[xD]          dense attention of H heads, N tokens, head_dim D (default 128)
    sparse:HxN[xD]:S       draftattn_attend() and block-sparse peers on the same random masks of
                           sparsity S, a mask for each head, blocks of 128x128 and of 128x64
    comp:HxN[xD]:S         ours on such a mask, skipped blocks dropped or entering as their means;
                           and so in calls with masks of their own, in raster order, which read k
                           and v in any case
    repair:HxN[xD]:S       the same with 256 probe rows a head, and with the repair
    call:FxHxW[+T]:H:S     draftattn_run() with all of its stages, from a grid of F x H x W video
                           tokens in raster order and T of text, H heads of 128, against dense peers
                           and against a draft in plain PyTorch around a block-sparse peer
    stages:FxHxW[+T]:H:S   time in the kernels of such a call, stage by stage
    error:HxN[xD]          error against float64, ours and the peers', without timing

Random data, one process, the contenders of a group taking turns after a warm-up; device events;
medians. TFLOP/s count what is computed: 4 D for each pair of a query and an exact key, block means
and probe rows included. "x peer" is the peer's time over the row's: above 1 the row is faster.
Error is relative L2 over sampled rows against float64, of what the row is to compute; what is wrong
is said, left out, and where it is ours makes the exit code 1. Peers that are not installed are left
out.

With --device cpu the same runs on the CPU backends, in float32, beside PyTorch: it shows that the
script works. --dry-run tells what would run. Peers: see gpu_peers.py.
"""
import argparse
import copy
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time

os.environ.setdefault("GOMP_SPINCOUNT", "1000") # two OpenMP runtimes may share the cores
try:
    import torch

    import gpu_library as ours
    import gpu_peers as peers
except ImportError as missing:
    sys.exit(f"compare_gpu.py: {missing}; pip install torch")

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BLOCK = ours.QUERY_BLOCK
PROBES = 256
MOST_ROUNDS = 50
# Wan2.1 1.3B at 832x480 and 14B at 1280x720, HunyuanVideo at 1280x720x129.
MODELS = ("dense:12x32760", "sparse:12x32768:0.9", "call:21x30x52:12:0.75", "dense:40x75600",
          "dense:24x118784", "sparse:24x118784:0.75", "sparse:24x118784:0.9",
          "call:33x45x80+256:24:0.75", "call:33x45x80+256:24:0.9")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LIMITS = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2} # errors that are right
LOOSE = 1.5 # of what is meant to differ
SAMPLED_HEADS, SAMPLED_ROWS = 3, 128

# ---- jobs ------------------------------------------------------------------------------------


class Job:
    """One word of the command line."""

    def __init__(self, text):
        self.text = text
        kind, _, rest = text.partition(":")
        self.kind, self.grid, self.sparsity = kind, None, None
        sparse = kind in ("sparse", "comp", "repair", "call", "stages")
        share = r":(0?\.\d+|0)" if sparse else ""
        if kind in ("call", "stages"):
            found = re.fullmatch(r"(\d+)x(\d+)x(\d+)(?:\+(\d+))?:(\d+)" + share, rest)
        elif kind in ("dense", "sparse", "comp", "repair", "error"):
            found = re.fullmatch(r"(\d+)x(\d+)(?:x(\d+))?" + share, rest)
        else:
            found = None
        if not found:
            raise argparse.ArgumentTypeError(f"'{text}' is no job; see --help")
        numbers = [int(n or 0) for n in found.groups()[:5 if kind in ("call", "stages") else 3]]
        if kind in ("call", "stages"):
            self.grid, self.heads, self.head_dim = tuple(numbers[:4]), numbers[4], 128
        else:
            self.heads, self.head_dim = numbers[0], numbers[2] or 128
            self.grid = (1, 1, numbers[1], 0)
        if sparse:
            self.sparsity = float(found.groups()[-1])
        self.video = math.prod(self.grid[:3])
        self.tokens = self.video + self.grid[3]
        if not (self.heads and self.video) or self.head_dim not in (64, 128):
            raise argparse.ArgumentTypeError(f"'{text}': heads and tokens are at least 1, head_dim "
                                             "is 64 or 128")
        if kind in ("sparse", "comp", "repair") and self.tokens % BLOCK:
            raise argparse.ArgumentTypeError(f"'{text}': peers with block masks take multiples of "
                                             f"{BLOCK} tokens")

    def shape(self):
        sides = "x".join(map(str, self.grid[:3])) + (f"+{self.grid[3]}" if self.grid[3] else "")
        grid = f" (grid {sides})" if self.kind in ("call", "stages") else ""
        return f"{self.heads} x {self.tokens} x {self.head_dim}{grid}"

    def flops(self, keys):
        """Operations where every query row meets so many keys."""
        return 4.0 * self.head_dim * self.heads * self.tokens * keys


class Bench:
    """What all jobs share: the library, the peers, where and how to measure."""

    def __init__(self, options):
        self.options, self.device = options, options.device
        self.dtype = DTYPES[options.dtype]
        self.library = ours.Library(options.library, self.device, options.threads)
        self.groups, self.wrong, self.peers = [], 0, []
        self.generator = torch.Generator(self.device).manual_seed(options.seed)
        for name in options.peers:
            try:
                self.peers.append(peers.find(name))
            except peers.Missing as why:
                print(f"left out: {name}: {why}")

    def plan(self, job, **settings):
        return ours.Plan(self.library, job.grid, job.heads, job.head_dim, self.dtype, **settings)

    def random(self, job, scale=1.0):
        """q, k, v and o of [1, heads, tokens, head_dim]."""
        shape = (1, job.heads, job.tokens, job.head_dim)
        q, k, v = (torch.randn(shape, generator=self.generator, device=self.device,
                               dtype=torch.float32).mul_(factor).to(self.dtype)
                   for factor in (scale, 1, 1))
        return q, k, v, torch.empty_like(q)

    def video(self, job):
        """The same where near tokens are alike and attend to each other; text is noise."""
        frames, height, width = job.grid[:3]
        t = torch.arange(job.video, device=self.device)
        places = t // (height * width), t // width % height, t % width
        tensors = [torch.randn((1, job.heads, job.tokens, job.head_dim), generator=self.generator,
                               device=self.device).mul_(0.6) for _ in range(3)]
        for sizes in ((2, 4, 4), (8, 12, 12)):
            f, y, x = (place // size for place, size in zip(places, sizes))
            cells = math.ceil(height / sizes[1]) * math.ceil(width / sizes[2])
            cell = f * cells + y * math.ceil(width / sizes[2]) + x
            for group in (tensors[:2], tensors[2:]): # q and k are of one field
                field = torch.randn((job.heads, cells * math.ceil(frames / sizes[0]),
                                     job.head_dim), generator=self.generator, device=self.device)
                for tensor in group:
                    for head in range(job.heads):
                        tensor[0, head, :job.video] += 0.6 * field[head, cell]
        q, k, v = (t.to(self.dtype) for t in tensors)
        return q, k, v, torch.empty_like(q)

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()


def random_lists(job, key_block, generator):
    """Kept key blocks of a random mask: int32 [heads, query blocks, kept], ascending."""
    rows, columns = job.tokens // BLOCK, job.tokens // key_block
    kept = max(1, round((1 - job.sparsity) * columns))
    scores = torch.rand(job.heads, rows, columns, generator=generator, device=generator.device)
    return scores.topk(kept, -1).indices.sort(-1).values.to(torch.int32).contiguous()


# ---- right or wrong --------------------------------------------------------------------------


def block_ids(tokens, video, size, device):
    """[position] = its block; text begins a block of its own."""
    at = torch.arange(tokens, device=device)
    return torch.where(at < video, at // size, (at - video) // size + -(-video // size))


class Expected:
    """Rows of o in float64, a few of a few heads. mask: bool [heads, query blocks, key blocks] of
    the pairs that are exact, by positions; means: the rest enters as block means."""

    def __init__(self, job, q, k, v, mask=None, key_block=BLOCK, means=False, order=None,
                 rows=SAMPLED_ROWS):
        self.heads = sorted({0, job.heads // 2, job.heads - 1, min(7, job.heads - 1)})
        self.heads = self.heads[:SAMPLED_HEADS]
        count, device = job.tokens, q.device
        spread = torch.linspace(0, count - 1, min(rows, count)).round().long()
        edge = torch.tensor([max(job.video - 1, 0), min(job.video, count - 1)])
        self.positions = torch.cat([spread, edge]).unique().to(device)
        if order is None:
            order = torch.arange(count, device=device)
        self.tokens = order[self.positions]
        query_block = block_ids(count, job.video, BLOCK, device)[self.positions]
        key_ids = block_ids(count, job.video, key_block, device)
        lengths = key_ids.bincount().double()
        self.rows = []
        for head in self.heads:
            queries = q[0, head, self.tokens].double() / math.sqrt(job.head_dim)
            keys, values = (t[0, head, order].double() for t in (k, v))
            logits = queries @ keys.T
            if mask is not None:
                kept = mask[head, query_block]
                logits.masked_fill_(~kept[:, key_ids], -math.inf)
            if means:
                sums = [torch.zeros(len(lengths), job.head_dim, dtype=torch.float64,
                                    device=device).index_add_(0, key_ids, t) / lengths[:, None]
                        for t in (keys, values)]
                low = queries @ sums[0].T + lengths.log()
                logits = torch.cat([logits, low.masked_fill(kept, -math.inf)], 1)
                values = torch.cat([values, sums[1]])
            self.rows.append(torch.softmax(logits, -1) @ values)

    def error(self, o):
        """Relative L2 and largest difference; NaN and infinite where o is."""
        off = norm = worst = 0.0
        for head, rows in zip(self.heads, self.rows):
            difference = o[0, head, self.tokens].double() - rows
            off += difference.square().sum().item()
            norm += rows.square().sum().item()
            worst = max(worst, difference.abs().max().item())
        return math.sqrt(off / norm), worst

# ---- time ------------------------------------------------------------------------------------


class Clocks:
    """SM clock and power while a group is timed, as nvidia-smi tells them."""

    def __init__(self, device):
        self.process = None
        if device == "cuda":
            try:
                self.process = subprocess.Popen(
                    ["nvidia-smi", "-i", gpu_id(), "-lms", "100", "--format=csv,noheader,nounits",
                     "--query-gpu=clocks.sm,power.draw"], stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL, text=True)
            except OSError:
                pass

    def stop(self):
        """Medians, (None, None) where nothing is known."""
        if not self.process:
            return None, None
        self.process.terminate()
        rows = [line.split(",") for line in self.process.communicate()[0].splitlines()]
        try:
            return tuple(statistics.median(float(row[i]) for row in rows) for i in (0, 1))
        except (ValueError, IndexError):
            return None, None


def gpu_id():
    """nvidia-smi's name for the current device, whatever CUDA_VISIBLE_DEVICES makes of numbers."""
    uuid = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
    return "GPU-" + str(uuid).removeprefix("GPU-") if uuid else "0"


def once(bench, call):
    """A function that gives the milliseconds of one call, to be asked after waiting."""
    if bench.device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        return lambda: begin.elapsed_time(end)
    start = time.perf_counter()
    call()
    took = 1e3 * (time.perf_counter() - start)
    return lambda: took


def take_turns(bench, calls):
    """{name: milliseconds of each round}, clock, power."""
    start, turns, took = time.perf_counter(), 0, 0.0
    while turns < 2 or time.perf_counter() - start < bench.options.warm:
        before = time.perf_counter()
        for call in calls.values():
            call()
        bench.wait()
        turns, took = turns + 1, time.perf_counter() - before
    rounds, row = bench.options.rounds, bench.options.row
    rounds = max(rounds, min(MOST_ROUNDS, int(bench.options.seconds / max(took * row, 1e-6))))
    clocks = Clocks(bench.device)
    taken = [(name, i, once(bench, call)) for _ in range(rounds) for name, call in calls.items()
             for i in range(row)]
    bench.wait()
    clock, power = clocks.stop()
    samples = {name: [] for name in calls}
    for name, i, milliseconds in taken:
        if i or row == 1:
            samples[name].append(milliseconds())
    return samples, clock, power

# ---- groups ----------------------------------------------------------------------------------


class Group:
    """Contenders that are checked, then timed in turns, and shown as one table."""

    def __init__(self, bench, job, title, expected):
        self.bench, self.job, self.title, self.expected = bench, job, title, expected
        self.calls, self.rows, self.left_out, self.peers = {}, {}, [], []

    def add(self, name, make, keys, peer=False, limit=None, expected=None):
        """make gives the function; keys: what a query row meets on average, or a function that
        tells after a call. expected None = the group's, False = not to be checked."""
        try:
            call = make()
            out = call()
            self.bench.wait()
        except Exception as why: # a peer's may be of any type
            if not peer and not isinstance(why, (ours.Error, torch.OutOfMemoryError)):
                raise
            self.left_out.append(f"{name}: {type(why).__name__}: {str(why).strip()[:300]}")
            self.bench.wrong += not peer
            return None
        expected = self.expected if expected is None else expected
        error, worst = expected.error(out) if expected else (None, None)
        if error is not None and not error < (limit or LIMITS[self.bench.dtype]):
            self.left_out.append(f"{name}: WRONG: relative error {error:.3g}, largest {worst:.3g}")
            self.bench.wrong += not peer
            return None
        del out
        self.calls[name] = call
        keys = keys() if callable(keys) else keys
        self.rows[name] = {"name": name, "error": error, "largest": worst,
                           "flops": None if keys is None else self.job.flops(keys)}
        if peer:
            self.peers.append(name)
        return call

    def add_dense_peers(self, q, k, v, most=None):
        """All of them, or the first few."""
        for peer in self.bench.peers[:most]:
            self.add(f"{peer.title} dense", lambda peer=peer: peer.dense(q, k, v),
                     self.job.tokens, peer=True)

    def measure(self):
        if not self.calls:
            self.finish(None, None, 0)
            return
        samples, clock, power = take_turns(self.bench, self.calls)
        for name, row in self.rows.items():
            times = sorted(samples[name])
            row.update(ms=statistics.median(times), best=times[0], worst=times[-1],
                       calls=len(times))
            if row["flops"] is not None:
                row["tflops"] = row["flops"] / row["ms"] * 1e-9
        for row in self.rows.values():
            row["against"] = {name: self.rows[name]["ms"] / row["ms"] for name in self.peers}
        self.finish(clock, power, len(next(iter(samples.values()))))

    def finish(self, clock, power, calls):
        self.bench.groups.append({
            "job": self.job.text, "title": self.title, "heads": self.job.heads,
            "tokens": self.job.tokens, "head_dim": self.job.head_dim, "grid": self.job.grid,
            "sparsity": self.job.sparsity, "dtype": self.bench.options.dtype, "mhz": clock,
            "watt": power, "rows": list(self.rows.values()), "left_out": self.left_out})
        state = f"; {calls} calls each" if calls else ""
        state += f", {clock:.0f} MHz, {power:.0f} W" if clock else ""
        print(f"\n{self.title}{state}")
        if calls:
            self.print_times()
        elif self.rows:
            for name, row in self.rows.items():
                print(f"  {name:26} error {row['error']:.3e}  largest {row['largest']:.3e}")
        for line in self.left_out:
            print(f"  left out: {line}")
        sys.stdout.flush()

    def print_times(self):
        widths = [max(7, len(name) + 2) for name in self.peers]
        print(f"  {'':26} {'ms':>9} {'best':>9} {'spread':>7} {'TFLOP/s':>8} {'error':>8}  " +
              " ".join(f"{'x ' + name:>{width}}" for name, width in zip(self.peers, widths)))
        for name, row in self.rows.items():
            tflops = f"{row['tflops']:8.4g}" if "tflops" in row else f"{'-':>8}"
            error = f"{row['error']:8.1e}" if row["error"] is not None else f"{'-':>8}"
            spread = (row["worst"] - row["best"]) / row["ms"]
            print(f"  {name:26} {row['ms']:9.4f} {row['best']:9.4f} {spread:7.1%} {tflops} {error}"
                  "  " + " ".join(f"{row['against'][peer]:{width}.3f}"
                                  for peer, width in zip(self.peers, widths)))


def run_dense(bench, job):
    q, k, v, o = bench.random(job)
    plan = bench.plan(job, policy=ours.DENSE, order=ours.BLOCK)
    group = Group(bench, job, f"dense {job.shape()}, {plan.kernel()}", Expected(job, q, k, v))
    group.add_dense_peers(q, k, v)
    group.add("ours", lambda: plan.run(q, k, v, o), job.tokens)
    group.measure()


def given_mask(bench, job, key_block, **settings):
    """A plan that attends over a list that is handed in."""
    settings = {"policy": ours.DRAFT, "order": ours.BLOCK, "key_block": key_block, "probes": 0,
                "compensation": 0, "repair": 0, "sparsity": job.sparsity, **settings}
    return bench.plan(job, **settings)


def to_mask(lists, columns):
    mask = torch.zeros(*lists.shape[:2], columns, dtype=torch.bool, device=lists.device)
    return mask.scatter_(-1, lists.long(), True)


def run_sparse(bench, job):
    for key_block in (128, 64):
        q, k, v, o = bench.random(job)
        lists = random_lists(job, key_block, bench.generator)
        counts = torch.full(lists.shape[:2], lists.shape[2], dtype=torch.int32,
                            device=lists.device)
        mask = to_mask(lists, job.tokens // key_block)
        plan = given_mask(bench, job, key_block)
        keys = lists.shape[2] * key_block
        group = Group(bench, job, f"sparse {job.shape()}, blocks of {BLOCK}x{key_block}, density "
                      f"{keys / job.tokens:.4f}, {plan.kernel()}", Expected(job, q, k, v))
        group.add_dense_peers(q, k, v, 1)
        group.expected = Expected(job, q, k, v, mask, key_block)
        for peer in bench.peers:
            if peer.sparse:
                group.add(peer.title, lambda peer=peer: peer.attend(q, k, v, lists, counts,
                                                                    key_block), keys, peer=True)
        group.add(f"ours, {BLOCK}x{key_block}", lambda: plan.attend(q, k, v, o, lists), keys)
        group.measure()
        del q, k, v, o, plan, group
        release(bench)


def run_means(bench, job):
    """comp and repair: ours alone, on one mask."""
    q, k, v, o = bench.random(job)
    lists = random_lists(job, 128, bench.generator)
    mask = to_mask(lists, job.tokens // 128)
    kept, blocks = lists.shape[2], job.tokens // 128
    exact, low = kept * 128, blocks - kept
    plans = {means: given_mask(bench, job, 128, compensation=means) for means in (0, 1)}
    group = Group(bench, job, f"{job.kind} {job.shape()}, density {kept / blocks:.4f}, "
                  f"{plans[0].kernel()}", None)
    if job.kind == "comp":
        group.add("dropped", lambda: plans[0].attend(q, k, v, o, lists), exact,
                  expected=Expected(job, q, k, v, mask))
    group.add("means", lambda: plans[1].attend(q, k, v, o, lists), exact + low,
              expected=Expected(job, q, k, v, mask, means=True))
    if job.kind == "comp":
        check_call(bench, job, group, q, k, v, o, "call, dropped", 0)
        check_call(bench, job, group, q, k, v, o, "call, means", 1)
    else:
        probes = min(PROBES, job.tokens)
        for name, repair in (("means, probes", 0), ("means, probes, repair", 1)):
            plan = given_mask(bench, job, 128, compensation=1, probes=PROBES, repair=repair)
            group.add(name, lambda plan=plan: plan.attend(q, k, v, o, lists), exact + low + probes,
                      expected=Expected(job, q, k, v), limit=LOOSE)
        group.title += "; error of what has probes against dense"
    group.measure()


def keys_of_run(job, plan):
    """Keys that a query row met in the last run of a plan."""
    density = plan.stats().density
    low = (1 - density) * plan.info.key_blocks if plan.desc.compensation else 0
    return density * job.tokens + low + min(plan.desc.probes, job.video)


def check_call(bench, job, group, q, k, v, o, name, compensation):
    """One call without probes is what its own block list says."""
    plan = bench.plan(job, sparsity=job.sparsity, probes=0, repair=0, compensation=compensation)
    call = plan.run(q, k, v, o)
    call()
    bench.wait()
    expected = Expected(job, q, k, v, plan.mask(), plan.desc.key_block, means=bool(compensation),
                        order=plan.order())
    group.add(name, lambda: call, lambda: keys_of_run(job, plan), expected=expected)


def run_call(bench, job):
    q, k, v, o = bench.video(job)
    dense = Expected(job, q, k, v)
    plan = bench.plan(job, sparsity=job.sparsity, probes=PROBES)
    group = Group(bench, job, f"call {job.shape()}, sparsity {job.sparsity}, {plan.kernel()}; "
                  "error against dense, but of 'no probes' against its own list", dense)
    group.add_dense_peers(q, k, v, 1)
    group.add("ours dense", lambda: bench.plan(job, policy=ours.DENSE).run(q, k, v, o), job.tokens)
    group.add("ours", lambda: plan.run(q, k, v, o), lambda: keys_of_run(job, plan), limit=LOOSE)
    if "ours" in group.calls:
        group.title += f"; density of ours {plan.stats().density:.4f}"
    check_call(bench, job, group, q, k, v, o, "ours, no probes", 1)
    block = bench.plan(job, sparsity=job.sparsity, probes=PROBES, order=ours.BLOCK)
    order = block.order()
    ordered = [t.index_select(2, order) for t in (q, k, v)]
    permuted = Expected(job, *ordered)
    group.add("ours, block order", lambda: block.run(*ordered, o),
              lambda: keys_of_run(job, block), expected=permuted, limit=LOOSE)
    add_torch_drafts(bench, job, group, q, k, v, order)
    group.measure()


def add_torch_drafts(bench, job, group, q, k, v, order):
    """On whole blocks alone, as the block-sparse peers want it: a little less than ours do."""
    part = copy.copy(job)
    part.video, text = (n // BLOCK * BLOCK for n in (job.video, job.grid[3]))
    part.tokens = part.video + text
    order = torch.cat([order[order < part.video],
                       torch.arange(part.video, part.tokens, device=order.device)])
    q, k, v = (t[:, :, :part.tokens] for t in (q, k, v))
    for peer in bench.peers:
        if not hasattr(peer, "attend_own") or not part.video:
            continue
        tensors = [t.transpose(1, 2).contiguous() for t in (q, k, v)]
        draft = group.add(f"PyTorch + {peer.title}", lambda peer=peer, tensors=tensors:
                          peers.TorchDraft(peer, *tensors, order, part.video, job.sparsity), None,
                          peer=True, limit=LOOSE, expected=Expected(part, q, k, v))
        if draft:
            keys = draft.density * part.tokens * part.tokens / job.tokens # by rows there are
            group.add(f"{peer.title} alone", lambda draft=draft: draft.attend, keys, peer=True,
                      expected=False)


# ---- stages ----------------------------------------------------------------------------------

# By the file that a kernel is in.
FILE_STAGES = {"gather_pool": "pool and order", "draft_map": "draft map", "select": "select",
               "block_list": "list and queue", "store": "list and queue", "attend": "attend",
               "repair": "repair"}
KERNEL = re.compile(r"__global__\s+void\s+(?:__\w+__\s*\((?:[^()]|\([^()]*\))*\)\s*)*(\w+)\s*\(")


def kernel_stages():
    """{kernel: stage} of the sources."""
    folder, stages = os.path.join(ROOT, "kernels/cuda"), {}
    for name in sorted(os.listdir(folder)):
        stage = [stage for stem, stage in FILE_STAGES.items() if name.startswith(stem)]
        if stage and name.endswith((".cu", ".cuh")):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                stages.update(dict.fromkeys(KERNEL.findall(file.read()), stage[0]))
    return stages


def stage_of(kernel, stages):
    return stages.get(kernel.split("::")[-1], "other")


def kernel_times(bench, call):
    """{kernel: microseconds a call} by the profiler."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile
    rounds, times = bench.options.rounds, {}
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(rounds):
            call()
        bench.wait()
    for event in profiler.events():
        if event.device_type == DeviceType.CUDA:
            took = event.time_range.elapsed_us() / rounds
            times[event.name] = times.get(event.name, 0) + took
    return times


def short_name(kernel):
    """Without types and parameters."""
    kernel = re.sub(r"^void ", "", kernel)
    kernel = re.sub(r"\(anonymous namespace\)::", "", kernel)
    return re.split(r"[<(]", kernel, maxsplit=1)[0][:60]


def show_stages(bench, job, title, stages, kernels, whole):
    total = sum(stages.values())
    print(f"\n{title}: {whole:.4f} ms, in kernels {total:.4f} ms, between them "
          f"{whole - total:.4f} ms, all but attend {whole - stages.get('attend', 0):.4f} ms")
    for stage, took in sorted(stages.items(), key=lambda item: -item[1]):
        print(f"  {stage:16} {took:9.4f} ms {took / total if total else 0:7.1%}")
        for name, microseconds in kernels.get(stage, ()):
            print(f"      {microseconds * 1e-3:9.4f} ms  {name}")
    bench.groups.append({"job": job.text, "title": title, "ms": whole, "stages": stages,
                         "kernels": kernels})
    sys.stdout.flush()


def stages_of_call(bench, job, title, plan, call):
    """Warm, timed, then seen kernel by kernel (on the CPU: as the library tells)."""
    samples, _, _ = take_turns(bench, {"call": call})
    whole, stages, kernels = statistics.median(samples["call"]), {}, {}
    known = kernel_stages()
    if bench.device == "cpu":
        for stage, seconds in zip(ours.STAGES, plan.stats().seconds):
            stages[stage] = 1e3 * seconds
    else:
        for kernel, took in sorted(kernel_times(bench, call).items(), key=lambda item: -item[1]):
            stage = stage_of(short_name(kernel), known)
            stages[stage] = stages.get(stage, 0) + took * 1e-3
            kernels.setdefault(stage, []).append((short_name(kernel), took))
    show_stages(bench, job, title, stages, kernels, whole)


def run_stages(bench, job):
    q, k, v, o = bench.video(job)
    for name, order in (("raster order", ours.RASTER), ("block order", ours.BLOCK)):
        plan = bench.plan(job, sparsity=job.sparsity, probes=PROBES, order=order)
        stages_of_call(bench, job, f"stages {job.shape()}, sparsity {job.sparsity}, {name}, "
                       f"{plan.kernel()}", plan, plan.run(q, k, v, o))
    plan = bench.plan(job, sparsity=job.sparsity, probes=0, repair=0)
    samples, _, _ = take_turns(bench, {"map": plan.draft_map(q, k)})
    print(f"  draftattn_draft_map(), raster order: {statistics.median(samples['map']):.4f} ms")
    bench.groups[-1]["draft_map_ms"] = statistics.median(samples["map"])


def run_error(bench, job):
    for scale in (1.0, 4.0): # nearly uniform, and with few keys that matter
        q, k, v, o = bench.random(job, scale)
        plan = bench.plan(job, policy=ours.DENSE, order=ours.BLOCK)
        group = Group(bench, job, f"error {job.shape()}, dense, logits of deviation {scale:g}, "
                      f"{plan.kernel()}", Expected(job, q, k, v, rows=8 * SAMPLED_ROWS))
        group.add_dense_peers(q, k, v)
        group.add("ours", lambda plan=plan: plan.run(q, k, v, o), job.tokens, limit=LOOSE)
        group.finish(None, None, 0)


RUN = {"dense": run_dense, "sparse": run_sparse, "comp": run_means, "repair": run_means,
       "call": run_call, "stages": run_stages, "error": run_error}

# ---- the rest --------------------------------------------------------------------------------


def print_ratios(bench):
    """What the groups' tables have beside peers, once more and together."""
    rows = [(group["job"], row) for group in bench.groups for row in group.get("rows", ())
            if row.get("against") and row["name"].startswith("ours")]
    if len({job for job, _ in rows}) < 2:
        return
    print(f"\n{'ours over peers':44} {'ms':>9}  above 1 ours is faster")
    for job, row in rows:
        ratios = "  ".join(f"{ratio:6.3f} x {peer}" for peer, ratio in row["against"].items())
        print(f"{job + ', ' + row['name']:44} {row['ms']:9.4f}  {ratios}")


def first_line(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        return done.stdout.strip().split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return None


def machine(bench):
    """What was measured on what."""
    found = {"commit": first_line(["git", "describe", "--always", "--dirty"]),
             "draftattn": bench.library.version(), "library": bench.options.library,
             "torch": torch.__version__, "python": platform.python_version()}
    if bench.device == "cuda":
        state = first_line(["nvidia-smi", "-i", gpu_id(), "--format=csv,noheader",
                            "--query-gpu=driver_version,clocks.sm,clocks.max.sm,power.limit"])
        found["device"] = torch.cuda.get_device_name()
        found["multiprocessors"] = torch.cuda.get_device_properties(0).multi_processor_count
        names = ("driver", "clock", "clock_max", "power_limit")
        found.update(zip(names, (state or "").split(", ")))
        found["cuda"], found["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    else:
        found["device"] = first_line(["sh", "-c", "sed -n 's/^model name.*: //p' /proc/cpuinfo"])
        found["threads"] = torch.get_num_threads()
    return found


def release(bench):
    bench.wait()
    if bench.device == "cuda":
        torch.cuda.empty_cache()


def dry_run(options):
    """What would run; masks are built as they will be."""
    for job in options.jobs:
        bytes_each = job.heads * job.tokens * job.head_dim * DTYPES[options.dtype].itemsize
        print(f"{job.text}: {job.shape()}, {options.dtype}, {bytes_each / 2**30:.2f} GiB a tensor, "
              f"dense {job.flops(job.tokens) * 1e-12:.3g} TFLOP")
        if job.kind in ("sparse", "comp", "repair"):
            for key_block in (128, 64) if job.kind == "sparse" else (128,):
                lists = random_lists(job, key_block, torch.Generator().manual_seed(options.seed))
                print(f"    {BLOCK}x{key_block}: {lists.shape[2]} of {job.tokens // key_block} "
                      f"blocks a row, density {lists.shape[2] * key_block / job.tokens:.4f}")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0],
                                     epilog=__doc__.split("\n", maxsplit=1)[1],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", metavar="JOB", type=Job, nargs="*",
                        default=[Job(text) for text in MODELS])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", choices=DTYPES, help="default: bfloat16, on the CPU float32")
    parser.add_argument("--peers", help="of cudnn, flash, fa4, flex, torch (default: "
                        "cudnn,flash,fa4, on the CPU torch); none = ours alone")
    parser.add_argument("--rounds", type=int, default=11, help="at least")
    parser.add_argument("--row", type=int, default=1, metavar="N", help="calls of a contender in "
                        "a row; the first does not count where there are more: its clock is still "
                        "what the power of another left (default 1)")
    parser.add_argument("--seconds", type=float, default=2.0,
                        help=f"of a group; more rounds fill it, at most {MOST_ROUNDS}")
    parser.add_argument("--warm", type=float, default=0.5, help="seconds before each group")
    parser.add_argument("--threads", type=int, default=0, help="on the CPU (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--library",
                        default=os.path.join(ROOT, "build/release/src/libdraftattn.so"))
    parser.add_argument("--json", metavar="FILE", help="all figures")
    parser.add_argument("--dry-run", action="store_true", help="tell what would run")
    options = parser.parse_args(arguments)
    on_gpu = options.device == "cuda"
    options.dtype = options.dtype or ("bfloat16" if on_gpu else "float32")
    names = options.peers or ("cudnn,flash,fa4" if on_gpu else "torch")
    options.peers = [] if names == "none" else names.split(",")
    if options.rounds < 1 or options.row < 1:
        parser.error("--rounds and --row are at least 1")
    unknown = set(options.peers) - {"cudnn", "flash", "fa4", "flex", "torch"}
    if unknown:
        parser.error(f"--peers: there is no {', '.join(sorted(unknown))}")
    return options


def main():
    options = parse(sys.argv[1:])
    if options.dry_run:
        dry_run(options)
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("compare_gpu.py: PyTorch finds no CUDA device; --device cpu tries the script")
    if options.device == "cpu":
        torch.set_num_threads(options.threads or torch.get_num_threads())
    try:
        bench = Bench(options)
    except (OSError, ours.Error) as why:
        sys.exit(f"compare_gpu.py: {why}")
    found = machine(bench)
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    with torch.no_grad():
        for job in options.jobs:
            try:
                RUN[job.kind](bench, job)
            except (ours.Error, torch.OutOfMemoryError) as why:
                print(f"\n{job.text}: left out: {why}", flush=True)
                bench.wrong += 1
            release(bench)
            if options.json:
                with open(options.json, "w", encoding="utf-8") as file:
                    json.dump({"machine": found, "groups": bench.groups}, file, indent=1)
    print_ratios(bench)
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
