"""A GIF writer for dreams: own colours for each frame, and only what changed.

OpenCV's writer maps every frame to one fixed palette of 256 colours with dither, which turns a flat field
into specks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 6  # a channel may be off by this much before a pixel is drawn again: keeps a flat field still
_TRANSPARENT = 255


def write_gif(path: Path, frames: Iterable[NDArray[np.uint8]], fps: float) -> None:
    """Write an endless GIF.

    Args:
        path: of the file, which is replaced.
        frames: ``uint8 [H, W, 3]`` each, all of one size; read one at a time.
        fps: frames a second. GIF counts in hundredths of a second, so delays alternate to keep the rate.
    """
    shown: NDArray[np.int16] | None = None
    with path.open("wb") as file:
        for number, frame in enumerate(frames):
            if shown is None:
                height, width = frame.shape[:2]
                file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70, 0, 0))
                file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # repeat for ever
                shown = np.full(frame.shape, -1000, np.int16)
            delay = round((number + 1) * 100 / fps) - round(number * 100 / fps)
            file.write(_frame_block(frame, shown, delay))
        file.write(b"\x3b")


def _frame_block(frame: NDArray[np.uint8], shown: NDArray[np.int16], delay: int) -> bytes:
    """One frame as the rectangle that changed; ``shown`` is brought up to date."""
    changed = (np.abs(frame - shown) > TOLERANCE).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    if rows.size == 0:  # a frame must hold at least one pixel, and carries the delay
        rows = columns = np.zeros(1, np.intp)
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    mask = changed[box]
    palette, indices = _quantise(frame[box][mask])
    pixels = np.full(mask.shape, _TRANSPARENT, np.uint8)
    pixels[mask] = indices
    shown[box][mask] = palette[indices]
    height, width = mask.shape
    # Drawn over what is there (disposal 1), with a transparent colour and 256 colours of its own.
    control = struct.pack("<BBBBHBB", 0x21, 0xF9, 4, 0x05, delay, _TRANSPARENT, 0)
    place = struct.pack("<BHHHHB", 0x2C, columns[0], rows[0], width, height, 0x87)
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    data = _lzw(pixels.tobytes())
    blocks = b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255))
    return control + place + colours.tobytes() + b"\x08" + blocks + b"\x00"


def _quantise(colours: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """At most 255 colours for pixels ``[N, 3]``: their own, or means of the finest cubes few enough.

    Returns:
        palette uint8 [C, 3], index of each pixel uint8 [N].
    """
    wide = colours.astype(np.int64)
    for drop in range(8):
        cube = wide >> drop
        _, index, counts = np.unique(
            cube[:, 0] << 16 | cube[:, 1] << 8 | cube[:, 2], return_inverse=True, return_counts=True
        )
        if len(counts) <= _TRANSPARENT:
            break
    index = index.reshape(-1)
    means = [np.bincount(index, wide[:, channel], len(counts)) / counts for channel in range(3)]
    return np.stack(means, -1).round().astype(np.uint8), index.astype(np.uint8)


def _lzw(data: bytes) -> bytes:
    """GIF's LZW of 8-bit indices: codes of 9 to 12 bits, least significant bit first."""
    clear, stop = 256, 257
    codes: dict[int, int] = {}  # (prefix code << 8 | byte) -> code
    following, width = 258, 9
    buffer, filled = clear, 9
    out = bytearray()
    prefix = data[0]
    for byte in data[1:]:
        key = prefix << 8 | byte
        code = codes.get(key)
        if code is not None:
            prefix = code
            continue
        buffer |= prefix << filled
        filled += width
        if following < 4096:
            codes[key] = following
            if following == 1 << width:
                width += 1
            following += 1
        else:
            buffer |= clear << filled
            filled += 12
            codes.clear()
            following, width = 258, 9
        while filled >= 8:
            out.append(buffer & 255)
            buffer >>= 8
            filled -= 8
        prefix = byte
    buffer |= prefix << filled
    filled += width
    # The decoder adds an entry after the last code too, which may widen the next one.
    if following == 1 << width and width < 12:
        width += 1
    buffer |= stop << filled
    filled += width
    return bytes(out) + buffer.to_bytes((filled + 7) // 8, "little")
