"""The losses of LeJEPA: published values, identities, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssm.core.errors import ShapeError, UsageError
from cssm.tasks.lejepa import MODES, prediction_loss, sigreg

ROW, COLUMN, SLICE = np.arange(64)[:, None], np.arange(4)[None], np.arange(8)[:, None]
Z = 1.5 * np.sin(1 + 0.7 * ROW + 1.3 * COLUMN + 0.11 * ROW * COLUMN)
U = np.cos(0.5 + 0.9 * SLICE + 1.7 * COLUMN)
U = U / np.linalg.norm(U, axis=1, keepdims=True)
WIDE = {"form": "lejepa", "interval": (-5, 5)}


def test_published_values(x64):
    assert float(sigreg(Z, U)) == pytest.approx(0.012000016559, abs=1e-12)
    assert float(sigreg(Z, U[:1])) == pytest.approx(0.014508493230, abs=1e-12)
    assert float(sigreg(Z, U, form="lejepa")) == pytest.approx(1.014820625977, abs=1e-11)
    assert float(sigreg(Z, U, **WIDE)) == pytest.approx(1.029786625255, abs=1e-11)
    for options, value in (({}, 4.77436479e-4), ({"form": "lejepa"}, 4.58536326e-2)):
        slope = jax.grad(lambda z, options=options: sigreg(z, U, **options))(jnp.asarray(Z))
        assert float(slope[0, 0]) == pytest.approx(value, rel=1e-8)
    zero = np.zeros((64, 4))
    assert float(sigreg(zero, U)) == pytest.approx(0.492695144259, abs=1e-12)
    assert float(sigreg(zero, U, form="lejepa")) / 64 == pytest.approx(0.402047579732, abs=1e-12)
    for mode, value in zip(MODES, (3.165911912670, 10.091196128579, 4.414898306253), strict=True):
        assert float(prediction_loss(Z.reshape(8, 8, 4), mode)) == pytest.approx(value, abs=1e-11)
    assert float(prediction_loss(Z.reshape(8, 8, 4), "to_mean")) / 4 == pytest.approx(1.103724576563, abs=1e-11)


def test_the_trapezoidal_rule_is_near_the_exact_integral(x64):
    assert float(sigreg(Z, U, **WIDE)) == pytest.approx(1.029785490737, abs=2e-6)


def test_all_pairs_from_the_definition(x64):
    z = Z.reshape(4, 16, 4)
    pairs = [np.square(z[:, s] - z[:, t]).sum(-1).mean() for s in range(16) for t in range(s)]
    assert float(prediction_loss(z, "all")) == pytest.approx(np.mean(pairs), rel=1e-12)


def test_what_is_normal_has_the_least_to_pay():
    rng = np.random.RandomState(0)
    normal = rng.normal(size=(512, 8)).astype(np.float32)
    directions = rng.normal(size=(64, 8))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    draws = rng.normal(size=(200, 512, 8)).astype(np.float32)
    both = jax.jit(jax.vmap(lambda z: (sigreg(z, directions), sigreg(z, directions, form="lejepa"))))
    floor, other = (float(value.mean()) for value in both(draws))
    assert floor == pytest.approx(0.722 / 512, rel=0.1) and other == pytest.approx(1.06, rel=0.1)
    for other in (0 * normal, 2 * normal, normal + 1, np.sign(normal), normal[:, :1] * np.ones(8)):
        assert float(sigreg(other.astype(np.float32), directions)) > 2 * floor


def test_half_precision_is_computed_in_single():
    z = jnp.asarray(Z, jnp.bfloat16)
    assert sigreg(z, U).dtype == jnp.float32 and prediction_loss(z.reshape(8, 8, 4)).dtype == jnp.float32


def test_bad_input_is_one_clear_error():
    for call, kind, message in (
        (lambda: sigreg(Z, U[:, :3]), ShapeError, r"got \(64, 4\) and \(8, 3\)"),
        (lambda: sigreg(Z[:0], U), ShapeError, "none of them zero"),
        (lambda: sigreg(Z, U, form="sum"), UsageError, "unknown form 'sum' of sigreg: use mean or lejepa"),
        (lambda: sigreg(Z, U, form="lejepa", interval=(3, 3)), UsageError, "interval is"),
        (lambda: prediction_loss(Z), ShapeError, r"got \(64, 4\)"),
        (lambda: prediction_loss(Z[None, :1]), ShapeError, "two frames or more"),
        (lambda: prediction_loss(Z[None], "next"), UsageError, "unknown mode 'next'"),
    ):
        with pytest.raises(kind, match=message):
            call()
