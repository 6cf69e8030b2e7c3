"""A TCP relay that stands for a slow network: it adds latency and limits the rate of each connection.

    python -m benchmarks.relay LISTEN TARGET --delay 0.02 --rate 100e6

Both ports are on loopback. ``--delay`` is the round trip in seconds that is added, ``--rate`` the bytes per second that
each connection may carry from the target to the client.
"""

import argparse
import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from typing import Any

_PIECE = 2**17  # bytes read at once


async def relay(listen: int, target: int, *, delay: float, rate: float) -> None:
    """Serve until cancelled."""
    serving: set[asyncio.Task[Any] | None] = set()  # asyncio keeps only weak references

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        serving.add(asyncio.current_task())
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", target, limit=_PIECE)
        with contextlib.suppress(OSError):
            await asyncio.gather(
                _pump(reader, target_writer, delay / 2, float("inf")), _pump(target_reader, writer, delay / 2, rate)
            )
        for each in (writer, target_writer):
            each.close()
        serving.discard(asyncio.current_task())

    async with await asyncio.start_server(serve, "127.0.0.1", listen, limit=_PIECE) as server:
        await server.serve_forever()


async def _pump(reader: StreamReader, writer: StreamWriter, delay: float, rate: float) -> None:
    """Copy one direction of a connection to its end: each piece ``delay`` seconds late, at most ``rate`` bytes/s."""
    loop = asyncio.get_running_loop()
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(4 + int(min(rate * delay, 2**26) / _PIECE))

    async def send() -> None:
        free = loop.time()
        while (item := await held.get())[1]:
            due, piece = item
            await asyncio.sleep(max(due, free) - loop.time())
            free = max(free, loop.time() - 0.005) + len(piece) / rate  # sleeps end late; at most 5 ms are caught up
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

    sending = asyncio.ensure_future(send())
    try:
        while piece := await reader.read(_PIECE):
            await held.put((loop.time() + delay, piece))
        await held.put((0.0, b""))
        await sending
    finally:
        sending.cancel()


def main() -> None:
    """Run the relay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("listen", type=int)
    parser.add_argument("target", type=int)
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--rate", type=float, default=100e6)
    options = parser.parse_args()
    asyncio.run(relay(options.listen, options.target, delay=options.delay, rate=options.rate))


if __name__ == "__main__":
    main()
