"""The hub: the service in a thread, on a free port of the loopback interface."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weightwell_service.app import create_app
from weightwell_service.server import make_server
from weightwell_service.settings import Settings

HOST = "127.0.0.1"

# Seconds between two looks at a server that starts. The first start on a machine compiles kernels for some seconds.
_PAUSE = 0.01


@contextmanager
def serving(repositories: Path | None) -> Iterator[str]:
    """Serve the repositories of a folder, and those of the service; yield the URL when requests are answered.

    Raises ``InvalidRepository`` for a repository that cannot be used, and RuntimeError if the server does not start.
    """
    settings = Settings(host=HOST, port=0, device="cpu", repositories=repositories)
    server = make_server(create_app(settings), settings, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), name="weightwell-hub", daemon=True)
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise RuntimeError("the hub has not started; its error is in the captured output")
                time.sleep(_PAUSE)
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
