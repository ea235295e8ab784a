"""The transforms of torch.func on the operators: equal to torch.autograd.grad; NumPy arrays are told."""

import pytest
import torch

from cssm.core.errors import UsageError
from cssm.torch import decay_scan, decayed_attention, delta_rule, spectral_scan

G = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64)


def cases():
    keys = normal(1, 5, 2, 3) / 3
    gates = -torch.rand(1, 5, 2, generator=G, dtype=torch.float64)
    spectrum = torch.fft.rfft2(0.1 * normal(2, 4, 6))
    found = {
        "decay_scan": (lambda a, x, h: decay_scan(a, x, h), (gates, normal(1, 5, 2, 3), normal(1, 2, 3))),
        "decay_scan chunked": (
            lambda a, x: decay_scan(a, x, implementation="chunked"), (gates, normal(1, 5, 2, 3)),
        ),
        "decayed_attention": (
            lambda q, k, v, a: decayed_attention(q, k, v, a)[1],
            (keys[:, :, 0], keys[:, :, 1], normal(1, 5, 2, 3), gates),
        ),
        "delta_rule": (
            lambda q, k, v, a, b: delta_rule(q, k, v, a.exp(), b.exp())[1],
            (keys, keys.flip(1), normal(1, 5, 2, 3), gates, gates.flip(1)),
        ),
    }  # fmt: skip
    for readout in ("all", "last", "mean"):
        found[f"spectral_scan {readout}"] = (
            lambda x, r=readout: spectral_scan(x, spectrum, readout=r)[1], (normal(1, 3, 4, 6, 2),),
        )  # fmt: skip
    return found


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_grad_and_jacrev_and_vmap(name):
    function, arrays = CASES[name]
    arrays = tuple(a.clone().requires_grad_() for a in arrays)
    every = tuple(range(len(arrays)))
    y = function(*arrays)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    expected = torch.autograd.grad((y * weight).sum(), arrays)
    found = torch.func.grad(lambda *a: (function(*a) * weight).sum(), every)(*(a.detach() for a in arrays))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
    jacobian = torch.func.jacrev(function, every)(*(a.detach() for a in arrays))
    for mine, theirs in zip(jacobian, expected, strict=True):
        torch.testing.assert_close(torch.tensordot(weight, mine, y.ndim), theirs, rtol=1e-9, atol=1e-11)
    stacked = [torch.stack([a.detach(), 0.5 * a.detach()]) for a in arrays]
    mapped = torch.func.vmap(function)(*stacked)
    for i in range(2):
        torch.testing.assert_close(mapped[i], function(*(a[i] for a in stacked)), rtol=1e-9, atol=1e-11)


def test_gradients_of_each_sample():
    """vmap of grad, one array mapped and the other not: per-sample gradients."""
    log_a, x = -torch.rand(1, 5, 2, generator=G, dtype=torch.float64), normal(3, 1, 5, 2, 4)
    loss = lambda a, x: decay_scan(a, x).square().sum()  # noqa: E731
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(log_a, x)
    for i in range(3):
        torch.testing.assert_close(found[i], torch.func.grad(loss)(log_a, x[i]), rtol=1e-9, atol=1e-11)


def test_second_derivatives_are_refused_under_torch_func_too():
    log_a, x = CASES["decay_scan"][1][:2]
    inner = torch.func.grad(lambda x: decay_scan(log_a, x).square().sum())
    with pytest.raises(UsageError, match="differentiated once"):
        torch.func.grad(lambda x: inner(x).square().sum())(x)


def test_an_implementation_that_torch_func_cannot_take_is_named():
    x = CASES["spectral_scan all"][1][0]
    spectrum = torch.ones(2, 4, 4, dtype=torch.complex128) / 2
    with pytest.raises(UsageError, match="has no rules for"):
        torch.func.grad(lambda x: spectral_scan(x, spectrum, implementation="stream")[1].sum())(x)


NUMPY = {
    "decay_scan": [(1, 3, 2), (1, 3, 2, 1)],
    "decay_scan_cumsum": [(1, 3, 2), (1, 3, 2, 1)],
    "ssm_scan_triton": [(1, 3, 2), (1, 3, 2, 1)],
    "delta_rule": [(1, 3, 2, 2)] * 3 + [(1, 3, 2)] * 2,
    "decayed_attention": [(1, 3, 2, 2)] * 3 + [(1, 3, 2)],
    "fft_conv2d": [(1, 4, 4, 2), (2, 3, 3)],
    "fft_conv_nd": [(1, 4, 4, 2), (2, 3, 3)],
    "kernel_spectrum": [(2, 3, 3)],
    "opt_ssm_forward": [(1, 3, 1), (3, 1), (1, 1), (1, 1)],
    "opt_ssm_scan": [(1, 3, 1), (1,), (1, 1), (1, 1)],
    "spectral_scan": [(1, 3, 4, 4, 2), (2, 4, 3)],
    "spectral_static": [(1, 4, 4, 2), (2, 4, 3)],
    "stable_spectrum": [(2, 4, 3)],
}


SCRIPT = """
import json, sys, numpy as np, cssm.torch, torch
from cssm.core.errors import UsageError
def said(call):
    try: call()
    except UsageError as error: return str(error)
    except Exception as error: return repr(error)
shapes, more = json.loads(sys.argv[1]), {"kernel_spectrum": [(8, 8)], "spectral_static": [3]}
found = {
    name: said(lambda: getattr(cssm.torch, name)(*(np.ones(s, np.float32) for s in given), *more.get(name, [])))
    for name, given in shapes.items()
}
one = np.ones((1, 3, 1), np.float32)
found["fft_conv"] = said(lambda: cssm.torch.fft_conv("bli,loi->blo", one, torch.ones(3, 1, 1)))
found["FFTConvS4.forward"] = said(lambda: cssm.torch.FFTConvS4(3, kernel="s4d")(one))
found["DecaySSM.forward"] = said(lambda: cssm.torch.DecaySSM(1, 2, 2)(one))
print(json.dumps(found))
"""


def test_numpy_arrays_are_told_in_one_line():
    """In a process of its own: here the annotations are checked first."""
    import json
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(NUMPY)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert set(found) == {*NUMPY, "fft_conv", "FFTConvS4.forward", "DecaySSM.forward"}
    for name, said in found.items():
        assert said.startswith(f"{name} takes tensors, got a numpy.ndarray"), (name, said)
