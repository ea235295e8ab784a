"""Losses of embeddings, and how many directions they take up. Source: docs/math.md section 6."""

from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Float

Interval = tuple[int | float, int | float]
KNOTS = 17
WIDTH = 3.0  # of the unweighted form: knots of [-WIDTH, WIDTH]
FORMS = ("mean", "lejepa")
MODES = ("successive", "all", "to_mean")


def sigreg(
    z: Annotated[ArrayLike, "n p"],
    directions: Annotated[ArrayLike, "s p"],
    *,
    form: str = "mean",
    interval: Interval = (0, 3),
    weights: Annotated[ArrayLike, "n"] | None = None,
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
      weights: (N,) how much each counts, N their sum: 0 for rows that only fill a batch up. All 1 when omitted.

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
    share = jnp.ones(len(z), wide) if weights is None else jnp.asarray(weights, wide)
    sums = characteristic_sums(z.astype(wide), directions.astype(wide), share, (low, high))
    away = from_normal(sums / jnp.maximum(share.sum(), 1), form, (low, high))
    return away if form == "mean" else share.sum() * away


def characteristic_sums(z: Any, directions: Any, weights: Any, interval: Interval) -> Float[Any, "2 s k"]:
    """Weighted sums over n of cos(t x_n) and sin(t x_n), x = z u, at the knots t of the interval."""
    t = jnp.linspace(*interval, KNOTS, dtype=z.dtype)
    angles = (z @ directions.T)[..., None] * t  # (n, s, knots)
    return jnp.stack([jnp.einsum("n,nsk->sk", weights, part(angles)) for part in (jnp.cos, jnp.sin)])


def from_normal(phi: Float[Any, "2 s k"], form: str, interval: Interval) -> Float[Any, ""]:
    """How far a characteristic function (real, imaginary) is from the normal one: `sigreg` without its factor N."""
    t = jnp.linspace(*interval, KNOTS, dtype=phi.dtype)
    normal = jnp.exp(-jnp.square(t) / 2)
    away = jnp.square(phi[0] - normal) + jnp.square(phi[1])
    if form == "mean":
        return away.mean()
    return (2 if interval[0] == 0 else 1) * jnp.trapezoid(away * normal, t).mean()


def prediction_loss(
    z: Annotated[ArrayLike, "b t p"],
    mode: str = "successive",
    *,
    centre: int | None = None,
    weights: Annotated[ArrayLike, "b"] | None = None,
) -> Float[Any, ""]:
    """How far the embeddings of a clip's frames, or of an image's views, are from each other: mean squared lengths.

        successive:   |z_{t+1} - z_t|^2
        all:          |z_s - z_t|^2 over all pairs s < t
        to_mean:      |z_t - mean_s z_s|^2;    all T (T - 1) / 2 = T^2 to_mean

    Args:
      z: (B, T, P). mode: one of these.
      centre: with to_mean, the first so many make the mean, such as the global views; all when omitted.
      weights: (B,) how much each row counts. All the same when omitted.

    Raises:
      ShapeError: not (B, T, P), or fewer than two frames. UsageError: an unknown mode, a centre that does not fit.

    >>> float(prediction_loss(jnp.array([[[0.0], [1.0], [3.0]]])))  # (1 + 4) / 2
    2.5
    """
    z = jnp.asarray(z)
    if mode not in MODES:
        raise UsageError(f"unknown mode {mode!r} of prediction_loss: use {', '.join(MODES)}")
    if z.ndim != 3 or 0 in z.shape or z.shape[1] < 2:
        raise ShapeError(f"prediction_loss takes z (B, T, P) of two frames or more, got {z.shape}")
    steps = z.shape[1]
    if centre is not None and (mode != "to_mean" or not 1 <= centre <= steps):
        raise UsageError(f"centre is {centre}: it is for mode 'to_mean', and 1..{steps} of {steps} frames")
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    if mode == "successive":
        rows = jnp.square(z[:, 1:] - z[:, :-1]).sum(-1).mean(1)
    else:
        rows = jnp.square(z - z[:, :centre].mean(1, keepdims=True)).sum(-1).mean(1)
        rows = rows if mode == "to_mean" else rows * (2 * steps / (steps - 1))
    if weights is None:
        return rows.mean()
    weights = jnp.asarray(weights, z.dtype)
    return (weights * rows).sum() / jnp.maximum(weights.sum(), 1)


def effective_rank(z_sum: np.ndarray, z_products: np.ndarray, count: float) -> float:
    """exp of the entropy of the covariance's eigenvalues as shares: P where all directions vary alike, 1 for a line.

    Args:
      z_sum: (P,) sum of the embeddings. z_products: (P, P) sum of z z^T. count: how many there were.

    Returns 0 where nothing varies. Source: Roy and Vetterli 2007.

    >>> z = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(effective_rank(z.sum(0), z.T @ z, 4.0), 6)
    2.0
    """
    mean, covariance = _moments(z_sum, z_products, count)
    values = np.maximum(np.linalg.eigvalsh(covariance), 0)
    noise = 1e-6 * (np.trace(covariance) + (mean**2).sum())  # what float32 sums leave of nothing
    if values.sum() <= noise:
        return 0.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mean_deviation(z_sum: np.ndarray, z_products: np.ndarray, count: float) -> float:
    """sqrt(tr(covariance) / P): 1 for a standard normal distribution, 0 where all embeddings are one point.

    The effective rank has no scale: embeddings that have shrunk towards a point may still vary in all directions.

    Args: as for `effective_rank`.

    >>> z = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(mean_deviation(z.sum(0), z.T @ z, 4.0) ** 2, 6)
    0.5
    """
    _, covariance = _moments(z_sum, z_products, count)
    return float(np.sqrt(max(np.trace(covariance), 0.0) / len(covariance)))


def _moments(z_sum: np.ndarray, z_products: np.ndarray, count: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean (P,) and covariance (P, P), float64."""
    mean = np.asarray(z_sum, np.float64) / count
    return mean, np.asarray(z_products, np.float64) / count - np.outer(mean, mean)
