"""Data: synthetic tasks made on the fly, published file formats, and the loader; NumPy only, no JAX.

Adding a data set is adding a file with a frozen configuration that `DATASETS` registers, and one line here.
"""

from .catalogue import create_dataset, files_class, moved, open_files
from .dataset import DATASETS, DataSet, Spec, is_files, list_datasets
from .digits import Digits
from .featuretracker import FeatureTracker
from .formats.imagefolder import ImageFolder, Imagenette
from .formats.imagenet import ImageNet
from .formats.packed import PackedImages
from .formats.parquet import ParquetImages
from .formats.pathfinder import PathfinderFiles
from .formats.pathtracker import PathTrackerFiles
from .formats.stored import StoredFiles
from .loader import Batches, loader
from .pathfinder import Pathfinder
from .pathtracker import PathTracker
from .photos import Photos
from .source import IMAGENET_MEAN, IMAGENET_STD, Source, Subset
from .ten_photographs import TenPhotographs
from .tracks import Tracks

__all__ = [
    "DATASETS", "IMAGENET_MEAN", "IMAGENET_STD", "Batches", "DataSet", "Digits", "FeatureTracker", "ImageFolder",
    "ImageNet", "Imagenette", "PackedImages", "ParquetImages", "PathTracker", "PathTrackerFiles", "Pathfinder",
    "PathfinderFiles", "Photos", "Source", "Spec", "StoredFiles", "Subset", "TenPhotographs", "Tracks",
    "create_dataset", "files_class", "is_files", "list_datasets", "loader", "moved", "open_files",
]  # fmt: skip
