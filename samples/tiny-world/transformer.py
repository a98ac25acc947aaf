"""Transformer and text encoder: tokenizer, latents with captions, flow-matching training, samples."""

import collections
import math
import os
import random
import time
import typing

import torch
import torch.nn.functional as F

import vae as video_vae
import world
from optimizer import Average, Optimizer
from ranks import Ranks
from settings import (
    CONTEXT,
    DEVICE,
    SCHEDULER,
    TEST_PROMPTS,
    TEXT,
    TOKENS,
    TRANSFORMER,
    autocast,
    flow_shift,
    gpu_memory,
    latent_shape,
)


class Size(typing.NamedTuple):
    frames: int
    height: int
    width: int
    kept: int  # latents
    batch: int  # such that steps of all sizes take about the same time
    refresh: int  # steps after which new latents come
    shift: float  # of the noise levels; the larger a video, the more noise hides its scene
    share: float  # of the steps at large sizes


SIZES = [
    Size(33, 256, 256, 8192, 36, 16, 3.0, 0.0),
    Size(49, 384, 384, 1024, 10, 4, 5.0, 0.38),
    Size(49, 288, 512, 768, 10, 4, 5.0, 0.17),
    Size(65, 512, 512, 512, 4, 4, 7.0, 0.45),
]
OBJECT_WEIGHT = 6.0


class Attention:
    """The library's attention with joint projections and a rotary embedding that compiles to one
    pass."""

    def __call__(self, a, x, context=None, mask=None, rotary_emb=None):
        if context is None:
            q, k, v = project([a.to_q, a.to_k, a.to_v], x)
        else:
            q, (k, v) = a.to_q(x), project([a.to_k, a.to_v], context)
        q, k, v = (y.unflatten(2, (a.heads, -1)) for y in (a.norm_q(q), a.norm_k(k), v))
        if rotary_emb is not None:
            cosine, sine = rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2]
            q, k = (rotate(y, cosine, sine).to(v.dtype) for y in (q, k))
        o = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v)))
        return a.to_out[0](o.transpose(1, 2).flatten(2))


def project(layers, x):
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    return F.linear(x, weight, bias).chunk(len(layers), -1)


def rotate(y, cosine, sine):
    a, b = y.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cosine - b * sine, a * sine + b * cosine], -1).flatten(-2)


def make():
    from diffusers import WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    return (
        WanTransformer3DModel(**TRANSFORMER).to(DEVICE),
        UMT5EncoderModel(UMT5Config(**TEXT)).to(DEVICE),
    )


def load(work, transformer, text_encoder):
    """False where nothing was trained yet."""
    weights = work.load("dit")
    if not weights:
        return False
    part = lambda prefix: {
        k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)
    }
    transformer.load_state_dict(part("dit."))
    text_encoder.load_state_dict(part("te."), strict=False)  # the embedding has two names
    return True


# ---------------------------------------------------------------- text


def open_tokenizer(work):
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=work.path("spiece.model"))


def write_captions(path, count=20000):
    """Captions of random scenes; returns how often each word occurs."""
    rnd = random.Random(1)
    words = collections.Counter()
    with open(path, "w") as f:
        for _ in range(count):
            text = world.caption(world.scene(rnd), rnd)
            f.write(text + "\n")
            words.update(text.replace(",", "").replace(".", "").split())
    return words


