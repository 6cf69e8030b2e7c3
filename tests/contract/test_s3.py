"""Clients of S3 read repositories: boto3 and s3fs, unchanged. Skipped where they are not installed."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("boto3")

PROGRAM = Path(__file__).parent / "clients" / "s3_client.py"


@pytest.fixture(scope="module")
def found(server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program has found."""
    settings = {"AWS_ENDPOINT_URL_S3": f"{server}/s3", "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    settings |= {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    settings |= {"HOME": str(tmp_path_factory.mktemp("home")), "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, PROGRAM], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def content(server: str) -> bytes:
    """The weights, by the door of the Hub."""
    return httpx.get(f"{server}/tiny/gpt2/resolve/seed-7/model.safetensors", trust_env=False).content


@pytest.fixture(scope="module")
def files(server: str) -> list[str]:
    """The files of tiny/gpt2, by the door of the Hub."""
    listed = httpx.get(f"{server}/api/models/tiny/gpt2/tree/main", trust_env=False).json()
    return [each["path"] for each in listed]


def test_boto3_reads_objects(found: dict[str, Any], content: bytes) -> None:
    boto = found["boto3"]
    assert boto["sha"] == hashlib.sha256(content).hexdigest()
    assert boto["size"] == len(content)
    assert boto["same"]
    assert boto["range"] == content[8:24].decode()
    assert boto["date"] == "1980-01-01 00:00:00+00:00"


def test_boto3_lists_buckets_and_keys(found: dict[str, Any], files: list[str]) -> None:
    boto = found["boto3"]
    assert boto["buckets"] == ["tiny"]
    assert (boto["location"], boto["bucket"]) == (None, 200)
    assert boto["keys"] == boto["keys_1"] == sorted(set(boto["keys"]))
    assert [key for key in boto["keys"] if key.startswith("gpt2/")] == [f"gpt2/{name}" for name in files]
    assert boto["folders"] == ["bert/", "gpt2/", "llama/", "qwen3-moe/", "vit/"]
    assert boto["revision"] == [f"gpt2@seed-7/{name}" for name in files]


def test_boto3_reads_the_codes_of_errors(found: dict[str, Any]) -> None:
    assert found["boto3"]["errors"] == [
        *("NoSuchBucket", "NoSuchKey", "404", "InvalidRange", "PreconditionFailed", "304"),
        *("AccessDenied", "AccessDenied", "AccessDenied", "NotImplemented"),
    ]


def test_s3fs_reads_a_file_system(found: dict[str, Any], content: bytes, files: list[str]) -> None:
    fs = found["s3fs"]
    if fs is None:
        pytest.skip("s3fs is not installed")
    assert fs["folders"] == [f"tiny/{name}" for name in ("bert", "gpt2", "llama", "qwen3-moe", "vit")]
    assert fs["files"] == [f"tiny/gpt2@seed-7/{name}" for name in files]
    assert "tiny/vit/model.safetensors" in fs["found"]
    assert fs["glob"] == ["tiny/gpt2@seed-7/model.safetensors"]
    assert fs["sha"] == hashlib.sha256(content).hexdigest()
    assert fs["range"] == content[8:24].decode()
    assert fs["exists"] == [True, False, True]
    assert fs["refused"]
