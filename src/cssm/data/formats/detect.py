"""Which of the formats a folder holds, so that --data-dir needs no more than the folder."""

import json
from pathlib import Path
from typing import Any

from cssm.core.errors import DataError, UsageError

from .pathfinder import PathfinderFiles
from .pathtracker import PathTrackerFiles
from .stored import METADATA, StoredFiles, read_metadata


def detect(
    root: Path,
    dataset: str,
    *,
    difficulty: int | None = None,
    size: int | None = None,
    frames: int | None = None,
    skip_corrupt: bool = False,
) -> Any:
    """The configuration that reads `root`, whose `.source(split)` gives the samples.

    What `cssm data make` wrote is known by its metadata.json; published sets by their folder names. size: px to
    which images are resized; frames: frames of a video, spread evenly over the stored ones.

    Raises DataError when the folder is missing or holds nothing known, UsageError for a set without files to read.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}: give the data set's folder as --data-dir")
    made = root / f"difficulty_{difficulty}" if (root / f"difficulty_{difficulty}" / METADATA).exists() else root
    if (made / METADATA).exists() and _is_made(made):
        stored = read_metadata(made)["dataset"]
        if stored != dataset:
            raise UsageError(f"{made} holds {stored}, not {dataset}: give --dataset {stored}")
        return StoredFiles(root=made, skip_corrupt=skip_corrupt)
    if dataset == "pathtracker":
        layout = _first(root, dataset, {"tfrecord": "train/*.tfrecord", "flat": "train-*", "npy": "[01]/*.npy"})
        return PathTrackerFiles(root=root, layout=layout, frames=frames, skip_corrupt=skip_corrupt)
    if dataset == "pathfinder":
        length = f"curv_contour_length_{difficulty}"
        layouts = {"tfrecord": f"difficulty_{difficulty}/train/*.tfrecord", "lra": f"{length}/metadata/*.npy"}
        layout = _first(root, dataset, layouts | {"png": f"{length}/imgs/*/*.png"})
        options = {"difficulty": difficulty, "skip_corrupt": skip_corrupt}
        options |= {} if layout == "tfrecord" else {"size": size}
        return PathfinderFiles(root=root, layout=layout, **options)
    raise UsageError(f"data set {dataset!r} has no published files to read: leave out --data-dir to generate it")


def made_options(data: Any) -> dict[str, Any]:
    """frames, distractors, difficulty, size of a made set, as far as it has them; {} for other files."""
    if not isinstance(data, StoredFiles):
        return {}
    metadata = read_metadata(Path(data.root))
    options = dict(metadata.get("options", {})) | {"size": metadata.get("image_size")}
    names = ("frames", "distractors", "difficulty", "size")
    return {name: options[name] for name in names if options.get(name) is not None}


def _is_made(folder: Path) -> bool:
    """Published sets have a metadata.json of their own, without a list of shards."""
    try:
        return "splits" in json.loads((folder / METADATA).read_text())
    except (OSError, ValueError):
        return False


def _first(root: Path, dataset: str, layouts: dict[str, str]) -> Any:
    """The first layout whose pattern finds a file."""
    for layout, pattern in layouts.items():
        if next(root.glob(pattern), None) is not None:
            return layout
    raise DataError(f"{root} holds no {dataset} files: looked for {', '.join(layouts.values())}")
