"""One decoder for all pictures: depth, orientation, thin shapes; each reader gets it."""

import io
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cssm.core.errors import DataError
from cssm.data.formats import images
from cssm.data.formats.images import decode_image


def png(samples: np.ndarray, kind: int) -> bytes:
    """A PNG of (h, w, channels) uint8 or uint16; kind is its colour type."""
    depth = 8 * samples.dtype.itemsize
    chunk = lambda name, data: (  # noqa: E731
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    )
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(samples.dtype.newbyteorder(">")).tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["grey", "rgb", "la", "rgba"])
def test_16_bits_a_channel_are_refused_and_8_are_not(kind, channels):
    """Pillow keeps the high byte of the last three in silence."""
    values = np.full((4, 5, channels), 200, np.uint8)
    assert (decode_image(png(values, kind), "here") == 200).all()
    with pytest.raises(DataError, match=r"here: (16 bits a channel|pixels of mode 'I;16'), expected 8 bits a"):
        decode_image(png(values.astype(np.uint16) * 256, kind), "here")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation):
    """A wide picture, dark but for its upper left corner, stored as a camera held in each of the eight ways does."""
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        6: np.rot90(upright), 7: np.rot90(upright, 2).swapaxes(0, 1), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(out, "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(out.getvalue(), "here"), upright)


def test_a_thin_image_needs_no_memory_of_its_length():
    """1 x 60,000 pixels, scaled to a short side of 224, would be 3 * 10^9 of them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = decode_image(png(np.full((60_000, 1, 3), 7, np.uint8), 2), "here", size=224, crop=True)
    assert image.shape == (224, 224, 3) and (image == 7).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("shape", [(300, 20, 3), (20, 301, 3), (64, 64, 3)])
def test_what_is_cut_before_scaling_is_what_is_cut_after(shape, monkeypatch):
    data = png(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8), 2)
    whole = decode_image(data, "here", size=32, crop=True)
    monkeypatch.setattr(images, "SCALED", 0)
    assert np.abs(decode_image(data, "here", size=32, crop=True).astype(int) - whole).max() <= 1
