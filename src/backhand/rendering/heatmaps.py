"""A small matrix as a PNG image in a data URI: blue below zero, red above, transparent at zero."""

import base64
import math
import struct
import zlib

Picture = tuple[tuple[float, ...], ...]
RED, BLUE, GREY = (205, 62, 48), (47, 111, 214), (128, 128, 128)


def heat_map(picture: Picture, scale: float) -> str:
    """Return a picture as a data URI, one pixel an element; `scale` has the full colour.

    What is not finite is grey.
    """
    height, width = len(picture), len(picture[0])
    raw = b"".join(b"\0" + b"".join(_pixel(v, scale) for v in row) for row in picture)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)  # 8 bits, RGBA
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _pixel(value: float, scale: float) -> bytes:
    if not math.isfinite(value):
        return bytes((*GREY, 255))
    share = min(1.0, abs(value) / scale) if scale > 0 else 0.0
    return bytes((*(RED if value > 0 else BLUE), round(255 * share**0.7)))


def largest(*pictures: Picture | None) -> float:
    """Return the largest finite size of any element."""
    values = (abs(v) for p in pictures if p is not None for row in p for v in row)
    return max((v for v in values if math.isfinite(v)), default=0.0)
