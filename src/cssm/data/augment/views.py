"""Several views of each image, for training without labels: large crops, and smaller ones of less of the image."""

import dataclasses
from typing import TYPE_CHECKING, Any

from cssm.core.errors import ShapeError, UsageError

from ..source import check_range
from .policies import parse_policy
from .protocol import AUGMENTS, Arrays

if TYPE_CHECKING:
    import jax


@AUGMENTS.register("views")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """Global views (b, v, h, w, 3) as `input` and local views (b, n, h', w', 3) as `local`, each drawn on its own.

    A view is a random crop, resized by bicubic interpolation, a flip, a policy of colours, jitter. Pixels stay 8 bits.

    Raises UsageError for options out of range and for clips, whose frames are views already; ShapeError for pixels that
    are not RGB of 8 bits.

    >>> import jax, jax.numpy as jnp
    >>> batch = {"input": jnp.zeros((2, 16, 16, 3), jnp.uint8), "label": jnp.arange(2)}
    >>> out = jax.eval_shape(Views(local_views=3, local_size=8), jax.random.key(0), batch)
    >>> out["input"].shape, out["local"].shape, out["label"].shape
    ((2, 2, 16, 16, 3), (2, 3, 8, 8, 3), (2,))
    """

    global_views: int = 2
    """Views of the size of the data."""
    global_scale: float = 0.3
    """Smallest share of the image's area in one; the largest is 1."""
    local_views: int = 6
    """Smaller views; 0 for none."""
    local_size: int = 96
    """Their height and width, px."""
    local_scale: tuple[float, float] = (0.05, 0.3)
    """Smallest and largest share of the area in one."""
    flip: float = 0.5
    """Probability of a flip from left to right."""
    policy: str = "three"
    """none, three (grey, solarise or blur), or RandAugment as rand-m9-mstd0.5-inc1."""
    jitter: float = 0.4
    """Largest change of brightness, contrast and saturation, as a share."""

    def __post_init__(self):
        parse_policy(self.policy)
        check_range("global_views", self.global_views, 1, 64)
        check_range("local_views", self.local_views, 0, 64)
        check_range("local_size", self.local_size, 1, 8192)
        check_range("flip", self.flip, 0, 1)
        check_range("jitter", self.jitter, 0, 1)
        check_range("global_scale", self.global_scale, 0.001, 1)
        least, most = self.local_scale
        if not 0.001 <= least <= most <= 1:
            raise UsageError(f"local_scale is {self.local_scale}: give two shares, 0.001 <= least <= most <= 1")
        for name, usual in (("local_size", 96), ("local_scale", (0.05, 0.3))):
            if not self.local_views and getattr(self, name) != usual:
                raise UsageError(f"{name} {getattr(self, name)} does nothing without local_views: leave it out")
        if self.global_views + self.local_views < 2:
            raise UsageError("one view has no other to be compared with: give at least two, global or local")

    def fitted(self, data: Any, classes: int, normalization: str) -> "Views":
        """Itself. UsageError for clips, and for local views that are larger than the images."""
        del classes, normalization
        shape, dtype = data.sample_spec["input"]
        _check(shape, dtype)
        if self.local_views and self.local_size > min(shape[:2]):
            raise UsageError(
                f"local_size is {self.local_size} px of images of {shape[0]} x {shape[1]}: give local views that are "
                "smaller (--local-size), or none (--local-views 0)"
            )
        return self

    def __call__(self, key: "jax.Array", batch: Arrays) -> dict[str, Any]:
        import jax
        import jax.numpy as jnp

        x = jnp.asarray(batch["input"])
        _check(x.shape[1:], x.dtype)
        first, second = jax.random.split(key)
        size, small = (x.shape[1], x.shape[2]), (self.local_size, self.local_size)
        out = {**batch, "input": self._of(first, x, self.global_views, (self.global_scale, 1.0), size)}
        if self.local_views:
            out["local"] = self._of(second, x, self.local_views, self.local_scale, small)
        return out

    def _of(self, key: Any, x: Any, views: int, scale: tuple[float, float], size: tuple[int, int]) -> Any:
        """(b, views, height, width, 3)."""
        import jax.numpy as jnp

        from .draws import draw

        rows = jnp.repeat(x, views, axis=0)
        draws = draw(
            key, len(rows), (x.shape[1], x.shape[2]), flip=self.flip, crop=(scale, size),
            policy=parse_policy(self.policy), jitter=self.jitter,
        )  # fmt: skip
        return draws.applied(rows).reshape(len(x), views, *size, x.shape[-1])


def _check(shape: tuple[int, ...], dtype: Any) -> None:
    if len(shape) == 4:
        raise UsageError("views are of images; the frames of clips are views already: leave --augment views out")
    if len(shape) != 3 or shape[-1] != 3 or str(dtype) != "uint8":
        raise ShapeError(f"views takes images (h, w, 3) of 8 bits, got {shape} {dtype}")
