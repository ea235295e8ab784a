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
from cssm.ops.spectral.native_call import without_compiled_kernels
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
    with without_compiled_kernels():
        analysis = jax.jit(function).lower(*args).compile().cost_analysis()
    return dict(analysis or {})


def draw_gains(layers: Sequence[LayerFacts], path: Path) -> bool:
    """Gain |K| per frame, a row for each layer: its map over spatial frequency, and its radial profile beside it.

    The map is the mean over channels; the profile shows it against cycles per pixel, with the range of the channels. A
    mixer whose modes are no frequencies (one state a mode, the same at every pixel) has its sorted gains. Returns False
    where no layer has fixed gains.
    """
    fixed = [(place, np.abs(np.asarray(place.mixer.transition(place.grid)))) for place in layers if _is_fixed(place)]
    if not fixed:
        return False
    with figure(path, figsize=(8, 2.6 * len(fixed) + 0.2)) as fig:
        for row, (place, gain) in zip(fig.subplots(len(fixed), 2, squeeze=False), fixed, strict=True):
            if gain.shape[1:] == (1, 1):
                _sorted_modes(row, gain.reshape(-1), place.name)
            else:
                _gain_map(fig, row[0], gain, place)
                _radial_profile(row[1], gain, place.grid)
    return True


def _is_fixed(place: LayerFacts) -> bool:
    return place.mixer.time_invariant


def _gain_map(fig, axes, gain, place: LayerFacts) -> None:
    mean = np.fft.fftshift(gain.mean(0), axes=0)
    extent = (0.0, 0.5, 0.5, -0.5)  # cycles per pixel: a half spectrum over width
    image = axes.imshow(mean, vmin=0, vmax=max(1.0, mean.max()), cmap="magma", extent=extent, aspect="auto")
    axes.set(xlabel="cycles per pixel, width", ylabel="cycles per pixel, height")
    axes.set_title(f"{place.name}: gain per frame, mean of {len(gain)} channels", fontsize=8)
    fig.colorbar(image, ax=axes)


def _radial_profile(axes, gain, grid: Grid) -> None:
    bins, radius = radial_bins(grid)
    profile = np.stack([gain.reshape(len(gain), -1)[:, bins == i].mean(1) for i in range(len(radius))], -1)
    axes.fill_between(radius, profile.min(0), profile.max(0), color=BLUE, alpha=0.2, label="range of channels")
    axes.plot(radius, profile.mean(0), color=BLUE, label="mean")
    plain(axes, xlabel="cycles per pixel", ylabel="gain per frame", ylim=(0, max(1.02, 1.02 * profile.max())))
    axes.legend(frameon=False, fontsize=7)


def _sorted_modes(row, gain, name: str) -> None:
    row[0].plot(np.sort(gain)[::-1], color=BLUE)
    plain(row[0], xlabel="mode, slowest first", ylabel="gain per frame", ylim=(0, 1.02))
    row[0].set_title(f"{name}: one gain a mode, the same at every pixel", fontsize=8)
    horizons = [min(decay_horizon(float(g)), 1e6) for g in np.sort(gain)[::-1]]
    row[1].semilogy(np.maximum(horizons, 1e-2), color=BLUE)
    plain(row[1], xlabel="mode, slowest first", ylabel="frames to 1/1000")


def radial_bins(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """For each entry of a half spectrum (H, W // 2 + 1), flat, the ring it lies in; and the mean radius of each ring.

    >>> bins, radius = radial_bins((4, 4))
    >>> bins.shape, radius[0].item(), radius.round(2).tolist()
    ((12,), 0.0, [0.0, 0.29, 0.54, 0.71])
    """
    height, width = grid
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]).reshape(-1)
    rings = np.round(radius * max(min(height, width), 1)).astype(int)
    found, bins = np.unique(rings, return_inverse=True)
    return bins.reshape(-1), np.array([radius[bins == i].mean() for i in range(len(found))])
