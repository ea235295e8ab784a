import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import signal

from cssm.core.errors import ShapeError, UsageError
from cssm.nn.layers.s4 import S4
from tolerances import assert_close

torch = pytest.importorskip("torch")
from cssm.torch import FFTConvS4  # noqa: E402
from cssm.torch.s4 import cauchy as s4_cauchy  # noqa: E402
from cssm.torch.s4 import diagonal as s4_diagonal  # noqa: E402
from cssm.torch.s4 import dplr as s4_dplr  # noqa: E402

KINDS = {
    "s4d zoh": {"kernel": "s4d"},
    "s4d bilinear": {"kernel": "s4d", "init": "lin", "disc": "bilinear"},
    "s4": {"kernel": "s4"},
    "s4 legt": {"kernel": "s4", "init": "legt"},
    "s4 cauchy": {"kernel": "s4", "init": "fourier", "implementation": "cauchy"},
}


def layer(kind="s4d zoh", seed=0, double=False, **options):
    torch.manual_seed(seed)
    options = {"d_model": 3, "d_state": 8, "channels": 2, "dt_min": 0.01, "dt_max": 0.2} | KINDS[kind] | options
    made = FFTConvS4(**options).eval()
    return made.double() if double else made


def clip(length, batch=2, features=3, dtype=torch.float32, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, features, length))).to(dtype)


def run_steps(made, x, state):
    made.setup_step()
    outputs = []
    for t in range(x.shape[-1]):
        y, state = made.step(x[..., t], state)
        outputs.append(y)
    return torch.stack(outputs, -1), state


def numpy(tree):
    return jax.tree.map(lambda v: v.detach().resolve_conj().numpy(), tree)


def test_the_example_of_the_source_runs():
    made = FFTConvS4(d_model=64, l_max=1024, channels=4, kernel="s4d", dropout=0.1)
    y, state = made(torch.randn(32, 64, 1024))
    assert y.shape == (32, 4, 64, 1024) and state is None and made.d_output == 256
    assert bool(torch.isfinite(y).all())


@pytest.mark.parametrize("kind", KINDS)
def test_scipy_simulates_the_same_system(kind):
    """The state space on [Re x, Im x], discretised and run by scipy."""
    made, x = layer(kind, double=True, skip=True), clip(40, batch=1, dtype=torch.float64)
    y = made(x)[0].detach().numpy()
    A, B, C, dt, P, D = (None if v is None else v.detach().numpy() for v in made.kernel.continuous())
    for h in range(3):
        stack = lambda v: np.concatenate([v.real, v.imag])  # noqa: E731
        a = np.block([[np.diag(A[h].real), -np.diag(A[h].imag)], [np.diag(A[h].imag), np.diag(A[h].real)]])
        for p in [] if P is None else P[:, h]:
            a -= 2 * np.outer(stack(p), stack(p))
        b, c = stack(B[h])[:, None], np.stack([stack(2 * row[h].conj()) for row in C])
        method = "zoh" if kind == "s4d zoh" else "bilinear"
        a_bar, b_bar, *_ = signal.cont2discrete((a, b, c, np.zeros((2, 1))), dt[h], method=method)
        u = x[0, h].numpy()
        # y_t sees u_t: the output matrix c a_bar with the direct term c b_bar, in scipy's order of update and output
        system = (a_bar, b_bar, c @ a_bar, c @ b_bar + D[:, h : h + 1], 1.0)
        expected = signal.dlsim(system, u)[1].T
        assert_close(y[0, :, h], expected, 1e-10)


