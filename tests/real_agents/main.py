"""Closes real agents, idle and unread, by `agentpipe run`, and compares with a plain pipe:
`main.py AGENTPIPE CLI FOLDER [NAME...]`. Installs what is missing into FOLDER. Prints a table, and fails with a
line for each finding."""

import fcntl
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import uuid

from agents import AGENTS, answered, ready, request

# Seconds for an installation, and for one run of an agent.
INSTALL, LIMIT = 300, 40

agentpipe, cli, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
findings, missing = [], []


def installed(agent):
    """Returns the command of the agent, installed if need be, or None."""
    if agent.registry == "cli":
        return [cli, *agent.command] if cli else None
    if agent.registry == "npm":
        home = folder / "npm" / agent.packages[0].rpartition("@")[0].strip("@").replace("/", "-")
        programs = home / "node_modules/.bin"
        install = ["npm", "install", "--prefix", home, "--no-audit", "--no-fund", "--fetch-retries=1"]
    else:
        home = folder / "pip" / agent.name
        programs = home / "bin"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", home]
    done = home / ".installed"
    if not done.exists():
        home.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run([*install, *agent.packages], timeout=INSTALL, check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        except (OSError, subprocess.SubprocessError) as error:
            missing.append(f"{agent.name}: {(getattr(error, 'stderr', None) or b'').decode()[-300:] or error}")
            return None
        done.touch()
    if agent.registry == "pip":
        agent.environment["PYTHONPATH"] = str(home)
        if agent.command[0] == "-m":
            return [sys.executable, *agent.command]
    # A native program behind its launcher has the name of the platform in its path.
    return [next(programs.glob(agent.command[0]), agent.command[0]), *agent.command[1:]]


def encode(record, speaks):
    text = json.dumps(record).encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(text), text) if speaks == "lsp" else text + b"\n"


class Reader:
    """Reads records from a pipe and notes which requests they answer."""

    def __init__(self, pipe, speaks):
        self.pipe, self.speaks, self.numbers = pipe, speaks, set()

    def record(self):
        """Returns the next record, or None at the end."""
        while True:
            line = self.pipe.readline()
            if not line:
                return None
            if self.speaks == "lsp":
                if not line.lower().startswith(b"content-length:"):
                    continue
                length = int(line.split(b":")[1])
                while line.strip():
                    line = self.pipe.readline()
                line = self.pipe.read(length)
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                self.numbers.add(answered(record))
                return record

    def until(self, number):
        while number not in self.numbers:
            if self.record() is None:
                raise EOFError("it ended before it answered")


def settle(pipe):
    """Waits until nothing has come into the unread pipe for half a second."""
    known, since = -1, time.monotonic()
    until = since + 5
    while time.monotonic() < min(since + 0.5, until):
        unread, = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))
        if unread != known:
            known, since = unread, time.monotonic()
        time.sleep(0.02)


def living(mark):
    """The processes that carry the mark of a run in their environment, zombies left out."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            is_marked = mark.encode() in (process / "environ").read_bytes()
            if is_marked and (process / "stat").read_text().rpartition(") ")[2][0] != "Z":
                found.append((process / "cmdline").read_text().replace("\0", " ")[:80])
        except OSError:
            continue
    return found


def one(agent, command, unread, by_run):
    """Talks to an agent and closes it. Returns what came of it."""
    mark = str(uuid.uuid4())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        report = pathlib.Path(home) / "report"
        if by_run:
            framing = "content-length" if agent.speaks == "lsp" else "ndjson"
            command = [agentpipe, "run", "-q", "--framing", framing, "--report", report, "--", *command]
        environment = {**os.environ, **agent.environment, "HOME": home, "AGENTPIPE_MARK": mark}
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, cwd=home, env=environment)
        watchdog = threading.Timer(LIMIT, child.kill)
        watchdog.start()
        try:
            reader = Reader(child.stdout, agent.speaks)
            child.stdin.write(encode(request(agent.speaks, 0), agent.speaks))
            child.stdin.flush()
            reader.until(0)
            if follow := ready(agent.speaks):
                child.stdin.write(encode(follow, agent.speaks))
                child.stdin.flush()
            if unread:
                asked = b"".join(encode(request(agent.speaks, n), agent.speaks) for n in range(1, agent.asked + 1))
                child.stdin.write(asked)
                child.stdin.flush()
            settle(child.stdout.fileno())
            begun = time.monotonic()
            child.stdin.close()
            if unread:
                # The host is still busy when the close begins.
                time.sleep(0.5)
            while reader.record() is not None:
                pass
            child.wait()
            took = time.monotonic() - begun
        finally:
            was_late = not watchdog.is_alive()
            watchdog.cancel()
            child.kill()
            child.wait()
        done = {"ms": round(took * 1000), "answers": len(reader.numbers & set(range(1, agent.asked + 1))),
                "left": living(mark), "late": was_late}
        if by_run:
            done["report"] = json.loads(report.read_text())
        return done


def check(agent):
    command = installed(agent)
    if command is None:
        return
    idle = one(agent, command, False, True)
    plain = one(agent, command, True, False)
    unread = one(agent, command, True, True)
    for done in (idle, unread):
        if done["late"] or "close" not in done["report"]:
            findings.append(f"{agent.name}: no end in {LIMIT} s: {json.dumps(done)}")
            return
    stages = [done["report"]["close"]["stage"] for done in (idle, unread)]
    exits = [done["report"]["exit"] for done in (idle, unread)]
    exits = [str(exit.get("code", exit.get("signal", exit))) for exit in exits]
    left = [*idle["left"], *unread["left"]]
    print(f"| {agent.name} | {' '.join(agent.packages)} | {idle['ms']} | {stages[0]}, {exits[0]} | {unread['ms']} | "
          f"{stages[1]}, {exits[1]} | {unread['answers']} of {agent.asked} | {plain['answers']} | {len(left)} |", flush=True)
    what = f"{agent.name}: "
    for stage, exit, case in zip(stages, exits, ("idle", "unread")):
        if stage != "drain":
            findings.append(f"{what}{case}: stage {stage}, exit {exit}")
    # One that drops a part of its queue by itself is no measure for every answer.
    wanted = agent.asked if plain["answers"] == agent.asked else plain["answers"] // 2
    if unread["answers"] < wanted:
        findings.append(f"{what}{unread['answers']} answers, and {plain['answers']} by a plain pipe: "
                        f"{json.dumps(unread['report'])}")
    if left:
        findings.append(f"{what}left behind: {left}")


chosen = set(sys.argv[4:])
print("| agent | package | idle, ms | stage, exit | unread, ms | stage, exit | answers | by a plain pipe | left |")
print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
for agent in AGENTS:
    if chosen and agent.name not in chosen:
        continue
    try:
        check(agent)
    except (EOFError, OSError, ValueError) as error:
        findings.append(f"{agent.name}: {type(error).__name__}: {error}")
for line in missing:
    print(f"-- SKIPPED: {line}")
for line in findings:
    print(f"-- FAILED: {line}")
sys.exit(bool(findings))