def train_tokenizer(work):
    """A SentencePiece unigram model with the special ids of T5 (pad 0, end 1, unknown 2, start 3). The
    world has few words, so its pieces are the words of the captions, scored by frequency, and single
    characters for everything else."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as pb

    captions, path = work.path("captions.txt"), work.path("spiece.model")
    words = write_captions(captions)
    total = sum(words.values())
    characters = "".join(map(chr, range(33, 127)))
    # Gives the normaliser and the header of the model; the pieces are replaced below.
    sentencepiece.SentencePieceTrainer.train(
        input=captions,
        model_prefix=work.path("spiece"),
        vocab_size=200,
        model_type="unigram",
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=3,
        pad_piece="<pad>",
        normalization_rule_name="nmt_nfkc",
        hard_vocab_limit=False,
        required_chars=characters,
        minloglevel=2,
    )
    model = pb.ModelProto()
    with open(path, "rb") as f:
        model.ParseFromString(f.read())
    del model.pieces[4:]
    scores = {"\u2581" + w: math.log(n / total) for w, n in words.most_common() if len(w) > 1}
    scores |= {"\u2581a": math.log(words["a"] / total), "\u2581A": -5.0, ",": -5.0, ".": -5.0}
    scores |= {"\u2581": -13.0} | {c: -14.0 for c in characters if c not in ",."}
    for piece, score in scores.items():
        model.pieces.add(piece=piece, score=score)
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.input[:] = []
    model.trainer_spec.model_prefix = "spiece"
    with open(path, "wb") as f:
        f.write(model.SerializeToString())
    os.remove(work.path("spiece.vocab"))
    tokenizer = open_tokenizer(work)
    with open(captions) as f:
        longest = max(len(tokenizer.encode(line.strip())) for line in f) + 1
    print(f"{tokenizer.get_piece_size()} pieces, longest caption {longest} of {TOKENS} tokens")
    for text in TEST_PROMPTS[:2] + ["Zebra at 7"]:
        print(tokenizer.encode(text, out_type=str))


def token_ids(tokenizer, captions):
    """[2, captions, TOKENS]: ids and mask."""
    out = torch.zeros(2, len(captions), TOKENS, dtype=torch.long)
    for i, text in enumerate(captions):
        ids = tokenizer.encode(text)[: TOKENS - 1] + [1]
        out[0, i, : len(ids)] = torch.tensor(ids)
        out[1, i, : len(ids)] = 1
    return out.to(DEVICE)


def context(text_encoder, ids):
    """Text states; the rows behind the text are zero up to CONTEXT, and the transformer does see them,
    as in Wan."""
    states = text_encoder(ids[0], attention_mask=ids[1]).last_hidden_state * ids[1][..., None]
    return F.pad(states, (0, 0, 0, CONTEXT - TOKENS))


# ---------------------------------------------------------------- latents


class Latents:
    """A ring of normalised latents with captions, filled by rendering and encoding."""

    def __init__(self, vae, tokenizer, seed, size):
        self.vae, self.tokenizer, self.random = vae, tokenizer, random.Random(seed)
        self.size, self.shape, self.at, self.drawn = size, size[:3], 0, 0
        shape = latent_shape(*self.shape)
        self.latents = torch.empty(size.kept, *shape, dtype=torch.float16, device=DEVICE)
        self.where = torch.empty(size.kept, 1, *shape[1:], dtype=torch.float16, device=DEVICE)
        self.ids = torch.zeros(2, size.kept, TOKENS, dtype=torch.long, device=DEVICE)
        self.each = max(1, min(8, 8 * 33 * 256 * 256 // math.prod(self.shape)))

    def add(self, count):
        for _ in range(0, count, self.each):
            videos, captions, where = world.batch(
                self.random, self.each, *self.shape, device=DEVICE
            )
            with torch.no_grad(), autocast():
                z = (video_vae.encode(self.vae, videos)[0] - self.vae.mean) / self.vae.std
            at = (self.at + torch.arange(self.each, device=DEVICE)) % len(self.latents)
            self.at += self.each
            self.latents[at] = z.half()
            first, rest = where[:, :, :1], where[:, :, 1:]
            pooled = [F.max_pool3d(first, (1, 8, 8)), F.max_pool3d(rest, (4, 8, 8))]
            self.where[at] = torch.cat(pooled, 2).half()
            self.ids[:, at] = token_ids(self.tokenizer, captions)

    def fill(self, seconds):
        """Until all is full or the time is over; compilers, at work in the first round, have theirs."""
        self.add(8)
        start = time.time()
        while self.at < len(self.latents) and time.time() - start < seconds:
            self.add(8)
            if DEVICE == "cuda":
                torch.cuda.synchronize()

    def draw(self):
        """A random batch; every so many of them new latents come first."""
        if self.drawn % self.size.refresh == 0:
            self.add(self.each)
        self.drawn += 1
        known = min(self.at, len(self.latents))
        at = torch.randint(0, known, (self.size.batch,), device=DEVICE)
        return self.latents[at].float(), self.where[at].float(), self.ids[:, at]


def measure_latents(work, vae, count=96):
    """Mean and deviation of every latent channel over fresh videos, rounded as the exported
    configuration has them."""
    rnd, z = random.Random(4242), []
    with torch.no_grad(), autocast():
        for _ in range(0, count, 8):
            videos, _, _ = world.batch(rnd, 8, 33, 256, 256, device=DEVICE)
            z.append(video_vae.encode(vae, videos)[0])
    z = torch.cat(z)
    rounded = lambda values: torch.tensor([round(float(v), 4) for v in values])
    stats = dict(mean=rounded(z.mean((0, 2, 3, 4))), std=rounded(z.std((0, 2, 3, 4))))
    work.save("stats", stats)
    return stats


def load_vae(work):
    """The VAE with the statistics of its latents as vae.mean and vae.std."""
    vae = video_vae.load(work)
    stats = work.load("stats") or measure_latents(work, vae)
    vae.mean, vae.std = (stats[k].to(DEVICE).view(1, -1, 1, 1, 1) for k in ("mean", "std"))
    return vae


# ---------------------------------------------------------------- training


def flow_loss(transformer, text_encoder, empty, latents, where, ids, shift):
    """Flow matching: x = (1 - s) z + s e, target e - z; 10 % of the captions are dropped for guidance.
    Returns the squared error, weighted for training and as it is. Objects weigh more, but less the
    more noise there is: where they could be anywhere, a weight would make them likely everywhere.
    Half of the noise levels are logit-normal, half uniform with some pure noise: with the
    logit-normal law alone the first sampling steps, which choose the sky and the ground, hardly get
    any training, and the caption is ignored there."""
    n = len(latents)
    ids = torch.where(torch.rand(1, n, 1, device=DEVICE) < 0.1, empty, ids)
    s = torch.where(
        torch.rand(n, device=DEVICE) < 0.5,
        torch.sigmoid(torch.randn(n, device=DEVICE)),
        (torch.rand(n, device=DEVICE) * 1.05).clamp(1e-3, 1.0),
    )
    s = shift * s / (1 + (shift - 1) * s)
    noise = torch.randn_like(latents)
    level = s.view(-1, 1, 1, 1, 1)
    with autocast():
        velocity = transformer(
            hidden_states=(1 - level) * latents + level * noise,
            timestep=s * 1000,
            encoder_hidden_states=context(text_encoder, ids),
            return_dict=False,
        )[0]
    error = (velocity.float() - (noise - latents)).square()
    weight = 1 + OBJECT_WEIGHT * where * (1 - level)
    return (weight * error).mean(), error.detach().mean()


def use_fast_attention(transformer, compile_blocks=False):
    for block in transformer.blocks:
        block.attn1.set_processor(Attention())
        block.attn2.set_processor(Attention())
        if compile_blocks and DEVICE == "cuda":
            block.compile(dynamic=True)  # one by one: the whole model would take minutes


def make_pools(work, seed, large_share, fill_seconds):
    """Pools of the sizes in use, filled for as long as they will be drawn from, relatively."""
    vae, tokenizer = load_vae(work), open_tokenizer(work)
    pools = []
    for i, size in enumerate(SIZES if large_share > 0 else SIZES[:1]):
        pools.append(Latents(vae, tokenizer, seed * 10 + i, size))
        pools[-1].fill(fill_seconds * (large_share * size.share if i else 1 - large_share))
    return pools, token_ids(tokenizer, [""])


def prepare(work, ranks, seed):
    """Equal networks and choices of size in all processes, other noise in each."""
    random.seed(seed)
    torch.manual_seed(seed + ranks.rank)
    video_vae.use_gpu_kernels()
    transformer, text_encoder = make()
    continued = load(work, transformer, text_encoder)
    use_fast_attention(transformer, compile_blocks=True)
    named = [("dit." + n, p) for n, p in transformer.named_parameters()]
    named += [("te." + n, p) for n, p in text_encoder.named_parameters()]
    ranks.equalise(p for _, p in named)
    if ranks.first:
        print(f"seed {seed}" + (", continued" if continued else ""), flush=True)
    return transformer, text_encoder, named


def train(work, seconds, rate, large_share, fill_seconds, decay, seed):
    """On all GPUs that torchrun gives a process; the first process's clock counts and it alone
    saves."""
    start, ranks = time.time(), Ranks()
    seed = int(ranks.agree(start if seed is None else seed))
    transformer, text_encoder, named = prepare(work, ranks, seed)
    parameters = [p for _, p in named]
    pools, empty = make_pools(work, seed + ranks.rank, large_share, fill_seconds)
    optimizer = Optimizer(
        named, rate, lambda n: n.startswith("dit.blocks") and "scale_shift" not in n
    )
    average = Average(parameters, 0.9985)
    logs = [None] * len(pools)
    begun, step, share = time.time(), 0, 0.0
    left = max(1.0, seconds - (begun - start))
    if ranks.first:
        print(f"{[pool.at for pool in pools]} latents after {begun - start:.0f} s", flush=True)
    while share < 1:
        k = 0
        if len(pools) > 1 and step > 300 and random.random() < large_share:
            k = random.choices(range(1, len(pools)), [size.share for size in SIZES[1:]])[0]
        loss, error = flow_loss(
            transformer, text_encoder, empty, *pools[k].draw(), pools[k].size.shift
        )
        loss.backward()
        ranks.average_gradients(parameters)
        norm = optimizer.step(min(1, (step + 1) / 150) * min(1, max(0.01, (1 - share) / decay)))
        step += 1
        average.update(step)
        logs[k] = error if logs[k] is None else logs[k].lerp(error, 0.02)
        if step % 8 == 0:
            share = ranks.agree((time.time() - begun) / left)
        if ranks.first and (step % 250 == 0 or step in (1, 20)):
            means = " / ".join(f"{float(m):.4f}" for m in logs if m is not None)
            print(
                f"{step} {time.time() - begun:.0f} s, loss {means}, gradient {float(norm):.2f}",
                flush=True,
            )
        if ranks.first and step % 1000 == 0:
            work.save("dit", {name: value for (name, _), value in zip(named, average.values)})
    average.apply()
    if ranks.first:
        work.save("dit", dict(named))
        counts = [pool.drawn for pool in pools]
        print(f"{step} steps of {ranks.count}, by size {counts}, {gpu_memory()} MiB")
    ranks.end()


# ---------------------------------------------------------------- samples


def velocities(transformer, x, t, text):
    one = lambda i: transformer(
        hidden_states=x[i : i + 1],
        timestep=t.to(DEVICE).expand(1).float(),
        encoder_hidden_states=text[i : i + 1],
        return_dict=False,
    )[0]
    return torch.cat([one(i).float() for i in range(len(x))])


class Sampler:
    """The weights of the work folder, ready to draw videos."""

    def __init__(self, work):
        self.vae, self.tokenizer = load_vae(work), open_tokenizer(work)
        self.transformer, self.text_encoder = make()
        if not load(work, self.transformer, self.text_encoder):
            raise SystemExit(f"{work.folder}: no transformer there yet; run the stage dit first")
        use_fast_attention(self.transformer)

    @torch.no_grad()
    def videos(self, prompts, size, steps, guidance):
        """One video a prompt, [3, frames, height, width] in [-1, 1]."""
        from diffusers import UniPCMultistepScheduler

        width, height, frames = size
        shape = latent_shape(frames, height, width)
        scheduler = UniPCMultistepScheduler(
            **SCHEDULER, flow_shift=flow_shift(frames, height, width)
        )
        scheduler.set_timesteps(steps)
        generator = torch.Generator(DEVICE).manual_seed(0)
        x = torch.randn(len(prompts), *shape, device=DEVICE, generator=generator)
        with autocast():
            prompt = context(self.text_encoder, token_ids(self.tokenizer, prompts))
            empty = context(self.text_encoder, token_ids(self.tokenizer, [""] * len(prompts)))
            for t in scheduler.timesteps:
                with_text = velocities(self.transformer, x, t, prompt)
                without = velocities(self.transformer, x, t, empty)
                v = without + guidance * (with_text - without)
                x = scheduler.step(v, t, x, return_dict=False)[0]
            z = x * self.vae.std + self.vae.mean
            return [video_vae.decode(self.vae, one[None])[0].clamp(-1, 1).cpu() for one in z]


def sample(work, sizes, steps, guidance):
    """Contact sheets of the test prompts, one a size."""
    sampler = Sampler(work)
    for size in sizes:
        videos = sampler.videos(TEST_PROMPTS, size, steps, guidance)
        path = work.path("sample-{}x{}x{}.png".format(*size))
        world.sheet(videos, path, height=min(size[1], 192))
        print(path, flush=True)
