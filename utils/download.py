"""Bring the released data files into datasets/, each one verified against datasets/manifest.json.

    python -m utils.download                          the 18 files of the paper's experiment
    python -m utils.download --datasets lookahead     what six LLMs answered on four test sets (Lookahead Routing)
    python -m utils.download --datasets all           everything, RouterBench too
    python -m utils.download split2_model7/mbpp.json  named files
    python -m utils.download --mirror DIR             copy from a folder laid out like datasets/ (or $ROUTERDC_MIRROR)
    python -m utils.download --check                  only verify what is there

A file is written to `<name>.part` and renamed once it is verified, so a broken transfer never looks like data; the same
command resumes it. ROUTERDC_URL replaces the address that the files are fetched from; it is laid out like datasets/.

A set that the manifest lists among `other_sources` comes from a repository of its own, and lies in datasets/SET/. A
mirror may hold such a set inside (DIR/SET) or beside it (DIR/../SET); inside wins.
"""

import argparse
import hashlib
import json
import os
import shutil
import socket
import sys
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener

from tqdm import tqdm

from .files import locked, naming

ROOT = Path(__file__).resolve().parent.parent / "datasets"
MANIFEST = ROOT / "manifest.json"
SETS = ("routerdc", "extra", "routerbench", "lookahead")  # the paper's; left aside by it; CSV files; another's
WAITS = (1, 2, 4, 8)  # seconds before each retry of a network failure
CONNECT = 5  # seconds to connect, shared by the addresses of a host (each has 2 at least)
TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 16  # bytes


class DownloadError(RuntimeError):
    """A file could not be brought in place; the message says which, why and what to do."""


class Unreachable(DownloadError):
    """The network gave no answer, or the server cannot serve now: nothing is known to be wrong with any data."""


class _Transient(Exception):
    """A network failure that another try may cure."""


class _Busy(_Transient):
    """The server answers that it cannot serve now."""


class _NoAnswer(_Transient):
    """There was no address, no route, or nobody who answered."""


class _Prompt:
    """A connection that is made soon or not at all.

    Where packets are dropped, each address of a host would otherwise take TIMEOUT.
    """

    def connect(self):
        """Connect, with little time for each address."""
        addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        self.timeout = max(CONNECT / len(addresses), 0.4 * CONNECT)
        super().connect()
        self.sock.settimeout(TIMEOUT)


class _HTTP(_Prompt, HTTPConnection):
    pass


class _HTTPS(_Prompt, HTTPSConnection):
    pass


class _HTTPHandler(HTTPHandler):
    def http_open(self, request):
        """Open an http address."""
        return self.do_open(_HTTP, request)


class _HTTPSHandler(HTTPSHandler):
    def https_open(self, request):
        """Open an https address."""
        return self.do_open(_HTTPS, request)


