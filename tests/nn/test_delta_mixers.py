from functools import partial

import jax
import jax.numpy as jnp
import pytest

import made
from cssm.bench.delta_plain import gdn_plain
from cssm.core.errors import UsageError
from cssm.ops import decayed_attention, delta_rule
from made import with_gradients
from tolerances import assert_close

GRID, CHANNELS = (5, 6), 8


build = partial(made.mixer, channels=CHANNELS)
clip = partial(made.clip, t=4, grid=GRID, channels=CHANNELS)


@pytest.mark.parametrize("head_dim", [2, 4])
def test_gdn_equals_its_plain_form_with_every_gradient(head_dim):
    mixer = build("gdn", head_dim=head_dim)
    y, slopes = with_gradients(lambda m, x: m(x), mixer, clip())
    expected, expected_slopes = with_gradients(gdn_plain, mixer, clip())
    assert_close(y, expected)
    assert_close(slopes, expected_slopes, 2e-5)


def test_gdn_equals_its_plain_form_on_logarithms():
    mixer = build("gdn")
    y, expected = jax.jit(lambda x: (mixer(x), gdn_plain(mixer, x, numerics="goom")))(clip(t=3))
    assert_close(y, expected, 1e-5)


def test_gdn_recalls_exactly_without_decay():
    """alpha = beta = W = 1: S k = v to 1e-5 at every frequency, for the keys and values that the mixer makes."""
    mixer = build("gdn")
    _, k, v = mixer.projections(clip(t=3))
    one = jnp.ones(k.shape[:3])
    state, _ = jax.jit(delta_rule)(k, k, v, one, one)
    recalled = jnp.einsum("bnijhw,bnjhw->bnihw", state, k[:, -1])
    assert_close(recalled, v[:, -1], 1e-5)


@pytest.mark.parametrize("grid", [(6, 8), (5, 7)])
def test_gdn_keeps_the_field_real(grid):
    """The columns 0 and W / 2 of the memory are those of real fields: S[-u] = conj(S[u])."""
    mixer = build("gdn")
    run = jax.jit(lambda x: mixer.scan(mixer.init_state(2, grid), x))
    memory = run(clip(t=5, grid=grid))[0].memory
    for column in [0] + [grid[1] // 2] * (grid[1] % 2 == 0):
        rows = memory[..., column]
        assert_close(jnp.roll(rows[..., ::-1], 1, -1).conj(), rows, 2e-6)


@pytest.mark.parametrize("name", ["gdn_seq", "mamba2_seq"])
def test_token_by_token_witness(name):
    """The memory and its readout, one token after another, from the mixer's own projections."""
    mixer = build(name)
    u, x = clip(t=3, seed=2).reshape(2, -1, CHANNELS), clip(t=3).reshape(2, -1, CHANNELS)
    if name == "gdn_seq":
        args = mixer.projections(u)
        run = delta_rule
    else:
        u = jax.random.normal(jax.random.key(2), (*u.shape[:2], mixer.inner + 2 * mixer.state_dim))
        q, k, v, dt, log_a = mixer.projections(u, x)
        assert float(log_a.max()) < 0 and float(dt.max()) <= 1
        args, run = (q, k, dt[..., None] * v, log_a), decayed_attention
    fast, slow = (jax.jit(lambda *a, i=i: run(*a, implementation=i))(*args) for i in ("chunked", "reference"))
    assert_close(fast, slow)


@pytest.mark.parametrize("name", ["gdn_seq", "mamba2_seq"])
def test_tokens_are_causal_in_raster_order(name):
    """Token n of y depends on tokens up to n alone, inside a frame too, and on nothing but their order."""
    mixer, x = build(name), clip(t=2)

    @jax.jit
    def run(x):
        y = mixer(x)
        line = mixer(x.reshape(2, 1, 1, -1, CHANNELS)).reshape(x.shape)
        slope = jax.grad(lambda x: (mixer(x)[:, 1, 2, 3] ** 2).sum())(x)  # row 2, column 3 of frame 1
        return y, line, slope.reshape(2, -1, CHANNELS)

    y, line, slope = run(x)
    assert_close(y, line)
    token = GRID[0] * GRID[1] + 2 * GRID[1] + 3
    assert float(jnp.abs(slope[:, token + 1 :]).max()) == 0
    assert float(jnp.abs(slope[:, token]).max()) > 0 and float(jnp.abs(slope[:, 0]).max()) > 0


@pytest.mark.parametrize("name", ["gdn_seq", "mamba2_seq"])
def test_token_state_is_carried_to_another_grid(name):
    mixer, line = build(name), clip(t=1, grid=(1, 12))

    @jax.jit
    def run(line):
        state, first = mixer.scan(mixer.init_state(2, (1, 6)), line[:, :, :, :6])
        second = mixer.scan(state, line[:, :, :, 6:].reshape(2, 1, 2, 3, CHANNELS))[1]
        return jnp.concatenate([first, second.reshape(first.shape)], 3), mixer(line)

    assert_close(*run(line))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: build("gdn", head_dim=3), UsageError, "do not split"),
        (lambda: build("gdn", rho=1.5), UsageError, "rho"),
        (lambda: build("gdn", conv_frames=0), UsageError, "taps"),
        (lambda: build("gdn", heads=2), UsageError, "cannot honour heads"),
        (lambda: build("gdn_seq", head_dim=3), UsageError, "do not split"),
        (lambda: build("gdn_seq", head_dim=0), UsageError, "do not split"),
        (lambda: build("mamba2_seq", head_dim=5), UsageError, "divide 16 inner"),
        (lambda: build("mamba2_seq", expand=0), UsageError, "at least 1"),
        (lambda: build("mamba2_seq", state_dim=0), UsageError, "at least 1"),
        (lambda: gdn_plain(build("gdn"), clip(), numerics="half"), UsageError, "direct or goom"),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
