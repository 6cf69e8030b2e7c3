"""The door of S3: its operations, listings and errors, as clients see them."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, fromstring

import httpx
import pytest
import safetensors.numpy
from fastapi import FastAPI

from weightwell_engine.exceptions import Busy, WeightwellError
from weightwell_service.app import create_app
from weightwell_service.checkout import Checkout
from weightwell_service.repositories.library import InvalidRepository, library
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]

NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
MANIFEST: dict[str, Any] = {
    "rules": [{"match": "*", "scheme": "normal", "std": 0.02}],
    "tensors": {"wte.weight": {"shape": [40, 8]}, "fc.weight": {"shape": [16, 8]}, "fc.bias": {"shape": [16]}},
}
MODEL = ["config.json", "data/words & more.txt", "manifest.json", "model.safetensors"]
OTHER = ["manifest.json", "model.safetensors"]


@pytest.fixture(scope="module")
def s3(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service with the buckets acme and tiny."""
    folder = tmp_path_factory.mktemp("repositories")
    for name in ("model", "other"):
        (folder / "acme" / name).mkdir(parents=True)
        (folder / "acme" / name / "manifest.json").write_text(json.dumps(MANIFEST))
    (folder / "acme" / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "acme" / "model" / "data").mkdir()
    (folder / "acme" / "model" / "data" / "words & more.txt").write_text("a b c")
    with (
        serve(create_app(Settings(threads=2, repositories=folder))) as url,
        httpx.Client(base_url=f"{url}/s3", trust_env=False, timeout=30) as client,
    ):
        yield client


def read(answer: httpx.Response) -> Element:
    assert answer.headers["content-type"] == "application/xml"
    assert len(answer.headers["x-amz-request-id"]) == 16
    return fromstring(answer.content)  # noqa: S314 - of the service under test


def texts(document: Element, *path: str) -> list[str]:
    return [each.text or "" for each in document.findall("/".join(NAMESPACE + name for name in path))]


def keys(s3: httpx.Client, bucket: str = "acme", **query: Any) -> list[str]:
    """The keys and the common prefixes of one page."""
    found = read(s3.get(f"/{bucket}", params={name.replace("_", "-"): each for name, each in query.items()}))
    return texts(found, "Contents", "Key") + texts(found, "CommonPrefixes", "Prefix")


# Buckets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/"])
def test_the_buckets_are_the_owners(s3: httpx.Client, path: str) -> None:
    answer = httpx.get(f"{str(s3.base_url).rstrip('/')}{path}", trust_env=False)
    assert texts(read(answer), "Buckets", "Bucket", "Name") == ["acme", "tiny"]


def test_a_bucket_has_a_region_and_no_versions(s3: httpx.Client) -> None:
    head = s3.head("/acme")
    assert (head.status_code, head.headers["x-amz-bucket-region"]) == (200, "us-east-1")
    assert read(s3.get("/acme?location")).text is None
    assert read(s3.get("/acme/?versioning")).tag == f"{NAMESPACE}VersioningConfiguration"


# Listings ------------------------------------------------------------------------------------------------------------

BOTH = [f"model/{name}" for name in MODEL] + [f"other/{name}" for name in OTHER]


@pytest.mark.parametrize("version", [1, 2])
def test_a_bucket_lists_main_of_every_repository(s3: httpx.Client, version: int) -> None:
    assert keys(s3, list_type=version) == BOTH
    assert keys(s3, list_type=version, prefix="model/data") == BOTH[1:2]
    assert keys(s3, list_type=version, prefix="nothing") == []


def test_a_prefix_with_a_revision_lists_that_revision(s3: httpx.Client) -> None:
    assert keys(s3, prefix="other@seed-42-bfloat16/") == [f"other@seed-42-bfloat16/{name}" for name in OTHER]
    assert keys(s3, prefix="other@seed-42", delimiter="/") == ["other@seed-42/"]
    assert keys(s3, prefix="other@v2/") == []


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("", ["model/", "other/"]),
        ("model", ["model/"]),
        ("model/", ["model/config.json", "model/manifest.json", "model/model.safetensors", "model/data/"]),
        ("model/data/", BOTH[1:2]),
        ("model/m", ["model/manifest.json", "model/model.safetensors"]),
    ],
)
def test_a_delimiter_rolls_keys_up(s3: httpx.Client, prefix: str, found: list[str]) -> None:
    assert keys(s3, prefix=prefix, delimiter="/") == found


