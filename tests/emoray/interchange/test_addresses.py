"""Addresses of audio as URIs with a stretch of time, and as names below a folder."""

from __future__ import annotations

import pytest
from error_kit import of_kind
from hypothesis import given
from hypothesis import strategies as st

from emoray.errors import InputError
from emoray.interchange import addresses


@pytest.mark.parametrize(
    ("name", "start_s", "end_s", "uri"),
    [
        ("/a/b c.wav", None, None, "file:///a/b%20c.wav"),
        ("/a/100%#1?.wav", 0.5, 2.0, "file:///a/100%25%231%3F.wav#t=0.5,2"),
        ("s3://bucket/ü.wav", 1e-5, None, "s3://bucket/%C3%BC.wav#t=0.00001"),
        ("https://host/x.wav?sign=a%20b", None, 3.25, "https://host/x.wav?sign=a%20b#t=0,3.25"),
        ("part/x.wav", None, None, "part/x.wav"),
        ("12:30.wav", None, None, "./12:30.wav"),
    ],
)
def test_by_hand(name, start_s, end_s, uri):
    assert addresses.reference(name, start_s, end_s) == uri
    read = addresses.parse_reference(uri, "/folder")
    expected = name if "://" in name or name.startswith("/") else f"/folder/{name}"
    assert read == (expected, 0.0 if end_s and start_s is None else start_s, end_s)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: "://" not in name))
def test_any_path_comes_back(name):
    assert addresses.parse_reference(addresses.reference(f"/{name}", None, None), "")[0] == f"/{name}"


def test_names_below_a_folder():
    assert addresses.below("/data/audio/x/1.wav", "/data/audio/") == "x/1.wav"
    assert addresses.below("s3://b/audio/1.wav", "s3://b/audio") == "1.wav"
    assert addresses.below("/data/1.wav", None) == "/data/1.wav"
    with pytest.raises(InputError, match=r"--audio-root: .*/database/1\.wav .*/data", check=of_kind("not_below")):
        addresses.below("/database/1.wav", "/data")
