"""XML as a stream of elements with their line, and typed attributes whose errors name it."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from emoray.errors import InputError

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
CHUNK_BYTES = 1 << 16
#: Between namespace and local name in what expat gives; no name contains white space.
SEPARATOR = " "


@dataclass
class Element:
    """An element with its content except text.

    Attributes:
        name: Namespace and local name.
        attributes: Those without a namespace.
        where: File and line where it begins.
        children: Elements in it.
    """

    name: tuple[str | None, str]
    attributes: dict[str, str]
    where: str
    children: list[Element] = field(default_factory=list)

    def named(self, name: str, namespace: str | None = None) -> list[Element]:
        """Children with a name, by default in this element's namespace."""
        return [child for child in self.children if child.name == (namespace or self.name[0], name)]

    def error(self, what: str, remedy: str) -> InputError:
        """An error about this element."""
        return InputError(what, where=self.where, remedy=remedy, kind="invalid_markup")

    def attribute(self, name: str) -> str:
        """A required attribute, without the white space around it; an InputError if it is missing."""
        if name not in self.attributes:
            raise self.error(f"<{self.name[1]}> lacks the attribute {name!r}", "Add it")
        return self.attributes[name].strip()

    def number(self, name: str) -> float:
        """A required attribute that is a number; an InputError otherwise."""
        text = self.attribute(name)
        if not NUMBER.fullmatch(text):
            raise self.error(f"{name} {text!r} is not a number", "Fix it")
        return float(text)

    def shares(self, name: str) -> tuple[float, ...]:
        """A required attribute that is a list of numbers in [0, 1]; an InputError otherwise."""
        texts = self.attribute(name).split()
        for text in texts or [""]:
            if not NUMBER.fullmatch(text) or not 0.0 <= float(text) <= 1.0:
                raise self.error(f"{name} {text!r} is not a number in [0, 1]", "Convert it to that range")
        return tuple(map(float, texts))

    def share(self, name: str) -> float:
        """A required attribute that is a number in [0, 1]; an InputError otherwise."""
        found = self.shares(name)
        if len(found) > 1:
            raise self.error(f"{name} holds {len(found)} numbers", "Keep one")
        return found[0]


def elements(path: str) -> Iterator[Element]:
    """The root of a document, still empty, and then each of its children, complete. External entities are not fetched.

    Raises:
        InputError: It cannot be read, or is not well-formed.
    """
    unfinished: list[Element] = []
    finished: collections.deque[Element] = collections.deque()
    parser = expat.ParserCreate(namespace_separator=SEPARATOR)

    def begin(name: str, given: dict[str, str]) -> None:
        attributes = {key: value for key, value in given.items() if SEPARATOR not in key}
        space, _, local = name.rpartition(SEPARATOR)
        element = Element((space or None, local), attributes, f"{path}, line {parser.CurrentLineNumber}")
        if not unfinished:
            finished.append(element)  # its children come by themselves
        elif len(unfinished) > 1:
            unfinished[-1].children.append(element)
        unfinished.append(element)

    def end(_: str) -> None:
        element = unfinished.pop()
        if len(unfinished) == 1:
            finished.append(element)

    parser.StartElementHandler, parser.EndElementHandler = begin, end
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                parser.Parse(chunk)
                while finished:
                    yield finished.popleft()
            parser.Parse(b"", True)
    except expat.ExpatError as error:
        what, where = expat.ErrorString(error.code), f"{path}, line {error.lineno}"
        raise InputError(f"not well-formed XML ({what})", where=where, remedy="Fix it", kind="damaged_file") from None
    except OSError as error:
        raise InputError(
            f"cannot read it ({error.strerror})", where=path, remedy="Check the path", kind="unreadable_file"
        ) from None
