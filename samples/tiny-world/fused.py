"""One-pass kernels for the VAE on the GPU: RMS norm, gain, SiLU, and the history of a causal convolution.

Input [B, C, T, H, W], channels last in memory, C a power of two. Output: the activation with two zero
frames in front (stack = False), or three time-shifted copies along the channels, so that a 3x3x3 causal
convolution becomes a 3x3 convolution of frames (stack = True).
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _forward(x, gamma, out, rows, T, HW, C: tl.constexpr, STACK: tl.constexpr, R: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    c = tl.arange(0, C)
    ok = (r < rows)[:, None]
    v = tl.load(x + r[:, None] * C + c[None, :], ok, 0.0).to(tl.float32)
    k = 1.0 / tl.sqrt(tl.maximum(tl.sum(v * v, 1), 1e-24))
    y = v * k[:, None] * (C**0.5) * tl.load(gamma + c)[None, :]
    s = (y * tl.sigmoid(y)).to(out.dtype.element_ty)
    if STACK:
        t = ((r // HW) % T)[:, None]
        o = out + r[:, None] * (3 * C) + c[None, :]
        z = tl.zeros_like(s)
        tl.store(o + 2 * C, s, ok)
        tl.store(o + (HW * 3 * C + C), s, ok & (t + 1 < T))
        tl.store(o + C, z, ok & (t == 0))
        tl.store(o + HW * 6 * C, s, ok & (t + 2 < T))
        tl.store(o, z, ok & (t < 2))
    else:
        tl.store(out + (r + (r // (HW * T) + 1) * 2 * HW)[:, None] * C + c[None, :], s, ok)


@triton.jit
def _backward(
    x, gamma, g, dx, dgamma, rows, T, HW, C: tl.constexpr, STACK: tl.constexpr, R: tl.constexpr
):
    r = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    c = tl.arange(0, C)
    ok = (r < rows)[:, None]
    v = tl.load(x + r[:, None] * C + c[None, :], ok, 0.0).to(tl.float32)
    w = tl.load(gamma + c)[None, :] * (C**0.5)
    if STACK:
        t = ((r // HW) % T)[:, None]
        o = g + r[:, None] * (3 * C) + c[None, :]
        d = (
            tl.load(o + 2 * C, ok, 0.0).to(tl.float32)
            + tl.load(o + (HW * 3 * C + C), ok & (t + 1 < T), 0.0).to(tl.float32)
            + tl.load(o + HW * 6 * C, ok & (t + 2 < T), 0.0).to(tl.float32)
        )
    else:
        d = tl.load(g + (r + (r // (HW * T) + 1) * 2 * HW)[:, None] * C + c[None, :], ok, 0.0).to(
            tl.float32
        )
    k = 1.0 / tl.sqrt(tl.maximum(tl.sum(v * v, 1), 1e-24))[:, None]
    n = v * k
    y = n * w
    s = tl.sigmoid(y)
    d = d * (s + y * s * (1.0 - s))
    tl.store(dgamma + tl.program_id(0) * C + c, tl.sum(d * n, 0) * (C**0.5))
    d = d * w
    tl.store(
        dx + r[:, None] * C + c[None, :],
        ((d - n * tl.sum(d * n, 1)[:, None]) * k).to(dx.dtype.element_ty),
        ok,
    )


class NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gamma, stack):
        x = x.contiguous(memory_format=torch.channels_last_3d)
        B, C, T, H, W = x.shape
        R = max(16, 2048 // C)
        n = B * T * H * W
        if stack:
            out = torch.empty(B, T, H, W, 3 * C, device=x.device, dtype=x.dtype)
        else:
            out = torch.empty(B, T + 2, H, W, C, device=x.device, dtype=x.dtype)
            out[:, :2] = 0
        gamma = gamma.reshape(-1).contiguous()
        _forward[((n + R - 1) // R,)](x, gamma, out, n, T, H * W, C, stack, R)
        ctx.save_for_backward(x, gamma)
        ctx.stack = stack
        return out.permute(0, 4, 1, 2, 3)

    @staticmethod
    def backward(ctx, g):
        x, gamma = ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last_3d)
        B, C, T, H, W = x.shape
        R = max(16, 2048 // C)
        n = B * T * H * W
        dx = torch.empty_like(x)
        dg = torch.empty((n + R - 1) // R, C, device=x.device)
        _backward[(len(dg),)](x, gamma, g, dx, dg, n, T, H * W, C, ctx.stack, R)
        return dx, dg.sum(0).view(C, 1, 1, 1), None
