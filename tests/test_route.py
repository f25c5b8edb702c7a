"""python -m utils.route: lines of files and pipes, in order, whole and once, whatever stops it."""

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import LLMS, REPO, make_rows
from test_router import CALIBRATION, COSTS

from utils import route
from utils.checkpoint_files import read_config, write_config
from utils.lines import arriving
from utils.router import Router

FLAGS = ("--device", "cpu", "--precision", "fp32", "--threads", "1")


@pytest.fixture
def rows() -> list[dict]:
    return [
        {"id": number, "question": row["question"], "more": {"a": [1.0, None]}}
        for number, row in enumerate(make_rows(30, "probability", 33))
    ]


@pytest.fixture
def queries(rows, tmp_path) -> Path:
    path = tmp_path / "queries.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.fixture
def routes(trained, capfdbinary):
    """Runs the command in this process: routes(flag, ...) -> status, lines of standard output, standard error."""

    def run(*flags):
        status = route.main(["--ckpt", str(trained.folder), *FLAGS, *map(str, flags)])
        out, err = capfdbinary.readouterr()
        assert b"Traceback" not in err
        return status, out.decode().splitlines(), err.decode()

    return run


# The command with an engine that needs no torch: a process of its own then starts in a moment. Its similarities are
# made of the letters of a text; a batch takes at least as long as a small encoder's would.
WITHOUT_TORCH = f"""
import sys, time, zlib
sys.path.insert(0, {str(REPO)!r})
import numpy as np
from utils import route, router
class Engine:
    def similarities(self, texts):
        time.sleep(0.005)
        return np.array([np.frombuffer((text * 4)[:4].encode("utf-32le"), "<u4") % 97 / 97 for text in texts], "f4")
router.open_backend = lambda *args, **options: Engine()
sys.exit(route.main())
"""


