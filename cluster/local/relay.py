"""Hands connections on from one network namespace to another: `python relay.py FD HOST PORT`.

A socket stays in the namespace that it was made in. So one that listens here, handed to this program inside another
namespace, lets a browser here see a dashboard there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys


async def relay(listening: socket.socket, host: str, port: int) -> None:
    """Connects everyone who comes to `listening` with host and port, until it is ended."""

    async def both_ways(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # nobody is there (yet): the caller is hung up on
            their_reader, their_writer = await asyncio.open_connection(host, port)
            await asyncio.gather(pump(reader, their_writer), pump(their_reader, writer))
        writer.close()

    async with await asyncio.start_server(both_ways, sock=listening) as server:
        await server.serve_forever()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hands on what comes, to its end."""
    with contextlib.suppress(OSError):
        while received := await reader.read(2**16):
            writer.write(received)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(relay(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3])))
