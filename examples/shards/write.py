"""Write the checkpoint of a model of any size, one task for each file: with torchrun or on Ray.

    weightwell record path/to/config.json -o manifest.json
    torchrun --nproc-per-node 4 write.py manifest.json checkpoint --config path/to/config.json
    python write.py manifest.json checkpoint --config path/to/config.json       # Ray: $RAY_ADDRESS, or this machine

The folder must be one that all tasks share. Each task draws in its own process, or asks the server at $WEIGHTWELL_URL.
If a job is interrupted, run it again: complete files are kept.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import weightwell


def on_ray(write: Callable[[str], None], names: Sequence[str], cpus: int) -> bool:
    """Write each file in a task of Ray that has some CPUs, and wait for all."""
    import ray

    ray.init()
    task = ray.remote(write).options(num_cpus=cpus)
    ray.get([task.remote(name) for name in names])
    return True


def with_torchrun(write: Callable[[str], None], names: Sequence[str]) -> bool:
    """Write every n-th file on this rank, and wait for the others. Return whether this rank is the first."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name in names[rank :: dist.get_world_size()]:
        write(name)
    dist.barrier()
    return rank == 0


def main() -> None:
    """Write all files, then the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", help="JSON file of a manifest")
    parser.add_argument("folder", help="folder of the checkpoint, which all tasks share")
    parser.add_argument("--config", help="config.json of the model")
    parser.add_argument("--size", default="5GB", help="most bytes of a file")
    parser.add_argument("--cpus", type=int, default=1, help="threads that draw in each task")
    options = parser.parse_args()

    manifest = weightwell.Manifest.from_file(options.manifest)
    url = os.environ.get("WEIGHTWELL_URL", f"local:cpu?threads={options.cpus}")
    folder, size = Path(options.folder).resolve(), options.size

    def write(name: str) -> None:
        with weightwell.Client(url, progress=False) as client:
            client.save(folder, manifest, max_shard_size=size, shard=name)

    with weightwell.Client(url, progress=False) as client:
        names = client.shards(manifest, max_shard_size=size)
        is_last = with_torchrun(write, names) if "RANK" in os.environ else on_ray(write, names, options.cpus)
        if is_last:
            client.save(folder, manifest, max_shard_size=size, config=options.config)
            print(f"{folder}: {len(names)} files", flush=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # threads of gloo may abort an interpreter that ends (pytorch/pytorch#190489)
