"""Pack photographs once for training: JPEGs whose short side fits, in ArrayRecord shards that are read at random.

A record is a tf.Example of `image` (a JPEG) and `label`, a dialect of ImageNet's own reader; metadata.json names the
classes. `cssm.data.formats.packed` reads it. Resumable as what `make` writes, see `shards`.
"""

import dataclasses
import functools
import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from cssm.core.errors import DataError, UsageError

from .formats.arrayrecord import PLAIN
from .formats.example import encode_example
from .formats.images import decode, opened, orientation
from .formats.packed import PackedImages
from .formats.photographs import EncodedImages, Photographs
from .loader import usable_threads
from .shards import LeftOut, Plan, Shard
from .source import check_choice, check_range

SHARD_SIZE = 10_000  # some 250 MB of ImageNet
SEEN = {field.name for field in dataclasses.fields(Photographs)}  # options of reading: none of them is packed
AHEAD = 8  # photographs in work for each thread
In, Out = TypeVar("In"), TypeVar("Out")


def pack(
    data: Photographs,
    *,
    out: Path,
    splits: tuple[str, ...] | None = None,
    short_side: int = 256,
    quality: int = 90,
    shard_size: int = SHARD_SIZE,
    threads: int | None = None,
    progress: bool = False,
) -> Path:
    """Write the photographs of `data`, upright, in RGB, their short side at most `short_side` px, to the folder `out`.

    Smaller ones keep their size; the bytes of small JPEGs that are upright and in RGB are copied as they are.

    Args:
        data: what is packed. With its `skip_corrupt`, what cannot be read is left out, counted and logged, and listed
            in metadata.json; otherwise it is an error.
        out: the folder of the shards; one that a killed run left is gone on with.
        splits: those to pack; None: all that the files are in.
        short_side: px, 8..4096; bicubic, antialiased.
        quality: of the JPEGs, 1..100.
        shard_size: photographs of a shard.
        threads: that decode and encode; None: as many as there are cores.
        progress: show a progress bar with photographs a second.

    Raises UsageError for bad arguments or when `out` holds another set, DataError for what cannot be read.

    >>> import tempfile
    >>> from PIL import Image
    >>> from cssm.data import ImageFolder, open_files
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("ant", "bee"):
    ...     (root / "own" / "train" / name).mkdir(parents=True)
    ...     Image.new("RGB", (90, 60)).save(root / "own" / "train" / name / "0.png")
    >>> folder = pack(ImageFolder(root=root / "own"), out=root / "shards", short_side=32)
    >>> open_files(folder, "images", size=24).source("train").batch([0, 1])["input"].shape
    (2, 24, 24, 3)
    """
    if isinstance(data, PackedImages):
        raise UsageError(f"{data.root} is packed already: give the folder of the photographs")
    if data.holdout:
        raise UsageError(f"holdout {data.holdout} is for reading: pack the published splits and hold out when training")
    check_range("short_side", short_side, 8, 4096)
    check_range("quality", quality, 1, 100)
    check_range("shard_size", shard_size, 1, 10**7)
    threads = usable_threads() if threads is None else threads
    check_range("threads", threads, 1, 256)
    for split in splits or ():
        check_choice("split", split, data.published)
    images = {split: data.encoded(split) for split in splits or data.published}
    plan = PackPlan(
        folder=Path(out),
        splits={split: source.size for split, source in images.items()},
        format="arrayrecord",
        writer=PLAIN,
        shard_size=shard_size,
        data=data,
        images=images,
        short_side=short_side,
        quality=quality,
        threads=threads,
    )
    return plan.carry_out(progress=progress)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackPlan(Plan):
    """A set of photographs."""

    data: Photographs
    images: dict[str, EncodedImages]
    """By split."""
    short_side: int
    quality: int
    threads: int

    @functools.cached_property
    def _header(self) -> dict[str, Any]:
        options = {key: value for key, value in dataclasses.asdict(self.data).items() if key not in SEEN}
        return {
            "dataset": self.data.title, "options": options, "short_side": self.short_side, "quality": self.quality,
            "files": self._fingerprint(), "class_names": list(self.data.class_names),
            "skip_corrupt": self.data.skip_corrupt, "format": self.format,
            "shard_size": self.shard_size, "samples": self.splits, "version": 1,
        }  # fmt: skip

    def _fingerprint(self) -> str:
        """Of the names of all photographs within the data folder."""
        digest, root = hashlib.sha256(), str(self.data.root)
        for split, images in self.images.items():
            for i in range(images.size):
                digest.update(f"{split} {images.where(i).removeprefix(root)}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def header(self) -> dict[str, Any]:
        return self._header

    def name(self, split: str, number: int) -> str:
        return f"{split}/shard_{number:05d}.arrayrecord"

    def records(self, split: str, begin: int, end: int) -> Iterator[bytes | LeftOut]:
        def record(i: int) -> bytes | LeftOut:
            try:
                return self._record(self.images[split], i)
            except DataError as error:
                if not self.data.skip_corrupt:
                    raise
                return LeftOut(str(error))

        return in_threads(record, range(begin, end), self.threads)

    def about(self, shards: dict[str, list[Shard]]) -> dict[str, Any]:
        """How many there are, and what was left out, where anything was."""
        counts = {f"{split}_samples": sum(s["samples"] for s in listed) for split, listed in shards.items()}
        unlisted = {split: list(images.left_out) for split, images in self.images.items()}
        left_out = {s: unlisted[s] + [m for shard in shards[s] for m in shard.get("left_out", ())] for s in shards}
        left_out = {split: messages for split, messages in left_out.items() if messages}
        return counts | ({"left_out": left_out} if left_out else {})

    def _record(self, images: EncodedImages, i: int) -> bytes:
        data, label = images.read(i)
        image = packed_image(data, images.where(i), self.short_side, self.quality)
        return encode_example({"image": image, "label": label})


def packed_image(data: bytes, where: str, short_side: int, quality: int) -> bytes:
    """The JPEG that is kept of an image; DataError where it cannot be decoded."""
    from PIL import Image

    with opened(data, where) as image:
        if min(image.size) <= short_side and image.format == "JPEG" and image.mode == "RGB" and orientation(image) == 1:
            image.load()  # whole, or an error
            return data
    image, out = decode(data, where), io.BytesIO()
    if min(image.size) > short_side:
        scale = short_side / min(image.size)
        width, height = (max(short_side, round(scale * n)) for n in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    try:
        image.save(out, "JPEG", quality=quality)
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: {image.width} x {image.height} px do not fit a JPEG ({error})") from error
    return out.getvalue()


def in_threads(function: Callable[[In], Out], items: Iterable[In], threads: int) -> Iterator[Out]:
    """function(item) of each, in order, made ahead in threads; an error comes in its place.

    >>> list(in_threads(abs, [-1, 2, -3], 2))
    [1, 2, 3]
    """
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