def load_manifest() -> dict:
    """The released files: `{"repository", "commit", "other_sources"?, "files"}`.

    `files` is `{name: {"set", "git_blob_sha1", "bytes"?, "sha256"?}}`, names being relative to datasets/.
    `other_sources` is `{set: {"repository", "commit", "folder", "licence"}}`: a set that comes from elsewhere, where
    `datasets/SET/x` is `FOLDER/x`. Raises DownloadError if the manifest is missing or is not JSON.
    """
    try:
        return json.loads(MANIFEST.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DownloadError(f"cannot read {MANIFEST}: {error}. It ships with the code: restore it with git") from error


def verify(path: Path, entry: dict) -> str | None:
    """The reason why the file at `path` is not the released one of manifest entry `entry`, or None if it is.

    The git blob id, SHA-1 of `blob <size>\\0<content>`, is always compared; size and SHA-256 where the entry has them.
    Raises OSError if the file is there but cannot be read.
    """
    if not path.is_file():
        return "it is not a regular file" if path.exists() else "it is missing"
    size = path.stat().st_size
    if size != entry.get("bytes", size):
        return f"it has {size:,} bytes, expected {entry['bytes']:,}"
    blob, sha256 = hashlib.sha1(b"blob %d\0" % size), hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            blob.update(chunk)
            sha256.update(chunk)
    if blob.hexdigest() != entry["git_blob_sha1"]:
        return f"its git blob id is {blob.hexdigest()}, expected {entry['git_blob_sha1']}"
    if sha256.hexdigest() != entry.get("sha256", sha256.hexdigest()):
        return f"its SHA-256 is {sha256.hexdigest()}, expected {entry['sha256']}"
    return None


def base_url(place: dict, here: str = "") -> str:
    """The address that file names are appended to: the pinned commit's raw files, or ROUTERDC_URL in their place.

    Args: `place` is the manifest, or one of its `other_sources`, whose files lie in `here` below datasets/.
    """
    if url := os.environ.get("ROUTERDC_URL"):
        return f"{url.rstrip('/')}/{here}".rstrip("/")
    owner_and_name = place["repository"].removeprefix("github.com/")
    return f"https://raw.githubusercontent.com/{owner_and_name}/{place['commit']}/{place.get('folder', 'datasets')}"


def origin(entry: dict, manifest: dict, mirror: Path | None) -> tuple[str, str | Path]:
    """Where a file comes from: the folder below datasets/ that its source fills ("" is all of it), and the source.

    The source is a folder if there is a `mirror`, else an address.
    """
    other = manifest.get("other_sources", {}).get(entry["set"])
    here = entry["set"] if other else ""
    if mirror is None:
        return here, base_url(other or manifest, here)
    inside = mirror / here
    return here, inside if inside.is_dir() else mirror.resolve().parent / here


def fetch(name: str, entry: dict, source: str | Path, root: Path = ROOT) -> bool:
    """Bring one file in place as `root/name`; True if it was fetched, False if it was there and right.

    Args: `source` is a base URL (str) or a mirror folder (Path); `name` is appended to it.
    Raises: DownloadError if the source cannot give the right file, OSError if it cannot be written; `root/name` is then
    as it was before. An unfinished transfer stays in `root/name.part`, and the next call resumes it. Where nothing has
    come and nobody answers, there is one more try; a transfer that has begun, and a server that is busy, have as many
    as WAITS says.
    """
    target = root / name
    wrong = verify(target, entry)
    if wrong is None:
        return False
    if target.exists():
        tqdm.write(f"{target} is not the released file ({wrong}): replacing it", file=sys.stderr)
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming(target):
        if isinstance(source, Path):
            _copy(source, name, target, entry)
        else:
            _fetch_from_network(f"{source}/{name}", name, target, entry)
    return True


def _part(target: Path) -> Path:
    """The file that a transfer writes to."""
    return target.with_name(target.name + ".part")


def _copy(mirror: Path, name: str, target: Path, entry: dict) -> None:
    """Bring a file in place from a mirror. Raises: DownloadError if it is not there, or not the released one."""
    try:
        shutil.copyfile(mirror / name, _part(target))
    except FileNotFoundError as error:
        raise DownloadError(
            f"the mirror {mirror} has no {name}. Give a folder that has it, laid out like datasets/ (--mirror DIR), "
            "or --mirror '' to fetch it from the network"
        ) from error
    except OSError:
        _part(target).unlink(missing_ok=True)
        raise
    if wrong := _install(_part(target), target, entry):
        raise DownloadError(
            f"{mirror / name} is not the released file: {wrong}. "
            "Use another source (--mirror DIR, or --mirror '' for the network)"
        )


def _fetch_from_network(url: str, name: str, target: Path, entry: dict) -> None:
    """Bring a file in place from an address, with as many tries as `fetch` says. Raises: DownloadError."""
    part, tries, silent = _part(target), 0, 0
    for wait in (*WAITS, None):
        tries += 1
        try:
            # An earlier run may have been stopped just before the rename: then nothing is left to pull.
            resumed = verify(part, entry) is not None and _pull(url, part)
            wrong = _install(part, target, entry)
            if wrong is None:
                return
            if not resumed:
                raise DownloadError(f"{url} is not the released file: {wrong}. Use another source (--mirror DIR)")
            raise _Transient(f"resumed from {part.name}, and {wrong}; dropped {part.name}")
        except _Transient as error:
            cause = error
            silent += isinstance(error, _NoAnswer)
        if silent == 2 and not part.exists():
            break
        if wait is not None:
            tqdm.write(f"{name}: {cause}; trying again in {wait} s", file=sys.stderr)
            time.sleep(wait)
    kind = Unreachable if isinstance(cause, (_NoAnswer, _Busy)) else DownloadError
    raise kind(
        f"cannot fetch {url}: {cause} ({tries} tries). Either copy from a folder that has the files "
        "(--mirror DIR or ROUTERDC_MIRROR=DIR), or mend the connection (behind a proxy: set https_proxy) and "
        "run the same command, which resumes"
    )


def _open(url: str, part: Path):
    """The response to a request for what `part` lacks; a server may answer with the whole file (status 200)."""
    have = part.stat().st_size if part.exists() else 0
    try:
        return build_opener(_HTTPHandler, _HTTPSHandler).open(
            Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        )
    except HTTPError as error:
        cause = f"HTTP {error.code} {error.reason}"
        if error.code == 416 and have:  # nothing past what we have, and what we have is not the file
            part.unlink()
            raise _Transient(f"{cause}; dropped {part.name}") from error
        if error.code in (408, 429) or error.code >= 500:
            raise _Busy(cause) from error
        raise DownloadError(
            f"{url}: {cause}. Check ROUTERDC_URL if it is set, or copy the file from a folder that "
            "has it (--mirror DIR)"
        ) from error
    except (OSError, HTTPException) as error:  # no address, no route, no answer, a bad certificate
        raise _NoAnswer(getattr(error, "reason", error)) from error
    except ValueError as error:
        raise DownloadError(f"{url} is not an address: {error}. Check ROUTERDC_URL") from error


def _pull(url: str, part: Path) -> bool:
    """Complete `part` from `url`; True if it kept the bytes that were there, False if it started over."""
    with _open(url, part) as response:
        resumed = response.status == 206
        left = response.headers.get("Content-Length")  # of this answer, not of the file
        with part.open("ab" if resumed else "wb") as out:
            have = out.tell()
            total = have + int(left) if left else None
            with tqdm(
                desc=part.stem, initial=have, total=total, unit="B", unit_scale=True, leave=False, disable=None
            ) as bar:
                while True:
                    try:
                        chunk = response.read(CHUNK)
                    except (OSError, HTTPException) as error:
                        raise _Transient(f"the connection broke: {error!r}") from error
                    if not chunk:
                        break
                    bar.update(out.write(chunk))
            if total and out.tell() < total:
                raise _Transient(f"the connection closed after {out.tell():,} of {total:,} bytes")
    return resumed


def _install(part: Path, target: Path, entry: dict) -> str | None:
    """Rename `part` to `target` if it is the released file; else delete it and return what is wrong with it."""
    if wrong := verify(part, entry):
        part.unlink()
        return wrong
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    return None


def _fetch_all(files: dict, manifest: dict, mirror: Path | None, root: Path) -> None:
    """Bring all these files of the manifest in place. Raises: DownloadError if one is missing at the end."""
    origins = {name: origin(entry, manifest, mirror) for name, entry in files.items()}
    sources = sorted({str(source) for _, source in origins.values()})
    print(f"fetching {len(files)} files from {' and '.join(sources)} into {root}", flush=True)
    root.mkdir(parents=True, exist_ok=True)
    failed, unreachable = 0, False
    with locked(root):  # of two runs at once, one waits and then finds the files in place
        for name, entry in tqdm(files.items(), desc="files", unit="file", leave=False, disable=None):
            here, source = origins[name]
            try:
                fetch(name.removeprefix(f"{here}/"), entry, source, root / here)
            except DownloadError as error:
                left = f". {root / name} stays as it was: NOT the released file" if (root / name).exists() else ""
                tqdm.write(f"{error}{left}", file=sys.stderr)
                failed += 1
                unreachable = isinstance(error, Unreachable)
                if not isinstance(source, Path):
                    break  # the next file would wait for the same network
    if failed:
        nothing_came = not any((root / name).exists() for name in files)
        nothing_wrong = unreachable and nothing_came
        raise (Unreachable if nothing_wrong else DownloadError)(
            f"the data in {root} is incomplete: see above; --check lists what is missing or wrong"
        )


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 1 after an error, 130 when interrupted.

    It is 3 if the only trouble is that files are missing and the network gives no answer, or the server is busy:
    quickstart.sh goes on without them then.
    """
    parser = argparse.ArgumentParser(prog="python -m utils.download", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="names relative to datasets/ (default: a whole set)")
    parser.add_argument("--datasets", choices=(*SETS, "all"), default="routerdc", help="the set (default: %(default)s)")
    parser.add_argument(
        "--mirror",
        default=os.environ.get("ROUTERDC_MIRROR", ""),
        help="copy from this folder, which has lookahead/ in it or beside it; '' is the network "
        "(default: $ROUTERDC_MIRROR)",
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="where the files go (default: datasets/ here)")
    parser.add_argument("--check", action="store_true", help="verify only; exit 1 if a file is missing or wrong")
    args = parser.parse_args(argv)
    try:
        manifest = load_manifest()
        known = manifest["files"]
        if unknown := [name for name in args.files if name not in known]:
            raise DownloadError(f"no released file is called {', '.join(unknown)}; {MANIFEST} lists the names")
        if args.mirror and not Path(args.mirror).is_dir():
            raise DownloadError(
                f"the mirror {args.mirror} is not a folder. Correct --mirror or ROUTERDC_MIRROR; '' is the network"
            )
        names = args.files or [name for name, entry in known.items() if args.datasets in (entry["set"], "all")]
        wrong = {name: reason for name in names if (reason := verify(args.root / name, known[name]))}
        if wrong and not args.check:
            mirror = Path(args.mirror) if args.mirror else None
            _fetch_all({name: known[name] for name in wrong}, manifest, mirror, args.root)
        elif wrong:
            print("\n".join(f"{args.root / name}: {reason}" for name, reason in wrong.items()))
            raise DownloadError(f"{len(wrong)} of {len(names)} files are missing or wrong: fetch without --check")
        print(f"{len(names)} files verified in {args.root}")
        return 0
    except (DownloadError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3 if isinstance(error, Unreachable) else 1
    except KeyboardInterrupt:
        print("interrupted: what had come stays in *.part files, and the same command resumes", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
