"""Read EmotionML 1.0 as a stream, and check it against the Recommendation's rules; every error has its line.

Elements without use here (appraisals, action tendencies, traces of categories) are skipped and counted. A category
vocabulary outside the document is not fetched: its names are not checked.
"""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from emoray.interchange import addresses
from emoray.interchange.emotionml import NAMESPACE, OWN_NAMESPACE, PAD, PAD_NAMES, VERSION
from emoray.interchange.label import Course, Label
from emoray.interchange.xml_elements import Element, elements

DIMENSION_OF = {theirs: ours for ours, theirs in PAD_NAMES.items()}
KINDS = ("category", "dimension", "action-tendency", "appraisal")
ROLES = ("expressedBy", "experiencedBy", "triggeredBy", "targetedAt")
SKIPPED = ("appraisal", "action-tendency")
FREQUENCY = re.compile(r"\+?(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*Hz")

Traces = Mapping[str, tuple[float, tuple[float, ...]]]


@dataclass(frozen=True)
class Document:
    """The content of a document.

    Attributes:
        labels: Its clips, in order of their first `<emotion>`.
        skipped: Elements that were not used, by name.
    """

    labels: list[Label]
    skipped: collections.Counter[str]


def read(path: str) -> Document:
    """Read a document. Audio with a relative reference is looked for below its folder.

    Raises:
        InputError: It is not EmotionML 1.0 with PAD dimensions, or breaks a rule: which, where and what to do.
    """
    stream = elements(path)
    reader = _Reader(next(stream), os.path.dirname(path))
    for element in stream:
        reader.take(element)
    return reader.document()


class _Reader:
    def __init__(self, root: Element, folder: str) -> None:
        if root.name != (NAMESPACE, "emotionml"):
            what = f"the root is <{root.name[1]}> of namespace {root.name[0]}"
            raise root.error(what, f"EmotionML begins with <emotionml xmlns={NAMESPACE!r}>")
        if root.attribute("version") != VERSION:
            raise root.error(f"version {root.attribute('version')!r}", f"Only version {VERSION} is known")
        self._root = root
        self._folder = folder
        self._labels: dict[str, Label] = {}
        self._skipped: collections.Counter[str] = collections.Counter()
        self._vocabularies: dict[str, tuple[str, set[str]]] = {}
        # Used categories with the name of their vocabulary, which may come after them.
        self._used: list[tuple[Element, str]] = []
        self._emotions = 0

    def take(self, element: Element) -> None:
        """A child of the root."""
        if element.name == (NAMESPACE, "emotion"):
            self._emotion(element)
        elif element.name == (NAMESPACE, "vocabulary"):
            self._vocabulary(element)
        elif element.name != (NAMESPACE, "info"):
            raise element.error(f"<{element.name[1]}> is not allowed here", "Only info, emotion and vocabulary are")

    def document(self) -> Document:
        """The content, once all vocabularies are known."""
        for category, reference in self._used:
            kind, items = self._vocabularies.get(reference, ("", set()))
            if kind != "category":
                what = f"no category vocabulary {reference!r} in this document"
                raise category.error(what, "Add it, or fix category-set")
            if category.attribute("name") not in items:
                what = f"category {category.attribute('name')!r} is not in the vocabulary {reference!r}"
                raise category.error(what, "Add it there")
        return Document(list(self._labels.values()), self._skipped)

    def _vocabulary(self, element: Element) -> None:
        kind = element.attribute("type")
        if kind not in KINDS:
            raise element.error(f"a vocabulary of type {kind!r}", f"Use one of {', '.join(KINDS)}")
        names = [item.attribute("name") for item in element.named("item")]
        if not names:
            raise element.error("a vocabulary without items", "Add some")
        name, times = collections.Counter(names).most_common(1)[0]
        if times > 1:
            raise element.error(f"the item {name!r} occurs {times} times", "Keep one of them")
        self._vocabularies[element.attribute("id")] = (kind, set(names))

    def _emotion(self, element: Element) -> None:
        self._emotions += 1
        clip = next((one for info in element.named("info") for one in info.named("clip", OWN_NAMESPACE)), None)
        values: dict[str, float] = {}
        traces: dict[str, tuple[float, tuple[float, ...]]] = {}
        for child in element.named("dimension"):
            name = self._dimension(element, child, {**values, **traces})
            within = child.named("trace")
            if len(within) + ("value" in child.attributes) != 1:
                raise child.error("a dimension has a value or one trace, and not both", "Keep one of them")
            if within:
                traces[name] = _trace(within[0])
            else:
                values[name] = child.share("value")
        classes = self._classes(element)
        others = [child.name[1] for name in SKIPPED for child in element.named(name)]
        self._skipped.update(others)
        if not (values or traces or classes):
            if not others:
                raise element.error("an <emotion> without category or dimension", "Give it one, or leave it out")
            return
        own = {} if clip is None else clip.attributes
        audio, start_s, end_s = self._audio(element)
        label = Label(
            utterance_id=own.get("utterance-id") or element.attributes.get("id") or f"emotion-{self._emotions}",
            audio_uri=audio,
            start_s=start_s,
            end_s=end_s,
            values=values,
            scale=None if clip is None or "scale-min" not in own else _pair(clip, "scale-min", "scale-max"),
            intervals=_intervals(clip),
            classes=classes,
        )
        if traces:
            label = _with_course(element, label, traces, clip)
        before = self._labels.get(label.utterance_id)
        self._labels[label.utterance_id] = label if before is None else _merged(element, before, label)

    def _dimension(self, emotion: Element, child: Element, known: Mapping[str, Any]) -> str:
        declared = emotion.attributes.get("dimension-set") or self._root.attributes.get("dimension-set")
        if declared != PAD:
            raise child.error(f"dimension-set {declared!r} is not known", f"emoray reads {PAD}")
        name = child.attribute("name")
        if name not in DIMENSION_OF:
            raise child.error(f"dimension {name!r} is not in pad-dimensions", f"It has {', '.join(DIMENSION_OF)}")
        if DIMENSION_OF[name] in known:
            raise child.error(f"dimension {name!r} occurs twice in one <emotion>", "Keep one of them")
        return DIMENSION_OF[name]

    def _classes(self, emotion: Element) -> dict[str, float | None]:
        classes: dict[str, float | None] = {}
        for child in emotion.named("category"):
            declared = emotion.attributes.get("category-set") or self._root.attributes.get("category-set")
            if not declared:
                raise child.error("no category-set is declared", "Declare one on <emotion> or <emotionml>")
            name = child.attribute("name")
            if name in classes:
                raise child.error(f"category {name!r} occurs twice in one <emotion>", "Keep one of them")
            within = child.named("trace")
            if len(within) + ("value" in child.attributes) > 1:
                raise child.error("a category has a value or one trace, and not both", "Keep one of them")
            if "value" in child.attributes:
                child.share("value")
            if declared.startswith("#"):
                self._used.append((child, declared[1:]))
            self._skipped.update(["trace"] * len(within))
            classes[name] = child.share("confidence") if "confidence" in child.attributes else None
        return classes

    def _audio(self, emotion: Element) -> tuple[str | None, float | None, float | None]:
        """Audio, start and end of the first reference to what expresses the emotion."""
        for child in emotion.named("reference"):
            role = child.attributes.get("role", ROLES[0])
            if role not in ROLES:
                raise child.error(f"role {role!r}", f"Use one of {', '.join(ROLES)}")
            uri = child.attribute("uri")
            if role == ROLES[0]:
                try:
                    return addresses.parse_reference(uri, self._folder)
                except ValueError as error:
                    raise child.error(str(error), "Fix the reference") from None
        return None, None, None


