"""What libdraftattn is compared with, as far as it is installed here.

cudnn   torch.nn.functional.scaled_dot_product_attention on its cuDNN backend
flash   the same on its FlashAttention-2 backend
torch   the same, whatever backend it chooses
fa4     FlashAttention-4, dense and block-sparse: the package flash_attn.cute, which compiles its
        kernels at the first call; or, without a compiler, kernels that it has compiled ahead of
        time in the folder that the environment variable PEERS names: fa4/dense.so, fa4/s128x128.so
        and fa4/s128x64.so, with tvm_ffi in site/ and lib/libcute_dsl_runtime.so
flex    torch.compile of FlexAttention

A peer has dense(q, k, v) and, where sparse is true, attend(q, k, v, lists, counts, key_block), which
give functions that run once and return the output, each [1, heads, tokens, head_dim].
"""
import ctypes as C
import importlib
import math
import os
import sys

import torch
import torch.nn.functional as F

QUERY_BLOCK = 128


class Missing(Exception):
    """Why a peer is not here."""


class Sdpa:
    sparse = False

    def __init__(self, title, backend):
        self.title, self.backend = title, backend

    def dense(self, q, k, v):
        from torch.nn.attention import SDPBackend, sdpa_kernel
        if not self.backend:
            return lambda: F.scaled_dot_product_attention(q, k, v)
        backend = getattr(SDPBackend, self.backend)

        def call():
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)
        return call


def own_layout(*tensors):
    """[1, tokens, heads, head_dim], contiguous, as FlashAttention documents it."""
    return [t.transpose(1, 2).contiguous() for t in tensors]


class Fa4Package:
    title, sparse = "FA4", True

    def __init__(self):
        try:
            self.interface = importlib.import_module("flash_attn.cute.interface")
            self.sparsity = importlib.import_module("flash_attn.cute.block_sparsity")
        except ImportError as error:
            raise Missing(f"{error}; no folder of kernels in PEERS") from error

    def dense(self, q, k, v):
        q, k, v = own_layout(q, k, v)
        return lambda: self.interface._flash_attn_fwd(q, k, v)[0].transpose(1, 2)

    def attend(self, q, k, v, lists, counts, key_block):
        return self.attend_own(*own_layout(q, k, v), lists, counts, key_block)

    def attend_own(self, q, k, v, lists, counts, key_block):
        """The same on tensors in the kernel's own layout. lists and counts are read by each call."""
        blocks = self.sparsity.BlockSparseTensorsTorch(
            mask_block_cnt=torch.zeros_like(counts)[None], mask_block_idx=lists[None],
            full_block_cnt=counts[None], full_block_idx=lists[None],
            block_size=(QUERY_BLOCK, key_block))
        return lambda: self.interface._flash_attn_fwd(
            q, k, v, block_sparse_tensors=blocks,
            tile_mn=(QUERY_BLOCK, key_block))[0].transpose(1, 2)


class Fa4Compiled:
    title, sparse = "FA4", True

    def __init__(self, folder):
        self.folder, self.kernels = folder, {}
        if not os.path.isdir(os.path.join(folder, "fa4")):
            raise Missing(f"PEERS is '{folder}', which has no folder fa4")
        if torch.cuda.get_device_capability() != (9, 0):
            raise Missing("the kernels in PEERS are for compute capability 9.0")
        sys.path.insert(0, os.path.join(folder, "site"))
        try:
            self.ffi = importlib.import_module("tvm_ffi")
            C.CDLL(os.path.join(folder, "lib/libcute_dsl_runtime.so"), mode=C.RTLD_GLOBAL)
        except (ImportError, OSError) as error:
            raise Missing(str(error)) from error

    def kernel(self, name, q):
        if q.shape[3] != 128 or q.dtype != torch.bfloat16:
            raise Missing("the kernels in PEERS are for bfloat16 and head_dim 128")
        if name not in self.kernels:
            path = os.path.join(self.folder, "fa4", name + ".so")
            self.kernels[name] = self.ffi.load_module(path)
        return self.kernels[name].func

    def caller(self, name, q, k, v, blocks):
        kernel, o, scale = self.kernel(name, q), torch.empty_like(q), 1 / math.sqrt(q.shape[3])

        def call():
            kernel(q, k, v, o, None, scale, *[None] * 8, blocks, (None, None), None, None)
            return o.transpose(1, 2)
        return call

    def dense(self, q, k, v):
        return self.caller("dense", *own_layout(q, k, v), None)

    def attend(self, q, k, v, lists, counts, key_block):
        return self.attend_own(*own_layout(q, k, v), lists, counts, key_block)

    def attend_own(self, q, k, v, lists, counts, key_block):
        lists, counts = lists[None], counts[None]
        blocks = (torch.zeros_like(counts), lists, counts, lists, None, None, None, None)
        return self.caller(f"s{QUERY_BLOCK}x{key_block}", q, k, v, blocks)


