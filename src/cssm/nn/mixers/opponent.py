"""Opponent CSSM: excitation X and inhibition Y, coupled per channel and spatial frequency, gated by the frame.

[X; Y]_t = M_t [X; Y]_{t-1} + [b_t rfft2(x_t); 0] with M_t = [[d a_t, -K_I m_t], [K_E g_t, d e_t]], each row divided by
max(1, row sum / rho), row sum = the sum of moduli; y_t = Dense([irfft2 X_t, irfft2 Y_t]). K_E, K_I: learned kernels'
spectra in the unit disc, d in [0.1, 0.99] per channel. The gates a, e (decay), m, g (coupling) and b are products of a
sigmoid per row and one per column, from the mean of x_t over space and a sinusoidal embedding of the frame index.

Every row of the scaled M_t sums to at most rho, so max(|X_t|, |Y_t|) <= rho max(|X_{t-1}|, |Y_{t-1}|) + |b rfft2(x_t)|
for any sequence of gates, hence <= max|rfft2(x)| / (1 - rho). (Unscaled, as in the source, the spectral radius of M
reaches 1.41.)

Source: docs/math.md section 3; 002 (`opponent`, `GatedOpponentCSSM`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid, HalfSpectrum, SpectralState, Video
from cssm.ops import kernel_spectrum, stable_spectrum
from cssm.ops.cell import cell_scan, cell_step
from cssm.ops.cell import opponent as opponent_cell
from cssm.ops.spectral import spectral_zero_state, to_space, to_spectrum

from ..mixer import MIXERS, Mixer, select
from ..parameter import RecurrenceParam
from ..parts.dense import Dense
from ..shared.bounds import decay_bound, spectrum_bound
from ..shared.gates import Clock, FactoredGates, outer
from ..shared.pair_goom import pair_scan
from ..shared.spectral import checked_margin, initial_kernel
from ..shared.wide import wide

GATES = {"excite": 3.0, "inhibit": 3.0, "to_excitation": 0.0, "to_inhibition": 0.0, "write": 2.0}  # initial bias
NUMERICS = ("direct", "goom")


class OpponentState(NamedTuple):
    excitation: SpectralState
    inhibition: SpectralState
    turns: Float[Any, "b n"]  # phases of the frame index


@MIXERS.register("opponent")
class Opponent(Mixer):
    """Excitation and inhibition, coupled per frequency by gates from the frame and its index since the last reset.

    Args:
      channels: C. kernel_size, init_scale: of the two coupling kernels, as in `no_gate` (circular boundary).
      rho: bound on the row sums of the transition. knots: values per axis of the gates' reference grid.
      numerics: "direct", or "goom" on complex logarithms (ops/goom): slower, and materialises every transition.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> Opponent(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    def __init__(
        self, channels: int, *, kernel_size: int = 11, rho: float = 0.999, init_scale: float = 0.02,
        knots: int = 17, numerics: str = "direct", rngs: nnx.Rngs,
    ):  # fmt: skip
        checked_margin("opponent", kernel_size, rho, "circular", None)
        if numerics not in NUMERICS:
            raise UsageError(f"opponent: unknown numerics {numerics!r}, use {' or '.join(NUMERICS)}")
        self.channels, self.rho, self.numerics, self.clock = channels, rho, numerics, Clock(channels)
        self.excitation_kernel = initial_kernel(rngs.params(), channels, kernel_size, init_scale, 0.0)
        self.inhibition_kernel = initial_kernel(rngs.params(), channels, kernel_size, init_scale, 0.0)
        self.decay_logit = RecurrenceParam(jnp.full((channels,), 2.2))  # d = 0.9
        self.gates = FactoredGates(channels, GATES, knots=knots, rngs=rngs)
        self.out = Dense(2 * channels, channels, rngs=rngs)

    def couplings(self, grid: Grid) -> tuple[HalfSpectrum, HalfSpectrum]:
        """K_E, K_I (C, H, W // 2 + 1), |K| < 1."""
        kernels = self.excitation_kernel, self.inhibition_kernel
        excitation, inhibition = (stable_spectrum(kernel_spectrum(k[...], grid), 1.0) for k in kernels)
        return excitation, inhibition

    def transition_parts(self, grid: Grid):
        """What does not change over time: d (C, 1, 1), K_E, K_I and their moduli."""
        logit, couplings = self.decay_logit[...], self.couplings(grid)
        decay = 0.1 + 0.89 * jax.nn.sigmoid(wide(logit))
        return decay[:, None, None], couplings, tuple(map(jnp.abs, couplings))

    def factors(self, x, turns):
        """The gates of frames x (..., H, W, C) at phases (..., n): rows (..., H) and columns (..., Wf) of each."""
        context = x.mean((-3, -2)) + self.clock.embed(turns).astype(x.dtype)
        return jax.tree.map(jax.nn.sigmoid, self.gates(context, x.shape[-3:-1]))

    def init_state(self, batch: int, grid: Grid) -> OpponentState:
        zeros = spectral_zero_state(batch, self.channels, grid)
        return OpponentState(zeros, zeros, self.clock.init_state(batch))

    def _step(self, state: OpponentState, x: Frame) -> tuple[OpponentState, Frame]:
        if self.numerics == "goom":
            return self._scan(state, x[:, None], readout="last")
        parts = self._parts(x, self.factors(x, state.turns))
        pair, field = cell_step(self.cell, x, *parts, jnp.stack(state[:2], 1))
        return OpponentState(pair[:, 0], pair[:, 1], self.clock.step(state.turns)), self.out(field.astype(x.dtype))

    def _scan(
        self, state: OpponentState, x: Video, *, reset=None, readout="all"
    ) -> tuple[OpponentState, Video | Frame]:
        turns, shown = self.clock.scan(state.turns, x.shape[1], reset)
        run = self._by_goom if self.numerics == "goom" else self._by_frame
        pair, y = run(state[:2], x, self.factors(x, shown), reset, readout)
        return OpponentState(pair[0], pair[1], turns), y

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """max|rfft2(x)| / (1 - rho), for the write gate is at most 1; phases are at most 1."""
        return max(1.0, decay_bound(spectrum_bound(grid, input_bound), self.rho))

    @property
    def cell(self):
        return opponent_cell(self.rho)

    def _parts(self, x, factors):
        """Planes, gates and statics of the cell, for frames x (..., H, W, C)."""
        decay, (excitation, inhibition), (of_excitation, of_inhibition) = self.transition_parts(x.shape[-3:-1])
        planes = jnp.stack([outer(*factors[name]) for name in GATES], -3)
        gates = jnp.broadcast_to(decay[:, 0, 0], (*x.shape[:-3], 1, self.channels))
        return planes, gates, jnp.stack([inhibition, excitation, lax.complex(of_inhibition, of_excitation)])

    def _by_frame(self, pair, x, factors, reset, readout):
        """y is linear in the states: the mean y is the y of the mean state, and takes one inverse FFT."""
        options = {"reset": reset, "readout": "none" if readout == "last" else readout}
        pair, field = cell_scan(self.cell, x, *self._parts(x, factors), jnp.stack(pair, 1), **options)
        pair = pair[:, 0], pair[:, 1]
        return pair, self.output(x[:, -1], pair) if readout == "last" else self.out(field.astype(x.dtype))

    def _by_goom(self, pair, x, factors, reset, readout):
        matrices, writes = materialised(self.transition_parts(x.shape[2:4]), self.rho, x, factors)
        if reset is not None:
            matrices = jnp.where(reset.T[:, None, None, :, None, None, None], 0, matrices)
        states = pair_scan(matrices, writes, jnp.stack(pair))  # t 2 b c h wf
        if readout in ("last", "mean"):
            shown = states[-1] if readout == "last" else states.mean(0)
            return tuple(states[-1]), self.output(x[:, -1], tuple(shown))
        field = jnp.moveaxis(to_field((states[:, 0], states[:, 1]), x.shape[3]), 0, 1)
        return tuple(states[-1]), select(self.out(field.astype(x.dtype)), readout)

    def output(self, x, pair):
        """y of the pair of spectra after frames x (..., H, W, C)."""
        return self.out(to_field(pair, x.shape[2]).astype(x.dtype))


def transition(parts, rho: float, factors):
    """The four entries of M, (..., C, H, Wf), with rows scaled to sum to at most rho; and the write gate."""
    gates = {name: outer(*factor)[..., None, :, :] for name, factor in factors.items()}
    decay, (to_inhibition, to_excitation), (inhibition_gain, excitation_gain) = parts  # K_E, K_I, and moduli
    excite, inhibit = decay * gates["excite"], decay * gates["inhibit"]
    into_x, into_y = gates["to_excitation"], gates["to_inhibition"]
    first = 1 / jnp.maximum(1, (excite + excitation_gain * into_x) / rho)
    second = 1 / jnp.maximum(1, (inhibit + inhibition_gain * into_y) / rho)
    rows = (excite * first, -(into_x * first) * to_excitation), ((into_y * second) * to_inhibition, inhibit * second)
    return rows, gates["write"]


def materialised(parts, rho: float, x, factors):
    """M (T, 2, 2, B, C, H, Wf) and the write (T, 2, B, C, H, Wf) of a clip: T matrices for every channel."""
    rows, write = transition(parts, rho, factors)
    write = write * to_spectrum(x)
    matrices = jnp.stack([jnp.stack(jnp.broadcast_arrays(*row)) for row in rows]).astype(write.dtype)
    return jnp.moveaxis(matrices, 3, 0), jnp.moveaxis(jnp.stack([write, jnp.zeros_like(write)]), 2, 0)


def to_field(pair, width: int):
    """(..., C, H, Wf) twice -> (..., H, W, 2 C)."""
    return jnp.concatenate([to_space(spectrum, width) for spectrum in pair], -1)