def _trace(trace: Element) -> tuple[float, tuple[float, ...]]:
    """Rate in Hz and samples."""
    text = trace.attribute("freq")
    match = FREQUENCY.fullmatch(text)
    if match is None or float(match[1]) <= 0:
        raise trace.error(f"freq {text!r}", "Write a positive number followed by Hz")
    return float(match[1]), trace.shares("samples")


def _with_course(emotion: Element, label: Label, traces: Traces, clip: Element | None) -> Label:
    """The label with its time course, and with the clip's span if the document has it."""
    shapes = {(rate_hz, len(samples)) for rate_hz, samples in traces.values()}
    if len(shapes) > 1:
        raise emotion.error("traces of several rates or lengths", "Sample all dimensions alike")
    hop_s = 1 / shapes.pop()[0]
    samples = {name: values for name, (_, values) in traces.items()}
    if clip is None or "window-s" not in clip.attributes:
        return replace(label, course=Course(0.0, hop_s, hop_s, samples))
    begin_s = clip.number("clip-start-s") if "clip-start-s" in clip.attributes else None
    end_s = clip.number("clip-end-s") if "clip-end-s" in clip.attributes else None
    course = Course((label.start_s or 0.0) - (begin_s or 0.0), hop_s, clip.number("window-s"), samples)
    return replace(label, start_s=begin_s, end_s=end_s, course=course)


def _merged(emotion: Element, one: Label, other: Label) -> Label:
    """Values and time course of one clip, which are in separate `<emotion>` elements."""
    for values, course in ((one, other), (other, one)):
        if values.course is None and course.course is not None and not course.values and not course.classes:
            return replace(values, course=course.course)
    raise emotion.error(f"{one.utterance_id!r} occurs twice", "Give each <emotion> its own id")


def _intervals(clip: Element | None) -> dict[str, tuple[float, float]]:
    found = {}
    for one in [] if clip is None else clip.named("interval"):
        name = one.attribute("name")
        if name not in DIMENSION_OF:
            raise one.error(f"an interval of {name!r}", f"There are {', '.join(DIMENSION_OF)}")
        found[DIMENSION_OF[name]] = _pair(one, "low", "high")
    return found


def _pair(element: Element, low: str, high: str) -> tuple[float, float]:
    return element.number(low), element.number(high)
