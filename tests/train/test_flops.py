"""The operations of a step are those that can be counted by hand, loops as often as they run."""

import jax
import jax.numpy as jnp
import pytest

from cssm.data import PathTracker
from cssm.tasks import Classify
from cssm.train.flops import devices_peak, step_flops
from cssm.train.watch import Watch


def test_products_convolutions_transforms():
    a, image, kernel = jnp.ones((2, 3, 4)), jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 2, 12))
    assert step_flops(jax.jit(lambda a: jnp.einsum("bij,bkj->bik", a, a)), a) == 2 * 2 * 3 * 3 * 4
    conv = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3
    )
    assert step_flops(jax.jit(conv), image, kernel) == 2 * (2 * 8 * 8 * 12) * 9 * 2
    assert step_flops(jax.jit(jnp.fft.fft2), jnp.ones((7, 8, 16), jnp.complex64)) == 7 * 5 * 128 * 7
    assert step_flops(jax.jit(jnp.fft.rfft2), jnp.ones((7, 8, 16))) == 7 * 5 * 128 * 7 / 2
    assert step_flops(jax.jit(lambda x: jnp.fft.irfft2(jnp.fft.rfft2(x))), jnp.ones((7, 8, 16))) == 7 * 5 * 128 * 7


def test_loops_branches_and_gradients():
    a = jnp.ones((4, 4))
    one = 2 * 4**3
    loop = lambda a: jax.lax.scan(lambda c, _: (c @ a, None), a, None, length=7)[0]  # noqa: E731
    assert step_flops(jax.jit(loop), a) == 7 * one
    assert step_flops(jax.jit(jax.grad(lambda a: loop(a).sum())), a) == 7 * 3 * one
    again = jax.checkpoint(lambda a: jnp.sin(a @ a))
    assert step_flops(jax.jit(jax.grad(lambda a: again(again(a)).sum())), a) == 2 * 4 * one  # forward twice
    branch = lambda a: jax.lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, lambda a: a, a)  # noqa: E731
    assert step_flops(jax.jit(branch), a) == 2 * one


def test_the_share_of_the_devices(monkeypatch):
    class Device:
        device_kind = "NVIDIA H200"

    monkeypatch.setattr(jax, "devices", lambda: [Device()] * 2)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    for kind, peak in (
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA H100 NVL", 835e12),
        ("TPU v5", 459e12),
    ):
        Device.device_kind = kind
        assert devices_peak("bfloat16") == 2 * peak, kind
    for kind in ("NVIDIA RTX A1000", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 MIG 1g.10gb", "cpu"):
        Device.device_kind = kind
        assert devices_peak("bfloat16") is None, kind
    Device.device_kind = "NVIDIA H200"
    assert devices_peak("bfloat16") == 2 * 989e12 and devices_peak("float32") == 2 * 494e12
    watch = Watch(Classify().fitted(PathTracker()), lambda record: None, every=1, last=9, rows=4)
    assert watch._flops(8.0) == {}
    watch.flops = 3e12
    assert watch._flops(None) == {} and watch._flops(8.0) == {"tflops": 6.0}
    watch.peak = 24e12
    assert watch._flops(8.0) == {"tflops": 6.0, "mfu": pytest.approx(0.25)}
