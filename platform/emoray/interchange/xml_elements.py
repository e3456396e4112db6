"""XML as a stream of elements with their line, and typed attributes whose errors name it."""

from __future__ import annotations

import collections
import re
import xml.sax
import xml.sax.handler
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from emoray.errors import InputError

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
CHUNK_BYTES = 1 << 16


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
    builder = _Builder(path)
    parser = xml.sax.make_parser()
    parser.setFeature(xml.sax.handler.feature_namespaces, True)
    parser.setFeature(xml.sax.handler.feature_external_ges, False)
    parser.setContentHandler(builder)
    builder.setDocumentLocator(parser)  # type: ignore[arg-type]
    try:
        with open(path, "rb") as file:
            parser.feed(b"")  # type: ignore[attr-defined]  # so that an empty file is an error, too
            while chunk := file.read(CHUNK_BYTES):
                parser.feed(chunk)  # type: ignore[attr-defined]
                while builder.finished:
                    yield builder.finished.popleft()
            parser.close()  # type: ignore[attr-defined]
    except xml.sax.SAXParseException as error:
        where = f"{path}, line {error.getLineNumber()}"
        raise InputError(
            f"not well-formed XML ({error.getMessage()})", where=where, remedy="Fix it", kind="damaged_file"
        ) from None
    except OSError as error:
        raise InputError(
            f"cannot read it ({error.strerror})", where=path, remedy="Check the path", kind="unreadable_file"
        ) from None


class _Builder(xml.sax.handler.ContentHandler):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.finished: collections.deque[Element] = collections.deque()
        self._path = path
        self._open: list[Element] = []

    def startElementNS(self, name: tuple[str | None, str], _: str | None, attrs: Any) -> None:  # noqa: N802
        attributes = {local: value for (space, local), value in attrs.items() if space is None}
        element = Element(name, attributes, f"{self._path}, line {self._locator.getLineNumber()}")  # type: ignore[attr-defined]
        if not self._open:
            self.finished.append(Element(name, attributes, element.where))
        elif len(self._open) > 1:
            self._open[-1].children.append(element)
        self._open.append(element)

    def endElementNS(self, name: tuple[str | None, str], _: str | None) -> None:  # noqa: ARG002, N802
        element = self._open.pop()
        if len(self._open) == 1:
            self.finished.append(element)
