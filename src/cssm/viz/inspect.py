"""What a model has learned and costs: spectral radius, memory in frames, gain over frequency, FLOPs, bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.typing import Grid
from cssm.nn.stack import LayerFacts
from cssm.shared.palette import BLUE

from .figure import figure, plain

FORGOTTEN = 1e-3  # what is left of a state when it counts as forgotten


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One mixer. Radius and horizon are None for mixers whose transition depends on the input or that have no state.

    state_bound: what no entry of the state ever exceeds for |x| <= 1, see `Mixer.state_bound`; None without a state.
    horizon: frames until the slowest mode has decayed to 1e-3; median_horizon: the same of the median mode.
    """

    name: str
    parameters: int
    flops_per_frame: float | None
    bytes_per_frame: float | None
    state_bytes: int
    state_bound: float | None
    spectral_radius: float | None
    horizon: float | None
    median_horizon: float | None


def inspect_layer(name: str, mixer, grid: Grid, channels: int) -> LayerReport:
    """Measure one mixer on a grid of (H, W) pixels, for one frame of one video."""
    parameters = sum(p.size for p in jax.tree.leaves(nnx.state(mixer, nnx.Param)))
    radius = horizon = median = None
    if mixer.time_invariant:
        gain = np.abs(np.asarray(mixer.transition(grid), np.complex128))
        radius, horizon, median = float(gain.max()), decay_horizon(gain.max()), decay_horizon(np.median(gain))
    state, bound, cost = 0, None, {}
    if mixer.recurrent:
        start = mixer.init_state(1, grid)
        state, bound = sum(v.nbytes for v in jax.tree.leaves(start)), mixer.state_bound(grid)
        cost = step_cost(lambda m, s, x: m.step(s, x), mixer, start, jnp.zeros((1, *grid, channels)))
    else:
        cost = step_cost(lambda m, x: m(x), mixer, jnp.zeros((1, 1, *grid, channels)))
    return LayerReport(
        name=name, parameters=parameters, flops_per_frame=cost.get("flops"), bytes_per_frame=cost.get("bytes accessed"),
        state_bytes=state, state_bound=bound, spectral_radius=radius, horizon=horizon, median_horizon=median,
    )  # fmt: skip


def decay_horizon(gain: float) -> float:
    """Frames n with gain^n = 1e-3: 0 for a gain of 0, infinite for a gain of 1 or more.

    >>> round(decay_horizon(0.5), 2)
    9.97
    """
    if gain <= 0:
        return 0.0
    return float("inf") if gain >= 1 else float(np.log(FORGOTTEN) / np.log(gain))


def step_cost(function, *args) -> dict[str, float]:
    """XLA's own count of operations and of memory traffic for one call."""
    analysis = jax.jit(function).lower(*args).compile().cost_analysis()
    return dict(analysis or {})


def draw_gains(layers: Sequence[LayerFacts], path: Path) -> bool:
    """Gain |K| per frame over spatial frequency: one row per layer, sorted by memory. False where no layer has one."""
    fixed = [(i, layer) for i, layer in enumerate(layers) if layer.mixer.time_invariant]
    rows = [(i, np.abs(np.asarray(layer.mixer.transition(layer.grid)))) for i, layer in fixed]
    if not rows:
        return False
    shown = min([8, *(len(gain) for _, gain in rows)])
    with figure(path, figsize=(1.6 * shown + 3.4, 1.9 * len(rows) + 0.3)) as fig:
        axes = fig.subplots(len(rows), shown + 1, squeeze=False, width_ratios=[1] * shown + [1.8])
        for row, (layer, gain) in zip(axes, rows, strict=True):
            _gain_maps(row[:-1], gain, layer)
            flat = np.sort(gain.reshape(-1))[::-1]
            row[-1].plot(np.linspace(0, 1, flat.size), flat, color=BLUE)
            plain(row[-1], xlabel="fraction of modes", ylabel="gain per frame", ylim=(0, 1.02))
    return True


def _gain_maps(axes, gain, layer):
    order = np.argsort(gain.mean((1, 2)))[::-1]
    picks = order[np.linspace(0, len(order) - 1, len(axes)).round().astype(int)]
    for axis, channel in zip(axes, picks, strict=True):
        image = np.fft.fftshift(gain[channel], axes=0)
        axis.imshow(image, vmin=0, vmax=1, cmap="magma", aspect="auto", interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"layer {layer + 1} channel {channel}\nmax {gain[channel].max():.3f}", fontsize=7)
    axes[0].set_ylabel("frequency over height", fontsize=7)
    axes[0].set_xlabel("frequency over width", fontsize=7)
