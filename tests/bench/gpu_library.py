"""libdraftattn through its C ABI on tensors of PyTorch, on a CUDA device or on the CPU."""
import ctypes as C

import torch

from compare_torch import ContextDesc, Grid, PlanDesc, Stats, Tensor

STAGES = ("order", "pool", "draft map", "select", "attend", "repair")
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
DENSE, DRAFT = 0, 1
RASTER, BLOCK = 0, 1
CPU_BACKENDS, CUDA = (4, 3, 2), 5
QUERY_BLOCK = 128
ALIGNMENT = 256


class Error(Exception):
    """What the library refused, in its words."""


class BlockList(C.Structure):
    _fields_ = [("row_ptr", C.c_void_p), ("block_idx", C.c_void_p), ("capacity", C.c_int64)]


class PlanInfo(C.Structure):
    _fields_ = [("backend", C.c_int), ("backend_name", C.c_char_p), ("kernel_name", C.c_char_p),
                *((name, C.c_int64) for name in
                  ("tokens", "video_tokens", "query_blocks", "video_query_blocks", "key_blocks",
                   "video_key_blocks", "max_list_entries", "break_even_tokens"))]


def describe(tensor):
    return Tensor(tensor.data_ptr(), DTYPES[tensor.dtype], (C.c_int64 * 4)(*tensor.shape),
                  (C.c_int64 * 4)(*tensor.stride()))


class Library:
    """One context: on the current CUDA device, or on the best CPU backend."""

    def __init__(self, path, device, threads=0):
        self.lib = C.CDLL(path)
        self.device = device
        self.lib.draftattn_plan_desc_default.restype = PlanDesc
        self.lib.draftattn_context_desc_default.restype = ContextDesc
        self.lib.draftattn_context_last_error.restype = C.c_char_p
        self.lib.draftattn_plan_destroy.restype = None
        self.context = C.c_void_p()
        desc = self.lib.draftattn_context_desc_default()
        if desc.size != C.sizeof(ContextDesc):
            raise Error("the library's header is another version")
        desc.threads = threads
        desc.device = torch.cuda.current_device() if device == "cuda" else 0
        for backend in (CUDA,) if device == "cuda" else CPU_BACKENDS:
            desc.backend = backend
            status = self.lib.draftattn_context_create(C.byref(self.context), C.byref(desc))
            if status == 0:
                break
        self.check(status)

    def check(self, status):
        if status:
            raise Error(self.lib.draftattn_context_last_error(self.context).decode())

    def version(self):
        number = self.lib.draftattn_version()
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"

    def stream(self):
        return C.c_void_p(torch.cuda.current_stream().cuda_stream
                          if self.device == "cuda" else None)


class Plan:
    """A plan with a workspace of its own. settings are members of draftattn_plan_desc."""

    def __init__(self, library, grid, heads, head_dim, dtype, **settings):
        self.library, self.lib = library, library.lib
        self.desc = self.lib.draftattn_plan_desc_default()
        if self.desc.size != C.sizeof(PlanDesc):
            raise Error("the library's header is another version")
        self.desc.grid = Grid(*grid)
        self.desc.heads, self.desc.head_dim = heads, head_dim
        self.desc.in_dtype = self.desc.out_dtype = DTYPES[dtype]
        self.desc.min_tokens = 1 # sparse whether it pays or not
        for name, value in settings.items():
            getattr(self.desc, name) # a name that is not there is a mistake
            setattr(self.desc, name, value)
        self.plan, self.size, self.info = C.c_void_p(), C.c_size_t(), PlanInfo()
        library.check(self.lib.draftattn_plan_create(C.byref(self.plan), library.context,
                                                     C.byref(self.desc)))
        library.check(self.lib.draftattn_plan_info_get(self.plan, C.byref(self.info)))
        library.check(self.lib.draftattn_plan_workspace_size(self.plan, C.byref(self.size)))
        self.memory = torch.empty(self.size.value + ALIGNMENT, dtype=torch.uint8,
                                  device=library.device)
        start = self.memory.data_ptr()
        self.workspace = C.c_void_p((start + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)

    def __del__(self):
        if getattr(self, "plan", None):
            if self.library.device == "cuda":
                torch.cuda.synchronize()
            self.lib.draftattn_plan_destroy(self.plan)

    def kernel(self):
        return self.info.kernel_name.decode()

    def run(self, q, k, v, o):
        """A function that enqueues draftattn_run() and returns o."""
        tensors = [describe(t) for t in (q, k, v, o)]
        pointers, stream = [C.byref(t) for t in tensors], self.library.stream()

        def call():
            self.library.check(self.lib.draftattn_run(
                self.plan, None, *pointers, None, None, self.workspace, self.size, stream))
            return o
        return call

    def attend(self, q, k, v, o, lists):
        """The same of draftattn_attend(). lists: int32 [heads, query blocks, kept] where q is."""
        tensors = [describe(t) for t in (q, k, v, o)]
        pointers, stream = [C.byref(t) for t in tensors], self.library.stream()
        kept, entries = lists.shape[-1], lists.contiguous()
        row_ptr = torch.arange(lists[..., 0].numel() + 1, dtype=torch.int64,
                               device=lists.device) * kept
        block_list = BlockList(row_ptr.data_ptr(), entries.data_ptr(), entries.numel())

        def call():
            self.library.check(self.lib.draftattn_attend(
                self.plan, *pointers, None, C.byref(block_list), self.workspace, self.size,
                stream))
            return o
        call.keep = row_ptr, entries
        return call

    def draft_map(self, q, k):
        """A function that enqueues draftattn_draft_map() and returns the map."""
        info, tensors = self.info, [describe(t) for t in (q, k)]
        out = torch.empty(self.desc.heads, info.video_query_blocks, info.video_key_blocks,
                          device=q.device)
        stream = self.library.stream()

        def call():
            self.library.check(self.lib.draftattn_draft_map(
                self.plan, *(C.byref(t) for t in tensors), C.c_void_p(out.data_ptr()),
                self.workspace, self.size, stream))
            return out
        return call

    def stats(self):
        stats = Stats()
        self.library.check(self.lib.draftattn_read_stats(self.plan, self.workspace,
                                                         C.byref(stats), None))
        return stats

    def order(self):
        """[position in block order] = token, on the device."""
        order = torch.empty(self.info.tokens, dtype=torch.int64)
        self.library.check(self.lib.draftattn_plan_order(self.plan,
                                                         C.c_void_p(order.data_ptr())))
        return order.to(self.library.device)

    def mask(self):
        """What the last run kept, bool [heads, query blocks, key blocks] on the device."""
        info, heads = self.info, self.desc.heads
        row_ptr = torch.zeros(heads * info.query_blocks + 1, dtype=torch.int64)
        entries = torch.zeros(info.max_list_entries, dtype=torch.int32)
        block_list = BlockList(row_ptr.data_ptr(), entries.data_ptr(), entries.numel())
        self.library.check(self.lib.draftattn_read_block_list(self.plan, self.workspace,
                                                              C.byref(block_list)))
        rows = torch.repeat_interleave(torch.arange(len(row_ptr) - 1), row_ptr.diff())
        mask = torch.zeros(len(row_ptr) - 1, info.key_blocks, dtype=torch.bool)
        mask[rows, entries[:len(rows)].long()] = True
        return mask.view(heads, info.query_blocks, info.key_blocks).to(self.library.device)
