"""What a shell sees that uses a command for S3: aws, rclone or s3cmd, the first that is on the PATH.

The arguments are the address of a server, and a revision. Prints a JSON object. Everything is synchronized twice.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

WEIGHTS = "model.safetensors"


class Aws:
    """The command of Amazon."""

    def __init__(self, url: str):
        self.command = ["aws"]
        keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
        os.environ.update(keys, AWS_DEFAULT_REGION="us-east-1", AWS_ENDPOINT_URL_S3=f"{url}/s3")

    def sync(self, source: str, folder: str, pattern: str) -> list[str]:
        """Return the arguments that copy the files that match a pattern and are not there."""
        return ["s3", "sync", f"s3://{source}", folder, "--exclude", "*", "--include", pattern]

    def ls(self, source: str) -> list[str]:
        """Return the arguments that list a folder."""
        return ["s3", "ls", f"s3://{source}/"]

    def part(self, source: str, start: int, stop: int, file: str) -> list[str]:
        """Return the arguments that read a range, into a file or to standard output."""
        bucket, _, key = source.partition("/")
        return ["s3api", "get-object", "--bucket", bucket, "--key", key, "--range", f"bytes={start}-{stop - 1}", file]


class Rclone(Aws):
    """rclone."""

    def __init__(self, url: str):
        self.command = ["rclone"]
        options = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": f"{url}/s3", "REGION": "us-east-1"}
        options |= {"ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "FORCE_PATH_STYLE": "true"}
        os.environ.update({f"RCLONE_CONFIG_W_{name}": value for name, value in options.items()})

    def sync(self, source: str, folder: str, pattern: str) -> list[str]:
        """Return the arguments that copy the files that match a pattern and are not there."""
        return ["copy", f"w:{source}", folder, "--include", pattern]

    def ls(self, source: str) -> list[str]:
        """Return the arguments that list a folder."""
        return ["lsf", f"w:{source}"]

    def part(self, source: str, start: int, stop: int, file: str) -> list[str]:
        """Return the arguments that read a range to standard output."""
        del file
        return ["cat", f"w:{source}", "--offset", str(start), "--count", str(stop - start)]


class S3cmd(Aws):
    """s3cmd, which reads no ranges."""

    def __init__(self, url: str):
        host = f"{url.removeprefix('http://')}/s3"
        self.command = ["s3cmd", "--access_key=any", "--secret_key=any", "--no-ssl", f"--host={host}"]
        self.command += [f"--host-bucket={host}"]

    def sync(self, source: str, folder: str, pattern: str) -> list[str]:
        """Return the arguments that copy the files that match a pattern and are not there."""
        return ["sync", f"s3://{source}/", f"{folder}/", "--exclude", "*", "--include", pattern]

    def ls(self, source: str) -> list[str]:
        """Return the arguments that list a folder."""
        return ["ls", f"s3://{source}/"]


COMMANDS: dict[str, Callable[[str], Aws]] = {"aws": Aws, "rclone": Rclone, "s3cmd": S3cmd}


def main() -> None:
    """Use everything that such a shell uses."""
    _, url, revision = sys.argv
    here = Path.cwd() / "bin"
    name = next(name for name in COMMANDS if (here / name).exists())
    client = COMMANDS[name](url)

    def run(arguments: list[str]) -> str:
        return subprocess.run([*client.command, *arguments], capture_output=True, text=True, check=True).stdout

    folders = [Path(tempfile.mkdtemp()) for _ in range(3)]
    weights = []
    for _ in range(2):
        run(client.sync(f"tiny/gpt2@{revision}", str(folders[0]), WEIGHTS))
        run(client.sync(f"acme/sharded@{revision}", str(folders[1]), "*.safetensors"))
        weights.append(hashlib.sha256((folders[0] / WEIGHTS).read_bytes()).hexdigest())
    part = None
    if not isinstance(client, S3cmd):
        printed = run(client.part(f"tiny/llama@{revision}/{WEIGHTS}", 8, 24, str(folders[2] / "part")))
        part = (folders[2] / "part").read_text() if (folders[2] / "part").exists() else printed
    missing = client.ls("nobody/none")
    failed = subprocess.run([*client.command, *missing], capture_output=True, check=False).returncode != 0
    version = re.search(r"\d+(\.\d+)+", run(["--version"]))
    found = {
        "version": version[0] if version else "",
        "listed": [
            line.split()[-1].rpartition("/")[2] for line in run(client.ls(f"acme/sharded@{revision}")).splitlines()
        ],
        "weights": weights,
        "snapshot": {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in sorted(folders[1].iterdir())},
        "range": part,
        "errors": ["not found"] if failed else [],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
