"""One close by the Python SDK: `close.py CASE CLI`. Prints one line of JSON, then waits for the end of its
stdin, so that the caller can look for processes that are left."""

import asyncio
import fcntl
import json
import os
import struct
import sys
import termios
import time
import urllib.request

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, ResultMessage, query

case, cli = sys.argv[1:]
options = ClaudeAgentOptions(
    cli_path=cli,
    include_partial_messages=case == "unread",
    setting_sources=[],
    stderr=lambda line: print(line, file=sys.stderr),
)


def unread(client):
    """Returns how many bytes are in the pipe that the SDK reads. The SDK itself has no word for it."""
    process = client._transport._process
    pipe = process.stdout._stream._transport.get_extra_info("pipe").fileno()
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


def processor_time(pid):
    """Returns what the process and its children have used so far."""
    pids, used = [str(pid)], []
    while pids:
        folder = f"/proc/{pids.pop()}"
        with open(f"{folder}/stat") as stat, open(f"{folder}/task/{folder[6:]}/children") as children:
            used.append(stat.read().rpartition(") ")[2].split()[11:13])
            pids += children.read().split()
    return used


async def until_full(client):
    """Waits until the SDK has stopped reading, the pipe is full, and the agent has no work left but to write.
    A flood is over at once: it is blocked."""
    known = None
    while unread(client) < 32_000 or known != (known := processor_time(client._transport._process.pid)):
        await asyncio.sleep(0.2)


async def streaming():
    client = ClaudeSDKClient(options)
    await client.connect()
    await client.query("say 4194304" if case == "unread" else "say 8")
    got = False
    if case == "idle":
        async for message in client.receive_response():
            got = isinstance(message, ResultMessage)
    else:
        if case == "unread":
            sent = os.environ["ANTHROPIC_BASE_URL"] + "/sent"
            await asyncio.to_thread(lambda: urllib.request.urlopen(sent).read())
        await asyncio.wait_for(until_full(client), 30)
    begun = time.monotonic()
    await client.disconnect()
    return {"ms": round((time.monotonic() - begun) * 1000), "result": got}


async def one_shot():
    got, begun = False, time.monotonic()
    async for message in query(prompt="wait 3", options=options):
        got = got or isinstance(message, ResultMessage) and not message.is_error
    return {"ms": round((time.monotonic() - begun) * 1000), "result": got}


print(json.dumps(asyncio.run(one_shot() if case == "one-shot" else streaming())), flush=True)
sys.stdin.read()
