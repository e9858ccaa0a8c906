"""On which line of a TOML text each key and each array element stands.

The text has been accepted by ``tomllib`` before, so the scanner only has to find its way, not to judge: it
knows the lexical rules of TOML (comments, four kinds of strings, brackets) and nothing of its values.
A test holds that it finds exactly the paths that ``tomllib`` finds.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

from config.problems import KeyPath

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!"")|""(?!"))*"{3,5}'  # multi-line basic
    r"|'''(?:[^']|'(?!'')|''(?!'))*'{3,5}"  # multi-line literal
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}\n#]+")  # numbers, booleans, dates: none of them contains these characters


def locate(text: str) -> dict[KeyPath, int]:
    """The line (from 1) of each key, table header and array element of a valid TOML text.

    A table that is only implied by a longer header has the line where it is first mentioned.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.latest: dict[KeyPath, int] = {}  # array of tables -> index of its last element
        self.newlines = [found.start() for found in re.finditer("\n", text)]

    def line(self) -> int:
        return bisect_right(self.newlines, self.at - 1) + 1

    def skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise ValueError(f"this is not the TOML that was parsed, at character {self.at}")
        self.at = found.end()
        return found.group()

    def sees(self, word: str) -> bool:
        if not self.text.startswith(word, self.at):
            return False
        self.at += len(word)
        return True

    def document(self) -> None:
        table: KeyPath = ()
        while True:
            self.skip(_BLANK)
            if self.at >= len(self.text):
                return
            line = self.line()
            if self.sees("[["):
                table = self.element_header(line)
                self.sees("]]")
            elif self.sees("["):
                table = self.resolve(self.key(), line)
                self.lines[table] = line
                self.sees("]")
            else:
                self.pair(table)

    def element_header(self, line: int) -> KeyPath:
        names = self.key()
        array = (*self.resolve(names[:-1], line), names[-1])
        self.latest[array] = self.latest.get(array, -1) + 1
        self.lines.setdefault(array, line)
        element = (*array, self.latest[array])
        self.lines[element] = line
        return element

    def resolve(self, names: tuple[str, ...], line: int) -> KeyPath:
        """A header's names as a path: a name of an array of tables means its last element."""
        path: KeyPath = ()
        for name in names:
            path = (*path, name)
            self.lines.setdefault(path, line)
            if path in self.latest:
                path = (*path, self.latest[path])
        return path

    def key(self) -> tuple[str, ...]:
        names: list[str] = []
        while True:
            self.skip(_SPACE)
            if self.text[self.at] in "\"'":
                names.append(tomllib.loads(f"key = {self.skip(_STRING)}")["key"])
            else:
                names.append(self.skip(_BARE_KEY))
            self.skip(_SPACE)
            if not self.sees("."):
                return tuple(names)

    def pair(self, table: KeyPath) -> None:
        line = self.line()
        path = table
        for name in self.key():
            path = (*path, name)
            self.lines.setdefault(path, line)
        self.sees("=")
        self.skip(_SPACE)
        self.value(path)

    def value(self, path: KeyPath) -> None:
        if self.sees("["):
            self.elements(path)
        elif self.sees("{"):
            self.inline_table(path)
        elif self.text[self.at] in "\"'":
            self.skip(_STRING)
        else:
            self.skip(_SCALAR)

    def elements(self, array: KeyPath) -> None:
        index = 0
        while True:
            self.skip(_BLANK)
            if self.sees("]"):
                return
            self.lines[(*array, index)] = self.line()
            self.value((*array, index))
            self.skip(_BLANK)
            self.sees(",")
            index += 1

    def inline_table(self, table: KeyPath) -> None:
        while True:
            self.skip(_BLANK)
            if self.sees("}"):
                return
            self.pair(table)
            self.skip(_BLANK)
            self.sees(",")
