"""The losses of LeJEPA: published values, identities, gradients."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.data import PathTracker, Photos
from cssm.models import SimpleCSSMConfig
from cssm.tasks import LeJEPA
from cssm.tasks.embedding_losses import MODES, effective_rank, mean_deviation
from cssm.tasks.lejepa import prediction_loss, sigreg

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
    normal = rng.normal(size=(256, 8)).astype(np.float32)
    directions = rng.normal(size=(32, 8))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    draws = rng.normal(size=(200, 256, 8)).astype(np.float32)
    both = jax.jit(jax.vmap(lambda z: (sigreg(z, directions), sigreg(z, directions, form="lejepa"))))
    floor, other = (float(value.mean()) for value in both(draws))
    assert floor == pytest.approx(0.722 / 256, rel=0.1) and other == pytest.approx(1.06, rel=0.1)
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


def test_gradients_by_finite_differences(x64):
    from jax.test_util import check_grads

    weights = np.arange(64) % 3
    for options in ({}, {"form": "lejepa"}, WIDE, {"weights": weights}):
        check_grads(lambda z, options=options: sigreg(z, U, **options), (jnp.asarray(Z),), order=1, modes=["rev"])
    for options in ({"mode": mode} for mode in MODES):
        z = jnp.asarray(Z.reshape(8, 8, 4))
        check_grads(lambda z, options=options: prediction_loss(z, **options), (z,), order=1, modes=["rev"])


def test_rows_of_no_weight_do_not_count(x64):
    weights = np.arange(64) < 40
    for options in ({}, {"form": "lejepa"}, WIDE):
        want = sigreg(Z[:40], U, **options)
        assert float(sigreg(Z, U, weights=weights, **options)) == pytest.approx(float(want), rel=1e-12)
    z = Z.reshape(8, 8, 4)
    for mode in MODES:
        got = prediction_loss(z, mode, weights=np.arange(8) < 5)
        assert float(got) == pytest.approx(float(prediction_loss(z[:5], mode)), rel=1e-12)


def test_the_mean_of_the_first_views_is_the_centre(x64):
    z = Z.reshape(8, 8, 4)
    want = np.square(z - z[:, :2].mean(1, keepdims=True)).sum(-1).mean()
    assert float(prediction_loss(z, "to_mean", centre=2)) == pytest.approx(want, rel=1e-12)
    for mode, centre in (("all", 2), ("to_mean", 0), ("to_mean", 9)):
        with pytest.raises(UsageError, match=r"centre is .*1\.\.8 of 8 frames"):
            prediction_loss(z, mode, centre=centre)


def test_effective_rank():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 6)) @ np.diag([1, 1, 1, 1, 0, 0]) + 50.0
    rank = lambda z: effective_rank(z.sum(0), z.T @ z, float(len(z)))  # noqa: E731
    assert rank(z) == pytest.approx(4, abs=0.01)
    assert rank(z[:, :1] * np.ones(6)) == pytest.approx(1, abs=1e-6)
    assert rank(np.full((100, 6), 3.0, np.float32)) == 0  # all in one place


def test_what_has_shrunk_to_a_point_keeps_its_rank_and_has_no_deviation():
    z = np.random.default_rng(0).normal(size=(4000, 6))
    for scale in (1.0, 0.01):
        moments = (scale * z + 2).sum(0), (scale * z + 2).T @ (scale * z + 2), 4000.0
        assert effective_rank(*moments) == pytest.approx(6, abs=0.02)
        assert mean_deviation(*moments) == pytest.approx(scale, rel=0.02)


CLIPS, IMAGES = PathTracker(frames=4), Photos(size=16)
SMALL = {"embed_dim": 8, "stem": "patch", "position": "none", "norm": "layer"}


def equipped(data, **options):
    """The task and the model for a data set, on the smallest scale."""
    task = LeJEPA(**{"embedding": 6, "hidden": 8, "slices": 16} | options).fitted(data)
    model = SimpleCSSMConfig(**SMALL, depth=2).fitted(data.sample_spec["input"].shape, task.outputs).make(nnx.Rngs(0))
    return task, task.equip(model, nnx.Rngs(1))


def compiled(function, model, *arguments):
    """function(model, *arguments), as one program."""
    graph, params = nnx.split(model)
    return jax.jit(lambda params, *arguments: function(nnx.merge(graph, params), *arguments))(params, *arguments)


def batch_of(data, rows=4, views=0, local=0):
    batch = data.source("train", size=16).batch(range(rows)) | {"valid": np.ones(rows, bool)}
    if views:
        x = batch["input"]
        batch["input"] = np.stack([np.roll(x, i, 1) for i in range(views)], 1)
        if local:
            batch["local"] = np.stack([x[:, i : i + 8, i : i + 8] for i in range(local)], 1)
    return batch


def test_a_clip_and_its_embeddings():
    task, model = equipped(CLIPS, blocks=(0, -1))
    batch = task.prepare(batch_of(CLIPS))

    def slowly(model, batch):
        outputs = model.intermediates(batch["input"])
        each = [project(y.mean((2, 3))) for project, y in zip(model.projections, outputs, strict=True)]
        return (each[0] + each[1]) / 2, model(batch["input"])

    def embedded(model, batch):
        z, features = task._embedded(model, batch, None)
        return z, model.head(features)

    z, logits = compiled(embedded, model, batch)
    want, plain = compiled(slowly, model, batch)
    np.testing.assert_allclose(z, want, atol=1e-5)
    np.testing.assert_allclose(logits, plain, atol=1e-5)  # the probe is the model's head
    loss = compiled(task.loss, model, batch, jax.random.key(0))
    figures = task.summarise(loss.sums)
    assert set(figures) == {"accuracy", "probe_loss", "prediction", "sigreg", "rank", "deviation", "count"}
    assert float(loss.weight) == 4
    want = figures["prediction"] + figures["sigreg"] + figures["probe_loss"]  # of form "mean"
    assert float(loss.value) == pytest.approx(want, rel=1e-5)
    assert figures["prediction"] == pytest.approx(float(prediction_loss(z, "to_mean")), rel=1e-5)


def test_the_probe_teaches_the_model_nothing():
    task, model = equipped(CLIPS, prediction_weight=0.0, sigreg_weight=0.0, slices=256)
    batch = task.prepare(batch_of(CLIPS))
    graph, params = nnx.split(model)
    loss = lambda params: task.loss(nnx.merge(graph, params), batch, jax.random.key(0)).value  # noqa: E731
    slope = jax.jit(jax.grad(loss))(params)
    moved = {"/".join(map(str, path)) for path, g in nnx.to_flat_state(slope) if np.abs(g[...]).max() > 0}
    assert moved and all(name.startswith("head/") for name in moved)


@pytest.mark.parametrize("views, local", [(2, 0), (2, 3)])
def test_views_of_images(views, local):
    task, model = equipped(IMAGES)
    batch = task.prepare(batch_of(IMAGES, views=views, local=local))
    z, features = compiled(lambda model, batch: task._embedded(model, batch, None), model, batch)
    assert z.shape == (4, views + local, 6) and len(features) == 4 * views
    one = compiled(lambda model, x: task._of_images(model, x, None)[0], model, batch["input"][:, 1:2])
    np.testing.assert_allclose(z[:, 1:2], one, atol=1e-5)
    figures = task.summarise(compiled(task.loss, model, batch, jax.random.key(0)).sums)
    assert figures["count"] == 4
    assert figures["prediction"] == pytest.approx(float(prediction_loss(z, "to_mean", centre=views)), rel=1e-5)
    alone = task.summarise(compiled(task.evaluate, model, task.prepare(batch_of(IMAGES))))
    assert "prediction" not in alone and alone["count"] == 4  # one view: nothing to predict
    with pytest.raises(UsageError, match="images with --augment views"):
        task.loss(model, task.prepare(batch_of(IMAGES)), None)


def test_rows_that_fill_a_batch_up_change_nothing():
    task, model = equipped(CLIPS)
    batch = batch_of(CLIPS, rows=5)
    filled = batch | {
        "valid": np.arange(5) < 3,
        "input": np.where((np.arange(5) < 3)[:, None, None, None, None], batch["input"], 255),
    }
    short = {name: value[:3] for name, value in batch.items()}
    key = jax.random.key(3)
    want, got = (compiled(task.loss, model, task.prepare(b), key) for b in (short, filled))
    assert float(got.value) == pytest.approx(float(want.value), rel=1e-5)
    assert task.summarise(got.sums) == pytest.approx(task.summarise(want.sums), rel=1e-4)


def test_sums_of_batches_are_those_of_all():
    task, model = equipped(CLIPS)
    batch = task.prepare(batch_of(CLIPS, rows=8))
    halves = [{k: v[i : i + 4] for k, v in batch.items()} for i in (0, 4)]
    whole, first, second = (compiled(task.evaluate, model, b) for b in (batch, *halves))
    total = task.summarise({k: first[k] + second[k] for k in first})
    figures = task.summarise(whole)
    assert set(total) == set(figures)
    for name in figures:
        assert total[name] == pytest.approx(figures[name], rel=1e-4), name


def test_the_figure_of_sigreg_is_that_of_all_embeddings_without_their_number():
    for options in ({}, {"form": "lejepa"}):
        task, model = equipped(CLIPS, **options)
        batch = task.prepare(batch_of(CLIPS, rows=8))
        z = compiled(lambda model, batch, task=task: task._embedded(model, batch, None)[0], model, batch)
        want = sigreg(z.reshape(-1, 6), task._directions(None), form=task.form)
        want = want if task.form == "mean" else want / 32
        found = task.summarise(compiled(task.evaluate, model, batch))
        assert found["sigreg"] == pytest.approx(float(want), rel=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [({"embedding": 0}, "embedding is 0"), ({"blocks": ()}, "blocks is empty"), ({"sigreg_weight": -1.0}, "0 or more"),
     ({"prediction": "next"}, "prediction is 'next'"), ({"form": "l2"}, "form is 'l2'"),
     ({"interval": (3.0, 0.0)}, "low < high"), ({"interval": (0.0, np.inf), "form": "lejepa"}, "low < high"),
     ({"interval": (-5.0, 5.0)}, "does nothing with form"), ({"sigreg_weight": 0.0, "slices": 9}, "do nothing")],
)  # fmt: skip
def test_options_that_cannot_be(options, message, unchecked):
    with pytest.raises(UsageError, match=message):
        LeJEPA(**options)


def test_a_block_that_there_is_not_and_a_model_without_blocks():
    with pytest.raises(UsageError, match="blocks holds 2: the model has blocks 0 to 1"):
        equipped(CLIPS, blocks=(2,))
    with pytest.raises(UsageError, match="Linear has no stack of blocks"):
        LeJEPA().equip(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Rngs(0))


@pytest.mark.slow
def test_a_batch_divided_over_four_devices_has_the_loss_of_one():
    """SIGReg's means are over all devices, and so are the gradients that pass through them."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    script = Path(__file__).with_name("lejepa_devices.py")
    printed = subprocess.run([sys.executable, str(script)], env=environment, check=True, capture_output=True, text=True)
    for name, found in json.loads(printed.stdout).items():
        one, four = found["loss"]
        assert four == pytest.approx(one, rel=1e-5) and found["all_reduces"][0] == 0 < found["all_reduces"][1], name
        assert found["gradients"] < 1e-5 and found["sums"] < 1e-5, name
