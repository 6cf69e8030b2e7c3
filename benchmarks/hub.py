"""The doors of the Hub and of S3: a static server that speaks the same protocol, and what a request takes.

    python -m benchmarks.hub

``hf_hub_download`` brings one weight file of a repository into an empty cache: from the service, which draws it, and
from nginx, which has it as a file. Then small requests to both doors are timed, over one connection. Needs nginx.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from benchmarks.http import NGINX, free_port, running
from benchmarks.measure import interleave, table

COMMIT = "0" * 40
WEIGHTS = "model.safetensors"

# A range, in the notation of the header field.
_PART = "bytes=1000000-1004095"

_DOWNLOAD = """
import time
from huggingface_hub import hf_hub_download
start = time.perf_counter()
hf_hub_download("acme/model", "model.safetensors", revision={revision!r})
print(time.perf_counter() - start)
"""


def downloading(url: str, revision: str) -> Callable[[], float]:
    """Return a function that downloads the file into an empty cache with the Hub's client, and returns the seconds."""

    def run() -> float:
        with tempfile.TemporaryDirectory() as cache:
            settings = {"HF_ENDPOINT": url, "HF_HOME": cache, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
            program = [sys.executable, "-c", _DOWNLOAD.format(revision=revision)]
            done = subprocess.run(program, env=os.environ | settings, capture_output=True, text=True, check=True)
            return float(done.stdout)

    return run


def requesting(client: httpx.Client, path: str, part: str | None = None, count: int = 300) -> Callable[[], float]:
    """Return a function that requests a path again and again, and returns the seconds of one request.

    The requests are HEAD; or GET, for a ``part`` in the notation of Range.
    """
    method, headers = ("HEAD", {}) if part is None else ("GET", {"range": part})

    def run() -> float:
        start = time.perf_counter()
        for _ in range(count):
            client.request(method, path, headers=headers).raise_for_status()
        return (time.perf_counter() - start) / count

    return run


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds; medians are printed")
    parser.add_argument("--mebibytes", type=int, default=512, help="size of the weight file")
    arguments = parser.parse_args()
    if shutil.which("nginx") is None:
        sys.exit("nginx is not on the PATH: install it")
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {arguments.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        repository = root / "repositories" / "acme" / "model"
        static_files = root / "static" / "acme" / "model" / "resolve" / COMMIT
        static_files.mkdir(parents=True)
        for place in (root, *root.rglob("*")):
            place.chmod(0o755)  # nginx reads as another user
        repository.mkdir(parents=True)
        rows = arguments.mebibytes * 2**20 // 4 // 1024
        manifest: Any = {"tensors": {"weight": {"shape": [rows, 1024], "scheme": "normal", "std": 0.02}}}
        (repository / "manifest.json").write_text(json.dumps(manifest))
        (repository / "config.json").write_text("{}")
        drawn, static = free_port(), free_port()
        service = [sys.executable, "-m", "weightwell_service", "--port", str(drawn)]
        stack.enter_context(running([*service, "--repositories", str(root / "repositories")], drawn))
        url = f"http://127.0.0.1:{drawn}"
        client = stack.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=600))
        commit = client.get("/api/models/acme/model").json()["sha"]
        with (
            client.stream("GET", f"/acme/model/resolve/{commit}/{WEIGHTS}") as answer,
            (static_files / WEIGHTS).open("wb") as file,
        ):
            for chunk in answer.iter_raw():
                file.write(chunk)
        header = f"add_header X-Repo-Commit {COMMIT};"
        (root / "nginx.conf").write_text(NGINX.format(root=root, port=static, files="static", directives=header))
        stack.enter_context(running(["nginx", "-p", str(root), "-c", str(root / "nginx.conf")], static))
        times = interleave(
            {"service": downloading(url, commit), "nginx": downloading(f"http://127.0.0.1:{static}", COMMIT)},
            arguments.rounds,
        )
        size = (static_files / WEIGHTS).stat().st_size
        hub, s3 = f"/acme/model/resolve/{commit}", f"/s3/acme/model@{commit}"
        whole = f"/init?shape={rows},1024&scheme=normal&std=0.02"
        heads = interleave(
            {
                "/health/live": requesting(client, "/health/live"),
                "/init of 16 x 16": requesting(client, "/init?shape=16,16&scheme=normal"),
                "Hub: a small file": requesting(client, f"{hub}/config.json"),
                "Hub: a weight file": requesting(client, f"{hub}/{WEIGHTS}"),
                "S3: a small file": requesting(client, f"{s3}/config.json"),
                "S3: a weight file": requesting(client, f"{s3}/{WEIGHTS}"),
            },
            arguments.rounds,
        )
        ranges = interleave(
            {
                "/init": requesting(client, whole, _PART),
                "Hub": requesting(client, f"{hub}/{WEIGHTS}", _PART),
                "S3": requesting(client, f"{s3}/{WEIGHTS}", _PART),
            },
            arguments.rounds,
        )
    found = [
        (name, f"{size / seconds / 1e9:.2f}", f"{times['nginx'] / seconds:.2f}") for name, seconds in times.items()
    ]
    table(f"hf_hub_download of {arguments.mebibytes} MiB", ("from", "GB/s", "of nginx"), found)
    for title, times, first in (
        ("HEAD requests over one connection", heads, "/health/live"),
        ("4 KiB of a weight file, over one connection", ranges, "/init"),
    ):
        base = times[first]
        lines = [(name, f"{each * 1e6:.0f}", f"{(each - base) * 1e6:+.0f}") for name, each in times.items()]
        table(title, ("of", "us", f"more than {first}"), lines)


if __name__ == "__main__":
    main()
