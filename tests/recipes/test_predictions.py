"""`cssm.predict` and `cssm predict`: the model's own output, by class name, for pictures, clips, folders and arrays."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

import cssm
from cssm.cli import main
from cssm.core.errors import DataError, ShapeError, UsageError
from cssm.data import ImageFolder
from cssm.data.formats.images import read_image
from cssm.recipes import RECIPES


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one step on digits."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    assert main(["train", "digits", "--steps", "1", "--embed-dim", "8", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def loaded(trained):
    return cssm.load_run(trained, "last")


def test_the_probabilities_are_those_of_the_model(loaded):
    run, model = loaded
    pictures = run.data.source("test").batch(range(3))["input"]
    expected = np.asarray(jax.nn.softmax(model(pictures / np.float32(255)), -1))
    found = list(cssm.predict(run, model, pictures))
    for i, prediction in enumerate(found):
        np.testing.assert_allclose(prediction.reading["probabilities"], expected[i], atol=2e-6)
        assert prediction.reading["class"] == run.data.class_names[int(expected[i].argmax())]
        assert prediction.source == f"input {i}" and prediction.reading["class"] in prediction.text


def test_files_are_read_as_the_data_are(loaded, tmp_path):
    """A picture eight times as large is scaled to the training size; a folder is its files, hidden ones left out."""
    run, model = loaded
    picture = run.data.source("test")[0]["input"]
    np.save(tmp_path / "a.npy", picture[None].repeat(2, 0))
    Image.fromarray(picture).save(tmp_path / "b.png")
    Image.fromarray(picture.repeat(8, 0).repeat(8, 1)).save(tmp_path / "c.png")
    (tmp_path / ".hidden.png").write_bytes(b"no picture")
    found = list(cssm.predict(run, model, [tmp_path]))
    assert [prediction.source[-5:] for prediction in found] == ["a.npy", "b.png", "c.png"]
    [same] = cssm.predict(run, model, [picture])
    np.testing.assert_array_equal(found[1].output, same.output)
    [scaled] = cssm.predict(run, model, [read_image(tmp_path / "c.png", size=8, crop=True)])
    np.testing.assert_array_equal(found[2].output, scaled.output)


def test_pictures_are_seen_as_in_evaluation(loaded, tmp_path):
    """The centre that the run's validation cut out, with its margin, its interpolation and its orientation."""
    run, model = loaded
    data = ImageFolder(root=tmp_path, size=8, crop_pct=0.5, interpolation="bicubic", random_crop=0.2)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for split in ("train", "val"):
        (tmp_path / split / "ant").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / split / "ant" / "a.png")
    [found] = cssm.predict(replace(run, data=data), model, [tmp_path / "val" / "ant" / "a.png"])
    [same] = cssm.predict(run, model, [data.source("val")[0]["input"]])
    np.testing.assert_array_equal(found.output, same.output)
    [other] = cssm.predict(run, model, [tmp_path / "val" / "ant" / "a.png"])
    assert (other.output != same.output).any()


def test_floats_of_bytes_are_told(loaded, capsys):
    list(cssm.predict(*loaded, [np.full((8, 8, 3), 200.0, np.float32)]))
    assert "save them as uint8" in capsys.readouterr().err


BAD = {
    "missing": (lambda d: d / "none.png", DataError, "no such file"),
    "text": (lambda d: d / "a.txt", UsageError, "by its name"),
    "damaged": (lambda d: d / "bad.png", DataError, "not a whole PNG or JPEG image$"),
    "empty folder": (lambda d: d / "empty", DataError, "holds no"),
    "grey": (lambda d: np.zeros((8, 8), np.uint8), ShapeError, "expected"),
    "integers": (lambda d: np.zeros((8, 8, 3), int), ShapeError, "uint8"),
    "nan": (lambda d: np.full((8, 8, 3), np.nan), DataError, "contains NaN or infinity"),
    "infinite": (lambda d: np.full((8, 8, 3), 1e36), DataError, "1e.36"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(loaded, tmp_path, name):
    (tmp_path / "a.txt").touch()
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty").mkdir()
    given, error, said = BAD[name]
    with pytest.raises(error, match=said):
        list(cssm.predict(*loaded, [given(tmp_path)]))


def test_one_path_is_no_list(loaded):
    with pytest.raises(UsageError, match="takes a list of inputs, got a str"):
        list(cssm.predict(*loaded, "three.png"))


def test_the_command(trained, tmp_path, capsys):
    Image.new("RGB", (20, 12), (9, 9, 9)).save(tmp_path / "a.png")
    capsys.readouterr()
    assert main(["predict", str(trained), str(tmp_path / "a.png"), "--json", "--checkpoint", "last"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["file"].endswith("a.png") and len(line["probabilities"]) == 10 and line["class"] in "0123456789"
    assert main(["predict", str(trained), str(tmp_path / "a.png"), "--data-dir", "x", "--checkpoint", "last"]) == 2
    assert "leave --data-dir out" in capsys.readouterr().err
    assert main(["predict", str(trained)]) == 2
    assert "name pictures, clips or folders" in capsys.readouterr().err
    assert main(["predict", str(trained), str(tmp_path / "no.png")]) == 1


def test_eval_has_a_table_and_a_picture_of_its_confusions(trained, capsys):
    """Rows add up to the split's classes, the diagonal to the accuracy."""
    capsys.readouterr()
    assert main(["eval", str(trained)]) == 0
    out = capsys.readouterr().out
    record = json.loads((trained / "eval-test.json").read_text())
    confusion = np.array(record["confusion"])
    run = RECIPES["digits"]().fitted()
    labels = run.data.source("test").known_labels
    if labels is None:
        labels = run.data.source("test").batch(range(270))["label"]
    np.testing.assert_array_equal(confusion.sum(1), np.bincount(labels, minlength=10))
    assert np.trace(confusion) == round(record["accuracy"] * 270)
    assert "recall" in out and (trained / "eval-test.png").stat().st_size > 5000


def test_confusions_add_over_batches_and_skip_what_is_not_valid():
    from cssm.tasks import Classify

    task = Classify(num_classes=3, normalization="none")
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    batch = {"input": logits, "label": np.array([0, 2, 1, 2]), "valid": np.array([True, True, True, False])}
    sums = task.evaluate(lambda x, key=None: x, batch)
    assert task.details(sums)["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    many = Classify(num_classes=101)
    batch = {"input": logits[:1], "label": np.array([0]), "valid": np.ones(1, bool)}
    assert many.details(many.evaluate(lambda x, key=None: np.zeros((1, 101), np.float32), batch)) == {}


def test_the_version_is_the_packages_own():
    from importlib.metadata import version

    assert cssm.__version__ == version("cssm")
