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


async def until_full(client):
    """Waits until the SDK has stopped reading and the pipe is full. The SDK has no word for its pipe."""
    process = client._transport._process
    pipe = process.stdout._stream._transport.get_extra_info("pipe").fileno()
    while True:
        unread, = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))
        if unread >= 32_000:
            return
        await asyncio.sleep(0.01)


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
