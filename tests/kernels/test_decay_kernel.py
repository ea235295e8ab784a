"""The Triton decay scan: under the interpreter against float64, through jax-triton's calling convention, and compiled
for an H200 without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tolerances import assert_close

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from cssm.core.errors import UsageError  # noqa: E402
from cssm.kernels import decay_scan as kernels  # noqa: E402
from cssm.torch import decay_scan  # noqa: E402
from cssm.torch.scan import triton as scan_triton  # noqa: E402

MANY, FEW = 132, 1  # processors: many leave the device idle, so time is split and channels are cut finer


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """The interpreter's time grows with the tile."""
    monkeypatch.setattr(kernels, "BLOCK_T", 4)
    monkeypatch.setattr(kernels, "BLOCK_T_BACKWARD", 2)


def arguments(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    log_a = torch.from_numpy(-rng.exponential(size=shape[:3]))
    log_a[torch.from_numpy(rng.random(shape[:3]) < 0.2)] = -torch.inf
    log_a[torch.from_numpy(rng.random(shape[:3]) < 0.1)] = 0.2
    x, h0 = (torch.from_numpy(rng.normal(size=s)) for s in (shape, (shape[0], *shape[2:])))
    decay_dtype = torch.promote_types(dtype, torch.float32)
    return log_a.to(decay_dtype), x.to(dtype), h0.to(decay_dtype)


def outputs_and_gradients(implementation, *args):
    args = [arg.detach().clone().requires_grad_() for arg in args]
    h = decay_scan(*args, implementation=implementation)
    weight = torch.sin(torch.arange(h.numel(), dtype=torch.float64)).reshape(h.shape)
    return [value.detach() for value in (h, *torch.autograd.grad((weight * h).sum(), args))]


def numbers(values):
    return [value.double().numpy() for value in values]


@pytest.mark.parametrize(
    ("shape", "dtype", "processors", "chunks", "blocks"),
    [
        ((2, 9, 3, 5), torch.float32, FEW, 1, 1),
        ((1, 1, 1, 1), torch.float32, MANY, 1, 1),
        ((2, 21, 1, 19), torch.float32, MANY, 2, 2),  # time split, channels split
        ((1, 37, 2, 3), torch.bfloat16, MANY, 4, 1),
        ((1, 18, 2, 3), torch.float64, MANY, 2, 1),
    ],
)
@pytest.mark.parametrize("given_h0", [True, False])
def test_equals_float64_with_every_gradient(monkeypatch, shape, dtype, processors, chunks, blocks, given_h0):
    monkeypatch.setattr(scan_triton, "PROCESSORS", processors)
    geometry = kernels.plan(shape, processors)
    assert (geometry.chunks, geometry.blocks) == (chunks, blocks)
    arrays = arguments(shape, dtype)[: 3 if given_h0 else 2]
    found = outputs_and_gradients("triton", *arrays)
    expected = outputs_and_gradients("sequential", *(array.double() for array in arrays))
    assert [value.dtype for value in found] == [dtype, *(array.dtype for array in arrays)]
    limit = {torch.float32: 3e-6, torch.float64: 1e-11, torch.bfloat16: 2e-2}[dtype]
    assert_close(numbers(found), numbers(expected), limit=limit)
    assert torch.all(found[1][torch.isinf(arrays[0])] == 0)


def test_splitting_time_survives_products_beyond_float32(monkeypatch):
    monkeypatch.setattr(scan_triton, "PROCESSORS", MANY)
    x, log_a = torch.zeros(1, 40, 1, 2), torch.full((1, 40, 1), 12.0)
    x[0, 0, 0, 0] = 1e-38  # channel 1 stays 0
    log_a[:, 15:30] = -12
    found, expected = (decay_scan(log_a, x, implementation=name) for name in ("triton", "sequential"))
    assert kernels.plan(x.shape, MANY).chunks > 1
    assert_close(found.numpy(), expected.numpy())


def test_a_reset_forgets_even_a_poisoned_past():
    x, log_a = torch.ones(1, 5, 1, 2), torch.zeros(1, 5, 1)
    x[0, 1, 0], log_a[0, 2] = torch.tensor([torch.nan, torch.inf]), -torch.inf
    log_a.requires_grad_()
    h = decay_scan(log_a, x, implementation="triton")[:, 2:]
    h.sum().backward()
    assert h.sum() == 12 and log_a.grad[0, 2:, 0].tolist() == [0.0, 4.0, 4.0]


def test_jax_triton_is_called_as_the_kernels_want_it(monkeypatch):
    """The JAX face, with a double of jax_triton.triton_call that interprets the kernel."""
    jax = pytest.importorskip("jax")
    from cssm import ops
    from cssm.ops.scan import triton as face

    launched = []

    def triton_call(*args, kernel, out_shape, grid, num_warps, **constants):
        launched.append(kernel.__name__)
        single = not isinstance(out_shape, tuple)
        shapes = (out_shape,) if single else out_shape
        dtypes = {"float32": torch.float32, "int32": torch.int32}

        def on_host(*arrays):
            values = iter(torch.from_numpy(np.array(array)) for array in arrays)
            given = [next(values) if isinstance(arg, jax.Array) else arg for arg in args]
            out = [torch.full(s.shape, 77, dtype=dtypes[str(s.dtype)]) for s in shapes]
            kernel[grid](*given, *out, num_warps=num_warps, **constants)
            return [value.numpy() for value in out]

        arrays = [arg for arg in args if isinstance(arg, jax.Array)]
        assert all(isinstance(arg, int) for arg in args if not isinstance(arg, jax.Array))
        out = on_host(*arrays)
        return jax.numpy.asarray(out[0]) if single else tuple(jax.numpy.asarray(value) for value in out)

    monkeypatch.setattr(face, "load", lambda: (kernels, triton_call))
    arrays = arguments((1, 21, 2, 3), torch.float32)
    expected = outputs_and_gradients("sequential", *arrays)
    for processors, count in ((FEW, 2), (MANY, 4)):
        monkeypatch.setattr(face, "processors", lambda count=processors: count)
        launched.clear()
        h, pullback = jax.vjp(
            lambda *args: ops.decay_scan(*args, implementation="triton"), *(jax.numpy.asarray(a) for a in arrays)
        )
        weight = np.sin(np.arange(h.size)).reshape(h.shape).astype(np.float32)
        found = [h, *pullback(jax.numpy.asarray(weight))]
        assert_close([np.asarray(value, np.float64) for value in found], numbers(expected), limit=3e-6)
        assert len(launched) == count


def test_jax_says_what_is_missing():
    jax = pytest.importorskip("jax")
    from cssm import ops

    with pytest.raises(UsageError, match=r"needs a GPU, and JAX runs on cpu: pip install 'cssm\[cuda\]'"):
        ops.decay_scan(jax.numpy.zeros((1, 2, 1)), jax.numpy.zeros((1, 2, 1, 1)), implementation="triton")


def test_plan_fills_the_device(monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK_T", 64)
    assert kernels.plan((8, 8192, 64, 64), 132) == kernels.Geometry(512, 1, 2, 8192, 32)
    assert kernels.plan((2, 1024, 64, 64), 132) == kernels.Geometry(128, 1, 4, 1024, 16)
    long = kernels.plan((1, 1_000_000, 2, 5), 132)
    assert (long.rows, long.blocks, long.block_c) == (2, 1, 8) and long.chunks * long.rows >= 4 * 132
    assert (long.chunks - 1) * long.chunk < 1_000_000 <= long.chunks * long.chunk
    assert kernels.plan((1, 100, 1, 1), 132).chunks == 1  # too short to be worth a second kernel
    for steps in (1, 2, 3, 129):
        forced = kernels.plan((1, steps, 1, 1), 132, split=True)
        assert (forced.chunks - 1) * forced.chunk < steps <= forced.chunks * forced.chunk


COMPILE = """
import json, os, subprocess, tempfile, warnings
warnings.simplefilter("ignore")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cssm.kernels import decay_scan as kernels

dump = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
found = {}
for x_type, shape in (("fp32", (8, 8192, 64, 64)), ("bf16", (8, 8192, 64, 64)), ("fp32", (1, 1, 1, 1))):
    for name in ("forward", "forward_ends", "backward", "backward_ends"):
        kernel = getattr(kernels, name + "_kernel")
        constants = kernels.plan(shape, 132).launch(backward=name.startswith("backward"))
        options = {"num_warps": constants.pop("num_warps")}
        if "HAS_H0" in kernel.arg_names:
            constants["HAS_H0"] = True
        if shape[1] == 1:  # launchers make constants of sizes that are 1
            constants |= dict.fromkeys(("steps", "rows", "channels", "chunk"), 1)
        types = {"steps": "i32", "rows": "i32", "channels": "i32", "chunk": "i32", "products": "*i32"}
        types |= dict.fromkeys(("log_a", "h0", "ends", "dlog_a", "dh0"), "*fp32")
        types |= dict.fromkeys(constants, "constexpr")
        signature = {argument: types.get(argument, "*" + x_type) for argument in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(built.asm["cubin"]), file.flush()
            usage = subprocess.run([dump, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
        found[f"{name} {x_type} {shape}"] = [built.metadata.shared, usage]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_compiles_for_an_h200_without_spills(tmp_path):
    """All kernels, for float32 and bfloat16: no registers on the stack, no shared memory."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(kernels.__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment, timeout=280, check=True
    )
    found = json.loads(result.stdout)
    assert len(found) == 12
    for name, (shared, usage) in found.items():
        assert "STACK:0 " in usage and "LOCAL:0 " in usage and shared == 0, f"{name}: {usage}"
