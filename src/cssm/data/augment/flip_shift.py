"""Flips, and moves by whole pixels."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from cssm.core.errors import UsageError

from ..source import check_choice, check_range
from .protocol import AUGMENTS, Arrays

if TYPE_CHECKING:
    import jax


@AUGMENTS.register("flip_shift")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FlipShift:
    """Flip left and right with a probability, then move by whole pixels; every frame of a clip alike.

    With x' = w - x if flipped, else x, a pixel centre (y, x) goes to (y + dy, x' + dx); dy and dx are uniform on
    -shift..shift. Markers follow and may leave the frame; points that are tracked follow a flip, and are not moved, for
    they may not leave it (shift=0). Raises UsageError for options out of range.

    >>> import jax, jax.numpy as jnp
    >>> batch = {"input": jnp.array([[[[1], [2], [3]]]], jnp.uint8), "markers": jnp.array([[[0.5, 0.5], [0.5, 2.5]]])}
    >>> flipped = FlipShift(flip=1.0)(jax.random.key(0), batch)
    >>> flipped["input"].ravel().tolist(), flipped["markers"][0, :, 1].tolist()
    ([3, 2, 1], [2.5, 0.5])
    """

    flip: float = 0.5
    """Probability of a flip."""
    shift: int = 0
    """Largest move along each axis, px."""
    padding: Literal["zero", "edge"] = "zero"
    """What comes in at the border: zeros, or the border's own pixels."""

    def __post_init__(self):
        check_range("flip", self.flip, 0, 1)
        check_range("shift", self.shift, 0, 4096)
        check_choice("padding", self.padding, ("zero", "edge"))

    def fitted(self, data: Any, classes: int, normalization: str) -> "FlipShift":
        return self

    def __call__(self, key: "jax.Array", batch: Arrays) -> dict[str, Any]:
        import jax
        import jax.numpy as jnp

        from .points import flipped_points

        x = jnp.asarray(batch["input"])
        flips, moves = self._draw(key, len(x))
        flipped = jnp.where(flips.reshape(-1, *[1] * (x.ndim - 1)), x[..., ::-1, :], x)
        out: dict[str, Any] = {**batch, "input": jax.vmap(self._moved)(flipped, moves) if self.shift else flipped}
        out |= flipped_points(flips, batch, x.shape[-2])
        if self.shift and "tracks" in batch:
            raise UsageError(f"shift is {self.shift}: points that are tracked may not leave the frame, use shift=0")
        if "markers" in batch:
            out["markers"] += moves[:, None].astype(out["markers"].dtype)
        return out

    def _draw(self, key: "jax.Array", rows: int) -> tuple[Any, Any]:
        """flips (b,) bool and moves (b, 2) int32 (dy, dx)."""
        import jax

        first, second = jax.random.split(key)
        flips = jax.random.bernoulli(first, self.flip, (rows,))
        return flips, jax.random.randint(second, (rows, 2), -self.shift, self.shift + 1)

    def _moved(self, clip: Any, move: Any) -> Any:
        """One clip ([t,] h, w, c) moved by (dy, dx)."""
        import jax
        import jax.numpy as jnp

        around = [(0, 0)] * (clip.ndim - 3) + [(self.shift, self.shift)] * 2 + [(0, 0)]
        padded = jnp.pad(clip, around, mode="edge" if self.padding == "edge" else "constant")
        start = [0] * (clip.ndim - 3) + [self.shift - move[0], self.shift - move[1], 0]
        return jax.lax.dynamic_slice(padded, start, clip.shape)
