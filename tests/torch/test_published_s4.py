"""FFTConvS4 with what published S4 code gives it: parameter names, transforms, aliases, modes, optimiser groups."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from cssm.core.errors import ShapeError, UsageError
from cssm.torch import FFTConvS4, opt_ssm_forward
from cssm.torch.s4 import parameter_groups

H, N, C = 6, 4, 2
PARAMETERS = ("A_real", "A_imag", "B", "C", "P", "inv_dt")


def config(kernel="s4d", systems=3, seed=0, **changed):
    """As published code makes it: `systems` state spaces repeated to H, real pairs, inverse transforms."""
    g = torch.Generator().manual_seed(seed)
    made = {
        "A_real": -torch.rand(systems, N, generator=g), "A_imag": 3 * torch.rand(systems, N, generator=g),
        "B": torch.randn(1, systems, N, 2, generator=g), "C": torch.randn(C, H, N, 2, generator=g),
        "P": torch.randn(1, systems, N, 2, generator=g) / 2, "inv_dt": -3 + torch.rand(H, 1, generator=g),
    }  # fmt: skip
    made = {name: nn.Parameter(value) for name, value in made.items()}
    if kernel == "s4d":
        made |= {"P": None, "disc": "zoh"}
    sizes = {"N": N, "H": H, "channels": C, "rank": 1, "repeat": H // systems}
    flags = {"dt_fast": False, "is_real": False, "deterministic": False, "verbose": True}
    names = {"real_transform": "exp", "imag_transform": "none", "dt_transform": "exp"}
    return made | sizes | flags | names | changed


def recurrence(x, given, kernel, disc="zoh"):
    """The layer in float64, one matrix a system: x_t = A_bar x_{t-1} + B_bar u_t, y = 2 Re(C x)."""
    value = {name: given[name].detach().double().numpy() for name in PARAMETERS if given.get(name) is not None}
    pairs = lambda v: v[..., 0] + 1j * v[..., 1]  # noqa: E731
    inverse = {"exp": np.exp, "softplus": lambda v: np.log1p(np.exp(v)), "none": lambda v: v}
    times = H // len(value["A_real"])
    diagonal = -inverse[given["real_transform"]](value["A_real"]) - 1j * value["A_imag"]
    step = np.sinh(value["inv_dt"]) if given["dt_fast"] else value["inv_dt"]
    dt = np.broadcast_to(inverse[given["dt_transform"]](step), (H, N))
    B, read = pairs(value["B"])[0], pairs(value["C"])
    ys = np.zeros((len(x), C, H, x.shape[-1]))
    for h in range(H):
        s = h % len(diagonal) if times > 1 else h  # systems in turns
        full = np.concatenate([diagonal[s], diagonal[s].conj()])
        A = np.diag(full)
        if kernel == "s4":
            low = pairs(value["P"])[0, s]
            low = np.concatenate([low, low.conj()])
            A = A - np.outer(low, low.conj())
        b, step = np.concatenate([B[s], B[s].conj()]), np.concatenate([dt[h], dt[h]])
        identity = np.eye(2 * N)
        if kernel == "s4" or disc == "bilinear":
            left = identity - step[:, None] * A / 2
            a_bar, b_bar = np.linalg.solve(left, identity + step[:, None] * A / 2), np.linalg.solve(left, step * b)
        else:
            a_bar = np.diag(np.exp(step * full))
            b_bar = (np.exp(step * full) - 1) / full * b
        for i in range(len(x)):
            state = np.zeros(2 * N, complex)
            for t in range(x.shape[-1]):
                state = a_bar @ state + b_bar * x[i, h, t]
                ys[i, :, h, t] = (np.concatenate([read[:, h], read[:, h].conj()], -1) @ state).real
    return ys


@pytest.mark.parametrize("kernel", ["s4d", "s4"])
@pytest.mark.parametrize("changed", [{}, {"dt_fast": True}, {"real_transform": "softplus"}], ids=str)
@pytest.mark.parametrize("systems", [3, H])
def test_published_parameters_give_the_published_recurrence(kernel, changed, systems):
    given = config(kernel, systems, **changed)
    if given["dt_fast"]:
        given["inv_dt"] = nn.Parameter(torch.asinh(given["inv_dt"].detach()))
    layer = FFTConvS4(H, channels=C, kernel_type=kernel, param_config=given, kernel=kernel)
    x = torch.randn(2, H, 9, generator=torch.Generator().manual_seed(1))
    y, _ = layer(x)
    np.testing.assert_allclose(y.detach().numpy(), recurrence(x.double().numpy(), given, kernel), atol=2e-5)
    layer.setup_step(mode="linear")
    state = layer.default_state(2)
    for t in range(9):
        step, state = layer.step(x[..., t], state)
        torch.testing.assert_close(step, y[..., t], rtol=1e-4, atol=2e-5)
    y.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in layer.parameters())
    mine = {name for name, p in layer.kernel.named_parameters() if p is given[name]}
    assert mine == {name for name in PARAMETERS if given.get(name) is not None}  # shared, under their names


@pytest.mark.parametrize("kernel", ["s4d", "s4"])
@pytest.mark.parametrize("own", [True, False], ids=["own", "given"])
def test_the_matrices_published_code_reads_are_the_recurrence(kernel, own):
    """x = dA x + dB u, y = Re(dC x), doubled for s4d: the layer's output and gradients, after any change too."""
    layer = (
        FFTConvS4(H, channels=C, kernel=kernel, d_state=2 * N)
        if own
        else FFTConvS4(H, channels=C, kernel_type=kernel, param_config=config(kernel))
    )
    with torch.no_grad():
        layer.kernel.C.mul_(2)
    x = torch.randn(2, H, 9, generator=torch.Generator().manual_seed(1))
    layer.kernel._setup_step()
    dA, dB, dC = layer.kernel.dA, layer.kernel.dB, layer.kernel.dC
    state, ys = torch.zeros(2, *dB.shape, dtype=dB.dtype), []
    for t in range(9):
        moved = torch.einsum("hmn,bhn->bhm", dA, state) if kernel == "s4" else dA * state
        state = moved + dB * x[..., t, None]
        ys.append((1 if kernel == "s4" else 2) * torch.einsum("chn,bhn->bch", dC, state).real)
    y, stepped = layer(x)[0], torch.stack(ys, -1)
    torch.testing.assert_close(y, stepped, rtol=1e-4, atol=2e-5)
    gradients = [torch.autograd.grad(out.square().sum(), list(layer.parameters())) for out in (y, stepped)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))
    with pytest.raises(UsageError, match="not 'linear'"):
        layer.kernel._setup_step(mode="linear")


