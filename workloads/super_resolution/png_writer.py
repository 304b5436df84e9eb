"""PngWriter: a PNG file that is written row by row, so that a picture need never be in memory as a whole."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LEVEL = 3
"""zlib's level: the usual 6 takes about twice the time and makes a photograph less than 1 % smaller."""

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_CHUNK_BYTES = 1 << 20


class PngWriter:
    """Writes [rows, width, channels] of uint8 or uint16 after one another; 1 to 4 channels: grey, grey and alpha, RGB,
    RGBA (PNG specification, third edition). `icc`: the colour profile to embed. Finish with `close`.
    """

    def __init__(
        self, file: BinaryIO, height: int, width: int, channels: int, *, bits: int = 8, icc: bytes | None = None
    ) -> None:
        self._file = file
        self._left = height
        self._shape = (width, channels)
        self._type = np.dtype(">u2" if bits == 16 else "u1")
        self._step = channels * self._type.itemsize
        self._above = np.zeros(width * self._step, np.uint8)
        self._deflate = zlib.compressobj(LEVEL)
        file.write(SIGNATURE)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, _COLOUR_TYPES[channels], 0, 0, 0))
        if icc is not None:
            self._chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))

    def write(self, rows: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
        """Append rows [n, width, channels]; ValueError for rows of another shape or more than the picture has."""
        if rows.shape[1:] != self._shape or rows.shape[0] > self._left:
            raise ValueError(f"rows of {rows.shape} do not fit: {self._left} of {self._shape} are left")
        self._left -= rows.shape[0]
        at_once = max(1, _CHUNK_BYTES // len(self._above))
        for begin in range(0, rows.shape[0], at_once):
            lines = rows[begin : begin + at_once].astype(self._type, order="C").view(np.uint8)
            lines = lines.reshape(lines.shape[0], -1)
            packed = self._deflate.compress(self._filtered(lines).tobytes())
            if packed:
                self._chunk(b"IDAT", packed)
            self._above = lines[-1].copy()

    def close(self) -> None:
        """Write the end of the file; ValueError while rows are missing. The file itself stays open."""
        if self._left:
            raise ValueError(f"{self._left} rows have not been written")
        self._chunk(b"IDAT", self._deflate.flush())
        self._chunk(b"IEND", b"")

    def _filtered(self, lines: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Each row with the filter whose output has the least sum of magnitudes, and that filter's number before it.

        Of the five filters (section 9.2) Paeth is left out: it takes time and made an enlarged photograph no smaller.
        """
        above = np.vstack([self._above, lines[:-1]])
        before = np.zeros_like(lines)
        before[:, self._step :] = lines[:, : -self._step]
        average = (before & above) + ((before ^ above) >> 1)
        candidates = (lines, lines - before, lines - above, lines - average)
        sums = np.stack([np.abs(made.view(np.int8).astype(np.int16)).sum(axis=1) for made in candidates])
        best = sums.argmin(axis=0)
        out = np.empty((lines.shape[0], lines.shape[1] + 1), np.uint8)
        out[:, 0] = best
        for number, made in enumerate(candidates):
            out[best == number, 1:] = made[best == number]
        return out

    def _chunk(self, name: bytes, data: bytes) -> None:
        self._file.write(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))
        )
