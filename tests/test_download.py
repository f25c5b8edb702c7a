"""utils/download.py against a local server that behaves and misbehaves, and against mirror folders.

All data is made up, but for the last test, which copies the released files from ROUTERDC_MIRROR if that is set.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from utils import download
from utils.download import DownloadError, fetch, load_manifest, main, verify

REPO = Path(__file__).resolve().parent.parent
MIRROR = os.environ.get("ROUTERDC_MIRROR")
CONTENT = {
    "one/a.json": b'[{"question": "q", "scores": {"m": 1.0}}]\n' * 20_000,  # several chunks
    "one/b.json": b"[]\n",
    "two/c.csv": b"sample_id,prompt\n",
}


def blob_id(content: bytes) -> str:
    """The id that git itself gives."""
    run = subprocess.run(["git", "hash-object", "--stdin"], input=content, stdout=subprocess.PIPE, check=True)
    return run.stdout.decode().strip()


class Server(ThreadingHTTPServer):
    """Serves CONTENT and keeps (path, Range header) of each request; the flags say how it misbehaves."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.ranges, self.cut, self.corrupt, self.failures, self.delay, self.stall = (
            [],
            True,
            0,
            False,
            0,
            0,
            None,
        )
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((self.path, wanted))
        time.sleep(server.delay)
        if server.failures:
            server.failures -= 1
            return self.send_error(503)
        content = CONTENT.get(self.path[1:])
        if content is None:
            return self.send_error(404)
        if server.corrupt:
            content = b"x" + content[1:-1] + b"x"
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if server.stall:  # half, then nothing until the client is gone
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            server.stall.wait(30)
        else:
            self.wfile.write(body[: server.cut] if server.cut else body)

    def log_message(self, *args):
        """Keeps the test output quiet."""


