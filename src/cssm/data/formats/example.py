"""tf.train.Example without TensorFlow: the message is described at run time to the protobuf package.

    Example { Features features = 1 }   Features { map<string, Feature> feature = 1 }
    Feature { oneof { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3 } }

From the message definitions in TensorFlow's documentation of the TFRecord format.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cssm.core.errors import DataError

Value = bytes | int | float | Sequence[int] | Sequence[float] | Sequence[bytes] | np.ndarray


@functools.cache
def _example_class() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="cssm_example.proto", package="cssm", syntax="proto3")
    lists = (("BytesList", field.TYPE_BYTES), ("FloatList", field.TYPE_FLOAT), ("Int64List", field.TYPE_INT64))
    feature = descriptor_pb2.DescriptorProto(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(lists, start=1):
        message = file.message_type.add(name=name)
        message.field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
        one = {"type": field.TYPE_MESSAGE, "type_name": f".cssm.{name}", "label": field.LABEL_OPTIONAL}
        key = name.replace("List", "_list").lower()
        feature.field.add(name=key, number=number, oneof_index=0, **one)
    file.message_type.append(feature)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    value = {"type": field.TYPE_MESSAGE, "type_name": ".cssm.Feature", "label": field.LABEL_OPTIONAL}
    entry.field.add(name="value", number=2, **value)
    kind = {"type": field.TYPE_MESSAGE, "type_name": ".cssm.Features.FeatureEntry", "label": field.LABEL_REPEATED}
    features.field.add(name="feature", number=1, **kind)
    example = file.message_type.add(name="Example")
    whole = {"type": field.TYPE_MESSAGE, "type_name": ".cssm.Features", "label": field.LABEL_OPTIONAL}
    example.field.add(name="features", number=1, **whole)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("cssm.Example"))


class Example:
    """A parsed record: `where` names it in errors, the methods give single features or raise DataError.

    >>> Example(encode_example({"label": 3, "image": b"abc"}), "a.tfrecord, record 0").integer("label")
    3
    """

    def __init__(self, data: bytes, where: str):
        from google.protobuf.message import DecodeError

        self.where = where
        try:
            self._feature = _example_class().FromString(data).features.feature
        except DecodeError as error:
            raise DataError(f"{where}: not a tf.Example ({error})") from error

    def __contains__(self, key: str) -> bool:
        return key in self._feature

    def _one(self, key: str, kind: str) -> Any:
        if key not in self._feature:
            raise DataError(f"{self.where}: no feature {key!r}, it has {', '.join(sorted(self._feature)) or 'none'}")
        values = getattr(self._feature[key], f"{kind}_list").value
        if len(values) != 1:
            raise DataError(f"{self.where}: feature {key!r} is not one {kind} value")
        return values[0]

    def integer(self, key: str) -> int:
        """The one int64 of feature `key`."""
        return int(self._one(key, "int64"))

    def bytes(self, key: str) -> bytes:
        """The one byte string of feature `key`."""
        return self._one(key, "bytes")

    def floats(self, key: str, count: int) -> np.ndarray:
        """The `count` floats (count,) float32 of feature `key`."""
        values = self._feature[key].float_list.value if key in self._feature else ()
        if len(values) != count:
            raise DataError(f"{self.where}: feature {key!r} has {len(values)} floats, expected {count}")
        return np.array(values, np.float32)

    def array(self, key: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """The raw little-endian array in feature `key`; its size must be that of `shape`."""
        raw, kind = self.bytes(key), np.dtype(dtype).newbyteorder("<")
        if min(shape) < 1 or len(raw) != int(np.prod(shape, dtype=object)) * kind.itemsize:
            raise DataError(f"{self.where}: {key!r} has {len(raw)} bytes, not those of {shape} {dtype}")
        return np.frombuffer(raw, kind).reshape(shape)


def encode_example(features: dict[str, Value]) -> bytes:
    """Serialise; bytes become a bytes list, integers an int64 list, floats a float list. Keys in sorted order."""
    example = _example_class()()
    for key in sorted(features):
        value = features[key]
        values: list[Any] = [value] if isinstance(value, (bytes, int, float, np.generic)) else list(value)
        feature = example.features.feature[key]
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], (int, np.integer)):
            feature.int64_list.value.extend(int(v) for v in values)
        else:
            feature.float_list.value.extend(float(v) for v in values)
    return example.SerializeToString(deterministic=True)
