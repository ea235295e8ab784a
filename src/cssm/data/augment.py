"""Augmentation of batches on the device: a function of a key, with one draw for each clip, so that frames stay aligned.

Augmentations run inside the jitted training step, before pixels are normalised. JAX is imported when one is called.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from cssm.core.errors import UsageError
from cssm.core.registry import Registry

from .source import check_choice, check_range

if TYPE_CHECKING:
    import jax

Arrays = Mapping[str, Any]
AUGMENTS: Registry[Any] = Registry("augmentation")


@runtime_checkable
class Augment(Protocol):
    """An augmentation: a frozen dataclass of options; the `augment` of a run."""

    def __call__(self, key: "jax.Array", batch: Arrays) -> dict[str, Any]:
        """The batch, changed; the same key gives the same batch.

        Args:
            key: a JAX random key, another one for each step.
            batch: `input` (b, [t,] h, w, c) of any dtype, which is kept; `label` (b,); perhaps `markers` (b, 2, 2),
                (y, x) px with pixel centres at +.5, which follow the pixels; other keys pass through.
        """
        ...


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

    def __call__(self, key: "jax.Array", batch: Arrays) -> dict[str, Any]:
        import jax
        import jax.numpy as jnp

        x = jnp.asarray(batch["input"])
        flips, moves = self._draw(key, len(x))
        flipped = jnp.where(flips.reshape(-1, *[1] * (x.ndim - 1)), x[..., ::-1, :], x)
        out = {**batch, "input": jax.vmap(self._moved)(flipped, moves) if self.shift else flipped}
        if "markers" in batch:
            y, along = jnp.moveaxis(jnp.asarray(batch["markers"]), -1, 0)  # (b, 2) each
            along = jnp.where(flips[:, None], x.shape[-2] - along, along)
            out["markers"] = jnp.stack([y, along], -1) + moves[:, None].astype(y.dtype)
        if "tracks" in batch:
            out |= self._flipped_tracks(flips, batch, x.shape[-2])
        return out

    def _flipped_tracks(self, flips: Any, batch: Arrays, width: int) -> dict[str, Any]:
        """tracks (b, n, t, 2) (x, y) and query_points (b, n, 3) (t, y, x) as their pixels."""
        import jax.numpy as jnp

        if self.shift:
            raise UsageError(f"shift is {self.shift}: points that are tracked may not leave the frame, use shift=0")
        tracks, queries = jnp.asarray(batch["tracks"]), jnp.asarray(batch["query_points"])
        x, last = tracks[..., 0], queries[..., 2]
        x = jnp.where(flips[:, None, None], width - x, x)
        last = jnp.where(flips[:, None], width - last, last)
        return {"tracks": tracks.at[..., 0].set(x), "query_points": queries.at[..., 2].set(last)}

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
