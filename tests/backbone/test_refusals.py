"""What the hub refuses, against a small server of ours that answers as the hub does."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from petune.backbone.refusals import explained
from petune.errors import BaseModelError, MissingExtraError, PetuneError, ResourceError

COMMIT = "0123456789abcdef0123456789abcdef01234567"

ASK = """
import json, sys
from petune.backbone.base import load_base
from petune.errors import PetuneError
answers = []
for name, revision in json.loads(sys.argv[1]):
    try:
        base = load_base(name, revision=revision, dtype="float32", device="cpu")
        answers.append([base.name, base.revision, base.fingerprint.weights])
    except PetuneError as error:
        answers.append([type(error).__name__, str(error)])
print(json.dumps(answers))
"""


@pytest.fixture
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A server with the models ``org/open``, ``org/gated``, ``org/pickled``: its address, tokens seen."""
    tokens: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def answer(self) -> None:
            tokens.append(self.headers.get("Authorization", ""))
            parts = self.path.split("?")[0].removeprefix("/api/models").strip("/").split("/")
            repo, (what, revision), name = "/".join(parts[:2]), (*parts[2:4], "", "")[:2], parts[-1]
            path = folder / name
            if repo == "org/gated":
                return self.reply(403, {"X-Error-Code": "GatedRepo"})
            if repo not in ("org/open", "org/pickled"):
                return self.reply(401, {"X-Error-Code": "RepoNotFound"})
            if revision not in ("main", COMMIT):
                return self.reply(404, {"X-Error-Code": "RevisionNotFound"})
            if what in ("revision", "tree"):
                found = {"id": repo, "sha": COMMIT, "siblings": []} if what == "revision" else []
                return self.reply(200, {"Content-Type": "application/json"}, json.dumps(found).encode())
            if not path.is_file() or (repo == "org/pickled" and path.suffix == ".safetensors"):
                return self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return self.reply(200, {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"'}, path.read_bytes())

        def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

        do_GET = do_HEAD = answer  # noqa: N815 - the names the server looks for

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tokens
    server.shutdown()
    server.server_close()
    thread.join()


def ask(names: list[tuple[str, str | None]], home: Path, **environment: str) -> list[list[str]]:
    """Load each model in a process of its own, as the hub's settings are read once."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    kept |= {"HF_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    command = [sys.executable, "-W", "error", "-c", ASK, json.dumps(names)]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    answers: list[list[str]] = json.loads(done.stdout)
    return answers


def test_hub(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, tokens = hub
    home = tmp_path / "hf"
    names = ["org/open", "org/gated", "org/absent", "org/pickled"]
    asked = [*((name, None) for name in names), ("org/open", "v9")]
    opened, gated, absent, pickled, revision = ask(asked, home, HF_ENDPOINT=address, HF_TOKEN="hf_secret")
    assert opened[:2] == ["org/open", COMMIT]
    assert opened[2].startswith("sha256:")
    assert "Bearer hf_secret" in tokens
    assert {answer[0] for answer in (gated, absent, pickled, revision)} == {"BaseModelError"}
    assert gated[1].startswith("org/gated is gated: accept its terms on its page, then set HF_TOKEN")
    assert absent[1].startswith("the hub has no model org/absent, or it is private.")
    assert "set HF_TOKEN if it is private" in absent[1]
    assert pickled[1].startswith("org/pickled has no safetensors weights")
    assert revision[1].startswith("org/open has no revision 'v9'")

    again, other = ask([("org/open", None), ("org/other", None)], home, HF_HUB_OFFLINE="1")
    assert again == opened
    assert other[1].startswith(f"org/other is no folder here and not in the cache {home / 'hub'}, and HF_HUB_OFFLINE")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (MemoryError(), ResourceError, "not enough memory to load m; use a smaller model, --dtype bfloat16"),
        (torch.OutOfMemoryError("CUDA out of memory"), ResourceError, "not enough memory to load m"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ResourceError, "not enough memory"),
        (
            ImportError("install sentencepiece"),
            MissingExtraError,
            "m needs a package .*: install sentencepiece",
        ),
        (
            ConnectionError("refused"),
            BaseModelError,
            "m is no folder here and not in the cache .*, and the hub cannot be reached; check",
        ),
        (
            OSError("a\nb" * 400),
            BaseModelError,
            r"^m cannot be loaded: a b[^\n]{200,300}\.\.\.; a base model is a Hug",
        ),
        (PetuneError("ours"), PetuneError, "^ours$"),
    ],
)
def test_said_in_one_line(
    error: Exception, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(kind, match=message), explained("m", hub=True):
        raise error


def test_our_own_mistakes_pass_through() -> None:
    with pytest.raises(AssertionError), explained("m"):
        raise AssertionError