def test_a_step_size_for_each_state_and_bilinear():
    given = config(inv_dt=nn.Parameter(-3 + torch.rand(H, N)), disc="bilinear")
    layer = FFTConvS4(H, channels=C, kernel_type="s4d", param_config=given)
    x = torch.randn(1, H, 7)
    expected = recurrence(x.double().numpy(), given, "s4d", "bilinear")
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, atol=2e-5)
    assert layer.disc == "bilinear"


def test_real_systems_have_no_imaginary_part():
    given = config(is_real=True, A_imag=None, systems=H)
    given |= {"B": nn.Parameter(torch.rand(1, H, N)), "C": nn.Parameter(torch.rand(C, H, N))}
    layer = FFTConvS4(H, channels=C, kernel_type="s4d", param_config=given)
    a, dt = -torch.exp(given["A_real"]), torch.exp(given["inv_dt"])
    gain = (torch.expm1(dt * a) / a * given["B"][0])[None] * given["C"]
    expected = 2 * torch.einsum("chn,hnl->chl", gain, torch.exp((dt * a)[..., None] * torch.arange(5)))
    impulse = torch.zeros(1, H, 5)
    impulse[..., 0] = 1
    torch.testing.assert_close(layer(impulse)[0][0], expected, rtol=1e-4, atol=1e-5)


