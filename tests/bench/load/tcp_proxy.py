#!/usr/bin/env python3
"""tcp_proxy.py PORT TARGET_PORT - forwards TCP on loopback, so that a soak has something between client and server that can
be killed. Says "ready" when it listens. Standard library only."""
import asyncio
import contextlib
import sys


async def copy(reader, writer):
    """One direction; its end is passed on, half-closed connections stay half-closed."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


TASKS = set()  # the loop itself holds tasks weakly


async def forward(reader, writer, port):
    out = None
    TASKS.add(asyncio.current_task())
    try:
        back, out = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, out), copy(back, writer))
    except OSError:
        pass
    finally:
        TASKS.discard(asyncio.current_task())
        for w in (writer, out):
            if w is not None:
                w.transport.abort() if w.transport.get_write_buffer_size() else w.close()


async def main(port, target):
    server = await asyncio.start_server(lambda r, w: forward(r, w, target), "127.0.0.1", port, reuse_address=True)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
