"""Objects found by their colours: sub-pixel centres and sizes without anything learned.

A resized pixel is a mixture of the background and of what covers it. With at most three kinds of objects in a place,
the three colour channels tell how much of each is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from worldsim.errors import SourceError
from worldsim.vision.reading import COUNTED, Reading, Readings, join
from worldsim.vision.tiles import TILES, TileReader, fits

BACKGROUND = "background"
#: An error of so many grey levels in every channel must not look like an object; real frames are off by half a level.
TOLERANCE = 3.0
CHUNK = 512  # frames at once: 25 MiB of floats


class ColourReader:
    """Reads objects of known colours and sizes.

    Args:
        objects: By name ``{colour: [r, g, b], size: [width, height]}`` in frame pixels, one to three of them, and a
            ``background`` with a colour. Objects may have an ``area: [top, bottom, left, right]``, outside of which
            they are not looked for: those whose areas do not meet may look alike. And there may be ``tiles``
            (:class:`~worldsim.vision.tiles.TileReader`), which are taken out of a picture before it is read.
        height, width: Of a frame.

    Attributes:
        tiles: What reads the tiles; ``None`` where there are none.

    Raises:
        SourceError: they cannot be told apart; see :func:`tells_apart`.
    """

    name = "colours"
    counts = True

    def __init__(self, objects: Mapping[str, Any], height: int, width: int) -> None:
        if not tells_apart(objects):
            raise SourceError(
                "objects to read by colour are one to three with a colour and a size, no two of them alike, "
                "and a background with a colour"
            )
        self.objects = _kinds(objects)
        self._background = np.array(objects[BACKGROUND]["colour"], np.float32)
        self.tiles = TileReader(objects[TILES], self._background) if TILES in objects else None
        unmix = np.empty((3, len(self.objects)))
        self._areas = [_area(objects[name], height, width) for name in self.objects]
        for number, name in enumerate(self.objects):
            beside = _beside(objects, name)
            unmix[:, number] = np.linalg.pinv(_colours(objects, beside))[:, beside.index(name)]
        self._unmix = unmix.astype(np.float32)
        self._colours = _colours(objects, self.objects).astype(np.float32)  # [K, 3], from the background's
        self._floor = TOLERANCE * np.abs(unmix).sum(0)  # [K], coverage that an error within tolerance can fake
        self._sizes = [(float(width), float(height)) for width, height in (objects[n]["size"] for n in self.objects)]
        self._height, self._width = height, width

    def coverage(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """How much of each pixel each kind of object covers, float32 [K, N, H, W] of frames [N, H, W, 3]."""
        cover: NDArray[np.float32] = np.moveaxis(self._apart(frames) @ self._unmix, -1, 0)
        for cells, area in zip(cover, self._areas, strict=True):
            _keep_within(area, cells)
        return cover

    def _apart(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Frames without tiles, as differences from the background."""
        mixed: NDArray[np.float32] = frames.astype(np.float32) - self._background
        if self.tiles is not None:
            self.tiles.without(mixed, self.tiles.read(frames))
        return mixed

    def unmixing(self, names: Sequence[str]) -> NDArray[np.float32]:
        """What makes of a difference of colours that of how much some objects cover.

        Args:
            names: Of the objects.

        Returns:
            float32 [3, K], for differences of values in [-1, 1].

        Raises:
            SourceError: one of them is not among those that are read.
        """
        unmix: NDArray[np.float32] = 127.5 * self._unmix[:, self._numbers(names)]
        return unmix

    def without(self, frames: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.uint8]:
        """Frames uint8 [N, H, W, 3] from which some objects are taken: there they show the background.

        Raises:
            SourceError: one of the objects is not among those that are read.
        """
        result = frames.astype(np.float32)
        for number in self._numbers(names):
            cover = self._covered(frames, self._unmix[:, number], self._areas[number])
            cover[cover < self._floor[number]] = 0
            result -= cover[..., None] * self._colours[number]
        return np.rint(result).clip(0, 255).astype(np.uint8)

    def middles(self, frames: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.float32]:
        """Where some objects are, each taken for one: ten times as fast as :meth:`read`, which looks for blobs.

        Args:
            frames: uint8 [N, H, W, 3].
            names: Of the objects.

        Returns:
            float32 [K, N, 2], the means (x, y) of what they cover, in pixel indices; NaN where less than half of one is
            seen, or more than one and a half.

        Raises:
            SourceError: one of them is not among those that are read.
        """
        found = np.full((len(names), len(frames), 2), np.nan, np.float32)
        columns, rows = np.arange(self._width, dtype=np.float32), np.arange(self._height, dtype=np.float32)
        for kind, number in enumerate(self._numbers(names)):
            unmix, (width, height) = self._unmix[:, number], self._sizes[number]
            for first in range(0, len(frames), CHUNK):
                cover = self._covered(frames[first : first + CHUNK], unmix, self._areas[number])
                cover[cover < self._floor[number]] = 0
                mass = cover.sum((1, 2)) / (width * height)
                one = (mass > 0.5) & (mass < 1.5)
                total = np.maximum(mass, 1e-3) * (width * height)
                at = np.stack((cover.sum(1) @ columns / total, cover.sum(2) @ rows / total), 1)
                found[kind, first : first + CHUNK][one] = at[one]
        return found

    def _covered(
        self, frames: NDArray[np.uint8], unmix: NDArray[np.float32], area: tuple[int, int, int, int]
    ) -> NDArray[np.float32]:
        """One kind's :meth:`coverage` [N, H, W]."""
        if self.tiles is not None:
            cover: NDArray[np.float32] = self._apart(frames) @ unmix
        else:
            cover = frames.astype(np.float32) @ unmix - self._background @ unmix
        _keep_within(area, cover)
        return cover

    def _numbers(self, names: Sequence[str]) -> list[int]:
        for name in names:
            if name not in self.objects:
                raise SourceError(f"no object {name!r} is told by its colour: choose of {', '.join(self.objects)}")
        return [self.objects.index(name) for name in names]

    def read(self, frames: NDArray[np.uint8]) -> Readings:
        """See :class:`~worldsim.vision.reading.Reader`."""
        lead = frames.shape[:-3]
        flat = frames.reshape(-1, *frames.shape[-3:])
        found: list[list[Reading]] = [[] for _ in self.objects]
        for first in range(0, len(flat), CHUNK):
            cover = self.coverage(flat[first : first + CHUNK])
            for kind, cells in enumerate(cover):
                found[kind].append(_blobs(cells, float(self._floor[kind]), self._sizes[kind], self._areas[kind]))
        return {name: join(parts).reshape(*lead) for name, parts in zip(self.objects, found, strict=True)}


