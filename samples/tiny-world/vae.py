"""The VAE: whole-sequence passes through the library's module, and its training.

The library runs one latent frame at a time with caches; on a whole sequence the same arithmetic is: causal
convolutions with two zero frames in front, and the first frame skips every time convolution. Layout
[B, C, T, H, W], channels last in memory.
"""

import math
import random
import time

import torch
import torch.nn.functional as F

import world
from optimizer import Average, Optimizer
from settings import DEVICE, VAE, autocast, gpu_memory

# Causal 3x3x3 convolutions as 3x3 convolutions over three stacked frames: a little faster than
# conv3d in bfloat16.
STACK = True
OBJECT_WEIGHT = 4.0


def pad_front(x):
    return F.pad(x, (0, 0, 0, 0, 2, 0))


def history(x):
    """What a causal convolution reads: two zero frames in front or, stacked, three shifted copies along
    the channels."""
    y = pad_front(x)
    t = x.shape[2]
    return torch.cat([y[:, :, :t], y[:, :, 1 : t + 1], y[:, :, 2:]], 1) if STACK else y


def norm_silu_plain(x, gamma):
    y = x.float()
    y = y * torch.rsqrt((y * y).sum(1, keepdim=True).clamp_min(1e-24)) * x.shape[1] ** 0.5 * gamma
    return history(F.silu(y).to(x.dtype))


norm_silu = norm_silu_plain


def use_gpu_kernels():
    """Settings and kernels for training on the GPU."""
    global norm_silu
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    # Its search over the many convolution shapes takes minutes and gains nothing.
    torch.backends.cudnn.benchmark = False
    if DEVICE == "cuda":
        import fused

        # cuDNN's attention takes half the time of the default: forth and back 7.3 ms, not 14.5, for
        # 4 x 17,408 tokens in two heads on an H200.
        torch.backends.cuda.enable_flash_sdp(False)
        norm_silu = lambda x, gamma: fused.NormSilu.apply(x, gamma, STACK)


def conv3(conv, x):
    """Causal 3x3x3 on a history, or 1x1x1."""
    w = conv.weight
    if w.shape[2] == 1:
        return F.conv3d(x, w, conv.bias)
    if not STACK:
        return F.conv3d(x, w, conv.bias, padding=(0, 1, 1))
    stacked = w.permute(0, 2, 1, 3, 4).flatten(1, 2)
    return per_frame(lambda f: F.conv2d(f, stacked, conv.bias, padding=1), x)


def per_frame(f, x):
    """Applies a 2-D function to every frame."""
    b, c, t, h, w = x.shape
    y = f(x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w))
    return y.view(b, t, *y.shape[1:]).permute(0, 2, 1, 3, 4)


def res_block(m, x):
    h = conv3(m.conv1, norm_silu(x, m.norm1.gamma))
    h = conv3(m.conv2, norm_silu(h, m.norm2.gamma))
    return h + (x if isinstance(m.conv_shortcut, torch.nn.Identity) else conv3(m.conv_shortcut, x))


def time_conv(conv, x, stride):
    """(3,1,1) convolution without padding as one matrix product over stacked frames."""
    last = (x.shape[2] - 3) // stride * stride + 1
    y = torch.cat([x[:, :, k : k + last : stride].permute(0, 2, 3, 4, 1) for k in range(3)], -1)
    w = conv.weight[..., 0, 0].permute(0, 2, 1).reshape(conv.weight.shape[0], -1)
    return F.linear(y, w, conv.bias).permute(0, 4, 1, 2, 3)


