"""A plain PNG decoder that shares nothing with the writer: the five filters byte by byte, as the standard has them."""

from __future__ import annotations

import struct
import zlib

import numpy as np

CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, row step and column step of each pass of an interlaced file."""


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert zlib.crc32(name + body) == struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
        found.append((name, body))
        at += 12 + length
    return found


def decode(data: bytes) -> tuple[np.ndarray, set[int]]:
    """[H, W, C] and the filters that were used."""
    parts = chunks(data)
    width, height, bits, kind, *_ = struct.unpack(">IIBBBBB", parts[0][1])
    step = CHANNELS[kind] * bits // 8
    raw = zlib.decompress(b"".join(body for name, body in parts if name == b"IDAT"))
    stride = width * step
    assert len(raw) == height * (stride + 1)
    lines, used = np.zeros((height, stride), np.uint8), set()
    for y in range(height):
        line = raw[y * (stride + 1) : (y + 1) * (stride + 1)]
        used.add(line[0])
        for x in range(stride):
            left = int(lines[y, x - step]) if x >= step else 0
            up = int(lines[y - 1, x]) if y else 0
            corner = int(lines[y - 1, x - step]) if y and x >= step else 0
            guess = left + up - corner
            paeth = min((left, up, corner), key=lambda v: abs(guess - v))
            predicted = (0, left, up, (left + up) // 2, paeth)[line[0]]
            lines[y, x] = (line[1 + x] + predicted) % 256
    samples = lines.view(">u2" if bits == 16 else "u1").reshape(height, width, CHANNELS[kind])
    return samples.astype(np.uint16 if bits == 16 else np.uint8), used


def encode(samples: np.ndarray, *, interlaced: bool = False, extra: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """A PNG without filters, in order or by Adam7; `extra`: further chunks before the pixels."""
    height, width, channels = samples.shape
    kind = next(k for k, n in CHANNELS.items() if n == channels)
    wide = samples.astype(">u2" if samples.dtype == np.uint16 else "u1")
    passes = [wide[r::dr, c::dc] for r, c, dr, dc in ADAM7] if interlaced else [wide]
    raw = b"".join(b"\0" + line.tobytes() for part in passes if part.size for line in part)
    header = struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, kind, 0, 0, int(interlaced))
    body = ((b"IHDR", header), *extra, (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in body
    )
