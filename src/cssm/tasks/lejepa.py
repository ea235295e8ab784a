"""LeJEPA: embeddings of frames or views that predict each other and are spread as a standard normal distribution.

    L = w_pred prediction_loss(z) + w_sig sigreg(z)

Source: Balestriero and LeCun 2025, LeJEPA; docs/math.md section 6.
"""

from typing import Annotated, Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Float

KNOTS = 17
WIDTH = 3.0  # of the unweighted form: knots of [-WIDTH, WIDTH]
FORMS = ("mean", "lejepa")
MODES = ("successive", "all", "to_mean")


def sigreg(
    z: Annotated[ArrayLike, "n p"],
    directions: Annotated[ArrayLike, "s p"],
    *,
    form: str = "mean",
    interval: tuple[int | float, int | float] = (0, 3),
) -> Float[Any, ""]:
    """How far embeddings are from a standard normal distribution: the Epps-Pulley statistic of their projections.

    With x = z u for a direction u, phi(t) = mean_n exp(i t x_n) and w(t) = exp(-t^2 / 2), which is also the
    characteristic function of the standard normal distribution:

        mean:     the mean of |phi(t) - w(t)|^2 over 17 knots t of [-3, 3]; it does not grow with N
        lejepa:   N times the integral of |phi(t) - w(t)|^2 w(t) dt by the trapezoidal rule on 17 knots of the interval

    and the mean over directions. An interval that begins at 0 stands for both sides: it counts twice. In a loss the
    weights of the two forms differ by a factor of about N.

    Args:
      z: (N, P) embeddings. directions: (S, P), of length 1, the same on all devices, best drawn anew at each step.
      form: "mean" or "lejepa". interval: of the integral, (0, 3) or (-5, 5) for example.

    Raises:
      ShapeError: shapes that do not fit. UsageError: an unknown form, or an interval without length.

    >>> round(float(sigreg(jnp.zeros((8, 2)), jnp.eye(2))), 6)  # all in one place
    0.492695
    """
    z, directions = jnp.asarray(z), jnp.asarray(directions)
    if z.ndim != 2 or directions.ndim != 2 or z.shape[1] != directions.shape[1] or 0 in (*z.shape, len(directions)):
        raise ShapeError(
            f"sigreg takes z (N, P) and directions (S, P), none of them zero, got {z.shape} and {directions.shape}"
        )
    if form not in FORMS:
        raise UsageError(f"unknown form {form!r} of sigreg: use {' or '.join(FORMS)}")
    low, high = (-WIDTH, WIDTH) if form == "mean" else interval
    if not low < high:
        raise UsageError(f"interval is {interval}, expected (low, high) with low < high")
    wide = jnp.promote_types(z.dtype, jnp.float32)
    t = jnp.linspace(low, high, KNOTS, dtype=wide)
    angles = (z.astype(wide) @ directions.astype(wide).T)[..., None] * t  # (n, s, knots)
    normal = jnp.exp(-jnp.square(t) / 2)
    away = jnp.square(jnp.cos(angles).mean(0) - normal) + jnp.square(jnp.sin(angles).mean(0))
    if form == "mean":
        return away.mean()
    sides = 2 if low == 0 else 1
    return sides * len(z) * jnp.trapezoid(away * normal, t).mean()


def prediction_loss(z: Annotated[ArrayLike, "b t p"], mode: str = "successive") -> Float[Any, ""]:
    """How far the embeddings of a clip's frames, or of an image's views, are from each other: mean squared lengths.

        successive:   |z_{t+1} - z_t|^2
        all:          |z_s - z_t|^2 over all pairs s < t
        to_mean:      |z_t - mean_s z_s|^2;    all T (T - 1) / 2 = T^2 to_mean

    Raises:
      ShapeError: not (B, T, P), or fewer than two frames. UsageError: an unknown mode.

    >>> float(prediction_loss(jnp.array([[[0.0], [1.0], [3.0]]])))  # (1 + 4) / 2
    2.5
    """
    z = jnp.asarray(z)
    if mode not in MODES:
        raise UsageError(f"unknown mode {mode!r} of prediction_loss: use {', '.join(MODES)}")
    if z.ndim != 3 or 0 in z.shape or z.shape[1] < 2:
        raise ShapeError(f"prediction_loss takes z (B, T, P) of two frames or more, got {z.shape}")
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    if mode == "successive":
        return jnp.square(z[:, 1:] - z[:, :-1]).sum(-1).mean()
    spread = jnp.square(z - z.mean(1, keepdims=True)).sum(-1).mean()
    steps = z.shape[1]
    return spread if mode == "to_mean" else spread * (2 * steps / (steps - 1))
