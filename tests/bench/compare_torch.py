#!/usr/bin/env python3
"""libdraftattn, through its C ABI, beside PyTorch's scaled_dot_product_attention on the CPU.

    python tests/bench/compare_torch.py --threads 2

Float32, random data, one process, the contenders taking turns; medians. The draft runs include all
of their stages, compensation and repair. The PyTorch wheel brings an OpenMP of its own.
"""
import argparse
import ctypes as C
import os
import statistics
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STAGES = ("order", "pool", "draft map", "select", "attend", "repair")


class Grid(C.Structure):
    _fields_ = [(name, C.c_int64) for name in ("frames", "height", "width", "text_tokens")]


class Tensor(C.Structure):
    _fields_ = [("data", C.c_void_p), ("dtype", C.c_int), ("shape", C.c_int64 * 4),
                ("stride", C.c_int64 * 4)]


class PlanDesc(C.Structure):
    _fields_ = [("size", C.c_size_t), ("grid", Grid), ("batch", C.c_int32), ("heads", C.c_int32),
                ("head_dim", C.c_int32), ("in_dtype", C.c_int), ("out_dtype", C.c_int),
                ("softmax_scale", C.c_float), ("policy", C.c_int), ("order", C.c_int),
                ("sparsity", C.c_double), ("key_block", C.c_int32), ("strip_height", C.c_int32),
                ("score", C.c_int), ("row_floor", C.c_double), ("head_spread", C.c_double),
                ("compensation", C.c_int32), ("probes", C.c_int32), ("repair", C.c_int32),
                ("ridge", C.c_double), ("dense_steps", C.c_double), ("dense_sigma", C.c_double),
                ("dense_layers", C.c_void_p), ("dense_layer_count", C.c_int32),
                ("min_tokens", C.c_int64)]


class Stats(C.Structure):
    _fields_ = [("dense", C.c_int32), ("density", C.c_double), ("error_median", C.c_double),
                ("error_worst", C.c_double), ("seconds", C.c_double * len(STAGES))]


class ContextDesc(C.Structure):
    _fields_ = [("size", C.c_size_t), ("backend", C.c_int), ("kernel", C.c_char_p),
                ("threads", C.c_int32), ("device", C.c_int32), ("log", C.c_void_p),
                ("log_user", C.c_void_p)]


class Library:
    """One context of libdraftattn."""

    def __init__(self, path, threads):
        self.lib = C.CDLL(path)
        self.lib.draftattn_plan_desc_default.restype = PlanDesc
        self.lib.draftattn_context_desc_default.restype = ContextDesc
        self.lib.draftattn_context_last_error.restype = C.c_char_p
        self.lib.draftattn_plan_destroy.restype = None
        desc = self.lib.draftattn_context_desc_default()
        assert desc.size == C.sizeof(ContextDesc), "the library's header is another version"
        desc.threads, desc.device = threads, -1 # tensors are in host memory
        self.context = C.c_void_p()
        self.check(self.lib.draftattn_context_create(C.byref(self.context), C.byref(desc)))

    def check(self, status):
        if status:
            sys.exit(self.lib.draftattn_context_last_error(self.context).decode())

    def attention(self, grid, q, k, v, o, sparsity, probes):
        """A function that runs one call and returns its stats. sparsity None = dense."""
        import torch

        desc = self.lib.draftattn_plan_desc_default()
        assert desc.size == C.sizeof(PlanDesc), "the library's header is another version"
        desc.grid = Grid(*grid)
        desc.heads, desc.head_dim = q.shape[1], q.shape[3]
        if sparsity is None:
            desc.policy = 0
        else:
            desc.sparsity, desc.probes = sparsity, probes
            desc.min_tokens = 1 # sparse whether it pays or not
        plan, size = C.c_void_p(), C.c_size_t()
        self.check(self.lib.draftattn_plan_create(C.byref(plan), self.context, C.byref(desc)))
        self.check(self.lib.draftattn_plan_workspace_size(plan, C.byref(size)))
        memory = torch.empty(size.value + 64, dtype=torch.uint8)
        workspace = (memory.data_ptr() + 63) // 64 * 64
        tensors = [Tensor(t.data_ptr(), 0, (C.c_int64 * 4)(*t.shape),
                          (C.c_int64 * 4)(*t.stride())) for t in (q, k, v, o)]

        def call():
            self.check(self.lib.draftattn_run(
                plan, None, *(C.byref(t) for t in tensors), None, None, C.c_void_p(workspace),
                size, None))
            stats = Stats()
            self.check(self.lib.draftattn_read_stats(plan, C.c_void_p(workspace), C.byref(stats),
                                                     None))
            return stats

        call.keep = memory
        return call


def measure(library, grid, heads, options):
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(1)
    tokens = grid[0] * grid[1] * grid[2]
    q, k, v = (torch.randn((1, heads, tokens, 128), generator=generator) for _ in range(3))
    o = torch.empty_like(q)
    ours = [library.attention((*grid, 0), q, k, v, o, s, options.probes)
            for s in [None, *options.sparsity]]
    seconds = {name: [] for name in ["torch", *range(len(ours))]}
    stats = {}
    for turn in range(options.runs + 1):
        for name in seconds:
            start = time.perf_counter()
            if name == "torch":
                expected = F.scaled_dot_product_attention(q, k, v)
            else:
                stats.setdefault(name, []).append(ours[name]())
            if turn:
                seconds[name].append(time.perf_counter() - start)
            if name == 0 and turn == 0:
                error = ((o - expected).norm() / expected.norm()).item()
    median = {name: statistics.median(values) for name, values in seconds.items()}
    flops = 4.0 * heads * tokens * tokens * 128
    print(f"\n{heads} x {tokens} x 128, grid {'x'.join(map(str, grid))}, float32, "
          f"{options.threads} threads, median of {options.runs}; dense differs from PyTorch by "
          f"{error:.1e}")
    print(f"  {'PyTorch SDPA':14} {median['torch']:8.3f} s  {flops / median['torch'] / 1e9:6.1f} GFLOP/s")
    print(f"  {'dense':14} {median[0]:8.3f} s  {flops / median[0] / 1e9:6.1f} GFLOP/s  "
          f"{median[0] / median['torch']:.3f} x PyTorch")
    for index, sparsity in enumerate(options.sparsity, 1):
        runs = stats[index][1:]
        stage = [statistics.median(s.seconds[i] for s in runs) for i in range(len(STAGES))]
        print(f"  {f'draft {sparsity:.0%}':14} {median[index]:8.3f} s  density "
              f"{runs[-1].density:.3f}  {median[index] / median[0]:.3f} x dense; "
              f"before attending {sum(stage[:4]) / median[0]:.2%} of dense")
        print("    " + ", ".join(f"{n} {1e3 * s:.1f} ms" for n, s in zip(STAGES, stage)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--probes", type=int, default=128)
    parser.add_argument("--sparsity", type=float, action="append")
    parser.add_argument("--library",
                        default=os.path.join(ROOT, "build/release/src/libdraftattn.so"))
    options = parser.parse_args()
    options.sparsity = options.sparsity or [0.75, 0.9]
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    import torch

    torch.set_num_threads(options.threads)
    print(f"PyTorch {torch.__version__}, {options.library}")
    library = Library(options.library, options.threads)
    measure(library, (17, 32, 32), 2, options)
    measure(library, (4, 32, 32), 12, options)


if __name__ == "__main__":
    main()
