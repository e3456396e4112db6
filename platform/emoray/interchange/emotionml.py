"""EmotionML 1.0 (W3C Recommendation of 22 May 2014), written as a stream: one `<emotion>` per clip.

- `dimension-set` is Mehrabian's PAD in the W3C's vocabulary, whose name for valence is `pleasure`; values in [0, 1].
- Classes are a vocabulary of the document (`<vocabulary type="category">`); a model's probability is the `confidence`
  of the category.
- A name occurs once per `<emotion>`, with a value or with a `<trace>`: a clip's time course is a second `<emotion>`,
  whose reference begins with the first window. Sample k belongs to the window that begins k/freq after that.
- What the standard does not define (ids, which need not be XML names, the scale, intervals, length of a window) is in
  `<info>`, in our own namespace, which other readers skip.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

from emoray.errors import InputError
from emoray.interchange import addresses
from emoray.interchange.label import ExportStats, Label

NAMESPACE = "http://www.w3.org/2009/10/emotionml"
OWN_NAMESPACE = "urn:emoray:interchange"
VERSION = "1.0"
PAD = "http://www.w3.org/TR/emotion-voc/xml#pad-dimensions"
#: Our dimension → the vocabulary's name.
PAD_NAMES = {"valence": "pleasure", "arousal": "arousal", "dominance": "dominance"}
CLASSES_ID = "classes"

#: Characters that XML 1.0 cannot contain, not even escaped.
UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: Characters that an item's name may not have (xs:NMTOKEN, without its rarer letters).
NOT_A_NAME = re.compile(r"[^\w.:-]")
NO_XML = "an id or address with characters that XML cannot contain"


def write(path: str, labels: Iterable[Label], stats: ExportStats, *, audio_root: str | None = None) -> None:
    """Write a document; `stats` counts clips that are left out because XML cannot contain their characters.

    Audio is named below `audio_root`; None writes whole addresses.

    Raises:
        InputError: Audio is elsewhere, or two classes have the same name in the vocabulary.
    """
    classes: dict[str, str] = {}
    with open(path, "wb") as file:
        document = _Document(XMLGenerator(file, encoding="UTF-8", short_empty_elements=True))
        document.begin()
        for label in labels:
            if UNWRITABLE.search(f"{label.utterance_id}{label.audio_uri or ''}{''.join(label.classes)}"):
                stats.left_out[NO_XML] += 1
                continue
            for name in label.classes:
                first = classes.setdefault(NOT_A_NAME.sub("_", name), name)
                if first != name:
                    raise InputError(
                        f"the classes {first!r} and {name!r} have the same name in an EmotionML vocabulary",
                        where=f"utterance {label.utterance_id}",
                        remedy="Rename one of them",
                        kind="duplicate_class",
                    )
            document.clip(label, audio_root)
            stats.written += 1
        document.end(sorted(classes))


class _Document:
    """Elements in the order of the schema."""

    def __init__(self, generator: XMLGenerator) -> None:
        self._xml = generator

    def begin(self) -> None:
        self._xml.startDocument()
        root = {"xmlns": NAMESPACE, "xmlns:emoray": OWN_NAMESPACE, "version": VERSION, "dimension-set": PAD}
        self._open("emotionml", root)

    def end(self, classes: list[str]) -> None:
        """Close the document; the vocabulary is last, when all classes are known."""
        if classes:
            self._open("vocabulary", {"type": "category", "id": CLASSES_ID})
            for name in classes:
                self._empty("item", {"name": name})
            self._close("vocabulary")
        self._close("emotionml")
        self._xml.endDocument()

    def clip(self, label: Label, audio_root: str | None) -> None:
        """A clip's values and, if it has one, its time course."""
        if label.values or label.classes:
            self._emotion(label, audio_root, label.start_s, label.end_s, course=False)
        if label.course is not None:
            begin_s = label.start_s or 0.0
            span = (begin_s + label.course.start_s, begin_s + label.course.end_s)
            self._emotion(label, audio_root, *span, course=True)

    def _emotion(
        self, label: Label, audio_root: str | None, start_s: float | None, end_s: float | None, *, course: bool
    ) -> None:
        attributes = {"category-set": f"#{CLASSES_ID}"} if label.classes and not course else {}
        self._open("emotion", {**attributes, "expressed-through": "voice"})
        self._info(label, course)
        if course:
            assert label.course is not None
            for name, samples in label.course.values.items():
                self._open("dimension", {"name": PAD_NAMES[name]})
                self._empty(
                    "trace", {"freq": f"{1 / label.course.hop_s!r}Hz", "samples": " ".join(map(_number, samples))}
                )
                self._close("dimension")
        else:
            for name, share in label.classes.items():
                confidence = {} if share is None else {"confidence": _number(share)}
                self._empty("category", {"name": NOT_A_NAME.sub("_", name), **confidence})
            for name, value in label.values.items():
                self._empty("dimension", {"name": PAD_NAMES[name], "value": _number(value)})
        if label.audio_uri:
            name = addresses.below(label.audio_uri, audio_root)
            self._empty("reference", {"uri": addresses.reference(name, start_s, end_s), "role": "expressedBy"})
        self._close("emotion")

    def _info(self, label: Label, course: bool) -> None:
        own: dict[str, str] = {"utterance-id": label.utterance_id}
        if label.scale is not None:
            own |= {"scale-min": _number(label.scale[0]), "scale-max": _number(label.scale[1])}
        if course:
            assert label.course is not None
            # The clip's span of the audio; the course may end before it.
            span = {"clip-start-s": label.start_s, "clip-end-s": label.end_s}
            own |= {"window-s": _number(label.course.window_s)}
            own |= {name: _number(value) for name, value in span.items() if value is not None}
        self._open("info", {})
        if course or not label.intervals:
            self._empty("emoray:clip", own)
        else:
            self._open("emoray:clip", own)
            for name, (low, high) in label.intervals.items():
                self._empty("emoray:interval", {"name": PAD_NAMES[name], "low": _number(low), "high": _number(high)})
            self._close("emoray:clip")
        self._close("info")

    def _open(self, name: str, attributes: Mapping[str, str]) -> None:
        self._xml.startElement(name, AttributesImpl(attributes))

    def _close(self, name: str) -> None:
        self._xml.endElement(name)
        self._xml.ignorableWhitespace("\n")

    def _empty(self, name: str, attributes: Mapping[str, str]) -> None:
        self._open(name, attributes)
        self._close(name)


def _number(value: float) -> str:
    return repr(float(value))