def tells_apart(objects: Mapping[str, Any]) -> bool:
    """Whether objects can be read by colour: a background and one to three others in any place, none a mixture of the
    others that may be there, and tiles, if there are some, of whole pixels.
    """
    kinds = _kinds(objects)
    if TILES in objects and not fits(objects[TILES]):
        return False
    if BACKGROUND not in objects or not kinds or not all("size" in objects[name] for name in kinds):
        return False
    for name in kinds:
        colours = _colours(objects, _beside(objects, name))
        if len(colours) > 3 or np.linalg.svd(colours, compute_uv=False).min() <= 10:
            return False
    return True


def _kinds(objects: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in objects if name not in (BACKGROUND, TILES))


def _beside(objects: Mapping[str, Any], name: str) -> list[str]:
    """The kinds that may be where one is, itself among them."""
    everywhere = -np.inf, np.inf, -np.inf, np.inf
    top, bottom, left, right = objects[name].get("area", everywhere)
    found = []
    for other in _kinds(objects):
        its_top, its_bottom, its_left, its_right = objects[other].get("area", everywhere)
        if its_top < bottom and top < its_bottom and its_left < right and left < its_right:
            found.append(other)
    return found


def _colours(objects: Mapping[str, Any], kinds: Sequence[str]) -> NDArray[np.float64]:
    """Differences from the background, [K, 3]."""
    colours = np.array([objects[name]["colour"] for name in kinds], np.float64)
    return colours - np.array(objects[BACKGROUND]["colour"], np.float64)


def _area(look: Mapping[str, Any], height: int, width: int) -> tuple[int, int, int, int]:
    top, bottom, left, right = (round(edge) for edge in look.get("area", (0, height, 0, width)))
    return top, bottom, left, right


def _keep_within(area: tuple[int, int, int, int], cover: NDArray[np.float32]) -> None:
    """Nothing of a kind [N, H, W] is outside of its area."""
    top, bottom, left, right = area
    cover[:, :top] = cover[:, bottom:] = 0
    cover[:, :, :left] = cover[:, :, right:] = 0


def _blobs(
    cover: NDArray[np.float32], floor: float, size: tuple[float, float], area: tuple[int, int, int, int]
) -> Reading:
    """Blobs of one kind in [N, H, W], all frames labelled at once as one tall picture with gaps."""
    n, height, width = cover.shape
    tall = np.zeros((n, height + 1, width), np.uint8)
    tall[:, :height] = cover > floor
    _, labels = cv2.connectedComponents(tall.reshape(-1, width), connectivity=8, ltype=cv2.CV_32S)
    # A rim of one pixel belongs to a blob: what lies there is too thin to find a blob by, but part of its centre.
    labels = cv2.dilate(labels.astype(np.float32), np.ones((3, 3), np.uint8)).astype(np.int64)
    labels = labels.reshape(n, height + 1, width)[:, :height]
    frame, row, column = np.nonzero(labels)
    blob, weight = labels[frame, row, column], cover[frame, row, column].astype(np.float64)
    count = int(blob.max(initial=0)) + 1
    mass = np.bincount(blob, weight, count)
    mass[0] = 0
    safe = np.maximum(mass, 1e-3)
    x, y = np.bincount(blob, weight * column, count) / safe, np.bincount(blob, weight * row, count) / safe
    home = np.zeros(count, np.int64)
    home[blob] = frame
    top, bottom, left, right = area
    across = _visible(x - left, size[0], right - left, safe / size[1])
    share = mass / (across * _visible(y - top, size[1], bottom - top, safe / size[0]))
    share[0] = 0
    counts = np.bincount(home[share >= COUNTED], minlength=n)
    order = np.argsort(mass, kind="stable")  # later ones overwrite: the biggest blob of each frame stays
    order = order[mass[order] > 0]
    biggest = np.zeros(n, np.int64)
    biggest[home[order]] = order
    seen = biggest > 0
    return Reading(
        counts.astype(np.int64),
        np.where(seen, share[biggest], 0).astype(np.float32),
        np.where(seen, x[biggest], np.nan).astype(np.float32),
        np.where(seen, y[biggest], np.nan).astype(np.float32),
    )


def _visible(centre: NDArray[np.float64], side: float, pixels: int, own: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of an object's side can be in the picture if the middle of what is visible is at ``centre``.

    Of a sliver in the outermost row the middle says nothing: it is taken for as much as it shows, ``own``.
    """
    inside = 2 * np.minimum(centre + 0.5, pixels - 0.5 - centre)
    sliver = inside < 1.1
    inside = np.where(sliver, np.minimum(inside, own), inside)
    return np.clip(inside, 0.05 * side, side)
