"""Real agents that install from the registries, and how each is started and talked to."""

from dataclasses import dataclass, field


@dataclass
class Agent:
    name: str
    # "npm", "pip" or "cli" (Claude Code of .ci/real-cli).
    registry: str
    packages: list
    # A program of the package: for npm in node_modules/.bin, for pip a module or a script in bin.
    command: list
    # How it is greeted and asked: "mcp", "acp", "lsp", "codex", "stream-json", "pi".
    speaks: str
    environment: dict = field(default_factory=dict)
    # How many requests it is asked while it is not read.
    asked: int = 1000


def npm(name, package, command, speaks, *more):
    return Agent(name, "npm", [package, *more], command.split(), speaks)


def pip(name, package, command, speaks):
    return Agent(name, "pip", [package], command.split(), speaks)


AGENTS = [
    npm("everything", "@modelcontextprotocol/server-everything@2026.8.31", "mcp-server-everything", "mcp"),
    npm("filesystem", "@modelcontextprotocol/server-filesystem@2026.8.31", "mcp-server-filesystem .", "mcp"),
    npm("playwright-mcp", "@playwright/mcp@0.0.83", "playwright-mcp", "mcp"),
    pip("mcp-time", "mcp-server-time==2026.10.19", "-m mcp_server_time", "mcp"),
    pip("mcp-git", "mcp-server-git==2026.10.19", "-m mcp_server_git", "mcp"),
    pip("mcp-fetch", "mcp-server-fetch==2026.10.24", "-m mcp_server_fetch", "mcp"),
    # Each answer has 84 kB.
    Agent("claude-mcp", "cli", [], ["mcp", "serve"], "mcp", asked=100),
    npm("claude-acp", "@agentclientprotocol/claude-agent-acp@0.101.0", "claude-agent-acp", "acp"),
    npm("gemini-acp", "@google/gemini-cli@0.61.0", "gemini --experimental-acp", "acp"),
    npm("opencode-acp", "opencode-ai@1.18.33", "opencode acp", "acp"),
    npm("qwen-acp", "@qwen-code/qwen-code@0.24.4", "qwen --acp", "acp"),
    npm("copilot-acp", "@github/copilot@1.0.102", "copilot --acp", "acp"),
    npm("codex", "@openai/codex@0.171.0", "codex app-server", "codex"),
    npm("codex-native", "@openai/codex@0.171.0", "../@openai/codex-linux-*/vendor/*/bin/codex app-server", "codex"),
    # It starts only with a key, which it does not use here.
    Agent("qwen-sj", "npm", ["@qwen-code/qwen-code@0.24.4"],
          "qwen --auth-type openai --input-format stream-json --output-format stream-json".split(),
          "stream-json", {"OPENAI_API_KEY": "test", "OPENAI_BASE_URL": "http://127.0.0.1:9"}),
    npm("pi-rpc", "@mariozechner/pi-coding-agent@0.73.1", "pi --mode rpc", "pi"),
    pip("ruff", "ruff==0.17.6", "ruff server", "lsp"),
    pip("ty", "ty==0.0.108", "ty server", "lsp"),
    pip("pylsp", "python-lsp-server==1.15.0", "-m pylsp", "lsp"),
    npm("ts-ls", "typescript-language-server@6.0.2", "typescript-language-server --stdio", "lsp",
        "typescript@5.9.3"),
    npm("pyright", "pyright@1.1.414", "pyright-langserver --stdio", "lsp"),
    npm("vtsls", "@vtsls/language-server@0.3.0", "vtsls --stdio", "lsp"),
    npm("bash-ls", "bash-language-server@5.8.1", "bash-language-server start", "lsp"),
    npm("yaml-ls", "yaml-language-server@2.0.0", "yaml-language-server --stdio", "lsp"),
    npm("json-ls", "vscode-langservers-extracted@4.10.0", "vscode-json-language-server --stdio", "lsp"),
    npm("eslint-ls", "vscode-langservers-extracted@4.10.0", "vscode-eslint-language-server --stdio", "lsp"),
    npm("docker-ls", "dockerfile-language-server-nodejs@0.15.0", "docker-langserver --stdio", "lsp"),
    npm("biome", "@biomejs/biome@2.6.8", "biome lsp-proxy", "lsp"),
]

HELLO = {
    "mcp": ("initialize", {"protocolVersion": "2025-11-25", "capabilities": {},
                           "clientInfo": {"name": "agentpipe", "version": "0"}}),
    "acp": ("initialize", {"protocolVersion": 1, "clientCapabilities": {}}),
    "codex": ("initialize", {"clientInfo": {"name": "agentpipe", "title": None, "version": "0"}}),
    "lsp": ("initialize", {"processId": None, "rootUri": None, "capabilities": {}}),
}
READY = {"mcp": "notifications/initialized", "codex": "initialized", "lsp": "initialized"}


def request(speaks, number):
    """A request that every agent of the kind answers, with a result or with an error."""
    if speaks == "stream-json":
        subtype = "initialize" if number == 0 else "agentpipe_unknown"
        return {"type": "control_request", "request_id": str(number), "request": {"subtype": subtype}}
    if speaks == "pi":
        return {"id": str(number), "type": "get_state"}
    method, params = HELLO[speaks] if number == 0 else ("agentpipe/unknown", {})
    if number and speaks == "mcp":
        method = "tools/list"
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def ready(speaks):
    """What follows the answer to the greeting, or None."""
    method = READY.get(speaks)
    return method and {"jsonrpc": "2.0", "method": method, "params": {}}


def answered(record):
    """The number of the request that this record answers, or None."""
    if "method" in record:
        return None
    number = record.get("id", record.get("response", {}).get("request_id")
                        if isinstance(record.get("response"), dict) else None)
    return int(number) if str(number).isdigit() else None