def upsample_time(m, x):
    """Every frame but the first becomes two: the halves of the channels."""
    y = time_conv(m.time_conv, pad_front(x[:, :, 1:]), 1)
    n, c, t, h, w = y.shape
    y = y.permute(0, 2, 3, 4, 1).reshape(n, t, h, w, 2, c // 2).permute(0, 5, 1, 4, 2, 3)
    return torch.cat([x[:, :, :1], y.reshape(n, c // 2, 2 * t, h, w)], 2)


def resample(m, x):
    if m.mode == "upsample3d":
        x = upsample_time(m, x)
    if m.mode.startswith("up"):
        double = lambda f: F.interpolate(f, scale_factor=2.0, mode="nearest")
        return per_frame(lambda f: m.resample[1](double(f)), x)
    x = per_frame(m.resample, x)
    if m.mode == "downsample3d":
        x = torch.cat([x[:, :, :1], time_conv(m.time_conv, x, 2)], 2)
    return x


def mid_block(m, x):
    return res_block(m.resnets[1], m.attentions[0](res_block(m.resnets[0], x)))


def encode(m, x):
    """Video to mean and log variance of the latents."""
    e = m.encoder
    x = conv3(e.conv_in, history(x.contiguous(memory_format=torch.channels_last_3d)))
    for b in e.down_blocks:
        x = resample(b, x) if hasattr(b, "resample") else res_block(b, x)
    x = conv3(e.conv_out, norm_silu(mid_block(e.mid_block, x), e.norm_out.gamma))
    return conv3(m.quant_conv, x).float().chunk(2, 1)


def decode(m, z):
    """Latents to video, not clamped."""
    d = m.decoder
    x = conv3(m.post_quant_conv, z.contiguous(memory_format=torch.channels_last_3d))
    x = mid_block(d.mid_block, conv3(d.conv_in, history(x)))
    for b in d.up_blocks:
        for r in b.resnets:
            x = res_block(r, x)
        if b.upsamplers is not None:
            x = resample(b.upsamplers[0], x)
    return conv3(d.conv_out, norm_silu(x, d.norm_out.gamma)).float()


def make(mean=None, std=None):
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(**VAE, latents_mean=mean or [0.0] * 16, latents_std=std or [1.0] * 16)


def load(work):
    m = make().to(DEVICE)
    weights = work.load("vae")
    if not weights:
        raise SystemExit(f"{work.folder}: no VAE there yet; run the stage vae first")
    m.load_state_dict({k: weights[k].bfloat16().float() for k in m.state_dict()})  # as exported
    return m.eval()


def psnr(a, b):
    return -10 * math.log10(((a - b) ** 2).mean().item() / 4 + 1e-12)


def largest(x):
    return x.abs().max().item()


def randomise(m):
    for p in m.parameters():
        if p.ndim >= 4 and p.shape[1:].numel() > 1:
            p.data = torch.randn_like(p) * 0.5 / max(1, p[0].numel()) ** 0.5
        else:
            p.data = p.data + 0.1 * torch.randn_like(p)


@torch.no_grad()
def check():
    """Prints how far the passes above are from the library's code, on random weights."""
    torch.manual_seed(0)
    m = make().to(DEVICE).eval()
    randomise(m)
    x = torch.rand(2, 3, 17, 64, 96, device=DEVICE) * 2 - 1
    theirs = m.encode(x).latent_dist
    mean, logvar = encode(m, x)
    print(f"encode: off by {largest(theirs.mean - mean):.1e} of {largest(theirs.mean):.2f},")
    print(f"        log variance by {largest(theirs.logvar - logvar.clamp(-30, 20)):.1e}")
    z = torch.randn_like(mean)
    y = m.decode(z).sample
    print(f"decode: off by {largest(y - decode(m, z).clamp(-1, 1)):.1e} of {largest(y):.2f}")
    if DEVICE == "cuda":
        use_gpu_kernels()
        mean, _ = encode(m, x)
        print(
            f"with the GPU kernels: encode {largest(theirs.mean - mean):.1e}, "
            f"decode {largest(y - decode(m, z).clamp(-1, 1)):.1e}"
        )


def pyramid_loss(y, x, where):
    """L1, squared error, gradients, and L1 of 2x, 4x and 8x averages (the last keep colours from
    drifting). Objects weigh more: they are few pixels, and what one looks at."""
    d = (y - x) * (1 + OBJECT_WEIGHT * where)
    loss = d.abs().mean() + 3.0 * (d * (y - x)).mean()
    loss = loss + (d[..., 1:] - d[..., :-1]).abs().mean()
    loss = loss + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
    loss = loss + 0.5 * (d[:, :, 1:] - d[:, :, :-1]).abs().mean()
    for _ in range(3):
        d = F.avg_pool3d(d, (1, 2, 2))
        loss = loss + 0.5 * d.abs().mean()
    return loss


class Videos:
    """A pool of rendered videos from which random crops are taken; the fourth channel says where
    objects are, and suns if asked for."""

    def __init__(self, seed, frames, side, size=64, suns=False):
        self.random, self.frames, self.side, self.suns = random.Random(seed), frames, side, suns
        self.pool = torch.empty(size, 4, frames, side, side, device=DEVICE, dtype=torch.bfloat16)
        self.at = 0
        self.add(size)

    def add(self, count):
        for i in range(0, count, 8):
            shape = self.frames, self.side, self.side
            videos, _, where = world.batch(
                self.random, min(8, count - i), *shape, device=DEVICE, suns=self.suns
            )
            for video in torch.cat([videos, where], 1):
                self.pool[self.at % len(self.pool)] = video
                self.at += 1

    def crops(self, count, side):
        out = []
        for _ in range(count):
            video = self.pool[self.random.randrange(len(self.pool))]
            top = self.random.randint(0, self.side - side)
            left = self.random.randint(0, self.side - side)
            x = video[:, :, top : top + side, left : left + side]
            out.append(x.flip(-1) if self.random.random() < 0.5 else x)
        return torch.stack(out).float()


def held_out(m, frames=33, side=256, count=8, path=None):
    """Prints the quality of reconstruction on videos that training does not see."""
    x, _, where = world.batch(random.Random(77), count, frames, side, side, device=DEVICE)
    with torch.no_grad(), autocast():
        y = torch.cat([decode(m, encode(m, v[None])[0]) for v in x]).clamp(-1, 1)
    each = [psnr(a, b) for a, b in zip(x, y)]
    objects = psnr(x * where, y * where) + 10 * math.log10(where.mean().item())
    at = [0, 1, frames // 2, frames - 1]
    by_frame = [f"{psnr(x[:, :, t], y[:, :, t]):.2f}" for t in at]
    drift = [
        f"{largest((y[:, :, t] - x[:, :, t]).mean((0, 2, 3))) * 127.5:.2f}" for t in at if t != 1
    ]
    print(
        f"held out {side}x{side}x{frames}: PSNR {sum(each) / count:.2f} dB, worst "
        f"{min(each):.2f}, objects {objects:.2f}; "
        f"frames 0, 1, middle, last: {', '.join(by_frame)}; mean colour error of 255, first, middle, "
        f"last: {', '.join(drift)}",
        flush=True,
    )
    if path:
        world.sheet([q for pair in zip(x[:4], y[:4]) for q in pair], path, height=128)


def rate_scale(step, share, again):
    """Warm-up, then half a cosine; a first run stays at the top for 30 % of its time."""
    warm = min(1, (step + 1) / (20 if again else 100))
    phase = share if again else max(0.0, (share - 0.3) / 0.7)
    return warm * max(0.02, 0.5 + 0.5 * math.cos(math.pi * phase))


def losses(m, crops, with_half):
    """Squared error, KL and total of one batch."""
    x, where = crops[:, :3], crops[:, 3:]
    with autocast():
        mean, logvar = encode(m, x)
        logvar = logvar.clamp(-20, 5)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
        y = decode(m, z)
        half = 0.0
        # Averaged latents must decode to the averaged video: smooth latents are easy to generate.
        if with_half:
            small = decode(m, F.avg_pool3d(z, (1, 2, 2)))
            half = (small - F.avg_pool3d(x, (1, 2, 2))).abs().mean()
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    return ((y - x) ** 2).mean(), kl, pyramid_loss(y, x, where) + 1e-3 * kl + 0.5 * half


def trained(m, size):
    """Names and parameters that a stage trains. Large videos train the decoder alone: the latents, and
    what was trained on them, stay as they are."""
    if size > 256:
        m.encoder.requires_grad_(False)
        m.quant_conv.requires_grad_(False)
    return [(name, p) for name, p in m.named_parameters() if p.requires_grad]


def train(work, seconds, size):
    torch.manual_seed(0)
    use_gpu_kernels()
    m = make().to(DEVICE)
    weights = work.load("vae")
    again = bool(weights)
    if again:
        m.load_state_dict(weights)
    at_ends = ("conv_in", "conv_out", "quant")
    named = trained(m, size)
    optimizer = Optimizer(
        named,
        7e-4 if again else 1e-3,
        lambda name: name.endswith("weight") and not any(s in name for s in at_ends),
        weight_decay=0.0,
        betas=(0.9, 0.98),
    )
    average = Average([p for _, p in named], 0.998)
    # Crops first (cheap), then whole frames and longer clips, so that neither large frames nor late
    # frames are new to the model, then large videos: frames, side of the videos, crop, batch.
    kinds = {
        128: [(33, 256, 128, 8)],
        256: [(33, 256, 256, 2), (65, 256, 128, 4)],
        512: [(33, 512, 512, 1), (33, 256, 256, 2)],
    }[size]
    pools = [
        Videos(frames + crop + side - 246, frames, side, suns=size > 256)
        for frames, side, crop, _ in kinds
    ]
    start, step, log = time.time(), 0, None
    while (share := (time.time() - start) / seconds) < 1:
        k = step % len(kinds)
        *_, crop, batch = kinds[k]
        if step % 4 < 2:
            pools[k].add(2)
        parts = losses(m, pools[k].crops(batch, crop), step % 4 == 3)
        parts[2].backward()
        norm = optimizer.step(rate_scale(step, share, again))
        step += 1
        average.update(step)
        parts = torch.stack(parts).detach()
        log = parts if log is None else log.lerp(parts, 0.02)
        if step % 100 == 0 or step == 10:
            error, kl, loss = log.tolist()
            print(
                f"{step} {time.time() - start:.0f} s, PSNR {-10 * math.log10(error / 4):.2f}, "
                f"KL {kl:.3f}, loss {loss:.4f}, gradient {float(norm):.2f}",
                flush=True,
            )
    average.apply()
    work.save("vae", m.state_dict())
    if size <= 256:
        work.forget("stats")  # they were the old encoder's
    m.eval()
    held_out(m, path=work.path("vae.png"))
    if size > 128:
        held_out(m, 65, 512, 3)
    print(f"{step} steps, {gpu_memory()} MiB")
