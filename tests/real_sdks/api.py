"""A stand-in for the model's API on this machine. The last `say BYTES` or `wait SECONDS` in the conversation
decides about the answer."""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = 4096


def orders(messages):
    """All orders in the texts, the newest last. The CLI adds texts of its own after the prompt."""
    found = []
    for message in messages:
        content = message["content"]
        blocks = [{"text": content}] if isinstance(content, str) else content
        for block in blocks:
            found += re.findall(r"\b(say|wait) (\d+)", block.get("text", ""))
    return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/sent":
            self.server.sent.wait()
        self.answer({"data": [], "has_more": False})

    def do_HEAD(self):
        self.answer({})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
        if not self.path.split("?")[0].endswith("/messages"):
            return self.answer({"input_tokens": 1})
        order, number = (orders(body["messages"]) or [("say", "8")])[-1]
        if order == "wait":
            time.sleep(int(number))
        size = int(number) if order == "say" else 8
        texts = ["x" * min(PIECE, size - at) for at in range(0, size, PIECE)]
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "stand-in",
                   "content": [], "stop_reason": None, "stop_sequence": None,
                   "usage": {"input_tokens": 1, "output_tokens": 1}}
        if not body.get("stream"):
            text = {"type": "text", "text": "".join(texts)}
            return self.answer({**message, "content": [text], "stop_reason": "end_turn"})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.event("message_start", message=message)
        self.event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for text in texts:
            self.event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
        self.event("content_block_stop", index=0)
        self.event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None},
                   usage={"output_tokens": 1})
        self.event("message_stop")
        self.close_connection = True
        self.wfile.flush()
        self.server.sent.set()

    def answer(self, body):
        body = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def event(self, kind, **fields):
        line = json.dumps({"type": kind, **fields})
        self.wfile.write(f"event: {kind}\ndata: {line}\n\n".encode())


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # An answer was sent in full; `GET /sent` waits for it.
    sent = threading.Event()

    def handle_error(self, *_):
        """A client that leaves in the middle of an answer is what some cases are about."""


def start():
    """Starts the stand-in in a thread of its own. Returns it and its address."""
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"