@pytest.mark.parametrize(
    ("kind", "double"),
    [
        ("s4d zoh", True),
        ("s4 legt", False),
        *(
            pytest.param(kind, double, marks=pytest.mark.slow)
            for kind in ("s4", "s4 cauchy")
            for double in (True, False)
        ),
        pytest.param("s4d bilinear", False, marks=pytest.mark.slow),
    ],
)
def test_jax_has_the_same_numbers(kind, double):
    made, x = layer(kind, double=double, skip=True), clip(50, dtype=torch.float64 if double else torch.float32)
    state = torch.full((2, 3, 4), 0.3 - 0.2j).to(made.default_state(2).dtype)
    with torch.no_grad():
        expected = [*numpy(made(x, state)), made(x, rate=0.5)[0].numpy()]
        made.setup_step()
        expected += numpy(made.step(x[..., 0], state))
    options = {"d_state": 8, "channels": 2, "skip": True} | KINDS[kind]
    with jax.enable_x64(double):
        twin = S4(3, rngs=nnx.Rngs(0), **options)
        for name, value in made.kernel.named_parameters():
            held = getattr(twin, name)
            assert held.shape == tuple(value.shape), name
            held[...] = jnp.asarray(value.detach().numpy())

        @jax.jit
        def run(x, state):
            after, y = twin.scan(state, x)
            next_state, first = twin.step(state, x[:, 0])
            return [jnp.moveaxis(y, 1, -1), after, jnp.moveaxis(twin(x, rate=0.5), 1, -1), first, next_state]

        got = run(jnp.asarray(x.numpy()).swapaxes(1, 2), jnp.asarray(state.numpy()))
    assert_close([np.asarray(v) for v in got], expected, 1e-11 if double else 1e-6)


def pair(kernel, rank=1):
    torch.manual_seed(3)
    complex_ = lambda *shape: torch.randn(*shape, dtype=torch.complex128)  # noqa: E731
    A = torch.complex(-0.3 - torch.rand(2, 2, dtype=torch.float64), 2 * torch.randn(2, 2, dtype=torch.float64))
    P = [complex_(rank, 2, 2)] if kernel == "s4" else []
    arguments = [A, *P, complex_(2, 2), complex_(1, 2, 2), 0.1 + torch.rand(2, dtype=torch.float64)]
    return [v.requires_grad_() for v in arguments]


@pytest.mark.parametrize("disc", ["zoh", "bilinear"])
def test_gradients_of_s4d(disc):
    state = torch.randn(1, 2, 2, dtype=torch.complex128, requires_grad=True)

    def run(A, B, C, dt, state):
        system = s4_diagonal.discretise(A, B, C, dt, disc)
        plan = s4_diagonal.plan(system, 6)
        taps = s4_diagonal.kernel(system, plan, 6)
        after = s4_diagonal.absorb(system, plan, state, taps)
        return taps, s4_diagonal.response(system, plan, state, 6), after.real, after.imag

    assert torch.autograd.gradcheck(run, (*pair("s4d"), state))


@pytest.mark.parametrize("rank", [1, 3])
def test_gradients_of_s4(rank):
    state = torch.randn(1, 2, 2, dtype=torch.complex128, requires_grad=True)

    def run(A, P, B, C, dt, state):
        system = s4_dplr.discretise(A, P, B, C, dt)
        plan = s4_dplr.plan(system, 6)
        taps = s4_dplr.kernel(system, plan, 6)
        after = s4_dplr.absorb(system, plan, state, taps)
        return taps, s4_dplr.response(system, plan, state, 6), after.real, after.imag

    def by_cauchy(A, P, B, C, dt):
        return s4_cauchy.kernel(s4_dplr.discretise(A, P, B, C, dt), 5)

    arguments = pair("s4", rank)
    assert torch.autograd.gradcheck(run, (*arguments, state), fast_mode=rank > 1)
    assert torch.autograd.gradcheck(by_cauchy, arguments, fast_mode=rank > 1)