@pytest.mark.parametrize("delimiter", ["", "/", "m"])
@pytest.mark.parametrize("most", [1, 2, 3, 5])
@pytest.mark.parametrize("version", [1, 2])
def test_pages_have_every_key_once(s3: httpx.Client, version: int, most: int, delimiter: str) -> None:
    found: list[str] = []
    more: dict[str, str] = {}
    for _ in range(20):
        query: dict[str, Any] = {"list-type": version, "max-keys": most, "delimiter": delimiter, **more}
        page = read(s3.get("/acme", params=query))
        items = texts(page, "Contents", "Key") + texts(page, "CommonPrefixes", "Prefix")
        assert len(items) <= most
        found += items
        if texts(page, "IsTruncated") == ["false"]:
            break
        assert len(items) == most
        if version == 1:
            more = {"marker": texts(page, "NextMarker")[0]}
        else:
            assert texts(page, "KeyCount") == [str(most)]
            more = {"continuation-token": texts(page, "NextContinuationToken")[0]}
    assert sorted(found) == sorted(keys(s3, delimiter=delimiter))


def test_a_listing_goes_on_after_a_key(s3: httpx.Client) -> None:
    assert keys(s3, list_type=2, start_after="model/manifest.json") == BOTH[3:]
    assert keys(s3, marker="model/manifest.json") == BOTH[3:]
    assert keys(s3, max_keys=0) == []


def test_keys_are_encoded_if_the_client_asks_for_it(s3: httpx.Client) -> None:
    assert keys(s3, prefix="model/data", encoding_type="url") == ["model/data/words%20%26%20more.txt"]


