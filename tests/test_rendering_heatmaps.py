"""Heat maps, pixel by pixel: which colour, how strong, and on which scale the sheet draws them."""

import base64
import math
import re
import struct
import zlib

import pytest
import torch

import backhand
from backhand.rendering.heatmaps import BLUE, GREY, RED, heat_map, largest

Pixel = tuple[int, int, int, int]


def pixels(uri: str) -> list[list[Pixel]]:
    """Decode a PNG of one unfiltered byte a channel, with every check that a browser makes of it."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, found = 8, {}
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        found[kind] = body
        at += 12 + length
    width, height, bits, colour, *rest = struct.unpack(">IIBBBBB", found[b"IHDR"])
    assert (bits, colour, rest) == (8, 6, [0, 0, 0])
    raw = zlib.decompress(found[b"IDAT"])
    rows = [raw[i * (4 * width + 1) :][: 4 * width + 1] for i in range(height)]
    assert all(row[0] == 0 for row in rows)
    return [[tuple(row[1 + 4 * j : 5 + 4 * j]) for j in range(width)] for row in rows]


def test_positive_is_red_negative_is_blue_zero_is_transparent_and_the_rest_grey() -> None:
    picture = ((2.0, -2.0, 0.0), (math.nan, math.inf, -math.inf))
    (red, blue, zero), others = pixels(heat_map(picture, 2.0))
    assert red == (*RED, 255)
    assert blue == (*BLUE, 255)
    assert zero[3] == 0
    assert others == [(*GREY, 255)] * 3


def test_a_larger_element_is_stronger_up_to_the_scale_and_not_beyond() -> None:
    ((a, b, c, d),) = pixels(heat_map(((0.1, 0.5, 1.0, 30.0),), 1.0))
    assert 0 < a[3] < b[3] < c[3] == d[3] == 255
    ((only,),) = pixels(heat_map(((5.0,),), 0.0))
    assert only[3] == 0, "without a scale nothing is shown"


def test_the_scale_is_the_largest_finite_size() -> None:
    assert largest(((1.0, -3.0),), None, ((math.inf, math.nan, 2.0),)) == 3.0
    assert largest(None) == 0.0


@pytest.mark.parametrize(("factor", "strong"), [(1.001, True), (1.0, False)])
def test_a_small_difference_of_a_wrong_gradient_is_drawn_strongly_and_rounding_is_not(
    factor: float, strong: bool
) -> None:
    def backward(dy, x):
        return {"dx": factor * 3 * dy * (1 + torch.finfo(dy.dtype).eps)}

    report = backhand.check(lambda x: {"y": 3 * x}, backward, inputs={"x": torch.randn(5, 4)}, out="y")
    assert report.ok is not strong
    images = re.findall(r'<figure><img src="([^"]+)" alt="(\w+(?: \w+)?) of x: ', report.to_html())
    by_caption = {caption: pixels(uri) for uri, caption in images}
    assert set(by_caption) == {"value", "by hand", "autograd", "difference"}
    assert [len(by_caption["value"]), len(by_caption["value"][0])] == [5, 4]
    strongest = {c: max(p[3] for row in rows for p in row) for c, rows in by_caption.items()}
    assert strongest["autograd"] >= 254
    assert strongest["difference"] == 255 if strong else strongest["difference"] < 5
