// One close by the TypeScript SDK: `close.mjs CASE CLI`. Prints one line of JSON, then waits for the end of
// its stdin, so that the caller can look for processes that are left. SDK is the path of its sdk.mjs.

import { existsSync, readFileSync } from "node:fs";

const [kind, cli] = process.argv.slice(2);
const { query } = await import(process.env.SDK);
const options = {
  pathToClaudeCodeExecutable: cli,
  includePartialMessages: kind === "unread",
  settingSources: [],
  stderr: (text) => process.stderr.write(text),
};

function prompt(text) {
  return { type: "user", message: { role: "user", content: text }, parent_tool_use_id: null, session_id: "" };
}

function children() {
  return readFileSync(`/proc/self/task/${process.pid}/children`, "utf8").split(" ").filter(Boolean);
}

async function gone(pids) {
  while (pids.some((pid) => existsSync(`/proc/${pid}`))) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function streaming() {
  async function* prompts() {
    yield prompt(kind === "unread" ? "say 4194304" : "say 8");
    await new Promise(() => {});
  }
  const session = query({ prompt: prompts(), options });
  // The flood never has a result; its first record shows that it has begun.
  const last = { idle: "result", unread: "stream_event", flood: "flood" }[kind];
  let result = false;
  for (;;) {
    const { value } = await session.next();
    if (value.type === last) {
      result = last === "result";
      break;
    }
  }
  const pids = children();
  const begun = performance.now();
  session.close();
  await gone(pids);
  return { ms: Math.round(performance.now() - begun), result };
}

async function oneShot() {
  async function* prompts() {
    yield prompt("wait 3");
  }
  const begun = performance.now();
  let result = false;
  for await (const message of query({ prompt: prompts(), options })) {
    result ||= message.type === "result" && !message.is_error;
  }
  return { ms: Math.round(performance.now() - begun), result };
}

const done = await (kind === "one-shot" ? oneShot() : streaming());
process.stdout.write(`${JSON.stringify(done)}\n`);
process.stdin.on("end", () => process.exit(0)).resume();
