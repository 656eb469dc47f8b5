"""Hub folders of the tiny published checkpoints, waveforms, and a Hub on this machine."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch


class Exported(NamedTuple):
    folder: Path
    checkpoint: Path
    period: int  # ms
    stats: str = "librispeech-360h"


@pytest.fixture(scope="session")
def all_exported(reference, tmp_path_factory) -> dict[int, Exported]:
    """Frame period in ms -> a folder as `melhubert hub` writes it, that of 20 ms with a quantizer."""
    from s3prl_melhubert.checkpoint import load_checkpoint
    from s3prl_melhubert.hub.export import export_folder
    from s3prl_melhubert.units.quantizer import MODEL, Quantizer

    place = tmp_path_factory.mktemp("hub")
    made = {
        period: Exported(place / f"tiny-{period}ms", reference / f"tiny-{period}ms.ckpt", period)
        for period in (20, 10)
    }
    for one in made.values():
        checkpoint = load_checkpoint(one.checkpoint)
        if one.period == 20:
            centroids = np.random.default_rng(0).normal(size=(16, 48)).astype(np.float32)
            checkpoint.quantizer = Quantizer.from_arrays(1, centroids, MODEL, {}, "test")
        export_folder(checkpoint, one.folder, stats=one.stats)
    return made


@pytest.fixture(scope="session", params=[20, 10])
def exported(request, all_exported) -> Exported:
    """A folder as `melhubert hub` writes it, at 20 and at 10 ms."""
    return all_exported[request.param]


@pytest.fixture(scope="session")
def waveforms() -> list[torch.Tensor]:
    """Three waveforms of different lengths, one shorter than a window."""
    random = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(samples, generator=random) for samples in (16000, 9000, 300)]


@pytest.fixture(scope="session")
def ours(exported, waveforms):
    """Hidden states of the waveforms by this package, and the mask of padding."""
    from s3prl_melhubert import load_model

    model, frontend = load_model(exported.checkpoint, exported.stats)
    features, padding_mask = frontend(waveforms)
    with torch.no_grad():
        return model(features, padding_mask), padding_mask


@pytest.fixture
def train(tmp_path) -> Callable[..., Any]:
    """`train(model, data, collate, steps, batch)`: transformers' Trainer, after it has trained."""

    def run(model: Any, data: Any, collate: Callable[..., Any], steps: int, batch: int) -> Any:
        import transformers

        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=str(tmp_path / "run"),
                max_steps=steps,
                per_device_train_batch_size=batch,
                learning_rate=5e-3,
                logging_steps=1,
                report_to=[],
                use_cpu=True,
                save_strategy="no",
                disable_tqdm=True,
                dataloader_num_workers=0,
            ),
            train_dataset=data,
            data_collator=collate,
        )
        trainer.train()
        return trainer

    return run


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on this machine in place of huggingface.co, with an empty cache and nobody logged in."""
    from huggingface_hub import constants, hf_api

    def plug_in(url: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(hf_api.api, "endpoint", url)
        if "transformers.utils.hub" in sys.modules:  # It keeps the address that it saw first.
            monkeypatch.setattr(sys.modules["transformers.utils.hub"], "_hf_api", None, raising=False)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    server = LocalHub()
    server.unplug = lambda: plug_in("http://127.0.0.1:9")  # a port at which nobody listens
    plug_in(server.url)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.close()


RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+?)(/revision/(?P<revision>[^/]+))?")
TREE = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+).*")
PREUPLOAD = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/main")
COMMIT = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/main")
BATCH = re.compile(r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")


class LocalHub:
    """Serves `repositories`, and keeps what is uploaded.

    Attributes:
        repositories: ORG/NAME -> revision -> file -> content. A revision is also its commit's hash.
        asked: the method and path of every request.
        private: whether each new repository was asked to be private.
        token: what a client must send to upload.
        unplug: makes the Hub one that cannot be reached.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.asked: list[str] = []
        self.unplug: Callable[[], None]
        self.private: dict[str, Any] = {}
        self.token = "hf_local"
        self.large: dict[str, bytes] = {}  # SHA-256 -> content
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, repository: str, folder: Path, revision: str = "main", only: str = "*") -> None:
        """Offer the files of a folder as a revision of a repository."""
        files = {path.name: path.read_bytes() for path in folder.glob(only) if path.is_file()}
        self.repositories.setdefault(repository, {})[revision] = files

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def commit(self, repository: str, revision: str) -> str:
        return hashlib.sha1(f"{repository}@{revision}".encode()).hexdigest()

    def revision(self, repository: str, revision: str | None) -> str | None:
        """The name of a revision that is given by its name or its commit's hash."""
        names = self.repositories.get(repository, {})
        return next((name for name in names if revision in (None, name, self.commit(repository, name))), None)

    def _handler(hub) -> type[http.server.BaseHTTPRequestHandler]:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                if "Content_Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def json(self, content: object, status: int = 200) -> None:
                self.answer(status, json.dumps(content).encode(), Content_Type="application/json")

            def do_GET(self) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                path = self.path.partition("?")[0]
                match = RESOLVE.fullmatch(path) or TREE.fullmatch(path) or INFO.fullmatch(path)
                if match is None:
                    return self.answer(404)
                name = match["repo"]
                if name not in hub.repositories:
                    return self.answer(404, X_Error_Code="RepoNotFound")
                revision = hub.revision(name, match["revision"])
                if revision is None:
                    return self.answer(404, X_Error_Code="RevisionNotFound")
                files = hub.repositories[name][revision]
                if match.re is RESOLVE:
                    content = files.get(match["file"])
                    if content is None:
                        return self.answer(
                            404, X_Error_Code="EntryNotFound", X_Repo_Commit=hub.commit(name, revision)
                        )
                    return self.answer(
                        200,
                        content,
                        X_Repo_Commit=hub.commit(name, revision),
                        ETag=f'"{hashlib.sha256(content).hexdigest()}"',
                    )
                if match.re is TREE:
                    return self.json(
                        [
                            {"type": "file", "path": f, "size": len(c), "oid": "0" * 40}
                            for f, c in files.items()
                        ]
                    )
                return self.json(
                    {
                        "id": name,
                        "modelId": name,
                        "sha": hub.commit(name, revision),
                        "private": bool(hub.private.get(name)),
                        "tags": [],
                        "siblings": [{"rfilename": file} for file in files],
                    }
                )

            do_HEAD = do_GET

            def do_POST(self) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.partition("?")[0]
                if path == "/api/validate-yaml":
                    return self.json({"errors": [], "warnings": []})
                if self.headers.get("Authorization") != f"Bearer {hub.token}":
                    return self.json({"error": "Invalid username or password."}, 401)
                if path == "/api/repos/create":
                    asked = json.loads(body)
                    name = f"{asked['organization']}/{asked['name']}"
                    if name in hub.repositories:
                        return self.json({"url": f"{hub.url}/{name}"}, 409)
                    hub.repositories[name] = {"main": {}}
                    hub.private[name] = asked.get("private") or asked.get("visibility") == "private"
                    return self.json({"url": f"{hub.url}/{name}", "name": name})
                if PREUPLOAD.fullmatch(path):
                    files = [
                        {
                            "path": each["path"],
                            "uploadMode": "lfs"
                            if each["path"].endswith((".safetensors", ".pt"))
                            else "regular",
                            "shouldIgnore": False,
                        }
                        for each in json.loads(body)["files"]
                    ]
                    return self.json({"files": files})
                if BATCH.fullmatch(path):
                    objects = [
                        {**each, "actions": {"upload": {"href": f"{hub.url}/put/{each['oid']}"}}}
                        for each in json.loads(body)["objects"]
                    ]
                    return self.json({"transfer": "basic", "objects": objects})
                if match := COMMIT.fullmatch(path):
                    files = hub.repositories[match["repo"]]["main"]
                    for line in map(json.loads, body.decode().splitlines()):
                        if line["key"] == "file":
                            files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                        elif line["key"] == "lfsFile":
                            files[line["value"]["path"]] = hub.large[line["value"]["oid"]]
                    oid = hub.commit(match["repo"], "main")
                    return self.json(
                        {"commitUrl": f"{hub.url}/{match['repo']}/commit/{oid}", "commitOid": oid}
                    )
                return self.answer(404)

            def do_PUT(self) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                content = self.rfile.read(int(self.headers["Content-Length"]))
                assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
                hub.large[self.path.rpartition("/")[2]] = content
                self.answer(200)

        return Handler
