"""`--init-from`: a run whose model starts with the parameters of a timm file."""

import re

import numpy as np
import pytest
from flax import nnx

from cssm.cli import main
from cssm.models import create_model, save_timm
from cssm.recipes import load_run

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
