"""What a program sees that uses s3fs. The arguments are the address of a server, and a revision. Prints a JSON object.

The second reading of the weights is from fsspec's cache of files.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import fsspec
import s3fs

WEIGHTS = "model.safetensors"


def main() -> None:
    """Use everything that such a program uses."""
    _, url, revision = sys.argv
    options: dict[str, Any] = {"key": "any", "secret": "any", "endpoint_url": f"{url}/s3"}
    files = s3fs.S3FileSystem(**options)
    cached = fsspec.filesystem("filecache", fs=files, cache_storage=tempfile.mkdtemp())
    folder = Path(tempfile.mkdtemp())
    files.get(files.glob(f"acme/sharded@{revision}/*.safetensors"), f"{folder}/")
    errors = []
    for path in ("tiny/none/config.json", f"tiny/gpt2@{revision}/none.json", "tiny/gpt2@v3/config.json"):
        try:
            files.info(path)
        except FileNotFoundError:
            errors.append("not found")
    found = {
        "version": s3fs.__version__,
        "listed": [Path(path).name for path in files.ls(f"acme/sharded@{revision}")],
        "weights": [hashlib.sha256(cached.cat(f"tiny/gpt2@{revision}/{WEIGHTS}")).hexdigest() for _ in range(2)],
        "snapshot": {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in sorted(folder.iterdir())},
        "range": files.cat_file(f"tiny/llama@{revision}/{WEIGHTS}", start=8, end=24).decode(),
        "errors": errors,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
