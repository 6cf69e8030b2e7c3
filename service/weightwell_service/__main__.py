"""The command: ``weightwell-service`` or ``python -m weightwell_service``."""

import logging
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp

from weightwell_service.app import create_app
from weightwell_service.exceptions import DeviceUnavailable
from weightwell_service.server import make_server
from weightwell_service.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped; return 2, with a line that says why, if the configuration cannot be served."""
    logging.captureWarnings(capture=True)
    try:
        settings = CliApp.run(Settings, cli_args=sys.argv[1:] if arguments is None else arguments)
        app = create_app(settings)
    except ValidationError as error:
        for details in error.errors():
            name = "_".join(str(part) for part in details["loc"]).upper()
            print(f"WEIGHTWELL_{name}: {details['msg']}, got {details['input']!r}", file=sys.stderr)
        return 2
    except DeviceUnavailable as error:
        print(f"weightwell-service: {error}", file=sys.stderr)
        return 2
    make_server(app, settings).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
