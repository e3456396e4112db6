"""Exports come whole or not at all, on a disk and on an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import fsspec
import pytest
from error_kit import of_kind
from moto.server import ThreadedMotoServer

from emoray.errors import InputError, LakeError
from emoray.interchange.atomic_output import atomic_output


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """A server with a bucket `exports`, and the options that reach it."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="exports")
    yield {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    server.stop()


@dataclass
class Place:
    """A folder on a disk or in a bucket."""

    folder: str
    options: dict[str, Any]

    def put(self, name: str, text: str, *, force: bool = False, fail: bool = False) -> None:
        with atomic_output(f"{self.folder}/{name}", self.options, force=force) as path:
            with open(path, "w") as file:
                file.write(text)
            if fail:
                raise LakeError("the source broke off")

    def put_folder(self, name: str, files: dict[str, str], *, force: bool = False) -> None:
        with atomic_output(f"{self.folder}/{name}", self.options, force=force, header="db.yaml") as path:
            for file_name, text in files.items():
                with open(os.path.join(path, file_name), "w") as file:
                    file.write(text)

    def listing(self) -> dict[str, str]:
        system, path = fsspec.core.url_to_fs(self.folder, **self.options)
        system.invalidate_cache()
        return {name.rsplit("/", 1)[-1]: system.cat_file(name).decode() for name in system.find(path)}


@pytest.fixture(params=["disk", "s3"])
def place(request, tmp_path) -> Place:
    if request.param == "disk":
        return Place(str(tmp_path / "new"), {})
    return Place(f"s3://exports/{tmp_path.name}", request.getfixturevalue("s3"))


def test_a_file_is_replaced_only_with_force_and_only_by_a_whole_one(place):
    place.put("x.csv", "one")
    with pytest.raises(InputError, match=r"x\.csv", check=of_kind("exists")):
        place.put("x.csv", "two")
    with pytest.raises(LakeError, match="broke off"):
        place.put("x.csv", "half", force=True, fail=True)
    assert place.listing() == {"x.csv": "one"}
    place.put("x.csv", "two", force=True)
    assert place.listing() == {"x.csv": "two"}


def test_a_folder_is_replaced_as_a_whole(place):
    place.put_folder("db", {"db.yaml": "1", "db.old.parquet": "1"})
    with pytest.raises(InputError, check=of_kind("exists")):
        place.put_folder("db", {"db.yaml": "2"})
    place.put_folder("db", {"db.yaml": "2", "db.new.parquet": "2"}, force=True)
    assert place.listing() == {"db.yaml": "2", "db.new.parquet": "2"}


def test_what_is_no_earlier_export_is_never_replaced(place):
    place.put("mine/thesis.txt", "years of work")
    with pytest.raises(InputError, match=r"db\.yaml", check=of_kind("not_an_export")):
        place.put_folder("mine", {"db.yaml": "1"}, force=True)
    with pytest.raises(InputError, check=of_kind("is_folder")):
        place.put("mine", "1", force=True)
    assert place.listing() == {"thesis.txt": "years of work"}


def test_who_comes_second_does_not_overwrite_what_came_meanwhile(place):
    def second() -> None:
        with atomic_output(f"{place.folder}/x.csv", place.options, force=False) as path:
            place.put("x.csv", "first")
            with open(path, "w") as file:
                file.write("second")

    with pytest.raises(InputError, check=of_kind("exists")):
        second()
    assert place.listing() == {"x.csv": "first"}


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeError, check=of_kind("storage_failed")):
        Place(str(tmp_path / "file"), {}).put("x.csv", "1")
