"""State-space mixers against explicit state spaces in float64, their bounds, irregular steps, and bad input."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import made
from cssm.core.errors import UsageError
from cssm.nn import create_mixer
from cssm.nn.mixer import repeat_frame
from tolerances import assert_close

CHANNELS = 3
SIZES = {"lru": 5, "s5": 6, "s4d": 6, "s4": 6, "convs5": 6}
IRREGULAR = ["lru", "s5", "s4d", "convs5"]
NAMES = [*SIZES, "s4nd", "s4nd_full"]


def build(name, channels=CHANNELS, **options):
    return made.moved(made.mixer(name, channels, d_state=SIZES.get(name, 6), seed=3, **options), 0.2)


clip = partial(made.clip, t=9, grid=(2, 4), channels=CHANNELS)


def value(parameter):
    return np.asarray(parameter[...], np.float64)


def numbers(parameter):
    """(2, ...) -> complex128."""
    return value(parameter)[0] + 1j * value(parameter)[1]


def both(v):
    return np.concatenate([v, v.conj()], -1)


def run(mixer, x, **options):
    """y and the state after a clip with no past, under jit."""
    return jax.jit(lambda x: mixer.scan(mixer.init_state(x.shape[0], x.shape[2:4]), x, **options)[::-1])(x)


def modes_witness(A_bar, B_bar, C, D, x):
    """y (B, T, H, W, C): the matrices (N, N), (N, C), (C, N) stepped at every position, one frame after another."""
    state, y = np.zeros((*x.shape[:1], *x.shape[2:4], A_bar.shape[0]), complex), []
    for t in range(x.shape[1]):
        state = state @ A_bar.T + x[:, t] @ B_bar.T
        y.append((state @ C.T).real + D * x[:, t])
    return np.stack(y, 1), state


def test_lru_equals_an_explicit_state_space():
    mixer, x = build("lru"), clip()
    eigenvalues = np.exp(-np.exp(value(mixer.nu)) + 1j * np.exp(value(mixer.theta)))
    drive = np.sqrt(1 - np.abs(eigenvalues) ** 2)[:, None] * numbers(mixer.B)
    expected, state = modes_witness(np.diag(eigenvalues), drive, numbers(mixer.C), value(mixer.D), np.float64(x))
    y, after = run(mixer, x)
    assert_close(y, expected, 3e-6)
    assert_close(after.modes, state, 3e-6)


def test_s5_equals_an_explicit_state_space():
    mixer, x = build("s5"), clip()
    A = -np.exp(value(mixer.log_A_real)) + 1j * value(mixer.A_imag)
    z = np.exp(value(mixer.log_step)) * A
    drive = ((np.exp(z) - 1) / A)[:, None] * numbers(mixer.B)
    pair = np.concatenate([drive, drive.conj()])  # both of each conjugate pair: 2 Re is their sum
    expected, _ = modes_witness(np.diag(both(np.exp(z))), pair, both(numbers(mixer.C)), value(mixer.D), np.float64(x))
    assert_close(run(mixer, x)[0], expected, 3e-6)


def dense(mixer, name):
    """A (C, N, N), B (C, N), C (C, N), step (C,): the continuous state space of every channel, complex128."""
    A = both(-np.exp(value(mixer.log_A_real)) + 1j * value(mixer.A_imag))
    matrices = np.stack([np.diag(row) for row in A])
    if name.endswith(("s4", "full")):
        P = value(mixer.P)[..., 0] + 1j * value(mixer.P)[..., 1]
        matrices = matrices - np.einsum("rcn,rcm->cnm", both(P), both(P).conj())
    return matrices, both(numbers(mixer.B)), both(numbers(mixer.C)), np.exp(value(mixer.log_step))


def discretised(mixer, name):
    """A_bar, B_bar (C, N, N), (C, N): the exponential of [[A, B], [0, 0]] for S4D, dense solves for S4."""
    A, B, C, step = dense(mixer, name)
    if name.endswith(("s4", "full")):
        half, eye = step[:, None, None] * A / 2, np.eye(A.shape[-1])
        return (
            np.linalg.solve(eye - half, eye + half),
            np.linalg.solve(eye - half, (step[:, None] * B)[..., None])[..., 0],
            C,
        )
    power = np.exp(step[:, None] * np.einsum("cnn->cn", A))
    diagonal = np.einsum("cnn->cn", A)
    return np.stack([np.diag(row) for row in power]), (power - 1) / diagonal * B, C


def dense_output(mixer, y):
    return np.asarray(jax.nn.gelu(jnp.asarray(y, jnp.float32)), np.float64) @ value(mixer.out.kernel) + value(
        mixer.out.bias
    )


@pytest.mark.parametrize("name", ["s4d", "s4"])
@pytest.mark.parametrize("steps", [9, 70])
def test_one_state_space_per_channel_equals_dense_matrices(name, steps):
    """70 frames: a short chunk, then a whole one."""
    mixer, x = build(name), clip(t=steps)
    A_bar, B_bar, C = discretised(mixer, name)
    state, y, u = np.zeros((2, 2, 4, CHANNELS, A_bar.shape[-1]), complex), [], np.float64(x)
    for t in range(steps):
        state = np.einsum("cnm,bhwcm->bhwcn", A_bar, state) + u[:, t, ..., None] * B_bar
        y.append(np.einsum("cn,bhwcn->bhwc", C, state).real + value(mixer.D) * u[:, t])
    shown, after = run(mixer, x)
    assert_close(shown, dense_output(mixer, np.stack(y, 1)), 5e-6)
    half = np.moveaxis(state[..., :3], (1, 2), (-2, -1))
    assert_close(after.modes, np.concatenate([half.real, half.imag], 2), 5e-6)


def test_convs5_equals_an_explicit_state_space():
    mixer, x = build("convs5"), np.float64(clip(t=4))
    A = -np.exp(value(mixer.log_A_real)) + 1j * value(mixer.A_imag)
    z = np.exp(value(mixer.log_step)) * A

    def convolve(frame, kernel):  # zero boundary, correlation as in neural networks
        padded, out = np.pad(frame, ((0, 0), (1, 1), (1, 1), (0, 0))), 0
        for i in range(3):
            for j in range(3):
                out = out + padded[:, i : i + x.shape[2], j : j + x.shape[3]] @ kernel[i, j]
        return out

    state, y = 0, []
    for t in range(x.shape[1]):
        state = np.exp(z) * state + (np.exp(z) - 1) / A * convolve(x[:, t], numbers(mixer.B))
        y.append(2 * convolve(state, numbers(mixer.C)).real + value(mixer.D) * x[:, t])
    assert_close(run(mixer, jnp.asarray(x, jnp.float32))[0], np.stack(y, 1), 3e-6)


@pytest.mark.parametrize("name", ["s4nd", "s4nd_full"])
def test_s4nd_equals_the_sum_over_four_quadrants(name):
    mixer, x = build(name, channels=2), np.float64(clip(t=1, grid=(4, 5), channels=2, batch=1))[0, 0]
    A_bar, B_bar, C = discretised(mixer, name)
    taps, vector = [], B_bar
    for _ in range(5):
        taps.append(np.einsum("dcn,cn->dc", C, vector).real)
        vector = np.einsum("cnm,cm->cn", A_bar, vector)
    taps, y = np.stack(taps, -1), value(mixer.D) * x  # taps (direction, rows' and columns' heads, length)
    for d, e in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        for p, q, i, j in np.ndindex(4, 5, 4, 5):
            row, column = (p - i if d == 0 else p + i), (q - j if e == 0 else q + j)
            if 0 <= row < 4 and 0 <= column < 5:
                y[p, q] += taps[d, :2, i] * taps[e, 2:, j] * x[row, column]
    assert_close(jax.jit(mixer)(jnp.asarray(x, jnp.float32)[None, None])[0, 0], dense_output(mixer, y), 5e-6)


@pytest.mark.parametrize("name", SIZES)
def test_the_state_bound_holds_for_4096_adversarial_frames(name):
    """Inputs at the bound, with the signs that push the slowest mode of the first channel furthest."""
    mixer, steps = build(name, dt_min=0.05) if name not in ("lru",) else build(name), 4096
    x = repeat_frame(jnp.sign(clip(t=1, grid=(2, 2), batch=1)[:, 0]), steps)
    z = np.log(np.asarray(mixer.transition((2, 2)))[:, 0, 0]) if mixer.time_invariant else np.array([-0.02 + 0.3j])
    beat = np.sign(np.cos(z[np.argmax(z.real)].imag * np.arange(steps)[::-1]) + 1e-9)
    x = x * jnp.asarray(beat, jnp.float32)[None, :, None, None, None]
    state = jax.jit(lambda x: mixer.scan(mixer.init_state(1, (2, 2)), x, readout="last")[0])(x)
    bound = mixer.state_bound((2, 2))
    assert np.isfinite(bound)
    assert 1e-3 * bound < max(float(jnp.abs(v).max()) for v in jax.tree.leaves(state)) <= bound * (1 + 1e-5)
    assert mixer.state_bound((2, 2), 3.0) == pytest.approx(3 * bound, rel=1e-5)


def test_the_bilinear_rule_makes_s4_a_contraction():
    """However large P and the steps are."""
    mixer = build("s4")
    for scale in (0.1, 1.0, 100.0):
        mixer.P[...] = scale * mixer.P[...]
        mixer.log_step[...] = jnp.log(jnp.array([1e-2, 1.0, 100.0]))
        assert (np.linalg.norm(discretised(mixer, "s4")[0], 2, (-2, -1)) < 1).all()


@pytest.mark.parametrize("name", IRREGULAR)
@pytest.mark.parametrize("readout", ["all", "last"])
def test_irregular_steps(name, readout):
    """dt = 1 is the default; dt = 2 is a zero frame in between; halves compose; scan equals step."""
    mixer, x = build(name), clip(t=5, grid=(2, 3))
    dt = jnp.ones((2, 5)).at[0, 2].set(2.0).at[1, 3].set(0.5)

    @jax.jit
    def all_of(x):
        start = mixer.scan(mixer.init_state(2, (2, 3)), x + 1)[0]
        regular = mixer.scan(start, x, readout=readout), mixer.scan(start, x, readout=readout, dt=jnp.ones((2, 5)))
        irregular = mixer.scan(start, x, readout="last", dt=dt)
        state, y = start, None
        for t in range(5):
            state, y = mixer.step(state, x[:, t], dt=dt[:, t])
        gap = jnp.insert(x[:1], 2, 0.0, axis=1)
        twice = mixer.scan(jax.tree.map(lambda s: s[:1], start), gap, readout="last")
        halves = (
            mixer.scan(start, jnp.zeros_like(x), dt=jnp.full((2, 5), 0.5))[0],
            mixer.scan(start, jnp.zeros_like(x), dt=jnp.full((2, 5), 1e-6).at[:, 0].set(2.5))[0],
        )
        return regular, (irregular, (state, y)), (jax.tree.map(lambda v: v[:1], irregular), twice), halves

    regular, stepped, gapped, halves = all_of(x)
    for one, other in (regular, stepped, gapped):
        assert_close(one, other, 1e-5)
    assert_close(*halves, 2e-4)


@pytest.mark.parametrize("name", ["s4", "s4d"])
def test_resets_frame_by_frame_equal_the_chunks(name):
    mixer, x = build(name), clip(t=6)
    none = jnp.zeros((2, 6), bool)
    assert_close(run(mixer, x), run(mixer, x, reset=none), 1e-5)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("lru", {"d_state": 0}, "lru: d_state is 0, expected at least one mode"),
        ("lru", {"r_max": 1.0}, "expected 0 <= r_min < r_max < 1"),
        ("lru", {"max_phase": 0.0}, "max_phase is 0.0, expected a positive angle"),
        ("s5", {"d_state": 3}, "s5: d_state is 3, expected an even number"),
        ("s5", {"dt_min": 0.0}, "expected 0 < dt_min <= dt_max"),
        ("convs5", {"kernel_size": 0}, "convs5: kernel_size is 0, expected at least one tap"),
        ("convs5", {"d_state": 5}, "convs5: d_state is 5"),
        ("s4d", {"init": "hippo"}, "s4d: unknown init 'hippo'"),
        ("s4", {"init": "lin"}, "s4: unknown init 'lin', use legs, legt, fourier"),
        ("s4nd", {"dt_min": 2.0, "dt_max": 1.0}, "s4nd: dt_min 2.0, dt_max 1.0"),
        ("s4nd_full", {"init": "inv"}, "s4nd_full: unknown init 'inv'"),
    ],
)
def test_bad_options_are_named(name, options, says):
    with pytest.raises(UsageError, match=says):
        create_mixer(name, channels=4, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("name", ["lru", "s5"])
def test_ring_and_steps_bound_the_first_modes(name):
    """The initial factors lie where the options say."""
    mixer = create_mixer(name, channels=4, d_state=64, rngs=nnx.Rngs(0))
    modulus = np.abs(np.asarray(mixer.transition((1, 1))))
    low, high = (0.5, 0.99) if name == "lru" else (np.exp(-0.25), np.exp(-0.005))  # |e^z| = e^(-dt / 2)
    assert (modulus > low - 1e-5).all() and (modulus < high + 1e-5).all()