def test_pieces_of_the_cauchy_matrix_change_nothing(monkeypatch):
    arguments = pair("s4", 2)

    def run():
        taps = s4_cauchy.kernel(s4_dplr.discretise(*arguments), 21)
        return numpy((taps, torch.autograd.grad(taps.square().sum(), arguments)))

    whole = run()
    monkeypatch.setattr(s4_cauchy, "ENTRIES", 13)
    assert_close(run(), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_chunks_and_the_whole_agree(kind):
    made, x = layer(kind, l_max=16, skip=True), clip(45)  # with a state, l_max has no part in it
    state = torch.randn(2, 3, 4, dtype=torch.complex64)
    with torch.no_grad():
        whole, last = made(x, state)
        by_step, last_step = run_steps(made, x, state)
        first, middle = made(x[..., :13], state)
        _, middle = made(x[..., 13:30], middle, return_output=False)
        third, last_chunk = made(x[..., 30:], middle)
        rest, _ = made(x[..., :16], made.default_state(2))
        assert_close(made(x[..., :16])[0].numpy(), rest.numpy(), 1e-6, "from rest")
    assert_close(by_step.numpy(), whole.numpy(), 1e-5, "steps")
    assert_close(
        torch.cat([first, third], -1).numpy(), whole[..., [*range(13), *range(30, 45)]].numpy(), 1e-5, "chunks"
    )
    assert_close([last_step.numpy(), last_chunk.numpy()], [last.numpy()] * 2, 1e-5, "states")
    assert last.dtype == made.default_state(2).dtype


@pytest.mark.parametrize("kind", ["s4d lin", "s4", "s4 legt", "s4 fourier"])
def test_steps_equal_the_convolution_at_length_1024(kind):
    kernel, _, init = kind.partition(" ")
    made = layer("s4", d_state=64, kernel=kernel, init=init or "legs", dt_min=1e-3, dt_max=0.1)
    x = clip(1024, batch=1)
    with torch.no_grad():
        assert_close(run_steps(made, x, made.default_state(1))[0].numpy(), made(x)[0].numpy(), 1e-5)


def test_l_max_cuts_the_kernel():
    made, x = layer("s4", double=True, l_max=7), clip(30, batch=1, dtype=torch.float64)
    impulse = torch.zeros(1, 3, 30, dtype=torch.float64)
    impulse[..., 0] = 1
    with torch.no_grad():
        taps = made(impulse)[0][0].numpy()
        assert np.abs(taps[..., 7:]).max() < 1e-12 and np.abs(taps[..., :7]).min() > 1e-6
        expected = [[np.convolve(taps[c, h, :7], x[0, h].numpy())[:30] for h in range(3)] for c in range(2)]
        assert_close(made(x)[0][0].numpy(), np.array(expected))
        longer = made(impulse, rate=0.5)[0][0].numpy()
        assert np.abs(longer[..., 14:]).max() < 1e-12 < np.abs(longer[..., 13]).min()


def test_rate_is_a_longer_step():
    made, twin = layer(), layer()
    with torch.no_grad():
        twin.kernel.log_dt += np.log(2)
        assert_close(made(clip(20), rate=2.0)[0].numpy(), twin(clip(20))[0].numpy(), 1e-5)
        made.setup_step(rate=2.0)
        twin.setup_step()
        steps = [m.step(clip(1)[..., 0], m.default_state(2))[0].numpy() for m in (made, twin)]
    assert_close(*steps, 1e-5)


def test_axes():
    x = clip(12)
    with torch.no_grad():
        y = layer()(x)[0]
        assert y.shape == (2, 2, 3, 12)
        assert torch.equal(layer(transposed=False)(x.mT)[0], y)
        swapped = layer(swap_channels=True)
        assert torch.equal(swapped(x)[0], y.transpose(1, 2))
        for made, shape in ((layer(), (2, 2, 3)), (swapped, (2, 3, 2))):
            made.setup_step()
            assert made.step(x[..., 0], made.default_state(2))[0].shape == shape


def test_dropout_drops_outputs_in_training_alone():
    x, plain = clip(400), layer()
    made = layer(dropout=0.5)
    with torch.no_grad():
        assert torch.equal(made(x)[0], plain(x)[0])
        y, kept = plain(x)[0], made.train()(x)[0]
        assert 0.4 < float((kept == 0).float().mean()) < 0.6
        assert_close(kept[kept != 0].numpy(), 2 * y[kept != 0].numpy(), 1e-6)
        assert not torch.equal(made(x)[0] == 0, kept == 0)
        tied = layer(dropout=0.5, tie_dropout=True, channels=20).train()(x)[0] == 0
    assert torch.equal(tied.all(-1), tied.any(-1)) and 0.2 < float(tied.float().mean()) < 0.8


def test_drop_kernel_drops_taps_in_training_alone():
    made, impulse = layer(drop_kernel=0.5), torch.zeros(1, 3, 200)
    impulse[..., 0] = 1
    with torch.no_grad():
        whole, dropped = layer()(impulse)[0], made.train()(impulse)[0]
        assert torch.equal(made.eval()(impulse)[0], whole)
    gone = dropped.abs() < 1e-6 * whole.abs().max()
    assert 0.35 < float(gone.float().mean()) < 0.65
    assert_close(dropped[~gone].numpy(), 2 * whole[~gone].numpy(), 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_the_module_changes(kind):
    made = layer(kind, dropout=0.1, drop_kernel=0.1, skip=True).train()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    expected = {"log_dt", "log_A_real", "A_imag", "B", "C", "D"} | ({"P"} if kind[:3] != "s4d" else set())
    assert set(before) == {f"kernel.{name}" for name in expected}  # each once
    for length in (10, 33):
        made(clip(length), made.default_state(2))[0].sum().backward()
        run_steps(made, clip(3), made.default_state(2))
    after = made.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in made.parameters())


def given(made):
    """What param_config takes, from a layer's own parameters."""
    values = made.kernel.continuous()._asdict()
    return {name: torch.nn.Parameter(value.detach()) for name, value in values.items() if value is not None}


@pytest.mark.parametrize("kind", ["s4d bilinear", "s4", "s4 cauchy"])
def test_given_parameters_are_used_as_they_are(kind):
    own, x = layer(kind, skip=True), clip(20)
    config = given(own)
    options = {name: KINDS[kind][name] for name in ("disc", "implementation") if name in KINDS[kind]}
    made = FFTConvS4(3, channels=2, kernel_type=KINDS[kind]["kernel"], param_config=config, **options)
    y, state = made(x, made.default_state(2))
    assert_close(numpy([y, state]), numpy([*own(x, own.default_state(2))]), 1e-6)
    y.square().sum().backward()
    assert {id(p) for p in made.parameters()} == {id(p) for p in config.values()}
    assert all(bool(p.grad.abs().sum() > 0) for p in config.values())


def test_given_tensors_pass_gradients_to_their_source():
    source = torch.zeros(3, requires_grad=True)
    config = {name: value.detach() for name, value in given(layer()).items()}
    config["dt"] = 0.1 * torch.exp(source)
    made = FFTConvS4(3, channels=2, kernel_type="s4d", param_config=config)
    made(clip(9))[0].sum().backward()
    assert bool((source.grad != 0).all()) and not list(made.parameters())


def test_padding_counts_as_zero():
    made, x = layer(), clip(10)
    padding = torch.zeros(2, 10, dtype=torch.bool)
    padding[1, 4:] = True
    zeroed = x.clone()
    zeroed[1, :, 4:] = 0
    with torch.no_grad():
        assert torch.equal(made(x, src_key_padding_mask=padding, src_mask=None)[0], made(zeroed)[0])


def test_default_state():
    made = layer("s4")
    assert made.default_state(2, 5).shape == (2, 5, 3, 4) and made.default_state().dtype == torch.complex64
    assert made.default_state(2, device="meta").device.type == "meta"
    assert layer("s4", double=True).default_state(1).dtype == torch.complex128


@pytest.mark.parametrize("kind", ["s4d zoh", "s4"])
def test_other_dtypes(kind):
    made = layer(kind)
    with torch.no_grad():
        y, exact = made(clip(30).bfloat16())[0], made(clip(30).bfloat16().float())[0]
        assert y.dtype == torch.bfloat16
        assert_close(y.float().numpy(), exact.numpy(), 1e-2)
        assert made(clip(30, dtype=torch.float64))[0].dtype == torch.float64
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(made(clip(30))[0], made.float()(clip(30))[0])


SLOW = [pytest.param(kind, "aot_eager", marks=pytest.mark.slow) for kind in ("s4d zoh", "s4", "s4 cauchy")]


@pytest.mark.parametrize(("kind", "backend"), [("s4", "eager"), *SLOW])
def test_compiles_without_a_graph_break(kind, backend):
    made, x = layer(kind), clip(8)
    compiled = torch.compile(made, fullgraph=True, backend=backend)
    results = []
    for function in (compiled, made):
        y, after = function(x, made.default_state(2))
        results.append(numpy([y, after, *torch.autograd.grad(y.square().sum(), list(made.parameters()))]))
    assert_close(*results, 1e-6)


def test_step_needs_a_setup_that_is_still_true():
    made, x = layer(), clip(1)[..., 0]
    with pytest.raises(UsageError, match="call setup_step"):
        made.step(x, made.default_state(2))
    made.setup_step()
    made.step(x, copy.deepcopy(made.default_state(2)))
    for moved in (copy.deepcopy(made), made.double()):
        with pytest.raises(UsageError, match="call setup_step"):
            moved.step(x, moved.default_state(2))


COMPLEX = torch.complex64
CONFIG = {"A": -torch.ones(3, 4, dtype=COMPLEX), "B": torch.ones(3, 4, dtype=COMPLEX)}
CONFIG |= {"C": torch.ones(2, 3, 4, dtype=COMPLEX), "dt": torch.ones(3)}


def configured(kernel_type="s4d", options=None, **changed):
    config = {name: value for name, value in (CONFIG | changed).items() if value is not None}
    return FFTConvS4(3, channels=2, kernel_type=kernel_type, param_config=config, **(options or {}))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: FFTConvS4(3), UsageError, "either kernel="),
        (lambda: FFTConvS4(3, kernel_type="s4d"), UsageError, "either kernel="),
        (lambda: FFTConvS4(3, kernel="s4d", param_config=CONFIG), UsageError, "either kernel="),
        (lambda: FFTConvS4(3, kernel="s5"), UsageError, "'s5': use s4 or s4d"),
        (lambda: FFTConvS4(3, kernel="s4d", lr=1e-3), UsageError, "cannot honour lr; it takes d_state"),
        (lambda: FFTConvS4(3, kernel="s4", init="lin"), UsageError, "no low-rank form"),
        (lambda: FFTConvS4(3, kernel="s4d", disc="euler"), UsageError, "zoh or bilinear"),
        (lambda: FFTConvS4(3, kernel="s4d", dropout=1.5), UsageError, "probability"),
        (lambda: configured("s6"), UsageError, "unknown kernel_type 's6'"),
        (lambda: configured("s4"), UsageError, "lacks P; it takes A, P, B, C, dt"),
        (lambda: configured(E=torch.ones(3)), UsageError, "has unknown E"),
        (lambda: configured(dt=None), UsageError, "lacks dt"),
        (lambda: configured(dt=0.1), UsageError, "dt is a float"),
        (lambda: configured(dt=-torch.ones(3)), UsageError, "dt must be positive"),
        (lambda: configured(A=CONFIG["B"]), UsageError, "real part of A"),
        (lambda: configured(A=torch.ones(3, 4)), ShapeError, "A is torch.float32, expected complex"),
        (lambda: configured(B=CONFIG["B"][:, :2]), ShapeError, r"B has shape \(3, 2\), expected \(3, 4\)"),
        (lambda: configured(C=CONFIG["C"][:1]), ShapeError, r"C has shape \(1, 3, 4\), expected \(2, 3, 4\)"),
        (lambda: configured(options={"init": "legs"}), UsageError, "cannot honour init"),
        (lambda: layer()(clip(5, features=4)), ShapeError, r"shape \(B, 3, L\)"),
        (lambda: layer(transposed=False)(clip(5)), ShapeError, r"shape \(B, L, 3\)"),
        (lambda: layer()(clip(5)[0]), ShapeError, "at least one step"),
        (lambda: layer()(clip(5)[..., :0]), ShapeError, "at least one step"),
        (lambda: layer()(clip(5).int()), ShapeError, "int32"),
        (lambda: layer()(clip(5), torch.zeros(2, 3, 8, dtype=COMPLEX)), ShapeError, "default_state"),
        (lambda: layer()(clip(5), torch.zeros(2, 3, 4)), ShapeError, "expected complex"),
        (lambda: layer()(clip(5), rate=0.0), UsageError, "rate is 0.0"),
        (lambda: layer()(clip(5), src_mask=torch.ones(5, 5)), UsageError, "cannot honour src_mask"),
        (lambda: layer()(clip(5), return_output=False), UsageError, "give a state"),
        (lambda: layer()(clip(5), src_key_padding_mask=torch.ones(2, 5)), ShapeError, "src_key_padding_mask is"),
        (lambda: layer().setup_step(mode="fast"), UsageError, "unknown step mode"),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_step_names_a_wrong_frame():
    made = layer()
    made.setup_step()
    with pytest.raises(ShapeError, match=r"x of shape \(B, 3\)"):
        made.step(clip(1), made.default_state(2))
    with pytest.raises(ShapeError, match="default_state"):
        made.step(clip(1)[..., 0], made.default_state(5))
