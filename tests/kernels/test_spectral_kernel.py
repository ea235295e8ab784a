import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("triton")

from cssm.kernels import spectral_schedule
from cssm.kernels.spectral_layout import Layout, waves
from cssm.kernels.spectral_schedule import make_plan

SIZES = [(8, 8), (7, 9), (1, 8), (8, 1), (2, 2), (1, 1), (33, 32), (64, 50)]
SHARED = 232448  # bytes that one program may take on an H200


def apply(gather, flat):
    return (flat[..., gather.index] * gather.scale).sum(-2)


def real(half):
    return np.stack([half.real, half.imag], -1).reshape(*half.shape[:-2], -1)


def pairs(frame):
    """The definition in the layout's docstring, (4, columns, rows)."""
    rows, columns = (waves(n)[:, :, :n] for n in frame.shape)
    (cc, cs), (sc, ss) = [[rows[a] @ frame @ columns[b].T for b in (0, 1)] for a in (0, 1)]
    parts = np.stack([cc - ss, -(cs + sc), cc + ss, sc - cs])
    parts[:, 0, :] = cc[0], -cs[0], sc[0], -ss[0]
    parts[:, 1:, 0] = cc[1:, 0], -sc[1:, 0], cs[1:, 0], -ss[1:, 0]
    return parts.swapaxes(1, 2)


@pytest.mark.parametrize("size", SIZES)
def test_packing_is_the_real_transform_of_the_frame(size):
    frame, plan = np.random.default_rng(0).normal(size=size), Layout(*size)
    half = real(np.fft.rfft2(frame))
    np.testing.assert_allclose(apply(plan.pack, half), pairs(frame).ravel(), atol=1e-6)
    np.testing.assert_allclose(apply(plan.unpack, pairs(frame).ravel()), half, atol=1e-5)


@pytest.mark.parametrize("size", SIZES[:5])
def test_transposed_gather_is_the_transpose(size):
    plan, count = Layout(*size), size[0] * (size[1] // 2 + 1) * 2
    for gather, width in ((plan.gain, count), (plan.pack, count), (plan.unpack, 4 * plan.corner.size)):
        matrix = apply(gather, np.eye(width)).T
        transposed = apply(gather.transposed(width), np.eye(len(matrix))).T
        np.testing.assert_allclose(transposed, matrix.T, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_a_slot_multiplies_by_the_kernel(size):
    """Pairs times packed K is the circular convolution, at every kind of slot."""
    rng, plan = np.random.default_rng(1), Layout(*size)
    frame, kernel = rng.normal(size=size), rng.normal(size=size)
    k, p = apply(plan.gain, real(np.fft.rfft2(kernel))).reshape(plan.shape), pairs(frame)
    plain, corner = np.empty_like(p), plan.corner
    for at in (0, 2):
        (kr, ki), (pr, pi) = k[at : at + 2], p[at : at + 2]
        plain[at] = kr * pr - (1 - corner) * ki * pi
        plain[at + 1] = (1 - corner) * (kr * pi + ki * pr) + corner * ki * pi
    wanted = np.fft.irfft2(np.fft.rfft2(kernel) * np.fft.rfft2(frame), s=size)
    np.testing.assert_allclose(plain, pairs(wanted), atol=1e-5)


def test_a_clip_is_cut_until_the_machine_is_full():
    for batch, steps, size, channels in ((1, 1024, 32, 32), (2, 64, 64, 32), (1, 1, 5, 1), (512, 100, 32, 3)):
        plan = make_plan((batch, steps, size, size, channels))
        assert plan.length * (plan.chunks - 1) < steps <= plan.length * plan.chunks
        full = np.prod(plan.grid) >= 0.9 * spectral_schedule.PROGRAMS
        assert full or plan.length <= spectral_schedule.SHORTEST
    assert make_plan((1, 1024, 32, 32, 32)).grid == (8, 32, 1)
    assert make_plan((512, 100, 32, 32, 3)).chunks == 1
    assert [make_plan((1, 9, 8, 8, c)).block for c in (1, 2, 3, 32)] == [1, 2, 4, 4]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "stack"), [(32, 64), (64, 1200)])
def test_kernels_compile_for_an_h200(size, stack, tmp_path):
    """Every launch of forward and backward: shared memory fits, and what spills to the stack is bounded."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    environment.pop("TRITON_INTERPRET", None)
    script = Path(__file__).with_name("spectral_compiled.py")
    command = [sys.executable, str(script), str(size), "float32", "256"]
    out = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    kernels = [json.loads(line) for line in out.stdout.splitlines()]
    assert {k["kernel"][0] for k in kernels} >= {"spectral_scan_kernel", "spectral_gain_gradient_kernel"}
    for kernel in kernels:
        assert kernel["shared"] <= SHARED and kernel["STACK"] <= stack and kernel["LOCAL"] == 0, kernel
