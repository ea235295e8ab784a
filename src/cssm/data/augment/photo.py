"""Augmentation of photographs as ImageNet is trained: crops, colours, policies, erasing, mixing."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from cssm.core.errors import ShapeError, UsageError

from ..source import check_choice, check_range
from .policies import parse_policy
from .protocol import AUGMENTS, Arrays

if TYPE_CHECKING:
    import jax

POINTS = ("markers", "tracks", "query_points")
JITTER_OF_THREE = 0.3


@AUGMENTS.register("photo")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Photo:
    """Crop and resize, flip, a policy of colours, jitter; then, normalised: erase, mix. Every frame of a clip alike.

    In this order, all of it on the device for a whole batch; the pixels are those of PIL to about a level of 255, and
    the defaults do nothing but flip. Erasing and mixing give float32 pixels that are normalised as the task would do
    it; without them pixels stay uint8. Mixing makes labels of shares, float32 (b, classes). A row mixes with its
    partner in the reversed batch, if both are `valid`.

    Raises UsageError for options out of range or without effect, for what would move points that are tracked or marked
    (a flip takes them along), and for pixels that are not RGB of 8 bits where colours change.

    >>> import jax, jax.numpy as jnp
    >>> photo = Photo(crop_scale=0.08, policy="three", erasing=0.25, mixup=0.8, cutmix=1.0, classes=10)
    >>> batch = {"input": jnp.zeros((4, 8, 8, 3), jnp.uint8), "label": jnp.arange(4)}
    >>> out = jax.jit(photo)(jax.random.key(0), batch)
    >>> out["input"].shape, out["input"].dtype.name, out["label"].shape
    ((4, 8, 8, 3), 'float32', (4, 10))
    """

    crop_scale: float | None = None
    """Smallest share of the area that a random crop keeps, .08 for ImageNet; None: no crop."""
    crop_size: int | None = None
    """Height and width to which crops are resized, px; None: those of the data."""
    flip: float = 0.5
    """Probability of a flip from left to right."""
    policy: str = "none"
    """none, three (grey, solarise or blur), or RandAugment as rand-m9-mstd0.5-inc1: magnitude, its deviation, inc."""
    jitter: float | None = None
    """Largest change of brightness, contrast and saturation, as a share; None: 0.3 with policy three, else 0."""
    erasing: float = 0.0
    """Probability that a box of a picture becomes noise."""
    mixup: float = 0.0
    """Alpha of Mixup: shares of Beta(alpha, alpha); 0: none."""
    cutmix: float = 0.0
    """Alpha of CutMix: areas of Beta(alpha, alpha); 0: none."""
    mix: float = 1.0
    """Probability that a batch is mixed."""
    switch: float = 0.5
    """Probability that it is CutMix where there is Mixup too."""
    classes: int = 0
    """Classes of the labels; those of the task in a run."""
    pixels: Literal["imagenet", "unit", "symmetric", "none"] = "imagenet"
    """How pixels are normalised; as the task does in a run."""

    def __post_init__(self):
        parse_policy(self.policy)
        for name, high in (("flip", 1), ("erasing", 1), ("mix", 1), ("switch", 1), ("mixup", 100), ("cutmix", 100)):
            check_range(name, getattr(self, name), 0, high)
        if self.crop_scale is not None:
            check_range("crop_scale", self.crop_scale, 0.001, 1)
        if self.crop_size is not None:
            check_range("crop_size", self.crop_size, 1, 8192)
        if self.jitter is not None:
            check_range("jitter", self.jitter, 0, 1)
        check_range("classes", self.classes, 0, 2**31)
        check_choice("pixels", self.pixels, ("imagenet", "unit", "symmetric", "none"))
        self._check_used()

    def _check_used(self) -> None:
        """No option without effect."""
        both = self.mixup and self.cutmix
        for name, usual, used, needs in (
            ("crop_size", None, self.crop_scale is not None, "crop_scale"),
            ("mix", 1.0, self.mixes, "mixup or cutmix"),
            ("switch", 0.5, both, "mixup and cutmix"),
        ):
            if getattr(self, name) != usual and not used:
                raise UsageError(f"{name} {getattr(self, name)} does nothing without {needs}: give it, or leave {name}")

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    @property
    def strength(self) -> float:
        """Of the jitter."""
        if self.jitter is not None:
            return self.jitter
        return JITTER_OF_THREE if self.policy == "three" else 0.0

    def fitted(self, data: Any, classes: int, normalization: str) -> "Photo":
        """With the classes and the normalization of a run."""
        fitted = dataclasses.replace(self, classes=classes, pixels=normalization)
        spec = data.sample_spec
        fitted._check(spec, spec["input"].shape[-1], spec["input"].dtype)
        return fitted

    def __call__(self, key: "jax.Array", batch: Arrays) -> dict[str, Any]:
        import jax
        import jax.numpy as jnp

        from .points import flipped_points

        x = jnp.asarray(batch["input"])
        self._check(batch, x.shape[-1], x.dtype)
        first, second, third = jax.random.split(key, 3)
        draws = self._draws(first, len(x), (x.shape[-3], x.shape[-2]))
        out = {**batch, "input": draws.applied(x)} | flipped_points(draws.flips, batch, x.shape[-2])
        if self.erasing or self.mixes:
            out["input"] = self._erased(second, out["input"])
        return out | (self._mixed(third, out) if self.mixes else {})

    def _draws(self, key: Any, rows: int, size: tuple[int, int]) -> Any:
        """What happens to the pixels of each of so many clips of (height, width) before they are normalised."""
        from .draws import draw

        wanted = size if self.crop_size is None else (self.crop_size, self.crop_size)
        policy = parse_policy(self.policy)
        return draw(
            key, rows, size, flip=self.flip, crop=None if self.crop_scale is None else ((self.crop_scale, 1.0), wanted),
            policy=policy, jitter=self.strength,
        )  # fmt: skip

    def _check(self, entries: Any, channels: int, dtype: Any) -> None:
        """UsageError where a sample's entries, channels or dtype do not allow what is asked for."""
        policy = parse_policy(self.policy)
        found = [name for name in POINTS if name in entries]
        moved = "crop_scale" if self.crop_scale is not None else "policy" if policy not in ("none", "three") else None
        moved = moved or ("mixup or cutmix" if self.mixes else None)
        moved = moved or ("erasing" if self.erasing and "tracks" in entries else None)
        if found and moved:
            raise UsageError(
                f"{moved} would leave {found[0]} without their pixels: leave {moved} out, or choose other data"
            )
        colours = policy != "none" or self.strength > 0
        if colours and channels != 3:
            raise UsageError(
                f"policy {self.policy} and jitter need 3 channels, the pixels have {channels}: leave both out"
            )
        if (colours or self.crop_scale is not None or self.erasing or self.mixes) and str(dtype) != "uint8":
            raise ShapeError(f"photo takes pixels of 8 bits, got {dtype}: give uint8 of 0..255")
        if self.mixes and "label" not in entries:
            raise UsageError("mixup and cutmix need labels, the data have none: leave them out")
        if self.mixes and self.classes < 2:
            raise UsageError(f"mixup and cutmix need the number of classes, classes is {self.classes}: give at least 2")

    def _erased(self, key: Any, x: Any) -> Any:
        """Pixels (b, [t,] h, w, c) normalised, with boxes of noise."""
        import jax

        from ..normalise import normalise
        from . import mixing

        x = normalise(x, self.pixels)
        if not self.erasing:
            return x
        first, second = jax.random.split(key)
        return mixing.erased(first, x, mixing.draw_erased(second, len(x), x.shape[-3:-1], self.erasing))

    def _mixed(self, key: Any, batch: Arrays) -> dict[str, Any]:
        """The pictures and the labels of a batch, mixed with those of the reversed batch."""
        import jax.numpy as jnp

        from . import mixing

        x = batch["input"]
        valid = jnp.asarray(batch.get("valid", jnp.ones(len(x), bool)))
        pair = valid & valid[::-1]
        kept, share = mixing.draw_mix(key, x.shape[-3:-1], (self.mixup, self.cutmix), self.mix, self.switch)
        label = mixing.mixed_labels(batch["label"], share, pair, valid, self.classes)
        return {"input": mixing.mixed(x, kept, pair), "label": label}
