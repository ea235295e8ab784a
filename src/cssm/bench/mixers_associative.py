"""The other mixers as a reader of the papers writes them: gates of every frame materialised, lax.associative_scan.

From the mixer's own parameters, autodiff throughout: what the mixers are measured against, and an independent witness
of their numbers. Every function takes (mixer, x), x (B, T, H, W, C), and equals mixer(x).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cssm.nn.mixers.mingru import positive
from cssm.nn.shared import ssm_channels
from cssm.nn.shared.gates import outer, over_columns, over_rows
from cssm.nn.shared.tokens import over_tokens
from cssm.ops.spectral.native_transform import plain_to_space as to_space
from cssm.ops.spectral.native_transform import plain_to_spectrum as to_spectrum

from .scan import associative


def standard(mixer: Any, x):
    """K broadcast to (B, T, C, H, Wf)."""
    return to_space(associative(mixer.transition(x.shape[2:4]), to_spectrum(x)), x.shape[3])


def no_gate(mixer: Any, x):
    """`standard`, and a Dense."""
    return mixer.out(standard(mixer, x))


def conv3d(mixer: Any, x):
    """The sum over past frames written out, then as `standard`."""
    gain, filters = mixer.spectra(x.shape[2:4])
    frames, steps = to_spectrum(x), x.shape[1]
    late = lambda j: jnp.pad(frames, [(0, 0), (j, 0)] + [(0, 0)] * 3)[:, :steps]  # frame t - j  # noqa: E731
    write = sum(taps * late(j) for j, taps in enumerate(filters))
    return mixer.out(to_space(associative(gain, write), x.shape[3]))


def modes(mixer: Any, x):
    """`lru`, `s5`, `convs5`: e^z broadcast to (B, T, H, W, P) complex modes."""
    parts, frames = mixer.system(), x.reshape(-1, *x.shape[2:])
    written = lax.complex(*parts.write(frames)).reshape(*x.shape[:4], -1)
    states = associative(jnp.exp(parts.log_transition), written).reshape(*frames.shape[:3], -1)
    return parts.read((states.real, states.imag), frames).reshape(x.shape)


def s4d(mixer: Any, x):
    """e^z broadcast to (B, T, H, W, C, N / 2) complex modes."""
    step = ssm_channels.one_step(mixer.system(), mixer.D[...])
    states = associative(step.factor, x[..., None] * lax.complex(*jnp.split(step.drive, 2, -1)))
    pairs = jnp.concatenate([states.real, states.imag], -1)
    return mixer.output((step.output * pairs).sum(-1) + step.skip * x)


def s4(mixer: Any, x):
    """Matrices (T, C, N, N), the same at all pixels, and states (T, C, N, B H W)."""
    step = ssm_channels.one_step(mixer.system(), mixer.D[...])
    batch, steps, *grid, channels = x.shape
    frames = x.transpose(1, 4, 0, 2, 3).reshape(steps, channels, 1, -1)  # t c 1 bhw
    matrix = jnp.eye(step.drive.shape[-1]) + step.increment
    matrices = jnp.broadcast_to(matrix, (steps, *matrix.shape))
    combine = lambda p, q: (q[0] @ p[0], q[0] @ p[1] + q[1])  # noqa: E731
    states = lax.associative_scan(combine, (matrices, step.drive[..., None] * frames))[1]
    y = jnp.einsum("cn,tcnp->tcp", step.output, states).reshape(steps, channels, batch, *grid)
    return mixer.output(y.transpose(2, 0, 3, 4, 1) + step.skip * x)


def conv_ssm(mixer: Any, x):
    """a broadcast to (B, T, H, W, C)."""
    return mixer.output(x, associative(mixer.transition(x.shape[2:4])[:, 0, 0], mixer.written(x)))


def mingru(mixer: Any, x):
    """z and c of (B, T, H, W, C)."""
    gate, candidate = (v.reshape(x.shape) for v in mixer.logits(x.reshape(-1, *x.shape[2:])))
    z = jax.nn.sigmoid(gate)
    return mixer.out(associative(1 - z, z * positive(candidate)))


def rglru(mixer: Any, x):
    """a and the write of (B, T, H, W, C)."""
    return mixer.out(associative(*mixer.gates(x)))


def no_fft(mixer: Any, x):
    """The gates of rows and columns multiplied out, decays of (B, T, H, W, C)."""
    past = mixer.time_conv.init_state(x.shape[0], x.shape[2:4])
    u = jax.nn.silu(mixer.time_conv.scan(past, mixer.space_conv(mixer.inner(x)))[1])
    factors = mixer.factors(u)
    rows, columns = factors["step"]
    total = over_columns(rows) + over_rows(columns)  # b t h w
    decay = mixer.decay() * jnp.exp(-total)[..., None]
    return mixer.output(x, associative(decay, (total * outer(*factors["write"]))[..., None] * u), factors)


def gdn_seq(mixer: Any, x):
    """M = alpha (I - beta k k^T) of every token, (B, THW, heads, d, d), and S_t = S_{t-1} M_t + beta v k^T."""
    tokens = over_tokens(x)[0]
    u = mixer.conv.scan(mixer.conv.init_state(x.shape[0], (1, 1)), tokens)[1]
    q, k, v, alpha, beta = mixer.projections(jax.nn.silu(u[:, :, 0, 0]))
    alpha, beta = alpha[..., None, None], beta[..., None, None]
    matrices = alpha * (jnp.eye(k.shape[-1]) - beta * _outer(k, k))
    combine = lambda p, q: (p[0] @ q[0], p[1] @ q[0] + q[1])  # noqa: E731
    states = lax.associative_scan(combine, (matrices, beta * _outer(v, k)), axis=1)[1]
    return mixer.output(x, jnp.einsum("btnij,btnj->btni", states, q).reshape(x.shape))


def mamba2_seq(mixer: Any, x):
    """The decay of every token broadcast to its state, (B, THW, heads, d, N)."""
    tokens = over_tokens(x)[0]
    u = mixer.conv.scan(mixer.conv.init_state(x.shape[0], (1, 1)), mixer.inputs(tokens))[1]
    q, k, v, dt, log_a = mixer.projections(jax.nn.silu(u[:, :, 0, 0]), tokens[:, :, 0, 0])
    states = associative(jnp.exp(log_a)[..., None, None], _outer(dt[..., None] * v, k[:, :, None]))
    o = jnp.einsum("btnij,btj->btni", states, q) + mixer.skip[...][:, None] * v
    return mixer.output(x, o.reshape(*x.shape[:-1], -1))


def realspace(mixer: Any, x):
    """`realspace_seq`, `realspace_par`: a grouped convolution of every frame, one after another: lax.scan."""
    kernel = mixer.kernel()

    def step(memory, frame):
        memory = _circular(memory, kernel) + frame
        return memory, memory

    return mixer.out(jnp.moveaxis(lax.scan(step, jnp.zeros_like(x[:, 0]), jnp.moveaxis(x, 1, 0))[1], 0, 1))


def s4nd(mixer: Any, x):
    """`s4nd`, `s4nd_full`: the kernel of the four quadrants (C, 2H - 1, 2W - 1) and the FFT of the padded frame."""
    rows, columns = mixer.kernels(x.shape[2:4])
    kernel = jnp.einsum("cp,cq->cpq", _two_sided(rows), _two_sided(columns))
    size = [2 * n for n in x.shape[2:4]]
    spectrum = jnp.fft.rfft2(kernel, size) * jnp.fft.rfft2(jnp.moveaxis(x, -1, 2), size)
    height, width = x.shape[2:4]
    y = jnp.fft.irfft2(spectrum, size)
    y = jnp.roll(y, (1 - height, 1 - width), (-2, -1))[..., :height, :width]
    return mixer.out(jax.nn.gelu(jnp.moveaxis(y, 2, -1) + mixer.D[...] * x))


def _circular(x, kernel):
    """x (B, H, W, C) by (C, K, K), its origin on the middle tap, on the torus."""
    taps = kernel.shape[1]
    around = (taps - 1 - taps // 2, taps // 2)
    padded = jnp.pad(x, [(0, 0), around, around, (0, 0)], mode="wrap")
    filters = jnp.moveaxis(kernel[:, ::-1, ::-1], 0, -1)[:, :, None]  # lax.conv correlates
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": x.shape[-1]}
    return lax.conv_general_dilated(padded, filters, (1, 1), "VALID", **options)


def _two_sided(taps):
    """(2, C, L), forward and backward -> (C, 2L - 1), the tap 0 of both on L - 1."""
    forward, backward = taps
    zeros = jnp.zeros_like(forward[:, 1:])
    return jnp.concatenate([zeros, forward], -1) + jnp.concatenate([backward[:, ::-1], zeros], -1)


def _outer(a, b):
    return a[..., :, None] * b[..., None, :]
