"""Hub: what is put there comes back the same, with a card; a stand-in on this machine takes the hub's place."""

import base64
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import huggingface_hub
import pytest
from huggingface_hub import constants

from scans_lens import hub
from scans_lens.artefacts import _placeless
from scans_lens.directions import Directions
from scans_lens.methods.scans import SCANS

pytestmark = pytest.mark.above


class Repositories(BaseHTTPRequestHandler):
    """As much of a hub as a small commit and its download need."""

    files: ClassVar[dict[str, dict[str, bytes]]] = {}
    private: ClassVar[dict[str, bool]] = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.files.setdefault(name, {})
            self.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.tells({"url": f"{self.address}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self.tells({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            there = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self.tells({"files": there})
        elif "/commit/" in self.path:
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.tells({"commitUrl": f"{self.address}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40})
        else:
            self.tells({"error": f"no {self.path}"}, 404)

    def do_GET(self):
        name, _, file = self.path.lstrip("/").partition("/resolve/main/")
        if name.startswith("api/models/"):
            self.tells({"id": name.removeprefix("api/models/"), "sha": "0" * 40, "siblings": []})
        elif file in self.files.get(name, {}):
            self.tells(self.files[name][file])
        else:
            self.tells({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    @property
    def address(self):
        return f"http://{self.headers['Host']}"

    def tells(self, what, status=200, more=()):
        body = what if isinstance(what, bytes) else json.dumps(what).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "ETag": f'"{sha1(body).hexdigest()}"', "X-Repo-Commit": "0" * 40}
        for name, value in {**headers, **dict(more)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    with ThreadingHTTPServer(("127.0.0.1", 0), Repositories) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    Repositories.files, Repositories.private = {}, {}
    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def scans(fits, load):
    return fits(load, "SCANS")


def test_what_is_put_on_a_hub_comes_back_the_same(scans, model, endpoint):
    address = scans.push_to_hub("me/mine", endpoint=endpoint, token="hf_x")
    assert address == f"{endpoint}/me/mine"
    assert set(Repositories.files["me/mine"]) == {hub.FILE, hub.CARD} and not Repositories.private["me/mine"]
    again = SCANS.from_pretrained("me/mine", model, endpoint=endpoint, token="hf_x")
    assert str(again) == str(_placeless(scans)) and again.layers == scans.layers
    assert bool((again.directions.vectors == scans.directions.vectors).all())
    scans.push_to_hub("me/hidden", private=True, endpoint=endpoint, token="hf_x")
    assert Repositories.private["me/hidden"]


def test_a_folder_is_as_good_as_a_hub(scans, model, tmp_path):
    folder = scans.save_pretrained(tmp_path / "new" / "mine")
    assert {file.name for file in folder.iterdir()} == {hub.FILE, hub.CARD}
    assert str(SCANS.from_pretrained(folder, model)) == str(_placeless(scans))
    with pytest.raises(ValueError, match=r"holds no method\.safetensors"):
        SCANS.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no directions, but SCANS"):
        Directions.from_pretrained(folder)


def test_the_card_says_of_which_model_how_it_came_about_and_what_its_tensors_are_for(scans, tmp_path):
    text = (scans.save_pretrained(tmp_path) / hub.CARD).read_text()
    assert str(_placeless(scans)) in text and scans.measured_on.unembedding in text
    assert "from scans_lens.methods.scans import SCANS" in text
    for use in scans.uses():
        assert use.operation in text and use.site in text and use.positions in text
    of_hub = replace(scans, directions=replace(
        scans.directions, origin=replace(scans.directions.origin, model=replace(scans.measured_on, name="some/model"))
    ))  # fmt: skip
    assert "base_model: some/model" in (of_hub.save_pretrained(tmp_path) / hub.CARD).read_text()
    assert "base_model" not in text


def test_where_a_model_lies_on_this_machine_is_not_shared(scans, tmp_path):
    assert str(tmp_path.parent.parent) in scans.measured_on.name  # the tiny model's folder
    (tmp_path / "mine.gguf").touch()
    file = replace(scans.measured_on, name=str(tmp_path / "mine.gguf"))
    assert _placeless(file).name == "mine.gguf" and _placeless(replace(file, name="a/hub")).name == "a/hub"
    folder = scans.save_pretrained(tmp_path / "shared")
    for file in folder.iterdir():
        assert str(tmp_path.parent.parent).encode() not in file.read_bytes()


def test_what_cannot_be_put_or_fetched_is_said_in_one_sentence(scans, model, endpoint, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no folder 'mine' here, and a repository is named owner/name"):
        scans.push_to_hub("mine", endpoint=endpoint)
    with pytest.raises(ValueError, match="no folder 'mine' here"):
        SCANS.from_pretrained("mine", model, endpoint=endpoint)
    with pytest.raises(ValueError, match=r"'me/none' is no folder here, and the hub does not give a method"):
        SCANS.from_pretrained("me/none", model, endpoint=endpoint)
    with pytest.raises(ValueError, match="'me/mine' cannot be put on the hub: "):
        scans.push_to_hub("me/mine", endpoint="http://127.0.0.1:9", token="hf_x")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="'me/mine' cannot be put on the hub: "):
        scans.push_to_hub("me/mine", endpoint=endpoint, token="hf_x")