class Flex:
    title, sparse = "Flex", True

    def __init__(self):
        try:
            flex = importlib.import_module("torch.nn.attention.flex_attention")
        except ImportError as error:
            raise Missing(str(error)) from error
        self.module, self.function = flex, torch.compile(flex.flex_attention, dynamic=False)

    def dense(self, q, k, v):
        torch.compiler.reset()
        return lambda: self.function(q, k, v)

    def attend(self, q, k, v, lists, counts, key_block):
        torch.compiler.reset()
        rest = lists.new_zeros(*lists.shape[:2], k.shape[2] // key_block - lists.shape[2])
        full = torch.cat([lists, rest], -1)[None].contiguous()
        mask = self.module.BlockMask.from_kv_blocks(
            torch.zeros_like(counts)[None], torch.zeros_like(full), counts[None], full,
            BLOCK_SIZE=(QUERY_BLOCK, key_block))
        return lambda: self.function(q, k, v, block_mask=mask)


class TorchDraft:
    """Draft attention in plain PyTorch around a block-sparse kernel: reorder, pool, map, choose the
    best of each row, attend, reorder back, each in the fastest way of PyTorch. Tensors are
    [1, tokens, heads, head_dim], where gathering rows is cheapest; whole blocks alone."""

    def __init__(self, peer, q, k, v, order, video_tokens, sparsity):
        self.tensors, self.order, self.inverse = (q, k, v), order, torch.argsort(order)
        heads, self.rows = q.shape[2], video_tokens // QUERY_BLOCK
        blocks = q.shape[1] // QUERY_BLOCK
        self.kept = max(1, round((1 - sparsity) * self.rows))
        self.lists = torch.arange(blocks, dtype=torch.int32, device=q.device).repeat(
            heads, blocks, 1)
        text = torch.arange(self.rows, blocks, dtype=torch.int32, device=q.device)
        self.lists[:, :self.rows, self.kept:self.kept + len(text)] = text
        counts = torch.full((heads, blocks), blocks, dtype=torch.int32, device=q.device)
        counts[:, :self.rows] = self.kept + len(text)
        self.density = counts.double().mean().item() / blocks
        self.ordered = [torch.empty_like(t) for t in self.tensors]
        self.attend = peer.attend_own(*self.ordered, self.lists, counts, QUERY_BLOCK)

    def before(self):
        for tensor, ordered in zip(self.tensors, self.ordered):
            torch.index_select(tensor, 1, self.order, out=ordered)
        q, k = (self.means(t) for t in self.ordered[:2])
        scores = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[2]), -1)
        best = scores.topk(self.kept, -1, sorted=False).indices.sort(-1).values
        self.lists[:, :self.rows, :self.kept] = best
        return self.lists

    def means(self, tensor):
        _, _, heads, head_dim = tensor.shape
        video = tensor[0, :self.rows * QUERY_BLOCK].view(self.rows, QUERY_BLOCK, heads, head_dim)
        return video.mean(1, dtype=torch.float32).transpose(0, 1)

    def __call__(self):
        self.before()
        out = self.attend().transpose(1, 2) # as it lies in memory
        return out.index_select(1, self.inverse).transpose(1, 2)


def find(name):
    """A peer by name; Missing says why it is not here."""
    if name in ("cudnn", "flash") and not torch.cuda.is_available():
        raise Missing("there is no CUDA device")
    if name == "cudnn":
        return Sdpa("cuDNN", "CUDNN_ATTENTION")
    if name == "flash":
        return Sdpa("flash", "FLASH_ATTENTION")
    if name == "torch":
        return Sdpa("PyTorch", None)
    if name == "flex":
        return Flex()
    if not torch.cuda.is_available():
        raise Missing("there is no CUDA device")
    return Fa4Compiled(os.environ["PEERS"]) if os.environ.get("PEERS") else Fa4Package()
