"""The command: ``weightwell-service`` or ``python -m weightwell_service``."""

import logging
import os
import socket
import sys
from contextlib import suppress

from pydantic import ValidationError
from pydantic_settings import CliApp

from weightwell_engine.exceptions import DeviceUnavailable
from weightwell_service import __version__
from weightwell_service.access.tokens import InvalidTokens
from weightwell_service.app import check, create_app, make_engine
from weightwell_service.observation.traces import InvalidTraces
from weightwell_service.repositories.library import InvalidRepository
from weightwell_service.server import make_server
from weightwell_service.server.connections import allow_descriptors
from weightwell_service.server.options import InvalidTls, check_tls
from weightwell_service.settings import Settings
from weightwell_service.workers import serve


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped; return 2 and print the reason if the configuration is not valid."""
    logging.captureWarnings(capture=True)
    _warn_of_unknown_variables()
    try:
        settings = CliApp.run(Settings, cli_args=sys.argv[1:] if arguments is None else arguments)
        engine = make_engine(settings)
        check_address(settings.host, settings.port)
    except ValidationError as error:
        for details in error.errors():
            name = "_".join(str(part) for part in details["loc"]).upper()
            allowed = details["msg"].removeprefix("Input should be ")
            wrong = f"WEIGHTWELL_{name} must be {allowed}, got {details['input']!r}"
            _say(wrong)
        return 2
    except DeviceUnavailable as error:
        _say(str(error))
        return 2
    except OSError as error:
        where = f"{settings.host} port {settings.port}"
        _say(f"cannot listen on {where}: {error.strerror}; see --host, --port")
        return 2
    try:
        check_tls(settings)
        if settings.workers > 1:
            check(settings)  # each process makes its own application
        else:
            app = create_app(settings, engine)
    except (InvalidRepository, InvalidTokens, InvalidTls, InvalidTraces) as error:
        _say(str(error))
        return 2
    _say(f"version {__version__} draws on {engine.device}")
    allow_descriptors(settings.max_connections)
    with suppress(KeyboardInterrupt):  # uvicorn has finished the responses under way, and raises it again
        if settings.workers > 1:
            serve(settings)
        else:
            make_server(app, settings).run()
    return 0


def check_address(host: str, port: int) -> None:
    """Raise ``OSError`` if the address is not free. This comes first, because the kernels take seconds to compile."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _say(line: str) -> None:
    """Write a line to standard error. If it cannot be written, such as to a full disk, the service goes on."""
    with suppress(OSError):
        print(f"weightwell-service: {line}", file=sys.stderr, flush=True)


def _warn_of_unknown_variables() -> None:
    known = {f"WEIGHTWELL_{name.upper()}" for name in Settings.model_fields} | {
        "WEIGHTWELL_URL",
        "WEIGHTWELL_TOKEN",
    }  # the client's
    for name in sorted(name for name in os.environ if name.startswith("WEIGHTWELL_") and name not in known):
        _say(f"{name} is not a setting and has no effect; see --help")


if __name__ == "__main__":
    sys.exit(main())
