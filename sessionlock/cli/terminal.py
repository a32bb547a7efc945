"""What the output may use (colours, a line that changes, more than ASCII) and the progress of a run."""

from __future__ import annotations

import os
import shutil
import unicodedata
from dataclasses import dataclass
from typing import TextIO

__all__ = ["Progress", "Style", "cells", "columns_of", "shortened", "spelled", "style_of", "width_of"]

BAR = 28
NARROWEST, WIDEST = 40, 100  # columns for text
SPELLED = str.maketrans({"×": "x", "–": "-", "µ": "u", "…": "...", "─": "-"})


@dataclass(frozen=True, slots=True)
class Style:
    """``live``: lines may be written over. ``rich``: the encoding has more than ASCII."""

    live: bool = False
    colour: bool = False
    rich: bool = False

    def bold(self, text: str) -> str:
        return self._paint("1", text)

    def dim(self, text: str) -> str:
        return self._paint("2", text)

    def good(self, text: str) -> str:
        return self._paint("1;32", text)

    def bad(self, text: str) -> str:
        return self._paint("1;31", text)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text


def style_of(stream: TextIO) -> Style:
    """Live lines only on a terminal; so too colours, but for NO_COLOR, which forbids them, and FORCE_COLOR."""
    live = stream.isatty() and os.environ.get("TERM") != "dumb"
    try:
        "█░×µ…─".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        rich = False
    else:
        rich = True
    forced = os.environ.get("FORCE_COLOR", "") not in ("", "0")
    return Style(live, (live or forced) and not os.environ.get("NO_COLOR"), rich)


def columns_of(stream: TextIO) -> int:
    """For text: as many as the terminal has (or COLUMNS says), within reason."""
    given = stream.isatty() or os.environ.get("COLUMNS")
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns if given else WIDEST))


def width_of(stream: TextIO) -> int | None:
    """For tables: as many columns as the terminal has, or COLUMNS says; None: there is no end of a line."""
    if stream.isatty() or os.environ.get("COLUMNS"):
        return max(NARROWEST, shutil.get_terminal_size().columns)
    return None


def cells(text: str) -> int:
    """How many columns of a terminal it takes: letters of East Asia and emoji two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(_cells(char) for char in text)


def _cells(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def shortened(text: str, columns: int) -> str:
    """As much of it as goes into so many columns, with two dots where something is missing."""
    if cells(text) <= columns:
        return text
    kept, left = "", columns - 2
    for char in text:
        left -= _cells(char)
        if left < 0:
            break
        kept += char
    return f"{kept}.."


def spelled(text: str, stream: TextIO) -> str:
    """As the stream's encoding can have it: in other words, or with ``?`` where there are none."""
    encoding = stream.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(SPELLED).encode(encoding, "replace").decode(encoding)
    return text


class Progress:
    """One line of progress at a time; without a terminal one plain line when the work is done; with None silent."""

    def __init__(self, stream: TextIO | None, style: Style) -> None:
        self._stream = stream
        self._style = style
        self._open = False

    def doing(self, what: str) -> None:
        """Something short without a measure; vanishes."""
        if self._style.live:
            self._write(f"\r\x1b[K  {self._style.dim(what)}")
            self._open = True

    def at(self, name: str, done: int, total: int) -> None:
        if self._style.live:
            self._write(f"\r\x1b[K  {name:<11}{self._bar(done, total)} {done:>6}/{total}")
            self._open = True

    def finished(self, name: str, done: int, total: int, seconds: float) -> None:
        if self._style.live:
            self.at(name, done, total)
            self._write(f"  {seconds:6.2f} s\n")
        else:
            self._write(f"  {name:<11}{done} of {total} requests answered in {seconds:.2f} s\n")
        self._open = False

    def clear(self) -> None:
        """Leave no half line behind."""
        if self._open:
            self._write("\r\x1b[K")
            self._open = False

    def _bar(self, done: int, total: int) -> str:
        full, empty = ("█", "░") if self._style.rich else ("#", ".")
        filled = BAR * done // max(1, total)
        return full * filled + self._style.dim(empty * (BAR - filled))

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()
