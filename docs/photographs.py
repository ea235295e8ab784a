"""Write a small set of real photographs in the shape of Imagenette, offline, in seconds.

    python docs/photographs.py OUT [--per-class N] [--size PX]
    cssm train imagenette --data-dir OUT

Each of the ten classes is one photograph that ships inside scikit-image or scikit-learn. An image is a crop of a band
of it, across its longer side: the third quarter is validation, the others are training, so that no pixel is in both.
Crops differ in place, scale, aspect (1 to 1.6, either way), light and tint. The names of the classes are those of
Imagenette, the pictures are not.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image

from cssm.data.formats.imagefolder import IMAGENETTE
from cssm.data.ten_photographs import photographs

BANDS = {"train": ((0.0, 0.5), (0.75, 1.0)), "val": ((0.5, 0.75),)}  # of the longer side
ASPECT = 1.6  # at most
QUALITY = 90


def bands(photograph: Image.Image, split: str) -> list[Image.Image]:
    """The parts of a photograph that belong to a split."""
    width, height = photograph.size
    cuts = [(round(low * max(width, height)), round(high * max(width, height))) for low, high in BANDS[split]]
    return [photograph.crop((a, 0, b, height) if width >= height else (0, a, width, b)) for a, b in cuts]


def crop(band: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """A random crop of a band, its short side scaled to `size` px, lighter or darker, and tinted."""
    aspect = math.exp(rng.uniform(-math.log(ASPECT), math.log(ASPECT)))
    most = min(band.width, band.height * aspect)  # the widest that fits
    width = rng.uniform(0.5, 1.0) * most
    height = width / aspect
    left, top = rng.uniform(0, band.width - width), rng.uniform(0, band.height - height)
    scale = size / min(width, height)
    scaled = (round(scale * width), round(scale * height))
    image = band.resize(scaled, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    light = rng.uniform(0.7, 1.2) * rng.uniform(0.85, 1.15, 3)
    return Image.fromarray(np.clip(np.asarray(image) * light, 0, 255).astype(np.uint8))


def write(out: Path, per_class: int = 60, size: int = 160, seed: int = 0) -> dict[str, int]:
    """Write OUT/imagenette2-160/{train,val}/WNID/*.JPEG; returns how many images each split has.

    A class gets `per_class` training images and a third as many for validation, each with a short side of `size` px.
    """
    rng, counts = np.random.default_rng(seed), {"train": per_class, "val": max(1, per_class // 3)}
    for wnid, photograph in zip(IMAGENETTE, photographs(), strict=True):
        for split, count in counts.items():
            folder = out / "imagenette2-160" / split / wnid
            folder.mkdir(parents=True, exist_ok=True)
            parts = bands(Image.fromarray(photograph), split)
            shares = np.array([part.width * part.height for part in parts], float)
            for n in range(count):
                part = parts[rng.choice(len(parts), p=shares / shares.sum())]
                crop(part, size, rng).save(folder / f"{wnid}_{n:04d}.JPEG", quality=QUALITY)
    return {split: count * len(IMAGENETTE) for split, count in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write imagenette2-160 into")
    parser.add_argument("--per-class", type=int, default=60, help="training images of a class; a third as many for val")
    parser.add_argument("--size", type=int, default=160, help="short side of an image, px")
    args = parser.parse_args()
    if not (1 <= args.per_class <= 100_000 and 8 <= args.size <= 4096):
        parser.error("give --per-class 1..100000 and --size 8..4096")
    counts = write(args.out, args.per_class, args.size)
    print(f"wrote {', '.join(f'{n} {split}' for split, n in counts.items())} images to {args.out / 'imagenette2-160'}")


if __name__ == "__main__":
    main()