@pytest.fixture
def server(monkeypatch):
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("ROUTERDC_URL", server.url)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, "WAITS", (0.01, 0.01, 0.01))
    monkeypatch.delenv("ROUTERDC_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """A manifest of CONTENT; c.csv has a blob id only, as the files that nobody has measured."""
    files = {
        name: {"set": "routerdc" if name.endswith("json") else "routerbench", "git_blob_sha1": blob_id(content)}
        for name, content in CONTENT.items()
    }
    for name in ("one/a.json", "one/b.json"):
        files[name] |= {"bytes": len(CONTENT[name]), "sha256": hashlib.sha256(CONTENT[name]).hexdigest()}
    manifest = {"repository": "github.com/owner/name", "commit": "0123abcd", "files": files}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest))
    monkeypatch.setattr(download, "MANIFEST", path)
    return manifest


@pytest.fixture
def root(tmp_path):
    return tmp_path / "datasets"


@pytest.fixture
def mirror(tmp_path):
    folder = tmp_path / "mirror"
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def left(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name[0] != ".")


# verify


def test_verify_accepts_what_git_hashes_and_says_what_is_wrong(tmp_path):
    content = b"some bytes\r\n\0"
    path = put(tmp_path / "file", content)
    entry = {"git_blob_sha1": blob_id(content)}
    full = entry | {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert verify(path, entry) is None and verify(path, full) is None
    assert verify(tmp_path / "absent", entry) == "it is missing"
    assert "not a regular file" in verify(tmp_path, entry)
    assert verify(path, full | {"bytes": 1_000}) == "it has 13 bytes, expected 1,000"
    assert "SHA-256" in verify(path, full | {"sha256": "0" * 64})
    path.write_bytes(b"Some bytes\r\n\0")
    reason = verify(path, full)
    assert blob_id(b"Some bytes\r\n\0") in reason and blob_id(content) in reason


# the network


def test_a_fresh_download_and_a_second_run_without_requests(server, manifest, root, capsys):
    assert main(["--root", str(root)]) == 0
    assert [path for path, _ in server.requests] == ["/one/a.json", "/one/b.json"]
    assert left(root) == ["one/a.json", "one/b.json"]
    assert (root / "one/a.json").read_bytes() == CONTENT["one/a.json"]
    server.requests.clear()
    assert main(["--root", str(root)]) == 0
    assert server.requests == []
    assert "2 files verified" in capsys.readouterr().out


def test_sets_and_names(server, manifest, root, capsys):
    assert main(["--root", str(root), "--datasets", "routerbench"]) == 0
    assert left(root) == ["two/c.csv"]
    assert main(["--root", str(root), "one/b.json"]) == 0
    assert left(root) == ["one/b.json", "two/c.csv"]
    assert main(["--root", str(root), "--datasets", "all"]) == 0
    assert left(root) == sorted(CONTENT)
    assert main(["--root", str(root), "one/nothing.json"]) == 1
    assert "one/nothing.json" in capsys.readouterr().err


def test_a_resume_asks_only_for_the_rest(server, manifest, root):
    part = put(root / "one/a.json.part", CONTENT["one/a.json"][:300_001])
    assert fetch("one/a.json", manifest["files"]["one/a.json"], server.url, root)
    assert server.requests == [("/one/a.json", "bytes=300001-")]
    assert (root / "one/a.json").read_bytes() == CONTENT["one/a.json"]
    assert not part.exists()


def test_a_complete_part_needs_no_request(server, manifest, root):
    put(root / "one/a.json.part", CONTENT["one/a.json"])
    assert fetch("one/a.json", manifest["files"]["one/a.json"], server.url, root)
    assert server.requests == [] and left(root) == ["one/a.json"]


def test_a_server_without_ranges_starts_over(server, manifest, root):
    server.ranges = False
    put(root / "one/a.json.part", CONTENT["one/a.json"][:5_000])
    assert fetch("one/a.json", manifest["files"]["one/a.json"], server.url, root)
    assert server.requests == [("/one/a.json", "bytes=5000-")]
    assert left(root) == ["one/a.json"]


@pytest.mark.parametrize("size", [7, len(CONTENT["one/a.json"]), len(CONTENT["one/a.json"]) + 7])
def test_a_part_of_something_else_is_dropped_with_a_word(server, manifest, root, size, capsys):
    put(root / "one/a.json.part", b"?" * size)
    assert fetch("one/a.json", manifest["files"]["one/a.json"], server.url, root)
    assert [wanted for _, wanted in server.requests] == [f"bytes={size}-", None]
    assert "dropped a.json.part" in capsys.readouterr().err
    assert left(root) == ["one/a.json"]


def test_truncated_transfers_are_resumed_and_never_left_as_data(server, manifest, root, capsys):
    size = len(CONTENT["one/a.json"])
    server.cut = size // 3 + 1
    assert fetch("one/a.json", manifest["files"]["one/a.json"], server.url, root)
    assert [wanted for _, wanted in server.requests] == [None, f"bytes={server.cut}-", f"bytes={2 * server.cut}-"]
    server.cut = 10
    (root / "one/a.json").unlink()
    with pytest.raises(DownloadError, match="connection"):
        fetch("one/a.json", manifest["files"]["one/a.json"], server.url, root)
    assert left(root) == ["one/a.json.part"]
    assert (root / "one/a.json.part").read_bytes() == CONTENT["one/a.json"][:40]  # 4 tries of 10 bytes


@pytest.mark.parametrize("name", ["one/a.json", "two/c.csv"])  # with and without a known size
def test_corrupted_bytes_are_refused(server, manifest, root, name, capsys):
    server.corrupt = True
    assert main(["--root", str(root), name]) == 1
    message = capsys.readouterr().err
    assert f"{server.url}/{name} is not the released file" in message
    assert f"expected {manifest['files'][name]['git_blob_sha1']}" in message
    assert left(root) == []


def test_503_twice_then_the_file(server, manifest, root, capsys):
    server.failures = 2
    assert main(["--root", str(root), "one/b.json"]) == 0
    assert len(server.requests) == 3
    assert capsys.readouterr().err.count("HTTP 503") == 2


def test_503_for_ever_and_404(server, manifest, root, capsys):
    server.failures = 100
    assert main(["--root", str(root)]) == 3
    assert len(server.requests) == 4  # the second file is not tried
    assert "HTTP 503" in capsys.readouterr().err
    server.failures = 0
    server.requests.clear()
    with pytest.raises(DownloadError, match="HTTP 404.*ROUTERDC_URL"):
        fetch("one/absent.json", manifest["files"]["one/a.json"], server.url, root)
    assert len(server.requests) == 1
    assert left(root) == []


@pytest.mark.parametrize("fails", [False, True])
def test_an_existing_wrong_file_is_reported_and_only_replaced_by_the_right_one(server, manifest, root, fails, capsys):
    target = put(root / "one/b.json", b"[1]\n")
    server.corrupt = fails
    assert main(["--root", str(root), "one/b.json"]) == int(fails)
    message = capsys.readouterr().err
    assert f"{target} is not the released file (it has 4 bytes, expected 3)" in message
    assert ("stays as it was: NOT the released file" in message) == fails
    assert target.read_bytes() == (b"[1]\n" if fails else CONTENT["one/b.json"])
    assert main(["--root", str(root), "one/b.json", "--check"]) == int(fails)


def test_no_network_names_the_address_the_cause_and_the_remedies(manifest, root, monkeypatch, capsys):
    monkeypatch.setenv("ROUTERDC_URL", "http://127.0.0.1:9/data/")  # the discard port: nothing listens
    assert main(["--root", str(root)]) == 3
    message = capsys.readouterr().err
    for word in ("http://127.0.0.1:9/data/one/a.json", "refused", "--mirror DIR", "ROUTERDC_MIRROR", "https_proxy"):
        assert word in message
    monkeypatch.setenv("ROUTERDC_URL", "nowhere")
    assert main(["--root", str(root)]) == 1
    assert "nowhere/one/a.json is not an address" in capsys.readouterr().err


@pytest.fixture
def dropping():
    """An address at which connections are not refused but never made, as where packets are dropped: its queue is full
    and nobody accepts.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = [socket.socket() for _ in range(8)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        try:
            socket.create_connection(full.getsockname(), 0.3).close()
            pytest.skip("this system takes connections that nobody accepts")
        except TimeoutError:
            yield f"http://127.0.0.1:{full.getsockname()[1]}/data"
        finally:
            for client in waiting:
                client.close()


def test_a_network_that_drops_packets_is_given_up_soon(manifest, root, dropping, monkeypatch, capsys):
    monkeypatch.setattr(download, "CONNECT", 0.5)
    monkeypatch.setenv("ROUTERDC_URL", dropping)
    start = time.monotonic()
    assert main(["--root", str(root)]) == 3
    assert 1 <= time.monotonic() - start < 5  # two tries
    errors = capsys.readouterr().err
    assert "timed out (2 tries)" in errors and errors.count("trying again") == 1
    part = put(root / "one/a.json.part", CONTENT["one/a.json"][:9])  # a transfer that had begun: more patience
    monkeypatch.setattr(download, "CONNECT", 0.1)
    assert main(["--root", str(root)]) == 3 and part.stat().st_size == 9
    assert "(4 tries)" in capsys.readouterr().err


def test_the_time_to_connect_is_no_limit_on_the_answer(server, manifest, root, monkeypatch, capsys):
    monkeypatch.setattr(download, "CONNECT", 0.3)
    server.delay = 0.8
    assert main(["--root", str(root), "one/b.json"]) == 0
    assert len(server.requests) == 1 and "trying again" not in capsys.readouterr().err


def test_no_network_is_told_from_wrong_data(server, manifest, root, mirror, monkeypatch, capsys):
    server.failures = 100  # a server that cannot serve now says nothing about the data either
    assert main(["--root", str(root)]) == 3
    put(root / "one/b.json", b"[1]\n")
    assert main(["--root", str(root)]) == 1  # a wrong file is there, which must not pass for none
    server.failures, server.cut = 0, 10
    assert main(["--root", str(root), "one/a.json"]) == 1  # an answer, though a bad one
    (root / "one/a.json.part").unlink()
    monkeypatch.setenv("ROUTERDC_URL", "http://127.0.0.1:9/data/")
    assert main(["--root", str(root)]) == 1
    (root / "one/b.json").write_bytes(CONTENT["one/b.json"])
    assert main(["--root", str(root)]) == 3  # the other one is missing, and that is all
    assert main(["--root", str(root), "--mirror", str(mirror / "typo")]) == 1
    (mirror / "one/a.json").unlink()
    assert main(["--root", str(root), "--mirror", str(mirror)]) == 1


def test_the_address_is_the_pinned_commit(manifest, monkeypatch):
    monkeypatch.delenv("ROUTERDC_URL", raising=False)
    assert download.base_url(manifest).endswith("/owner/name/0123abcd/datasets")


def test_ctrl_c_leaves_a_part_that_the_next_run_resumes(server, manifest, root):
    server.stall = threading.Event()
    name, size = "one/a.json", len(CONTENT["one/a.json"])
    code = (
        "import sys, pathlib, signal; from utils import download; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a background job's children are born ignoring it
        f"download.MANIFEST = pathlib.Path({str(download.MANIFEST)!r}); "
        f"sys.exit(download.main(['--root', {str(root)!r}, {name!r}]))"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=REPO, stderr=subprocess.PIPE, text=True)
    part, deadline = root / "one/a.json.part", time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    errors = run.communicate(timeout=30)[1]
    server.stall.set()
    server.stall = None
    assert run.returncode == 130, errors
    assert "interrupted" in errors and "Traceback" not in errors
    have = part.stat().st_size
    assert left(root) == ["one/a.json.part"] and 0 < have < size
    assert main(["--root", str(root), name]) == 0
    assert server.requests[-1] == ("/one/a.json", f"bytes={have}-")


def test_two_runs_at_once_fetch_each_file_once(server, manifest, root):
    codes = []
    runs = [threading.Thread(target=lambda: codes.append(main(["--root", str(root)]))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert codes == [0, 0] and len(server.requests) == 2


# mirrors


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_mirror_is_copied_without_the_network(server, manifest, root, mirror, by, monkeypatch):
    put(root / "one/a.json.part", b"of an earlier transfer")
    argv = ["--root", str(root), "--datasets", "all"]
    if by == "environment":
        monkeypatch.setenv("ROUTERDC_MIRROR", str(mirror))
    else:
        argv += ["--mirror", str(mirror)]
    assert main(argv) == 0
    assert left(root) == sorted(CONTENT) and server.requests == []
    assert all((root / name).read_bytes() == content for name, content in CONTENT.items())


def test_an_empty_mirror_argument_is_the_network(server, manifest, root, mirror, monkeypatch):
    monkeypatch.setenv("ROUTERDC_MIRROR", str(mirror))
    assert main(["--root", str(root), "--mirror", ""]) == 0
    assert len(server.requests) == 2


def test_what_a_mirror_lacks_or_has_wrong_is_named_and_the_rest_copied(manifest, root, mirror, capsys):
    (mirror / "one/a.json").unlink()
    (mirror / "two/c.csv").write_bytes(b"edited")
    assert main(["--root", str(root), "--mirror", str(mirror), "--datasets", "all"]) == 1
    message = capsys.readouterr().err
    assert f"the mirror {mirror} has no one/a.json" in message and "--mirror ''" in message
    assert f"{mirror / 'two/c.csv'} is not the released file: its git blob id is {blob_id(b'edited')}" in message
    assert left(root) == ["one/b.json"]


def test_a_mirror_that_is_no_folder(manifest, root, tmp_path, capsys):
    assert main(["--root", str(root), "--mirror", str(tmp_path / "typo")]) == 1
    assert f"{tmp_path / 'typo'} is not a folder" in capsys.readouterr().err
    assert not root.exists()


# --check and the manifest


def test_check_lists_what_is_missing_and_wrong_and_changes_nothing(server, manifest, root, capsys):
    put(root / "one/b.json", b"[1]\n")
    assert main(["--root", str(root), "--check"]) == 1
    out, err = capsys.readouterr()
    assert f"{root / 'one/a.json'}: it is missing" in out
    assert f"{root / 'one/b.json'}: it has 4 bytes, expected 3" in out
    assert "2 of 2 files" in err
    assert server.requests == [] and left(root) == ["one/b.json"]


@pytest.mark.parametrize("text", [None, "{"])
def test_a_broken_manifest_is_named(tmp_path, monkeypatch, text, capsys):
    path = tmp_path / "manifest.json"
    if text:
        path.write_text(text)
    monkeypatch.setattr(download, "MANIFEST", path)
    assert main(["--check"]) == 1
    assert f"cannot read {path}" in capsys.readouterr().err


def test_the_shipped_manifest_is_well_formed():
    manifest = load_manifest()
    assert len(manifest["commit"]) == 40
    sets = [entry["set"] for entry in manifest["files"].values()]
    assert {name: sets.count(name) for name in download.SETS} == {
        "routerdc": 18,
        "extra": 3,
        "routerbench": 18,
        "lookahead": 36,
    }
    for name, entry in manifest["files"].items():
        assert not Path(name).is_absolute() and ".." not in name
        assert len(entry["git_blob_sha1"]) == 40
        assert ("bytes" in entry) == ("sha256" in entry)
        assert "bytes" in entry or entry["set"] == "routerbench"


@pytest.mark.skipif(not MIRROR, reason="ROUTERDC_MIRROR is not set: no folder with the released files")
def test_the_released_files(tmp_path):
    assert main(["--root", str(tmp_path), "--mirror", MIRROR]) == 0
    assert main(["--root", str(tmp_path), "--check"]) == 0
    for name, entry in load_manifest()["files"].items():
        if entry["set"] == "routerdc":
            assert blob_id((tmp_path / name).read_bytes()) == entry["git_blob_sha1"]


# sets of another repository


@pytest.fixture
def two_sources(manifest, monkeypatch):
    """The manifest of CONTENT, where the set "lookahead" is the folder one/ and comes from another repository."""
    other = {"repository": "github.com/other/repo", "commit": "89ab", "folder": "deep/data", "licence": "MIT"}
    files = {name.replace("one/", "lookahead/"): entry for name, entry in manifest["files"].items()}
    for name, entry in files.items():
        entry["set"] = "lookahead" if name.startswith("lookahead/") else "routerdc"
    changed = manifest | {"other_sources": {"lookahead": other}, "files": files}
    download.MANIFEST.write_text(json.dumps(changed))
    return changed


def test_each_set_has_the_address_of_its_own_repository(two_sources, monkeypatch):
    monkeypatch.delenv("ROUTERDC_URL", raising=False)
    entries = two_sources["files"]
    here, address = download.origin(entries["lookahead/a.json"], two_sources, None)
    assert (here, address.partition("//")[2].partition("/")[2]) == ("lookahead", "other/repo/89ab/deep/data")
    here, address = download.origin(entries["two/c.csv"], two_sources, None)
    assert (here, address.partition("//")[2].partition("/")[2]) == ("", "owner/name/0123abcd/datasets")


def test_one_server_may_have_both_sets(server, two_sources, root, monkeypatch):
    monkeypatch.setitem(CONTENT, "lookahead/a.json", CONTENT["one/a.json"])
    monkeypatch.setitem(CONTENT, "lookahead/b.json", CONTENT["one/b.json"])
    assert main(["--root", str(root)]) == 0 and left(root) == ["two/c.csv"]  # the default set alone
    assert main(["--root", str(root), "--datasets", "lookahead"]) == 0
    assert left(root) == ["lookahead/a.json", "lookahead/b.json", "two/c.csv"]
    assert [path for path, _ in server.requests] == ["/two/c.csv", "/lookahead/a.json", "/lookahead/b.json"]
    assert (root / "lookahead/a.json").read_bytes() == CONTENT["one/a.json"]


@pytest.mark.parametrize("place", ["inside", "beside"])
def test_a_mirror_holds_the_other_set_inside_or_beside(server, two_sources, root, mirror, place, capsys):
    (mirror / "one").rename(mirror / "lookahead" if place == "inside" else mirror.parent / "lookahead")
    assert main(["--root", str(root), "--mirror", str(mirror), "--datasets", "all"]) == 0
    assert left(root) == ["lookahead/a.json", "lookahead/b.json", "two/c.csv"] and server.requests == []
    (root / "lookahead/b.json").write_bytes(b"[1]\n")
    assert main(["--root", str(root), "--datasets", "lookahead", "--check"]) == 1
    assert "lookahead/b.json: it has 4 bytes, expected 3" in capsys.readouterr().out


def test_a_mirror_inside_wins_and_what_it_lacks_is_named(two_sources, root, mirror, capsys):
    (mirror / "one").rename(mirror.parent / "lookahead")
    put(mirror / "lookahead/a.json", CONTENT["one/a.json"])
    assert main(["--root", str(root), "--mirror", str(mirror), "--datasets", "lookahead"]) == 1
    assert f"the mirror {mirror / 'lookahead'} has no b.json" in capsys.readouterr().err
    assert left(root) == ["lookahead/a.json"]


LOOKAHEAD = Path(MIRROR).resolve().parent / "lookahead" if MIRROR else None


@pytest.mark.skipif(LOOKAHEAD is None or not LOOKAHEAD.is_dir(), reason="no folder lookahead/ beside ROUTERDC_MIRROR")
def test_the_files_of_lookahead(tmp_path):
    assert main(["--root", str(tmp_path), "--mirror", MIRROR, "--datasets", "lookahead"]) == 0
    entries = {name: entry for name, entry in load_manifest()["files"].items() if entry["set"] == "lookahead"}
    assert left(tmp_path) == sorted(entries) and len(entries) == 36
    for name, entry in entries.items():
        assert blob_id((tmp_path / name).read_bytes()) == entry["git_blob_sha1"]
