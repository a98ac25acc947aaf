"""The tiny world: random scenes, their captions, and their videos, drawn by world.c on CPU or GPU."""

import ctypes
import functools
import hashlib
import math
import os
import subprocess
import tempfile

import torch

COLOURS = dict(
    red=(0.85, 0.1, 0.1),
    green=(0.1, 0.65, 0.15),
    blue=(0.1, 0.2, 0.85),
    yellow=(0.95, 0.85, 0.1),
    purple=(0.55, 0.1, 0.7),
    orange=(0.95, 0.5, 0.05),
    white=(0.95, 0.95, 0.95),
    pink=(0.95, 0.45, 0.65),
)
GROUNDS = ["grass", "sand", "snow", "checkerboard"]
SKIES = ["day", "sunset", "night"]
CAMERAS = ["static", "pan left", "pan right", "zoom in", "orbit"]
MOTIONS = ["rolls left", "rolls right", "bounces", "spins", "circles", "rises", "stays"]
SCENE = 32  # floats per scene, as in world.c


def scene(rnd):
    """A random scene as a plain dict; rnd is a random.Random. What no caption names (phase, hills,
    sun) varies little: of two equally likely pictures a small model paints both."""
    objects = []
    for i in range(1 if rnd.random() < 0.45 else 2):
        objects.append(
            dict(
                shape=rnd.choice(["ball", "cube"]),
                colour=rnd.choice(list(COLOURS)),
                big=rnd.random() < 0.5,
                motion=rnd.choice(MOTIONS[:6] if i == 0 else MOTIONS),
                phase=0.3 * rnd.random(),
            )
        )
    return dict(
        objects=objects,
        ground=rnd.choice(GROUNDS),
        sky=rnd.choice(SKIES),
        hills=2 * rnd.random(),
        camera=rnd.choice(CAMERAS if rnd.random() < 0.6 else ["static"]),
        sun=0.1 + 0.25 * rnd.random(),
    )


def place(scene, i):
    """Where object i stands. Two objects stand apart: the first left in front, the second
    right behind."""
    if len(scene["objects"]) == 1:
        return 0.0, 0.0
    return (-1.5, -0.5) if i == 0 else (1.5, 1.5)


def vector(scene):
    """The row of floats that world.c reads."""
    v = [0.0] * SCENE
    v[0] = GROUNDS.index(scene["ground"])
    v[1] = SKIES.index(scene["sky"])
    v[2] = CAMERAS.index(scene["camera"])
    v[3] = scene["hills"]
    v[4] = len(scene["objects"])
    v[5] = scene["sun"]
    for i, o in enumerate(scene["objects"]):
        v[8 + 12 * i : 18 + 12 * i] = [
            float(o["shape"] == "cube"),
            *COLOURS[o["colour"]],
            0.95 if o["big"] else 0.6,
            MOTIONS.index(o["motion"]),
            *place(scene, i),
            o["phase"],
            1.3 if len(scene["objects"]) == 1 else 0.8,
        ]
    return v


def noun(o, rnd):
    sizes = ["big", "big", "large"] if o["big"] else ["small", "small", "little"]
    size = rnd.choice(sizes) + " " if rnd.random() < 0.88 else ""
    names = {"ball": ["ball"] * 6 + ["sphere"], "cube": ["cube"] * 6 + ["box"]}
    return f"a {size}{o['colour']} {rnd.choice(names[o['shape']])}"


def moves(o, rnd):
    balls, cubes = ["rolls", "rolls", "moves"], ["slides", "slides", "moves", "rolls"]
    verb = rnd.choice(balls if o["shape"] == "ball" else cubes)
    return {
        "rolls left": rnd.choice([verb + " to the left", verb + " left"]),
        "rolls right": rnd.choice([verb + " to the right", verb + " right"]),
        "bounces": rnd.choice(["bounces", "bounces up and down"]),
        "spins": rnd.choice(["spins", "spins in place"]),
        "circles": rnd.choice(["moves in a circle", "circles around"]),
        "rises": rnd.choice(["rises into the air", "floats up"]),
        "stays": rnd.choice(["stays still", "does not move"]),
    }[o["motion"]]


GROUND_WORDS = {
    "grass": ["green grass", "a grassy field", "grass"],
    "sand": ["sand", "a sandy desert"],
    "snow": ["snow", "a snowy field"],
    "checkerboard": ["a checkerboard floor", "a checkered floor"],
}
SKY_WORDS = {
    "day": [" on a sunny day", " under a blue sky"],
    "sunset": [" at sunset"],
    "night": [" at night"],
}
CAMERA_WORDS = {
    "static": ["", "", "", ", static camera"],
    "pan left": [", the camera pans left"],
    "pan right": [", the camera pans right"],
    "zoom in": [", the camera zooms in"],
    "orbit": [", the camera orbits"],
}