def test_only_the_files_of_a_page_are_planned(s3: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    file = Checkout.file

    async def counted(self: Checkout, request: Any, path: str) -> Any:
        asked.append(path)
        return await file(self, request, path)

    monkeypatch.setattr(Checkout, "file", counted)
    assert len(keys(s3, "tiny", max_keys=2)) == 2
    assert len(asked) == 2
    assert keys(s3, "tiny", delimiter="/")
    assert len(asked) == 2


# Objects -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["model", "model@seed-7", "model@seed-7-float16"])
def test_every_object_has_the_size_that_is_listed_and_ranges(s3: httpx.Client, folder: str) -> None:
    listed = read(s3.get("/acme", params={"prefix": f"{folder}/"}))
    found = zip(*(texts(listed, "Contents", name) for name in ("Key", "Size", "ETag")), strict=True)
    for key, size, etag in found:
        url = f"/acme/{quote(key)}"
        head, whole, part = s3.head(url), s3.get(url), s3.get(url, headers={"Range": "bytes=1-2"})
        assert int(head.headers["content-length"]) == len(whole.content) == int(size)
        assert head.headers["etag"] == whole.headers["etag"] == part.headers["etag"] == etag
        assert head.headers["last-modified"] == "Tue, 01 Jan 1980 00:00:00 GMT"
        assert (part.status_code, part.content) == (206, whole.content[1:3])
        assert part.headers["content-range"] == f"bytes 1-2/{size}"


def test_an_object_is_the_file_of_the_hub_s_door(s3: httpx.Client) -> None:
    hub = str(s3.base_url).removesuffix("/s3/")
    for name in MODEL:
        there = httpx.get(f"{hub}/acme/model/resolve/seed-7/{quote(name)}", trust_env=False)
        here = s3.get(f"/acme/model@seed-7/{quote(name)}")
        assert here.content == there.content
        assert here.headers["etag"] == f'{there.headers["etag"][:-1]}-1"'  # 32 digits alone would be an MD5
    tensors = safetensors.numpy.load(s3.get("/acme/model@seed-7-float16/model.safetensors").content)
    assert {each.dtype.name for each in tensors.values()} == {"float16"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_preconditions_compare_the_entity_tag_of_the_object(s3: httpx.Client, name: str) -> None:
    url = f"/acme/model/{name}"
    whole = s3.get(url)
    etag = whole.headers["etag"]
    assert s3.get(url, headers={"If-Match": etag}).content == whole.content
    same = s3.get(url, headers={"If-None-Match": etag})
    assert (same.status_code, same.headers["etag"]) == (304, etag)
    part = s3.get(url, headers={"Range": "bytes=0-0", "If-Range": etag})
    assert part.status_code == 206
    assert s3.get(url, headers={"Range": "bytes=0-0", "If-Range": '"other-1"'}).content == whole.content
    other = s3.get(url, headers={"If-Match": '"other-1"'})
    assert (other.status_code, other.headers["etag"]) == (412, etag)
    assert read(other).findtext("Code") == "PreconditionFailed"


def test_a_commit_may_be_cached_for_ever(s3: httpx.Client) -> None:
    hub = str(s3.base_url).removesuffix("/s3/")
    commit = httpx.get(f"{hub}/api/models/acme/model/revision/seed-7", trust_env=False).json()["sha"]
    answer = s3.get(f"/acme/model@{commit}/model.safetensors")
    assert "immutable" in answer.headers["cache-control"]
    assert answer.content == s3.get("/acme/model@seed-7/model.safetensors").content
    assert s3.head("/acme/model@seed-7/model.safetensors").headers["cache-control"] == "no-cache"


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/nobody", 404, "NoSuchBucket"),
        ("/nobody/model/config.json", 404, "NoSuchBucket"),
        ("/acme/model", 404, "NoSuchKey"),
        ("/acme/model/", 404, "NoSuchKey"),
        ("/acme/model/pytorch_model.bin", 404, "NoSuchKey"),
        ("/acme/model@v2/config.json", 404, "NoSuchKey"),
        ("/acme/model@/config.json", 404, "NoSuchKey"),
        ("/acme/nothing/config.json", 404, "NoSuchKey"),
        ("/acme/%00%ff", 404, "NoSuchKey"),
        ("/acme?max-keys=many", 400, "InvalidArgument"),
        ("/acme?max-keys=-1", 400, "InvalidArgument"),
        ("/acme?encoding-type=base64", 400, "InvalidArgument"),
        ("/acme?list-type=2&continuation-token=%2A", 400, "InvalidArgument"),
        ("/acme?list-type=2&continuation-token=_w==", 400, "InvalidArgument"),
        ("/acme?policy", 501, "NotImplemented"),
        ("/acme/model/config.json?acl", 501, "NotImplemented"),
    ],
)
def test_errors_are_those_of_s3(s3: httpx.Client, path: str, status: int, code: str) -> None:
    answer = s3.get(path)
    error = read(answer)
    assert (answer.status_code, error.tag, error.findtext("Code")) == (status, "Error", code)
    assert error.findtext("Message")
    assert error.findtext("RequestId") == answer.headers["x-amz-request-id"]
    if code != "InvalidArgument":  # a bucket's HEAD lists nothing
        head = s3.head(path)
        assert (head.status_code, head.content) == (status, b"")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_range_beyond_the_end_is_refused(s3: httpx.Client, name: str) -> None:
    size = int(s3.head(f"/acme/model/{name}").headers["content-length"])
    answer = s3.get(f"/acme/model/{name}", headers={"Range": f"bytes={size}-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{size}")
    assert read(answer).findtext("Code") == "InvalidRange"


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/acme", "/acme/model/config.json", "/new", "/acme?delete"])
def test_what_would_change_something_is_refused(s3: httpx.Client, method: str, path: str) -> None:
    answer = s3.request(method, path, content=b"x" * 1000)
    assert (answer.status_code, read(answer).findtext("Code")) == (403, "AccessDenied")


@pytest.mark.parametrize(
    ("raised", "status", "code"), [(Busy("wait", retry_after=3), 503, "SlowDown"), (WeightwellError(), 500, None)]
)
def test_a_busy_server_asks_to_slow_down(
    s3: httpx.Client, monkeypatch: pytest.MonkeyPatch, raised: WeightwellError, status: int, code: str | None
) -> None:
    def refuse(*_: Any) -> Any:
        raise raised

    monkeypatch.setattr(Checkout, "of", refuse)
    answer = s3.get("/acme/model/config.json")
    assert answer.status_code == status
    if code is not None:
        assert read(answer).findtext("Code") == code
        assert answer.headers["retry-after"] == "3"


def test_signatures_are_not_checked(s3: httpx.Client) -> None:
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, Signature=0"}
    url = "/acme/model/config.json"
    assert s3.get(url, headers=signed).content == s3.get(f"{url}?X-Amz-Signature=0").content == s3.get(url).content


def test_characters_that_xml_cannot_have_are_replaced(s3: httpx.Client) -> None:
    answer = s3.get("/acme/a%00b%0Bc%EF%BF%BFd%F0%9F%98%80<&")
    assert read(answer).findtext("Resource") == "/s3/acme/a?b?c?d\U0001f600<&"


@pytest.mark.parametrize("owner", ["s3", "api"])
def test_an_owner_is_not_named_as_a_path_of_the_server(tmp_path: Path, owner: str) -> None:
    (tmp_path / owner / "model").mkdir(parents=True)
    with pytest.raises(InvalidRepository, match="rename it"):
        library(tmp_path, 1000)