def process(trained, *flags, **options) -> subprocess.Popen:
    """The command in a process of its own, WITHOUT_TORCH."""
    command = [sys.executable, "-c", WITHOUT_TORCH, "--ckpt", str(trained.folder), *FLAGS, *map(str, flags)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    return subprocess.Popen(command, **(pipes | options))


@pytest.fixture(scope="module")
def expected(trained):
    """The LLM of each question by the Router alone."""
    router = Router.from_pretrained(trained.folder, device="cpu", precision="fp32", threads=1)
    return lambda rows: router.route([row["question"] for row in rows])


def test_questions_of_the_command_line(routes, rows, expected):
    status, lines, _ = routes(*[row["question"] for row in rows[:3]])
    assert status == 0
    assert lines == [f"{llm}\t{row['question']}" for llm, row in zip(expected(rows[:3]), rows)]


def test_a_file_keeps_its_order_and_its_fields(routes, rows, queries, expected, tmp_path):
    assert routes("--input", queries, "--output", tmp_path / "picks.jsonl", "--batch_size", 7)[0] == 0
    lines = (tmp_path / "picks.jsonl").read_text().splitlines()
    for line, row, llm, before in zip(lines, rows, expected(rows), queries.read_text().splitlines(), strict=True):
        found = json.loads(line)
        assert found.pop("llm") == llm and -1 <= found.pop("similarity") <= 1 and found == row
        assert line.startswith(before[:-1] + ", ")  # byte for byte
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picks.jsonl", "queries.jsonl"]
    status, _, err = routes("--input", queries, "--output", tmp_path / "picks.jsonl")
    assert status == 2 and "is there, and no unfinished run wrote it; choose another file, or --overwrite" in err
    assert routes("--input", queries, "--output", tmp_path / "picks.jsonl", "--overwrite")[0] == 0
    assert (tmp_path / "picks.jsonl").read_text().splitlines() == lines


def test_plain_text_other_fields_and_names(routes, rows, expected, tmp_path, monkeypatch):
    text = "\r\n".join(row["question"] for row in rows[:2])  # the last line has no end
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    status, lines, _ = routes("--text")
    assert status == 0 and [json.loads(line)["llm"] for line in lines] == expected(rows[:2])
    assert [json.loads(line)["question"] for line in lines] == [row["question"] for row in rows[:2]]
    (tmp_path / "q.jsonl").write_text('{"prompt": "one?", "llm": "mine"}\n')
    status, _, err = routes("--input", tmp_path / "q.jsonl", "--field", "prompt")
    assert status == 2 and "line 1: it has llm already; --prefix gives what is added other names" in err
    status, lines, _ = routes("--input", tmp_path / "q.jsonl", "--field", "prompt", "--prefix", "router_")
    assert status == 0 and list(json.loads(lines[0])) == ["prompt", "llm", "router_llm", "router_similarity"]


BROKEN = (
    ("{", "not valid JSON"),
    ("", "not valid JSON"),
    ("[1]", "expected a JSON object, found '[1]'"),
    ('{"question": 3}', "no text in 'question', it has 'question'; --field names the question's"),
    ('{"question": " "}', "the question is empty"),
    ('{"question": "\\udcff"}', "the question is not valid UTF-8"),
    (b'{"question": "\xff"}', "not UTF-8"),
    ("[" * 100_000, "not valid JSON"),
)


@pytest.mark.parametrize("line, message", BROKEN, ids=[message[:12] for _, message in BROKEN])
def test_a_broken_line_is_named_and_nothing_before_it_lost(routes, queries, rows, expected, tmp_path, line, message):
    lines = queries.read_bytes().splitlines(keepends=True)
    lines[20:20] = [(line if isinstance(line, bytes) else line.encode()) + b"\n"]
    queries.write_bytes(b"".join(lines))
    output = tmp_path / "picks.jsonl"
    status, _, err = routes("--input", queries, "--output", output)
    assert status == 2 and f"error: {queries}, line 21: {message}" in err
    found = [json.loads(line)["llm"] for line in output.read_text().splitlines()]
    assert found == expected(rows[:20])
    status, _, err = routes("--input", queries, "--output", output, "--on_error", "skip")  # goes on behind them
    assert status == 0 and f"left out: {queries}, line 21: {message}" in err and "left out: 1 of 31 lines" in err
    assert [json.loads(line)["llm"] for line in output.read_text().splitlines()] == expected(rows)


def test_a_broken_line_in_a_hundred_thousand(trained, tmp_path):
    """Named by its number; what is before it is written; left out and counted with --on_error skip."""
    source, output = tmp_path / "q.jsonl", tmp_path / "picks.jsonl"
    lines = [f'{{"question": "{number} and {number % 7}?"}}\n' for number in range(100_000)]
    lines[50_000] = '{"question": "cut off\n'
    source.write_text("".join(lines))
    run = process(trained, "--input", source, "--output", output)
    _, err = run.communicate()
    assert run.returncode == 2 and f"error: {source}, line 50001: not valid JSON" in err.decode()
    written = output.read_text().splitlines()
    assert len(written) == 50_000 and all(map(str.startswith, written, (line[:-2] for line in lines)))
    run = process(trained, "--input", source, "--output", output, "--on_error", "skip")
    _, err = run.communicate()
    assert run.returncode == 0 and "left out: 1 of 100000 lines" in err.decode()
    written = output.read_text().splitlines()
    del lines[50_000]
    assert len(written) == 99_999 and all(map(str.startswith, written, (line[:-2] for line in lines)))


def test_a_killed_run_goes_on_and_nothing_is_lost_or_doubled(trained, tmp_path):
    """SIGKILL at three places of a longer file, one of them in the middle of a line."""
    rows = [{"question": row["question"]} for row in make_rows(3000, "probability", 35)]
    source, output = tmp_path / "q.jsonl", tmp_path / "picks.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("--input", source, "--output", output, "--batch_size", "16")
    for lines in (50, 600, 1300):
        run = process(trained, *flags)
        while not output.is_file() or output.read_bytes().count(b"\n") < lines:
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.002)
        run.kill()
        run.communicate()
        assert output.read_bytes().count(b"\n") < len(rows) and len(list(tmp_path.iterdir())) == 3
    with output.open("ab") as file:
        file.write(b'{"question": "ha')
    out, err = process(trained, *flags).communicate()
    assert output.read_text().count("\n") == len(rows) and not err.count(b"error"), err
    found = list(map(json.loads, output.read_text().splitlines()))
    assert [line["question"] for line in found] == [row["question"] for row in rows]
    whole, _ = process(trained, "--input", source).communicate()
    assert [line["llm"] for line in found] == [json.loads(line)["llm"] for line in whole.splitlines()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picks.jsonl", "q.jsonl"]


def test_going_on_needs_the_same_input_and_options(routes, queries, tmp_path):
    output = tmp_path / "picks.jsonl"
    text = queries.read_text()
    queries.write_text(text + "{\n")
    assert routes("--input", queries, "--output", output)[0] == 2
    before = output.read_bytes()
    assert before.count(b"\n") == 30
    status, _, err = routes("--input", queries, "--output", output, "--llms", LLMS[0], LLMS[2])
    assert status == 2 and "begun otherwise (llms: None there, ['org/alpha-7b', 'lab/gamma-8b'] now)" in err
    queries.write_text(text.replace('"id": 3,', '"id": 33,'))
    status, _, err = routes("--input", queries, "--output", output)
    assert status == 2 and "its line 4 is not of line 4 of the input" in err
    queries.write_text(text[: text.index("\n") + 1])
    status, _, err = routes("--input", queries, "--output", output)
    assert status == 2 and "has more lines than the input" in err
    assert output.read_bytes() == before
    queries.write_text(text)
    assert routes("--input", queries, "--output", output)[0] == 0 and output.read_bytes() == before


def test_answers_come_before_the_input_ends(trained):
    with process(trained, "--text") as run:
        for _ in range(2):
            run.stdin.write(b"one?\n")
            run.stdin.flush()
            assert b"one?" in run.stdout.readline()
        run.stdin.close()
        assert run.wait() == 0


def test_a_reader_that_goes_away_ends_it_quietly(trained, tmp_path):
    (tmp_path / "q.txt").write_text("which sum?\n" * 20_000)
    with process(trained, "--text", "--input", tmp_path / "q.txt") as run:
        assert run.stdout.readline()
        run.stdout.close()
        err = run.stderr.read()
        assert run.wait() == 141 and b"rror" not in err and b"Traceback" not in err


def test_the_other_command_answers_at_once_and_ends_quietly_too(trained):
    """evaluation_router.py --query -, whose answers have two lines, and whose reader goes."""
    command = [sys.executable, "evaluation_router.py", "--ckpt", str(trained.folder), *FLAGS, "--query", "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=REPO, stdin=pipe, stdout=pipe, stderr=pipe) as run:
        for _ in range(2):
            run.stdin.write(b"one?\n")
            run.stdin.flush()
            assert b"one?" in run.stdout.readline() and b"similarity" in run.stdout.readline()
        run.stdout.close()
        run.stdin.write(b"two?\n")
        run.stdin.close()
        err = run.stderr.read()
        assert run.wait() == 141 and b"rror" not in err and b"Traceback" not in err


def test_a_full_disk_is_an_error_and_what_is_written_is_whole(routes, queries, rows, expected, tmp_path):
    output = tmp_path / "picks.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        status, _, err = routes("--input", queries, "--output", output, "--batch_size", 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2 and "File too large" in err and str(output) in err
    text = output.read_text()
    assert text.endswith("\n") and 0 < text.count("\n") < 30
    assert routes("--input", queries, "--output", output)[0] == 0
    assert [json.loads(line)["llm"] for line in output.read_text().splitlines()] == expected(rows)


def test_a_full_disk_behind_standard_output(trained, queries):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no file that is always full")
    for flags in (("--input", queries), ("one?",)):
        with open("/dev/full", "wb") as full:
            _, err = (run := process(trained, *flags, stdout=full)).communicate()
        lines = err.decode().splitlines()
        assert run.returncode == 2 and [line for line in lines if "No space left" in line][-1].startswith("error: ")
        assert "Exception ignored" not in err.decode() and "Traceback" not in err.decode()


def test_ctrl_c_keeps_what_is_done(trained, tmp_path):
    source, output = tmp_path / "q.txt", tmp_path / "picks.jsonl"
    source.write_text("which sum?\n" * 50_000)
    run = process(trained, "--input", source, "--text", "--output", output, "--batch_size", "16")
    while not output.is_file() or output.read_bytes().count(b"\n") < 32:
        time.sleep(0.01)
    _, err = process(trained, "--input", source, "--text", "--output", output).communicate()
    assert f"--output {output}: another process is writing it" in err.decode() and run.poll() is None
    run.send_signal(signal.SIGINT)
    _, err = run.communicate()
    assert run.returncode == 130 and f"interrupted; {output} keeps what is done".encode() in err
    assert output.read_bytes().endswith(b"}\n")


def test_costs_thresholds_and_llms_are_those_of_the_router(trained, queries, rows, tmp_path, capfd):
    folder = shutil.copytree(trained.folder / "checkpoint", tmp_path / "informed")
    known = {"calibration": CALIBRATION, "costs": COSTS, "best_llm": LLMS[1]}
    write_config(folder, {**read_config(folder), **known})
    router = Router.from_pretrained(folder, device="cpu", precision="fp32")
    questions = [row["question"] for row in rows]
    right = router.probabilities(questions)
    for flags, chosen in (
        (("--cost_rate", "0.4"), router.route(questions, cost_rate=0.4)),
        (("--threshold", "0.8"), router.route(questions, threshold=0.8)),
        (("--llms", LLMS[2], LLMS[0]), router.route(questions, [LLMS[2], LLMS[0]])),
    ):
        assert route.main(["--ckpt", str(folder), *FLAGS, "--input", str(queries), *flags]) == 0
        found = list(map(json.loads, capfd.readouterr().out.splitlines()))
        assert [line["llm"] for line in found] == chosen
        if "--llms" not in flags:
            expected = [row[LLMS.index(llm)] for row, llm in zip(right, chosen)]
            np.testing.assert_allclose([line["probability"] for line in found], expected, atol=1e-5)


def test_explanations_are_the_nearest_training_queries(routes, trained, fake, queries, rows, tmp_path):
    """By a plain loop over the training files; the second time from the cache."""
    router = Router.from_pretrained(trained.folder, device="cpu", precision="fp32")
    training = [row for path in fake.train.values() for row in json.loads(path.read_text())]
    unit = [vector / np.linalg.norm(vector) for vector in router.embed([row["question"] for row in training])]
    flags = ("--input", queries, "--explain", "--neighbours", 2, "--cache_dir", tmp_path / "cache")
    for _ in range(2):
        status, lines, _ = routes(*flags)
        assert status == 0 and len(list((tmp_path / "cache").iterdir())) == 1
        for line, row in zip(map(json.loads, lines), rows, strict=True):
            vector = router.embed([row["question"]])[0]
            cosines = [float(vector @ other / np.linalg.norm(vector)) for other in unit]
            found = [near["cosine"] for near in line["nearest"]]
            np.testing.assert_allclose(found, sorted(cosines)[:-3:-1], atol=1e-5)
            for near in line["nearest"]:
                twins = [other for other in training if other["question"] == near["question"]]
                assert near["scores"].keys() == set(LLMS)
                assert all(near["scores"][llm] == pytest.approx(twins[0]["scores"][llm], abs=1e-5) for llm in LLMS)
            assert line["similarities"][line["llm"]] == max(line["similarities"].values()) == line["similarity"]
    status, lines, _ = routes("--explain", "--cache_dir", tmp_path / "cache", rows[0]["question"])
    assert status == 0 and sum("nearest training query" in line for line in lines) == 3


def test_explaining_needs_the_training_files_as_they_were(trained, tmp_path, capfd):
    folder = shutil.copytree(trained.folder / "checkpoint", tmp_path / "moved")
    config = read_config(folder)
    old, *others = config["settings"]["data_paths"]
    for text, message in ((None, "training files are not there: "), ("\n", " has changed since the training run")):
        path = tmp_path / Path(old).name
        if text:
            path.write_text(Path(old).read_text() + text)
        digests = config["settings"]["data"] | {str(path): config["settings"]["data"][old]}
        settings = config["settings"] | {"data_paths": [str(path), *others], "data": digests}
        write_config(folder, config | {"settings": settings})
        assert route.main(["--ckpt", str(folder), *FLAGS, "--explain", "one?"]) == 2
        err = capfd.readouterr().err
        assert f"error: --explain: {'' if text else message}{path}" in err and message in err


def test_mistakes_on_the_command_line(routes, queries, tmp_path, monkeypatch):
    (tmp_path / "empty").write_text("")
    for flags, message in (
        (("--input", tmp_path / "empty"), f"{tmp_path / 'empty'}: empty; give a JSON object a line"),
        (("--input", tmp_path / "empty", "--output", tmp_path / "out"), "empty; give a JSON object a line"),
        (("--input", tmp_path / "none"), f"--input {tmp_path / 'none'}: no such file"),
        (("--input", queries, "--output", queries), "is --input, too; choose another file"),
        (("--input", queries, "--llms", "lab/psi"), "the router was not trained with lab/psi; it knows"),
        (("--input", queries, "one?"), "exclude each other; give one"),
        (("one?", " "), "questions: number 1 is empty"),
        (("--ckpt", tmp_path, "one?"), f"--ckpt {tmp_path}: no checkpoint there"),
    ):
        status, lines, err = routes(*flags)
        assert status == 2 and not lines and message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "queries.jsonl"]


def test_help_comes_at_once():
    """The fastest of three; the goal on a free machine is 0.3 s, and importing torch alone takes 1.5 s."""
    seconds = []
    for _ in range(3):
        begin = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.run([sys.executable, "-m", "utils.route", "--help"], cwd=REPO, capture_output=True, text=True)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(end.ru_utime - begin.ru_utime + end.ru_stime - begin.ru_stime)
        assert run.returncode == 0 and "--on_error" in run.stdout
    assert min(seconds) < 0.3


class Slow(io.RawIOBase):
    """A stream that gives a few bytes at a time."""

    def __init__(self, content: bytes, size: int):
        self.content, self.size = content, size

    def read1(self, _: int) -> bytes:
        piece, self.content = self.content[: self.size], self.content[self.size :]
        return piece


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_lines_are_those_of_a_split(size):
    for content in (b"a\nbc\n\nd", b"a\r\nb\n", b"\n\n", b"abcdefgh", b""):
        expected = [line.removesuffix(b"\r") for line in content.split(b"\n")]
        expected = expected[:-1] if content.endswith(b"\n") or not content else expected
        found = list(arriving(Slow(content, size), 2))
        assert [line for lines in found for line in lines] == expected and all(0 < len(lines) <= 2 for lines in found)
