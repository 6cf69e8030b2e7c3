"""The ``weightwell`` command: the methods of the client in a shell.

Exit codes: 0 success; 1 failure (no server, a broken transfer, a full disk), or a file that differs; 2 an invalid
command line, or a request that the server refuses; 130 interrupted.
"""

import argparse
import hashlib
import json
import logging
import os
import re
import secrets
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from weightwell.client import Client
from weightwell.doors import DEFAULT_URL
from weightwell.exceptions import AccessDenied, InvalidRequest, NotFound, TooLarge, WeightwellError
from weightwell.models.manifest import Manifest
from weightwell.models.recorded import built, table_text
from weightwell.models.sources import builder_of, on_meta, small_files_of
from weightwell.sharding import bytes_of
from weightwell.version import installed_version

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
REFUSED = (InvalidRequest, TooLarge, NotFound, AccessDenied, ValueError)
NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # of a token
SIGNAL_OPTIONS = (
    "scheme",
    "depth",
    "width",
    "activation",
    "normalization",
    "residual",
    "kind",
    "batch",
    "seeds",
    "dtype",
)
FIELDS = {"path", "shape", "scheme", "seed", "dtype", "name", "generator", "slice"}  # no parameters of a scheme


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (the process's own by default) and return its exit code."""
    options = _parser().parse_args(argv)
    logging.basicConfig(format="weightwell: %(message)s", level=logging.WARNING)
    try:
        token = token_in(options.token_file)
        with Client(options.url, wait=options.wait, progress=options.progress, token=token) as client:
            code: int = _run(client, options) or DONE
            sys.stdout.flush()
    except (WeightwellError, ValueError, OSError) as error:
        return _failed(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def gain(client: Client, options: argparse.Namespace) -> None:
    """Print the gain of a nonlinearity, or of all of them."""
    if options.nonlinearity is not None:
        found = client.gain(options.nonlinearity, options.param, source=options.source)
        print(json.dumps(found.answer, ensure_ascii=False) if options.json else found)
        return
    table = client.gains(source=options.source)
    if options.json:
        print(json.dumps({name: value.answer for name, value in table.items()}, ensure_ascii=False))
        return
    width = max(map(len, table), default=0)
    for name, value in table.items():
        print(f"{name:{width}}  {value!r}")


def signal(client: Client, options: argparse.Namespace) -> None:
    """Send a signal and its gradient through a deep stack of layers, measured and predicted."""
    named = {name: getattr(options, name) for name in SIGNAL_OPTIONS if getattr(options, name) is not None}
    layers = None if options.layers is None else _layers(options.layers)
    found = client.signal(layers, **named, **dict(options.parameters))
    print(json.dumps(found.answer, ensure_ascii=False) if options.json else found)


def schemes(client: Client, options: argparse.Namespace) -> None:
    """List the schemes with their parameters."""
    _print_catalogue(client.schemes(), "schemes", as_json=options.json)


def presets(client: Client, options: argparse.Namespace) -> None:
    """List the presets with their parameters: how well-known models are initialized."""
    _print_catalogue(client.presets(), "presets", as_json=options.json)


def init(client: Client, options: argparse.Namespace) -> None:
    """Generate one tensor and write it as a safetensors file."""
    client.save(
        _output(options.output),
        options.shape,
        options.scheme,
        seed=options.seed,
        dtype=options.dtype,
        name=options.name,
        generator=options.generator,
        slice=options.slice,
        **dict(options.parameters),
    )


def save(client: Client, options: argparse.Namespace) -> None:
    """Generate the tensors of a manifest and write them as a safetensors file, or as the files of a checkpoint."""
    size = options.max_shard_size
    if size is None:
        if options.config is not None:
            raise ValueError("--config needs --max-shard-size, such as 5GB")
        client.save(_output(options.output), _manifest(options.manifest))
        return
    if options.output in {None, "-"}:
        raise ValueError("--max-shard-size needs a folder: give one with -o")
    client.save(options.output, _manifest(options.manifest), max_shard_size=size, config=options.config)


def plan(client: Client, options: argparse.Namespace) -> None:
    """Describe the file of a manifest without generating it."""
    described = client.plan(_manifest(options.manifest))
    if options.json:
        print(json.dumps(asdict(described), indent=2, ensure_ascii=False))
        return
    print(described.table())
    for rule in described.unused:
        print(f"no tensor uses the rule {json.dumps(rule, ensure_ascii=False)}")
    if described.refusal:
        print(f"this server would refuse the request: {described.refusal}")
    print(described.url or described.url_note)


def sign(client: Client, options: argparse.Namespace) -> None:
    """Print the address of a manifest's file that needs no token for some time."""
    print(client.sign(_manifest(options.manifest), seconds=options.seconds))


def token(client: Client, options: argparse.Namespace) -> None:
    """Make a token: print its entry for the server's file of tokens, and the token itself on standard error."""
    del client  # no server is needed
    if not re.fullmatch(NAME, options.name):
        raise ValueError(f"a name has letters, digits, dots, underscores and hyphens, at most 64, got {options.name!r}")
    made = f"wwt_{secrets.token_urlsafe(32)}"
    print(f'[[tokens]]\nname = "{options.name}"\nsha256 = "{hashlib.sha256(made.encode()).hexdigest()}"')
    print(f"the token of {options.name}, which is not stored anywhere: {made}", file=sys.stderr)


def record(client: Client, options: argparse.Namespace) -> None:
    """Write the manifest of a model, as the model's own code initializes it."""
    del client  # no server is needed
    recording, model = built(builder_of(options.model))
    if options.explain:
        print(table_text(recording.table(model)))
        if options.output is None:
            return
    manifest = Manifest.from_recording(recording, model, seed=options.seed, dtype=options.dtype)
    if options.output in {None, "-"}:
        print(manifest, end="")
    else:
        Path(options.output).write_text(str(manifest), encoding="utf-8")


def export(client: Client, options: argparse.Namespace) -> None:
    """Write a repository for `weightwell-service --repositories`: the manifest of a model, and its small files."""
    del client  # no server is needed
    build = builder_of(options.model)
    if options.preset is None:
        manifest = Manifest.of(build, dtype=options.dtype)
    else:
        manifest = Manifest.from_module(on_meta(build), options.preset, dtype=options.dtype)
    if not manifest.tensors:
        raise ValueError(f"{options.model} has no tensor to draw")
    folder = Path(options.output)
    for name, content in {**small_files_of(options.model), "manifest.json": str(manifest).encode()}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    print(f"{folder}: {len(manifest.tensors)} tensors")


def verify(client: Client, options: argparse.Namespace) -> int:
    """Generate the tensors of a safetensors file again and compare every byte."""
    verdict = client.verify(options.file)
    print(verdict)
    return DONE if verdict.same else FAILED


def _print_catalogue(catalogue: Mapping[str, Any], kind: str, *, as_json: bool) -> None:
    """Print a catalogue: as JSON, or the name, the parameters and the summary of each row."""
    if as_json:
        print(json.dumps(catalogue, indent=2, ensure_ascii=False))
        return
    for row in catalogue[kind]:
        print(f"{row['name']}({', '.join(map(_signature, row['parameters']))})\n    {row['summary']}")


def _manifest(path: str) -> Manifest:
    """Read a manifest from a JSON file; ``-`` is standard input."""
    try:
        return Manifest.from_json(sys.stdin.read()) if path == "-" else Manifest.from_file(path)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a valid manifest: {error}") from error


def _layers(path: str) -> Any:
    """Read a list of layers from a JSON file; ``-`` is standard input."""
    try:
        return json.loads(sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error


def _signature(parameter: Mapping[str, Any]) -> str:
    """Return a parameter in Python's notation, with its default if it has one."""
    default = parameter.get("default")
    return str(parameter["name"]) if default is None else f"{parameter['name']}={default}"


def _output(path: str | None) -> str | BinaryIO:
    """Return the output for a path. ``-`` or no path is standard output; a terminal is refused."""
    if path is None and sys.stdout.isatty():
        raise ValueError("refusing to write binary data to a terminal; give a file with -o, or use a pipe")
    return sys.stdout.buffer if path in {None, "-"} else str(path)


def _run(client: Client, options: argparse.Namespace) -> Any:
    """Run the subcommand and print each warning on one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_: print(f"weightwell: {message}", file=sys.stderr)
        return options.run(client, options)


def _failed(error: Exception) -> int:
    """Print the error on one line and return its exit code."""
    if isinstance(error, BrokenPipeError):
        # The reader of our output closed the pipe. At exit the interpreter must not flush anything into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    print(f"weightwell: {' '.join(str(error).split())}", file=sys.stderr)
    return WRONG if isinstance(error, REFUSED) else FAILED


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="weightwell",
        description="Initialized weight tensors, from a Weightwell server or generated in this process.",
        epilog="exit codes: 0 success; 1 failure (no server, a broken transfer, a full disk), or a file that differs; "
        "2 a wrong command line or request; 130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"weightwell {installed_version()}")
    _url_argument(parser, default=None)
    _token_argument(parser, default=None)
    verbs = parser.add_subparsers(required=True, title="commands", metavar="COMMAND")
    _gain_arguments(_verb(verbs, gain))
    _signal_arguments(_verb(verbs, signal))
    _init_arguments(_verb(verbs, init))
    _save_arguments(_verb(verbs, save))
    _plan_arguments(_verb(verbs, plan))
    _sign_arguments(_verb(verbs, sign))
    _verb(verbs, token).add_argument("name", help="name of the token in the server's file and log")
    _record_arguments(_verb(verbs, record))
    _export_arguments(_verb(verbs, export))
    _verify_arguments(_verb(verbs, verify))
    for catalogue in (schemes, presets):
        _verb(verbs, catalogue).add_argument("--json", action="store_true", help="print the server's JSON")
    return parser


def _verb(verbs: Any, run: Any) -> argparse.ArgumentParser:
    """Add a subcommand, with the arguments that all subcommands have."""
    summary = (run.__doc__ or "").partition("\n")[0]  # python -OO takes it away
    parser: argparse.ArgumentParser = verbs.add_parser(
        run.__name__, help=summary, description=summary, allow_abbrev=False
    )
    parser.set_defaults(run=run, progress=None)
    _url_argument(parser, default=argparse.SUPPRESS)  # an option before the subcommand stays in force
    _token_argument(parser, default=argparse.SUPPRESS)
    wait = "seconds to try again while no byte arrives (default: 3, or 300 once a server has answered)"
    parser.add_argument("--wait", metavar="SECONDS", type=float, help=wait)
    return parser


def _url_argument(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    """Add ``--url`` and ``--local``, which may come before or after the subcommand."""
    text = f"address of the server (default: $WEIGHTWELL_URL, or {DEFAULT_URL})"
    parser.add_argument("--url", default=default, help=text)
    parser.add_argument(
        "--local",
        dest="url",
        action="store_const",
        const="local:",
        default=default,
        help="generate in this process, without a server; the same as --url local:",
    )


def _token_argument(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    """Add ``--token-file``. There is no option for a token itself: others could read it in the list of processes."""
    text = "file with the token for the server (default: the token $WEIGHTWELL_TOKEN)"
    parser.add_argument("--token-file", default=default, metavar="FILE", help=text)


def token_in(path: str | None) -> str | None:
    """Return the token in a file; None without a file. Raises OSError, and ValueError for an empty file."""
    if path is None:
        return None
    text = Path(path).read_text("utf-8").strip()
    if not text:
        raise ValueError(f"{path} has no token")
    return text


def _gain_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``gain``."""
    parser.add_argument("nonlinearity", nargs="?", help="its name, such as leaky_relu (default: all)")
    parser.add_argument(
        "--param", type=float, help="parameter of the nonlinearity, such as leaky_relu's negative slope"
    )
    parser.add_argument("--source", help="torch: torch's table; quadrature: computed (default: torch)")
    parser.add_argument("--json", action="store_true", help="print all fields of the answer as JSON")


def _signal_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``signal``."""
    parser.add_argument("scheme", nargs="?", help="scheme of the weights (default: kaiming_normal)")
    parser.add_argument("--depth", type=int, help="number of layers (default: 50)")
    parser.add_argument("--width", type=int, help="number of units of a layer (default: 256)")
    parser.add_argument("--activation", help="activation function; see `weightwell gain --source quadrature`")
    parser.add_argument("--normalization", help="none, layer, rms, batch, group or instance (default: none)")
    parser.add_argument("--residual", help="none, pre-norm or post-norm (default: none)")
    parser.add_argument("--kind", help="linear or conv2d (default: linear)")
    parser.add_argument("--batch", type=int, help="number of examples (default: 16)")
    parser.add_argument("--seeds", type=_seeds, help="seeds separated by commas; each draws a network (default: 0)")
    parser.add_argument("--dtype", help="float32, float64, float16 or bfloat16 (default: float32)")
    parser.add_argument("--layers", metavar="FILE", help="JSON file with a list of layers; - is standard input")
    _parameters_argument(
        parser, "parameter of the scheme, or another field: -p gain=1.5 -p bias=normal -p bias_std=0.2"
    )
    parser.add_argument("--json", action="store_true", help="print the server's JSON")


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``init``."""
    parser.add_argument("shape", type=_shape, help="sizes separated by commas, such as 512,784; '' is a scalar")
    parser.add_argument("scheme", help="name of a scheme, such as kaiming_normal; see `weightwell schemes`")
    _output_arguments(parser)
    _parameters_argument(parser, "parameter of the scheme, under torch's name: -p a=0.2 -p mode=fan_out")
    parser.add_argument("--seed", type=int, default=0, help="integer in [0, 2^64 - 1] (default: 0)")
    parser.add_argument("--dtype", default="float32", help="element type, such as bfloat16 (default: float32)")
    parser.add_argument("--name", help="name of the tensor; another name gives other numbers (default: weight)")
    parser.add_argument(
        "--generator", help="philox: the same bits on every machine; torch: the bits of torch.nn.init (default: philox)"
    )
    parser.add_argument("--slice", help="part of the tensor, such as 0:128,: (default: all)")


def _save_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``save``."""
    _manifest_argument(parser)
    _output_arguments(parser)
    parser.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        type=_size,
        help="write a folder, as save_pretrained does: files of at most SIZE, such as 5GB, and their index",
    )
    parser.add_argument("--config", metavar="FILE", help="config.json of the model, to write into the folder as well")


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``plan``."""
    _manifest_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the server's JSON")


def _sign_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sign``."""
    _manifest_argument(parser)
    parser.add_argument(
        "--for",
        dest="seconds",
        metavar="SECONDS",
        type=int,
        default=3600,
        help="seconds for which the address opens the file, at most 604800 (default: 3600)",
    )


def _record_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``record``."""
    source = "config.json of transformers, or its folder; or a function without arguments, as package.module:function"
    parser.add_argument("model", help=source)
    parser.add_argument("-o", "--output", help="JSON file to write; - is standard output (default: standard output)")
    parser.add_argument("--seed", type=int, default=0, help="integer in [0, 2^64 - 1] (default: 0)")
    parser.add_argument("--dtype", help="element type of floating-point tensors (default: the model's own)")
    parser.add_argument(
        "--explain", action="store_true", help="print for each tensor its law, and the line of code that gives it"
    )


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``export``."""
    source = "folder of a model of transformers, or its config.json; or a function, as package.module:function"
    parser.add_argument("model", help=source)
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write: REPOSITORIES/owner/name")
    parser.add_argument("--preset", help="name of the rules to use instead of the model's own code")
    parser.add_argument("--dtype", help="element type of floating-point tensors (default: the model's own)")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``verify``."""
    parser.add_argument("file", help="a safetensors file made by Weightwell")
    _bar_argument(parser)


def _manifest_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", help="JSON file of a manifest; - is standard input")


def _parameters_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``-p NAME=VALUE``, which may be given many times."""
    parser.add_argument(
        "-p",
        "--parameter",
        dest="parameters",
        metavar="NAME=VALUE",
        type=_parameter,
        action="append",
        default=[],
        help=text,
    )


def _output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", help="file to write; - is standard output (default: standard output)")
    _bar_argument(parser)


def _bar_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="do not show a progress bar")


def _shape(text: str) -> tuple[int, ...]:
    """Read ``512,784``."""
    try:
        return tuple(int(size) for size in text.split(",")) if text.strip() else ()
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected sizes joined by commas, such as 512,784, got {text!r}") from None


def _seeds(text: str) -> list[int]:
    """Read ``0,1,2``."""
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers joined by commas, such as 0,1,2, got {text!r}") from None


def _size(text: str) -> int:
    """Read ``5GB``, or a number of bytes."""
    try:
        return bytes_of(int(text) if text.isascii() and text.isdecimal() else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parameter(text: str) -> tuple[str, Any]:
    """Read ``a=0.2``."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    if name in FIELDS:
        raise argparse.ArgumentTypeError(f"-p takes parameters of a scheme; give {name} as its own argument")
    return name, _value(value)


def _value(text: str) -> int | float | bool | str:
    """Read a value as a number or a boolean if possible, and as text otherwise."""
    if text in {"true", "false"}:
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


if __name__ == "__main__":
    sys.exit(main())