BAD = {
    "no dt": ({"inv_dt": None}, UsageError, "lacks inv_dt"),
    "unknown": ({"E": 3}, UsageError, "has unknown E"),
    "transform": ({"real_transform": "cube"}, UsageError, "unknown real_transform 'cube'"),
    "complex": ({"B": torch.ones(1, 3, N, dtype=torch.complex64)}, UsageError, "real pairs"),
    "shape": ({"C": torch.ones(1, H, N, 2)}, ShapeError, "C has shape"),
    "systems": ({"A_real": torch.zeros(4, N)}, ShapeError, "A_imag has shape|do not divide"),
    "size": ({"repeat": 5}, ShapeError, "repeat is 5, the arrays say 2"),
    "negative": ({"dt_transform": "none"}, UsageError, "dt must be positive"),
    "disc": ({"disc": "euler"}, UsageError, "zoh or bilinear"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_published_parameters_are_named(name):
    changed, error, said = BAD[name]
    with pytest.raises(error, match=said):
        FFTConvS4(H, channels=C, kernel_type="s4d", param_config=config(**changed))


def test_names_that_disagree_are_refused():
    with pytest.raises(UsageError, match="either kernel="):
        FFTConvS4(H, channels=C, kernel_type="s4d", param_config=config(), kernel="s4")


def test_aliases_properties_and_modes():
    for alias, name in {"dplr": "s4", "nplr": "s4", "diag": "s4d"}.items():
        assert FFTConvS4(3, kernel=alias).kernel_type == name
    torch.manual_seed(0)
    one = FFTConvS4(3, kernel="diag", init="diag-lin")
    torch.manual_seed(0)
    other = FFTConvS4(3, kernel="s4d", init="lin")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with pytest.raises(UsageError, match="is diagonal"):
        FFTConvS4(3, kernel="s4", init="diag-lin")
    layer = FFTConvS4(3, l_max=9, channels=2, swap_channels=True, transposed=False, kernel="s4d")
    facts = (layer.d_model, layer.l_max, layer.channels, layer.swap_channels, layer.transposed, layer.d_output)
    assert facts == (3, 9, 2, True, False, 6)
    with pytest.raises(UsageError, match="unknown step mode 'fast'"):
        layer.setup_step(mode="fast")


@pytest.mark.parametrize("how", ["load_state_dict", "optimiser"])
def test_a_step_after_the_parameters_changed_is_refused(how):
    layer = FFTConvS4(3, kernel="s4")
    layer.setup_step()
    x, state = torch.randn(2, 3), layer.default_state(2)
    layer.step(x, state)
    if how == "load_state_dict":
        layer.load_state_dict(FFTConvS4(3, kernel="s4").state_dict())
    else:
        layer(torch.randn(1, 3, 5))[0].sum().backward()
        torch.optim.SGD(layer.parameters(), lr=0.1).step()
    with pytest.raises(UsageError, match="setup_step"):
        layer.step(x, state)
    layer.setup_step()
    torch.testing.assert_close(layer.step(x, state)[0], layer(x[..., None])[0][..., 0], rtol=1e-4, atol=1e-5)


def test_optimiser_groups():
    """A, B, P and dt slowly and without decay; C, D and all else by the optimiser's own options; each once."""
    given = config("s4")
    model = nn.Sequential(FFTConvS4(3, kernel="s4", skip=True), nn.Linear(3, 3))
    model.append(FFTConvS4(H, channels=C, kernel_type="s4", param_config=given))
    rest, slow = parameter_groups(model, state_lr=2e-3)
    assert slow["lr"] == 2e-3 and slow["weight_decay"] == 0
    names = {id(p): name for name, p in model.named_parameters()}
    own = {"log_dt", "log_A_real", "A_imag", "B", "P"}
    assert {names[id(p)] for p in slow["params"]} == {f"0.kernel.{n}" for n in own} | {
        f"2.kernel.{n}" for n in PARAMETERS if n != "C"
    }
    assert len(rest["params"]) + len(slow["params"]) == len(names)
    groups = torch.optim.AdamW([rest, slow], lr=1e-2, weight_decay=0.1).param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1e-2, 0.1), (2e-3, 0.0)]
    with pytest.raises(UsageError, match="no FFTConvS4"):
        parameter_groups(nn.Linear(2, 2))


def test_a_square_kernel_is_what_published_code_takes_it_for_with_a_warning():
    x, K, B, read = torch.randn(2, 5, 3), torch.randn(4, 4), torch.randn(4, 3), torch.randn(2, 4)
    with pytest.warns(UserWarning, match=r"is taken as \(N, L\)"):
        y = opt_ssm_forward(x, K, B, read)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(y, opt_ssm_forward(x, K, B, read, kernel_layout="state_first"))
    assert math.isfinite(float(y.sum()))
