"""Exports come whole or not at all, on a disk and on an object store."""

from __future__ import annotations

import os

import fsspec
import pytest

from emoray.errors import InputError, LakeError
from emoray.interchange.delivery import delivered


@pytest.fixture(params=["disk", "object store"])
def place(request, tmp_path):
    """A folder's address; fsspec's memory stands for stores without a rename."""
    return str(tmp_path / "new") if request.param == "disk" else f"memory://{tmp_path}"


def put(uri: str, text: str, *, force: bool = False, fail: bool = False) -> None:
    with delivered(uri, force=force) as path:
        with open(path, "w") as file:
            file.write(text)
        if fail:
            raise LakeError("the source broke off")


def put_folder(uri: str, files: dict[str, str], *, force: bool = False) -> None:
    with delivered(uri, force=force, header="db.yaml") as path:
        for name, text in files.items():
            with open(os.path.join(path, name), "w") as file:
                file.write(text)


def listing(folder: str) -> dict[str, str]:
    system, path = fsspec.core.url_to_fs(folder)
    return {name.rsplit("/", 1)[-1]: system.cat_file(name).decode() for name in system.find(path)}


def test_a_file_is_replaced_only_with_force_and_only_by_a_whole_one(place):
    put(f"{place}/x.csv", "one")
    with pytest.raises(InputError, match=r"x.csv: there is something already\. Add --force"):
        put(f"{place}/x.csv", "two")
    with pytest.raises(LakeError, match="broke off"):
        put(f"{place}/x.csv", "half", force=True, fail=True)
    assert listing(place) == {"x.csv": "one"}
    put(f"{place}/x.csv", "two", force=True)
    assert listing(place) == {"x.csv": "two"}


def test_a_folder_is_replaced_as_a_whole(place):
    put_folder(f"{place}/db", {"db.yaml": "1", "db.old.parquet": "1"})
    with pytest.raises(InputError, match="there is something already"):
        put_folder(f"{place}/db", {"db.yaml": "2"})
    put_folder(f"{place}/db", {"db.yaml": "2", "db.new.parquet": "2"}, force=True)
    assert listing(place) == {"db.yaml": "2", "db.new.parquet": "2"}


def test_what_is_no_earlier_export_is_never_replaced(place):
    put(f"{place}/mine/thesis.txt", "years of work")
    with pytest.raises(InputError, match=r"this is no earlier export \(db.yaml is not in it\)"):
        put_folder(f"{place}/mine", {"db.yaml": "1"}, force=True)
    with pytest.raises(InputError, match="this is a folder, not a file"):
        put(f"{place}/mine", "1", force=True)
    assert listing(place) == {"thesis.txt": "years of work"}


def test_who_comes_second_does_not_overwrite_what_came_meanwhile(place):
    with (
        pytest.raises(InputError, match="there is something already"),
        delivered(f"{place}/x.csv", force=False) as path,
    ):
        put(f"{place}/x.csv", "first")
        with open(path, "w") as file:
            file.write("second")
    assert listing(place) == {"x.csv": "first"}


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeError, match="cannot write"):
        put(str(tmp_path / "file" / "x.csv"), "1")
