"""`--init-from`: a run whose model starts with parameters of timm, of another run, or of a model that ships."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from cssm.cli import main
from cssm.core.errors import UsageError
from cssm.models import create_model, save_timm
from cssm.recipes import RECIPES, load_run
from cssm.recipes.warm_start import load_named, parameters, start_from
from cssm.weights import load_pretrained

PLAIN = {"variant": "dwconv", "num_classes": 7, "depths": (1,), "dims": (4,)}
RUN = ["train", "digits", "--arch", "convnext", "--depths", "1", "--dims", "4"]
WORDS = [*RUN, "--steps", "1", "--batch-size", "8", "--lr", "1e-9", "--train-size", "16"]


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("timm") / "convnext.safetensors"
    save_timm(create_model("convnext", rngs=nnx.Rngs(5), **PLAIN), path)
    return path


def test_a_run_starts_with_the_parameters_of_a_file_and_goes_on_without_it(tmp_path, timm_file, capsys):
    words = [*WORDS, "--variant", "fft", "--out", str(tmp_path / "a"), "--init-from", str(timm_file)]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert re.search(r"taken: \d+ arrays", said) and "head.fc.weight" in said  # of 7 classes, not 10
    run, model = load_run(tmp_path / "a")
    assert run.init_from == timm_file and run.model.conv_bias is True
    found, start = (
        model.stack.blocks[0].mixer,
        create_model("convnext", rngs=nnx.Rngs(5), **PLAIN).stack.blocks[0].mixer,
    )
    np.testing.assert_allclose(found.kernel[...], start.kernel[...], rtol=0, atol=1e-6)
    timm_file.rename(timm_file.with_suffix(".gone"))
    try:
        assert main(["train", "digits", "--steps", "2", "--out", str(tmp_path / "a"), "--resume"]) == 0
    finally:
        timm_file.with_suffix(".gone").rename(timm_file)
    assert "taken" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--init-from", "nowhere.safetensors"], "no such file"),
        (["--init-from", "FILE", "--dims", "8"], "does not fit"),
    ],
)
def test_a_file_that_does_not_fit_is_one_error_and_leaves_nothing(tmp_path, timm_file, capsys, words, message):
    words = [str(timm_file) if word == "FILE" else word for word in words]
    assert main([*WORDS, "--out", str(tmp_path / "a"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_other_models_take_no_timm_file(tmp_path, timm_file, capsys):
    words = ["train", "demo", "--steps", "1", "--out", str(tmp_path / "a"), "--init-from", str(timm_file)]
    assert main(words) == 2
    assert "timm has no SimpleCSSM" in capsys.readouterr().err


SIMPLE = ["train", "digits", "--embed-dim", "8", "--depth", "1", "--batch-size", "8", "--train-size", "16"]


def test_a_run_starts_with_the_parameters_of_another_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = tmp_path / "a", tmp_path / "b"
    assert main([*SIMPLE, "--steps", "1", "--out", str(first)]) == 0
    words = ["--steps", "1", "--lr", "1e-9", "--seed", "7", "--init-from", "a", "--out", str(second)]
    assert main([*SIMPLE, *words]) == 0
    run, model = load_run(second)
    before = parameters(load_run(first)[1])
    assert run.init_from == first and f"taken: {len(before)} arrays" in capsys.readouterr().err
    for name, value in parameters(model).items():
        np.testing.assert_allclose(value, before[name], atol=1e-6, err_msg=name)
    assert main([*SIMPLE, *words[:-2], "--out", str(tmp_path / "c"), "--embed-dim", "12"]) == 2
    assert "choose the model it is of" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_a_shipped_model_is_a_start_by_its_name():
    run = RECIPES["tracker_small"]()
    run = replace(run, init_from=Path("tracker_small")).fitted()
    model = run.make(nnx.Rngs(3))
    assert start_from(model, run.init_from).kept == {}
    shipped = load_pretrained("tracker_small")
    for name, value in parameters(model).items():
        np.testing.assert_array_equal(value, parameters(shipped)[name], err_msg=name)


def test_a_head_of_other_classes_is_left_and_all_else_must_fit():
    toy = lambda classes, width: create_model("simple", rngs=nnx.Rngs(0), num_classes=classes, embed_dim=width)  # noqa: E731
    arrays = {name: np.full_like(value, 0.5) for name, value in parameters(toy(3, 8)).items()}
    model = toy(5, 8)
    loaded = load_named(model, arrays | {"projections.0.up.bias": np.zeros(2)}, "a file")
    assert set(loaded.left) == {"projections.0.up.bias", "head.head.kernel", "head.head.bias"}
    assert loaded.left["head.head.bias"] == "shape (3,), the model has (5,)"
    assert set(loaded.kept) == {"head.head.kernel", "head.head.bias"}
    after = parameters(model)
    assert all((after[name] == 0.5).all() for name in loaded.taken)
    with pytest.raises(UsageError, match=r"a file: stack.* has shape .*choose the model it is of"):
        load_named(toy(5, 12), arrays, "a file")
    with pytest.raises(UsageError, match="holds no parameter of a SimpleCSSM"):
        load_named(model, {"head.weight": np.zeros(2)}, "a file")
    with pytest.raises(UsageError, match=r"stack.blocks.1.* the model has none of that name"):
        load_named(model, arrays | {"stack.blocks.1.norm.scale": np.zeros(2)}, "a deeper model")


def test_positions_are_resampled_to_the_grid_of_the_model():
    toy = lambda size: create_model(  # noqa: E731
        "simple", rngs=nnx.Rngs(0), embed_dim=8, position="learned", grid=(size, size), stem="patch"
    )
    arrays = parameters(toy(16))
    arrays["positions"] = np.ones_like(arrays["positions"])
    model = toy(24)
    loaded = load_named(model, arrays, "a file")
    assert loaded.changed == {"positions": "resampled from (4, 4) to (6, 6)"} and not loaded.left
    np.testing.assert_allclose(model.positions[...], 1, atol=1e-5)
