"""Hosts from the command line: `--arch` and its options reach the model."""

import json

import pytest

from cssm.cli import main
from cssm.recipes.run import load_saved

VIT = ["--cssm", "no_gate", "--embed-dim", "8", "--depth", "1", "--patch-size", "4", "--seq-len", "3"]
CONVNEXT = ["--variant", "hybrid", "--cssm", "standard", "--depths", "1", "1", "--dims", "4", "8", "--patch-size", "2"]
HOSTS = {
    "vit": (VIT, {"mixer": "no_gate", "embed_dim": 8, "timesteps": 3}),
    "convnext": (CONVNEXT, {"variant": "hybrid", "mixer": "standard", "dims": (4, 8)}),
}


@pytest.mark.parametrize("arch", ["vit", pytest.param("convnext", marks=pytest.mark.slow)])
def test_a_host_is_trained(arch, tmp_path, capsys):
    options, expected = HOSTS[arch]
    words = ["train", "digits", "--arch", arch, *options, "--steps", "2", "--batch-size", "8", "--val-size", "16"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["train_seconds"] > 0
    model = load_saved(tmp_path / "run").model
    assert {name: getattr(model, name) for name in expected} == expected
    assert model.num_classes == 10 and model.grid == (8, 8)


def test_an_option_that_the_host_has_not_is_refused(tmp_path, capsys):
    words = ["train", "digits", "--arch", "convnext", "--cssm", "opponent", "--out", str(tmp_path / "run")]
    assert main(words) != 0
    assert "variant 'dwconv' holds no mixer" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
