"""What a program sees that knows nothing of Weightwell: boto3 and s3fs, with the address of a server as their endpoint.

Prints a JSON object with what it found. Run by tests/contract/test_s3.py, with the endpoint in AWS_ENDPOINT_URL_S3.
"""

import hashlib
import io
import json
import os
from importlib.util import find_spec
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

MODEL = "gpt2@seed-7"
WEIGHTS = f"{MODEL}/model.safetensors"


def code(call: Any, **arguments: Any) -> str:
    """Return S3's code of a call that is refused."""
    try:
        call(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def boto() -> dict[str, Any]:
    """Return what boto3 finds."""
    s3: Any = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}))
    head = s3.head_object(Bucket="tiny", Key=WEIGHTS)
    whole = s3.get_object(Bucket="tiny", Key=WEIGHTS)["Body"].read()
    in_ranges = io.BytesIO()  # of 64 KiB in parallel, each with If-Match where the client sends it
    config = TransferConfig(multipart_threshold=2**16, multipart_chunksize=2**16)
    s3.download_fileobj("tiny", WEIGHTS, in_ranges, Config=config)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="tiny", PaginationConfig={"PageSize": 3})
    pages_1 = s3.get_paginator("list_objects").paginate(Bucket="tiny", PaginationConfig={"PageSize": 3})
    folders = s3.list_objects_v2(Bucket="tiny", Delimiter="/")
    return {
        "buckets": [each["Name"] for each in s3.list_buckets()["Buckets"]],
        "location": s3.get_bucket_location(Bucket="tiny")["LocationConstraint"],
        "bucket": s3.head_bucket(Bucket="tiny")["ResponseMetadata"]["HTTPStatusCode"],
        "size": head["ContentLength"],
        "date": str(head["LastModified"]),
        "sha": hashlib.sha256(whole).hexdigest(),
        "same": in_ranges.getvalue() == whole,
        "range": s3.get_object(Bucket="tiny", Key=WEIGHTS, Range="bytes=8-23")["Body"].read().decode(),
        "keys": [each["Key"] for page in pages for each in page["Contents"]],
        "keys_1": [each["Key"] for page in pages_1 for each in page["Contents"]],
        "folders": [each["Prefix"] for each in folders["CommonPrefixes"]],
        "revision": [each["Key"] for each in s3.list_objects_v2(Bucket="tiny", Prefix=f"{MODEL}/")["Contents"]],
        "errors": [
            code(s3.list_objects_v2, Bucket="nobody"),
            code(s3.get_object, Bucket="tiny", Key="gpt2/nothing"),
            code(s3.head_object, Bucket="tiny", Key="gpt2/nothing"),
            code(s3.get_object, Bucket="tiny", Key=WEIGHTS, Range=f"bytes={len(whole)}-"),
            code(s3.get_object, Bucket="tiny", Key=WEIGHTS, IfMatch='"0"'),
            code(s3.get_object, Bucket="tiny", Key=WEIGHTS, IfNoneMatch=head["ETag"]),
            code(s3.put_object, Bucket="tiny", Key="gpt2/new", Body=b"x" * 100_000),
            code(s3.delete_object, Bucket="tiny", Key="gpt2/config.json"),
            code(s3.create_bucket, Bucket="new"),
            code(s3.get_bucket_policy, Bucket="tiny"),
        ],
    }


def fs() -> dict[str, Any]:
    """Return what s3fs finds."""
    import s3fs

    files: Any = s3fs.S3FileSystem(key="any", secret="any", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
    with files.open(f"tiny/{WEIGHTS}") as file:
        file.seek(8)
        start = file.read(16)
    refused = False
    try:
        files.pipe("tiny/gpt2/new", b"x")
    except PermissionError:
        refused = True
    return {
        "folders": files.ls("tiny"),
        "files": files.ls(f"tiny/{MODEL}"),
        "found": files.find("tiny/vit"),
        "glob": files.glob(f"tiny/{MODEL}/*.safetensors"),
        "sha": hashlib.sha256(files.cat(f"tiny/{WEIGHTS}")).hexdigest(),
        "range": start.decode(),
        "exists": [files.exists(f"tiny/{WEIGHTS}"), files.exists("tiny/gpt2/nothing"), files.isdir(f"tiny/{MODEL}")],
        "refused": refused,
    }


if __name__ == "__main__":
    print(json.dumps({"boto3": boto(), "s3fs": fs() if find_spec("s3fs") else None}))