def caption(scene, rnd):
    """An English caption with some freedom of wording; sometimes a detail is left out, so that short
    prompts work too."""
    objects = scene["objects"]
    text = f"{noun(objects[0], rnd)} {moves(objects[0], rnd)}"
    if rnd.random() < 0.93:
        text += " on " + rnd.choice(GROUND_WORDS[scene["ground"]])
    if len(objects) > 1:
        text += rnd.choice([" while ", " while ", " and "])
        text += f"{noun(objects[1], rnd)} {moves(objects[1], rnd)}"
    if rnd.random() < 0.93:
        text += rnd.choice(SKY_WORDS[scene["sky"]])
    text += rnd.choice(CAMERA_WORDS[scene["camera"]])
    if rnd.random() < 0.25:
        text = text[0].upper() + text[1:]
    return text + ("." if rnd.random() < 0.2 else "")


COMPILERS = {
    "cpu": "gcc -O3 -march=native -ffast-math -fopenmp -shared -fPIC {source} -o {library} -lm",
    "cuda": "nvcc -O3 -use_fast_math -arch=native -x cu -shared -Xcompiler -fPIC {source} -o {library}",
}


@functools.cache
def renderer(kind):
    """Builds world.c with gcc or nvcc and loads it."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "world.c")
    with open(source, "rb") as f:
        tag = hashlib.sha256(f.read()).hexdigest()[:12]
    folder = os.path.join(tempfile.gettempdir(), f"tiny-world-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    library = os.path.join(folder, f"{kind}-{tag}.so")
    if not os.path.exists(library):
        own = f"{library}.{os.getpid()}"  # another process may be building the same
        command = COMPILERS[kind].split()
        subprocess.run([c.format(source=source, library=own) for c in command], check=True)
        os.replace(own, library)
    function = ctypes.CDLL(library).world_render
    function.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int] * 5 + [ctypes.c_void_p]
    return function


def render(scenes, frames, height, width, rays=2, device="cpu"):
    """Videos of the scenes: float32 [scenes, 3, frames, height, width] in [-1, 1]; a pixel is the mean of
    rays * rays rays."""
    kind = torch.device(device).type
    rows = torch.tensor([vector(s) for s in scenes], dtype=torch.float32).to(device)
    out = torch.empty(len(scenes), 3, frames, height, width, device=device)
    stream = torch.cuda.current_stream().cuda_stream if kind == "cuda" else 0
    status = renderer(kind)(
        rows.data_ptr(), out.data_ptr(), len(scenes), frames, height, width, rays, stream
    )
    if status:
        raise RuntimeError(f"rendering failed with CUDA error {status}")
    return out


def batch(rnd, count, frames, height, width, device="cpu", suns=False):
    """Random videos, their captions, and where the objects and their shadows are, and suns and moons if
    asked for: 0 or 1, [count, 1, frames, height, width]."""
    scenes = [scene(rnd) for _ in range(count)]
    videos = render(scenes, frames, height, width, device=device)
    behind = math.pi if suns else 0.0
    empty = [dict(s, objects=[], sun=s["sun"] + behind) for s in scenes]
    change = videos - render(empty, frames, height, width, device=device)
    where = (change.abs().amax(1, keepdim=True) > 0.1).float()
    return videos, [caption(s, rnd) for s in scenes], where


def sheets(videos, prefix, rows=6, **options):
    """Contact sheets PREFIX-1.png and on of so many rows each."""
    for i in range(0, len(videos), rows):
        sheet(videos[i : i + rows], f"{prefix}-{i // rows + 1}.png", **options)


def sheet(videos, path, columns=6, height=None):
    """Saves a contact sheet: one row per video, evenly spaced frames. videos: [3, T, H, W] in [-1, 1]."""
    from PIL import Image

    rows = []
    for video in videos:
        at = [round(i * (video.shape[1] - 1) / (columns - 1)) for i in range(columns)]
        row = torch.cat([video[:, i] for i in at], -1)[None].float().cpu()
        if height:
            size = height, round(row.shape[-1] * height / row.shape[-2])
            row = torch.nn.functional.interpolate(row, size=size, mode="area")
        rows.append(row[0])
    pixels = ((torch.cat(rows, 1).clamp(-1, 1) + 1) * 127.5).round().byte()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, optimize=True)
