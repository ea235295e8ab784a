import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cssm.core.errors import DataError, UsageError
from cssm.tasks import Classify
from cssm.train import TrainConfig, load_config, save_config, saved_config


def test_round_trip_is_exact(tmp_path):
    config = {
        "task": Classify(num_classes=10, label_smoothing=0.1),
        "train": TrainConfig(epochs=1 / 3, lr=1e-3 + 1e-17, grad_clip=None, ema=0.9998, compute_dtype="bfloat16"),
        "grid": (8, (1, 2), [3, None, True]),
        "folder": Path("/data/x"),
        "__class__": "a key that looks like ours",
        "empty": [(), [], {}],
    }
    path = save_config(tmp_path, config)
    loaded = load_config(tmp_path)
    assert loaded == config and path == tmp_path / "config.json"
    assert type(loaded["grid"]) is tuple and type(loaded["grid"][1]) is tuple and type(loaded["grid"][2]) is list
    assert isinstance(loaded["folder"], Path) and type(loaded["train"]) is TrainConfig
    assert loaded["train"].epochs == 1 / 3


@dataclass(frozen=True, kw_only=True)
class Run:
    """Stands for a recipe: a frozen dataclass that holds others."""

    train: TrainConfig
    tasks: tuple[Classify, ...] = ()


def test_nested_dataclasses(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "__module__", "cssm.train.saved_config")
    monkeypatch.setattr(saved_config, "Run", Run, raising=False)
    run = Run(train=TrainConfig(steps=3), tasks=(Classify(), Classify(num_classes=5)))
    save_config(tmp_path, run)
    assert load_config(tmp_path) == run


@dataclass(frozen=True)
class Foreign:
    x: int = 1


@pytest.mark.parametrize(
    "config, where",
    [
        ({"a": Foreign()}, "config.a"),
        ({"a": [1, np.float32(2)]}, r"config.a\[1\]"),
        ({"a": {1: 2}}, "config.a"),
        ({"a": print}, "config.a"),
        ({"a": Classify}, "config.a"),
        ({"a": {1, 2}}, "config.a"),
    ],
)
def test_what_has_no_exact_form_is_refused_by_name(tmp_path, config, where):
    with pytest.raises(UsageError, match=where):
        save_config(tmp_path, config)
    assert not (tmp_path / "config.json").exists()


HOSTILE = [
    {"__class__": "os.system", "command": "touch /tmp/owned"},
    {"__class__": "subprocess.Popen", "args": ["true"]},
    {"__class__": "cssm.train.saved_config.Path", "x": 1},
    {"__class__": "cssm.train.trainer.Trainer", "model": 1},
    {"__class__": "cssm.train.saved_config.importlib.import_module", "name": "x"},
    {"__class__": "cssm.core.errors.UsageError"},
    {"__class__": "cssm.__main__.Config"},
    {"__class__": "cssm..Config"},
    {"__class__": "cssm.nowhere.Config"},
    {"__class__": ["cssm.train.config.TrainConfig"]},
    {"__class__": "cssm.train.trainer.TrainConfig", "steps": 1},  # imported there, defined elsewhere
    {"__class__": "cssm.train.config.TrainConfig", "steps": 1, "__init__": 1},
    {"__class__": "cssm.train.config.TrainConfig", "steps": "many"},
    {"__class__": "cssm.train.config.TrainConfig", "steps": -1},
    {"__tuple__": [1], "more": 2},
    {"__tuple__": 3},
    {"a": 1},
]


@pytest.mark.parametrize("content", HOSTILE, ids=str)
def test_a_hostile_file_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps({"__dict__": {"x": content}}))
    with pytest.raises(DataError, match=r"config\.json"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    "name, fields, says",
    [
        ("cssm.models.simple.SimpleCSSMConfig", {"embed_dim": "x"}, "SimpleCSSMConfig.embed_dim is 'x', expected int"),
        ("cssm.models.simple.SimpleCSSMConfig", {"mixer_options": [1]}, "SimpleCSSMConfig.mixer_options"),
        ("cssm.train.config.TrainConfig", {"steps": 2.5}, r"TrainConfig.steps is 2.5, expected int \| None"),
        (
            "cssm.train.config.TrainConfig",
            {"steps": 1, "progress": "yes"},
            "TrainConfig.progress is 'yes', expected bool",
        ),
        ("cssm.train.config.TrainConfig", {"steps": 1, "compute_dtype": "int8"}, "TrainConfig.compute_dtype is 'int8'"),
        ("cssm.tasks.classify.Classify", {"num_classes": None}, "Classify.num_classes is None, expected int"),
    ],
)
def test_a_field_of_a_wrong_type_is_named(tmp_path, name, fields, says):
    (tmp_path / "config.json").write_text(json.dumps({"__dict__": {"x": {"__class__": name} | fields}}))
    with pytest.raises(DataError, match=rf"config\.json: {says}"):
        load_config(tmp_path)


def test_an_int_loads_as_a_float_field(tmp_path):
    content = {"__class__": "cssm.train.config.TrainConfig", "epochs": 2, "grad_clip": None}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert load_config(tmp_path) == TrainConfig(epochs=2, grad_clip=None)


@pytest.mark.parametrize("text", ["", "{", "[" * 5000 + "]" * 5000, '"' + "x" * 2**20 + '"'], ids=len)
def test_a_broken_file_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"config\.json"):
        load_config(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="give the folder of a run"):
        load_config(tmp_path)
