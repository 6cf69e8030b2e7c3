"""The ``weightwell`` command: the verbs of the client in a shell.

Exit codes: 0 done; 1 not done (no server, a broken transfer, a full disk), or verified and found different; 2 asked
wrongly (the command line, or a request that the server refuses); 130 interrupted.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

from weightwell.client import Client
from weightwell.connection import DEFAULT_URL, installed_version
from weightwell.exceptions import AccessDenied, InvalidRequest, NotFound, TooLarge, WeightwellError
from weightwell.models.manifest import Manifest

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
REFUSED = (InvalidRequest, TooLarge, NotFound, AccessDenied, ValueError)
FIELDS = {"path", "shape", "scheme", "seed", "dtype", "name", "generator", "slice"}  # what is no scheme's parameter


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (the process's own by default) and return its exit code."""
    options = _parser().parse_args(argv)
    logging.basicConfig(format="weightwell: %(message)s", level=logging.WARNING)
    try:
        with Client(options.url, retries=options.retries, progress=options.progress) as client:
            code: int = options.run(client, options) or DONE
            sys.stdout.flush()
    except (WeightwellError, ValueError, OSError) as error:
        return _failed(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def gain(client: Client, options: argparse.Namespace) -> None:
    """Print one gain, or the table of them."""
    if options.nonlinearity is not None:
        print(client.gain(options.nonlinearity, options.param, source=options.source))
        return
    table = client.gains(source=options.source)
    width = max(map(len, table), default=0)
    for name, value in table.items():
        print(f"{name:{width}}  {value!r}")


def schemes(client: Client, options: argparse.Namespace) -> None:
    """Print the schemes, each with its parameters and their defaults."""
    catalogue = client.schemes()
    if options.json:
        print(json.dumps(catalogue, indent=2, ensure_ascii=False))
        return
    for scheme in catalogue["schemes"]:
        parameters = ", ".join(map(_signature, scheme["parameters"]))
        print(f"{scheme['name']}({parameters})\n    {scheme['summary']}")


def init(client: Client, options: argparse.Namespace) -> None:
    """Write a tensor's safetensors file to a path, or to standard output."""
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
    """Write the safetensors file of a manifest to a path, or to standard output."""
    client.save(_manifest(options.manifest), _output(options.output))


def plan(client: Client, options: argparse.Namespace) -> None:
    """Print what a manifest would draw, without drawing it."""
    told = client.plan(_manifest(options.manifest))
    if options.json:
        print(json.dumps(asdict(told), indent=2, ensure_ascii=False))
        return
    print(told)
    for rule in told.unused:
        print(f"no tensor takes the rule {json.dumps(rule, ensure_ascii=False)}")
    if told.refusal:
        print(f"this server would not draw it: {told.refusal}")
    print(told.url or told.url_note)


def verify(client: Client, options: argparse.Namespace) -> int:
    """Draw a safetensors file anew from its metadata, and say whether every byte is so."""
    verdict = client.verify(options.file)
    print(verdict)
    return DONE if verdict.same else FAILED


def _manifest(path: str) -> Manifest:
    """Read a manifest from a JSON file; ``-`` is standard input."""
    try:
        return Manifest.from_json(sys.stdin.read()) if path == "-" else Manifest.from_file(path)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no manifest: {error}") from error


def _signature(parameter: Mapping[str, Any]) -> str:
    """Return a parameter as Python would write it, with its default where it has one."""
    default = parameter.get("default")
    return str(parameter["name"]) if default is None else f"{parameter['name']}={default}"


def _output(path: str | None) -> str | BinaryIO:
    """Return where a file goes: ``-``, or no path at all, is standard output, unless that is a terminal."""
    if path is None and sys.stdout.isatty():
        raise ValueError("a safetensors file is nothing for a terminal; write it to a file with -o, or into a pipe")
    return sys.stdout.buffer if path in {None, "-"} else str(path)


def _failed(error: Exception) -> int:
    """Say on one line what went wrong, and return the exit code for it."""
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has seen enough. Nothing may be left for the interpreter to flush into the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    print(f"weightwell: {' '.join(str(error).split())}", file=sys.stderr)
    return WRONG if isinstance(error, REFUSED) else FAILED


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="weightwell",
        description="Draw initialized weight tensors from a Weightwell server.",
        epilog="exit codes: 0 done; 1 not done, or different; 2 asked wrongly; 130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"weightwell {installed_version()}")
    _url_argument(parser, default=None)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _gain_arguments(_verb(verbs, gain))
    _init_arguments(_verb(verbs, init))
    _save_arguments(_verb(verbs, save))
    _plan_arguments(_verb(verbs, plan))
    _verify_arguments(_verb(verbs, verify))
    _verb(verbs, schemes).add_argument(
        "--json", action="store_true", help="the whole catalogue, as the server tells it"
    )
    return parser


def _verb(verbs: Any, run: Any) -> argparse.ArgumentParser:
    """Add a verb, with the arguments that all verbs have."""
    summary = (run.__doc__ or "").partition("\n")[0]  # python -OO takes it away
    parser: argparse.ArgumentParser = verbs.add_parser(
        run.__name__, help=summary, description=summary, allow_abbrev=False
    )
    parser.set_defaults(run=run, progress=None)
    _url_argument(parser, default=argparse.SUPPRESS)  # what is said before the verb holds
    parser.add_argument("--retries", type=int, default=5, help="failures in a row that are tried again (default: 5)")
    return parser


def _url_argument(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    """Add the address, which may be said before the verb or after it."""
    told = f"the server's address (default: $WEIGHTWELL_URL, or {DEFAULT_URL})"
    parser.add_argument("--url", default=default, help=told)


def _gain_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``gain``."""
    parser.add_argument("nonlinearity", nargs="?", help="such as leaky_relu; without it, the whole table")
    parser.add_argument("--param", type=float, help="the nonlinearity's parameter: leaky_relu's negative slope")
    parser.add_argument("--source", help="torch (torch's recommended values) or quadrature (computed)")


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``init``."""
    parser.add_argument("shape", type=_shape, help="sizes joined by commas: 512,784; '' for a scalar")
    parser.add_argument("scheme", help="such as kaiming_normal; `weightwell schemes` lists them")
    _output_arguments(parser)
    parser.add_argument(
        "-p",
        "--parameter",
        dest="parameters",
        metavar="NAME=VALUE",
        type=_parameter,
        action="append",
        default=[],
        help="a parameter of the scheme, by torch's name: -p a=0.2 -p mode=fan_out",
    )
    parser.add_argument("--seed", type=int, default=0, help="an integer in [0, 2^64 - 1] (default: 0)")
    parser.add_argument("--dtype", default="float32", help="such as bfloat16 (default: float32)")
    parser.add_argument("--name", help="the tensor's name in the file, part of what it is drawn from")
    parser.add_argument("--generator", help="philox or torch")
    parser.add_argument("--slice", help="the part to draw: 0:128,:")


def _save_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``save``."""
    _manifest_argument(parser)
    _output_arguments(parser)


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``plan``."""
    _manifest_argument(parser)
    parser.add_argument("--json", action="store_true", help="everything that the server tells")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``verify``."""
    parser.add_argument("file", help="a safetensors file that Weightwell made")
    _bar_argument(parser)


def _manifest_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", help="a manifest in JSON; - is standard input")


def _output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", help="the file to write; - is standard output")
    _bar_argument(parser)


def _bar_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="show no progress bar")


def _shape(text: str) -> tuple[int, ...]:
    """Read ``512,784``."""
    try:
        return tuple(int(size) for size in text.split(",")) if text.strip() else ()
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected sizes joined by commas, such as 512,784, got {text!r}") from None


def _parameter(text: str) -> tuple[str, Any]:
    """Read ``a=0.2``."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    if name in FIELDS:
        raise argparse.ArgumentTypeError(f"{name} is no parameter of a scheme; it has an argument of its own")
    return name, _value(value)


def _value(text: str) -> int | float | bool | str:
    """Read a number or a truth value where it is one, and a word otherwise."""
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
