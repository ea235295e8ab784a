"""What augmentation costs: a batch of photographs on one core, in JAX against PIL and NumPy."""

import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from cssm.data import IMAGENET_MEAN, IMAGENET_STD
from cssm.data.augment import Photo
from cssm.data.formats.crops import View

from .harness import Comparison
from .registry import MODEL_BENCHES

ROWS, GIVEN, SIZE = 64, 256, 224
USUAL: dict[str, Any] = {
    "crop_scale": 0.08, "crop_size": SIZE, "erasing": 0.25, "mixup": 0.8, "cutmix": 1.0, "classes": 1000,
}  # fmt: skip


@MODEL_BENCHES.register("augment")
def augment() -> Iterator[Comparison]:
    """Augmentation of 64 photographs, 256 to 224 pixels, on one core: in JAX, and in PIL and NumPy."""
    photo = Photo(policy="three", **USUAL)
    yield Comparison(
        name=f"augmentation, {ROWS} images, one core: three, crop, flip, erasing, mixing", same_result=False,
        wanted=1.0, contenders={"PIL + NumPy": cache(_pil), "cssm": cache(partial(_jax, photo))},
    )  # fmt: skip
    yield Comparison(
        name=f"training input, {ROWS} JPEGs of 500 x 375, one core: decoded, cropped to {SIZE}, augmented",
        same_result=False, wanted=1.0,
        contenders={"PIL + NumPy": cache(_pil_from_files), "cssm": cache(_cssm_from_files)},
    )  # fmt: skip
    random = Photo(policy="rand-m9-mstd0.5-inc1", **USUAL)
    yield Comparison(
        name=f"augmentation, {ROWS} images, one core: RandAugment in place of three", same_result=False,
        contenders={"three": cache(partial(_jax, photo)), "rand-m9-mstd0.5-inc1": cache(partial(_jax, random))},
    )  # fmt: skip


def pictures() -> np.ndarray:
    """Smooth colours with noise, (rows, given, given, 3) of 8 bits."""
    rng = np.random.RandomState(0)
    small = rng.randint(0, 256, (ROWS, 16, 16, 3)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(x).resize((GIVEN, GIVEN), Image.Resampling.BICUBIC)) for x in small]
    return np.clip(np.stack(large) + rng.normal(0, 6, (ROWS, GIVEN, GIVEN, 1)), 0, 255).astype(np.uint8)


@contextmanager
def one_core() -> Iterator[None]:
    """Every thread of this process on one core, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    whole = os.sched_getaffinity(0)
    _pin({max(whole)})
    try:
        yield
    finally:
        _pin(whole)


def _pin(cores: set[int]) -> None:
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has ended
            os.sched_setaffinity(int(task.name), cores)


def _jax(photo: Photo) -> Callable[[], Any]:
    """Another key each time, as in training."""
    batch = {"input": jax.numpy.asarray(pictures()), "label": jax.numpy.arange(ROWS)}
    function, count = jax.jit(photo), iter(range(10**9))

    def run() -> Any:
        with one_core():
            return jax.block_until_ready(function(jax.random.key(next(count)), batch))

    return run


def files() -> list[bytes]:
    """The pictures as JPEGs of 500 x 375 px."""
    wide = [Image.fromarray(x).resize((500, 375), Image.Resampling.BICUBIC) for x in pictures()]
    out = []
    for image in wide:
        image.save(encoded := io.BytesIO(), "JPEG", quality=90)
        out.append(encoded.getvalue())
    return out


def _cssm_from_files() -> Callable[[], Any]:
    """As a run does it: decoded and cropped by the loader, the rest in the step."""
    encoded, view = files(), View(size=SIZE, random_crop=0.08, interpolation="bicubic")
    photo = Photo(policy="three", **{name: value for name, value in USUAL.items() if "crop" not in name})
    function, labels, count = jax.jit(photo), np.arange(ROWS), iter(range(10**9))

    def run() -> Any:
        with one_core():
            step = next(count)
            x = np.stack([view(data, "memory", ROWS * step + i) for i, data in enumerate(encoded)])
            return jax.block_until_ready(function(jax.random.key(step), {"input": x, "label": labels}))

    return run


def _pil_from_files() -> Callable[[], Any]:
    encoded, rng = files(), np.random.RandomState(0)

    def run() -> Any:
        with one_core():
            images = [Image.open(io.BytesIO(data)).convert("RGB") for data in encoded]
            x = np.stack([pil_photo(image, rng) for image in images])
            return mixed_by_numpy(x, np.eye(1000, dtype=np.float32)[:ROWS], rng)

    return run


def _pil() -> Callable[[], Any]:
    images, rng = [Image.fromarray(x) for x in pictures()], np.random.RandomState(0)

    def run() -> Any:
        with one_core():
            x = np.stack([pil_photo(image, rng) for image in images])
            return mixed_by_numpy(x, np.eye(1000, dtype=np.float32)[:ROWS], rng)

    return run


def pil_photo(image: Image.Image, rng: np.random.RandomState) -> np.ndarray:
    """One photograph as `Photo(policy="three")` has it, (size, size, 3) float32."""
    share, ratio = rng.uniform(0.08, 1), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    side = math.sqrt(image.width * image.height * share)
    width, height = min(image.width, round(side * ratio**0.5)), min(image.height, round(side / ratio**0.5))
    left, top = rng.randint(image.width - width + 1), rng.randint(image.height - height + 1)
    image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    if rng.uniform() < 0.5:
        image = ImageOps.mirror(image)
    kind = rng.randint(3)
    if kind == 0:
        image = image.convert("L").convert("RGB")
    elif kind == 1:
        image = ImageOps.solarize(image, 128)
    else:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2)))
    for enhance in rng.permutation(np.array([ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color])):
        image = enhance(image).enhance(rng.uniform(0.7, 1.3))
    mean, std = (255 * np.array(value, np.float32) for value in (IMAGENET_MEAN, IMAGENET_STD))
    x = (np.asarray(image, np.float32) - mean) * (1 / std)
    if rng.uniform() < 0.25:
        area, aspect = rng.uniform(0.02, 1 / 3) * SIZE**2, math.exp(rng.uniform(math.log(0.3), math.log(3.33)))
        h, w = (min(SIZE - 1, round(math.sqrt(area * r))) for r in (aspect, 1 / aspect))
        y, z = rng.randint(SIZE - h), rng.randint(SIZE - w)
        x[y : y + h, z : z + w] = rng.standard_normal((h, w, 3))
    return x


def mixed_by_numpy(
    x: np.ndarray, labels: np.ndarray, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """A batch mixed with itself reversed: by Mixup, or by a box."""
    if rng.uniform() < 0.5:
        kept = np.float32(rng.beta(0.8, 0.8))
        x = kept * x + (1 - kept) * x[::-1]
    else:
        half = int(SIZE * math.sqrt(1 - rng.beta(1, 1))) // 2
        (top, left), (bottom, right) = (np.clip(rng.randint(SIZE, size=2) + d, 0, SIZE) for d in (-half, half))
        other = x[::-1, top:bottom, left:right].copy()
        x[:, top:bottom, left:right] = other
        kept = np.float32(1 - (bottom - top) * (right - left) / SIZE**2)
    return x, kept * labels + (1 - kept) * labels[::-1]
