"""docs/photographs.py: real photographs in the shape of Imagenette, train and val from other parts of them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cssm.data import Imagenette

SCRIPT = Path(__file__).parents[2] / "docs" / "photographs.py"


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("photographs_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_read_as_imagenette(script, tmp_path):
    assert script.write(tmp_path, per_class=3, size=40) == {"train": 30, "val": 10}
    data = Imagenette(root=tmp_path, size=32, random_crop=0.3)
    assert [len(data.source(split)) for split in data.splits] == [30, 10]
    sizes = [Image.open(path).size for path in sorted(tmp_path.rglob("*.JPEG"))]
    assert {min(size) for size in sizes} == {40} and len(set(sizes)) > 10
    assert 40 < max(map(max, sizes)) <= 64
    images = data.source("train").batch(range(30))["input"]
    assert images.std((1, 2, 3)).min() > 2 and len({image.tobytes() for image in images}) == 30


def test_the_splits_have_no_pixel_in_common(script):
    numbered = np.arange(60 * 80, dtype=np.uint32).reshape(60, 80).view(np.uint8).reshape(60, 80, 4)
    picture = Image.fromarray(numbered[..., :3])
    for turned in (picture, picture.transpose(Image.Transpose.ROTATE_90)):
        seen = {}
        for split in ("train", "val"):
            parts = [np.asarray(part).reshape(-1, 3) for part in script.bands(turned, split)]
            seen[split] = set(map(tuple, np.concatenate(parts).tolist()))
        assert not seen["train"] & seen["val"] and len(seen["train"] | seen["val"]) == 60 * 80
