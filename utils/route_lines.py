"""Lines routed one after another in flat memory: read, checked, routed, written, and gone on with after a stop."""

import contextlib
import fcntl
import json
import os
import stat
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .choice import check_queries, columns_of
from .files import naming, read_json, writable_folder, write_json
from .lines import arriving
from .meters import bar
from .router import Router, locate

MOST_NAMED = 5  # broken lines that are named one by one; all are counted


@dataclass(frozen=True)
class Record:
    """A line: its number, from 1 on, its JSON object without the closing brace, and its question."""

    number: int
    opened: bytes
    question: str


def load(args: Namespace) -> Router:
    """The router of the arguments. Raises: ValueError also for unknown --llms, before any line is read."""
    options = {name: getattr(args, name) for name in ("backend", "device", "precision", "threads", "file")}
    router = Router.from_pretrained(locate(args.ckpt, "--ckpt"), **options)
    if args.llms:
        columns_of(args.llms, router.llms)
    router.check_stored(args.cost_rate, args.threshold)
    return router


class Answers:
    """What is added to each query: the LLM and why. Made once, used for every batch."""

    def __init__(self, router: Router, args: Namespace):
        self.router, self.args = router, args
        self.llms = args.llms or router.llms
        self.training = None
        if args.explain:
            from .explain import TrainingQueries  # it reads data files

            self.training = TrainingQueries(router, args.cache_dir)

    def names(self) -> list[str]:
        """The fields that are added."""
        names = ["llm", "similarity"]
        if self.args.cost_rate or self.args.threshold is not None:
            names.append("probability")
        if self.training:
            names += ["similarities", "nearest"]
        return [self.args.prefix + name for name in names]

    def of(self, questions: Sequence[str], title: str) -> list[dict[str, Any]]:
        """The values of `names` for each question. title: of the questions, for errors."""
        args, router = self.args, self.router
        similarities = router.similarities(questions, self.llms, title)  # (N, T)
        chosen = router.choose(similarities, self.llms, args.cost_rate, args.threshold)
        columns = columns_of(chosen, self.llms)
        values: list[list[Any]] = [chosen]
        values.append([round(float(row[column]), 6) for row, column in zip(similarities, columns)])
        if args.cost_rate or args.threshold is not None:
            right = router.calibrated(similarities, self.llms)
            values.append([round(float(row[column]), 6) for row, column in zip(right, columns)])
        if self.training:
            values.append([dict(zip(self.llms, row)) for row in similarities.astype(float).round(6).tolist()])
            values.append(self.training.nearest(questions, args.neighbours))
        return [dict(zip(self.names(), row)) for row in zip(*values)]


def answer(args: Namespace) -> None:
    """Print the LLM for each question of the command line; with --explain also why."""
    check_queries(args.questions, "questions")
    answers = Answers(load(args), args)
    for question, found in zip(args.questions, answers.of(args.questions, "questions")):
        print(f"{found[args.prefix + 'llm']}\t{question}")
        if args.explain:
            print(explanation(found, args.prefix))


def explanation(found: dict[str, Any], prefix: str = "") -> str:
    """All similarities, highest first, and the nearest training queries with what each LLM got on them, in words."""
    rows = sorted(found[f"{prefix}similarities"].items(), key=lambda item: -item[1])
    lines = ["    similarity:", *(f"        {value:7.3f}  {llm}" for llm, value in rows)]
    for near in found[f"{prefix}nearest"]:
        question = " ".join(near["question"].split())
        shown = question if len(question) <= 90 else f"{question[:87]}..."
        lines.append(f"    nearest training query ({near['task']}, cosine {near['cosine']:.3f}): {shown}")
        scores = sorted(near["scores"].items(), key=lambda item: -item[1])
        lines += [f"        {score:7.3f}  {llm}" for llm, score in scores]
    return "\n".join(lines)


class Reader:
    """The lines of --input as records, checked one by one.

    Args:
        added: the fields that a line must not have.
    """

    def __init__(self, args: Namespace, added: Sequence[str]):
        self.args, self.added = args, added
        self.title = "standard input" if args.input in (None, "-") else args.input
        self.lines = self.skipped = 0  # read so far, and left out of them

    def records(self, stream: BinaryIO) -> Iterator[list[Record]]:
        """Lists of records as they arrive.

        Raises: ValueError that names a broken line, after the records before it; with --on_error skip it is left out,
            counted, and the first ones are named on stderr. ValueError also if there is no line.
        """
        for lines in arriving(stream, self.args.batch_size):
            records = []
            for line in lines:
                self.lines += 1
                try:
                    records.append(self._record(line))
                except ValueError as error:
                    if self.args.on_error == "stop":
                        yield records
                        raise
                    self._skip(error)
            yield records
        if not self.lines:
            raise ValueError(f"{self.title}: empty; give {'a question' if self.args.text else 'a JSON object'} a line")

    def _skip(self, error: ValueError) -> None:
        self.skipped += 1
        if self.skipped <= MOST_NAMED:
            print(f"left out: {error}", file=sys.stderr)

    def _record(self, line: bytes) -> Record:
        """A line as a record. Raises: ValueError that names it."""
        title = f"{self.title}, line {self.lines}"
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{title}: not UTF-8 ({error})") from None
        if self.args.text:
            question, opened = text, json.dumps({self.args.field: text}, ensure_ascii=False)[:-1]
        else:
            question, opened = self._question(text, title), text.rstrip()[:-1].rstrip()
        if not question.strip():
            raise ValueError(f"{title}: the question is empty; give the text that an LLM would get")
        if question != question.encode(errors="ignore").decode():
            raise ValueError(f"{title}: the question is not valid UTF-8: {question[:80]!r}")
        return Record(self.lines, opened.encode(), question)

    def _question(self, text: str, title: str) -> str:
        """The question in a JSON object. Raises: ValueError that names the line and what is wrong."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{title}: not valid JSON ({error}); --text routes plain lines") from None
        if not isinstance(fields, dict):
            raise ValueError(f"{title}: expected a JSON object, found {text[:80]!r}; --text routes plain lines")
        if not isinstance(fields.get(self.args.field), str):
            found = ", ".join(map(repr, list(fields)[:8])) or "no field"
            raise ValueError(f"{title}: no text in {self.args.field!r}, it has {found}; --field names the question's")
        if clash := [name for name in self.added if name in fields]:
            raise ValueError(f"{title}: it has {', '.join(clash)} already; --prefix gives what is added other names")
        return fields[self.args.field]


class Output:
    """--output: lines that are whole or not there.

    While a file is written, `.NAME.routing.json` beside it says by which router and options, so that the same command
    can go on after a stop. It is removed at the end.

    Args:
        about: what must be equal where a command goes on.
    Raises: ValueError for a file that is there and was not begun so, or that another process writes.
    """

    def __init__(self, path: str, about: dict[str, Any], overwrite: bool):
        self.path, self.about = Path(path), about
        self.state: Path | None = None
        self.done: Iterator[bytes] = iter(())  # lines from before, which `goes_with` takes one by one
        self.count = 0  # of them that were taken
        self.end = 0  # of the last whole line
        if path == "-":
            self.path = Path("standard output")
            self.file: Any = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
            return
        writable_folder(self.path.absolute().parent, "--output")
        is_stream = self.path.exists() and not stat.S_ISREG(self.path.stat().st_mode)
        with naming(self.path):
            is_new = not self.path.exists()
            self.file = self.path.open("wb" if is_stream else "x+b" if is_new else "r+b", buffering=0)
        if not is_stream:
            self.state = self.path.with_name(f".{self.path.name}.routing.json")
            try:
                self._begin(overwrite)
            except BaseException:
                if is_new:
                    self.path.unlink(missing_ok=True)
                raise

    def _begin(self, overwrite: bool) -> None:
        """Hold the file, and find where to go on in it."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"--output {self.path}: another process is writing it; wait, or choose another") from None
        size = os.fstat(self.file.fileno()).st_size
        if size and not overwrite:
            self._check_begun()
            self.end = self._end_of_last_line()
        self.file.truncate(self.end)
        self.file.seek(self.end)
        write_json(self.state, self.about)
        if self.end:
            self.done = self._lines_to(self.end)

    def _check_begun(self) -> None:
        """Raise ValueError unless an unfinished run of the same router and options wrote what is in the file."""
        remedy = "choose another file, or --overwrite begins again"
        if not self.state.is_file():
            raise ValueError(f"--output {self.path}: is there, and no unfinished run wrote it; {remedy}")
        old = read_json(self.state, remedy, self.about.keys())
        new = json.loads(json.dumps(self.about))
        changed = [f"{name}: {old[name]!r} there, {new[name]!r} now" for name in new if old[name] != new[name]]
        if changed:
            raise ValueError(f"--output {self.path}: begun otherwise ({'; '.join(changed)}); {remedy}")

    def _end_of_last_line(self) -> int:
        """Where the last whole line of the file ends."""
        end = os.fstat(self.file.fileno()).st_size
        while end:
            start = max(0, end - 2**16)
            block = os.pread(self.file.fileno(), end - start, start)
            if (place := block.rfind(b"\n")) >= 0:
                return start + place + 1
            end = start
        return 0

    def _lines_to(self, end: int) -> Iterator[bytes]:
        """The lines of the file that end at `end` or before."""
        with self.path.open("rb") as file:
            while file.tell() < end:
                yield file.readline()

    def goes_with(self, record: Record) -> bool:
        """Whether a line from before is this record's; a record behind them all is still to be routed.

        Raises: ValueError if it is of another input.
        """
        line = next(self.done, None)
        if line is None:
            return False
        self.count += 1
        if not line.startswith(record.opened + b", "):
            raise ValueError(
                f"--output {self.path}: its line {self.count} is not of line {record.number} of the input, so it was "
                "begun with another one; choose another file, or --overwrite begins again"
            )
        return True

    def check_all_taken(self) -> None:
        """Raise ValueError if there are more lines from before than records."""
        if next(self.done, None) is not None:
            raise ValueError(f"--output {self.path}: has more lines than the input, so it is not of this input")

    def write(self, lines: Sequence[bytes]) -> None:
        """Add lines, whole. Raises: OSError that names the file; the lines before are kept."""
        left = memoryview(b"".join(lines))
        length = len(left)
        try:
            with naming(self.path):
                while left:
                    left = left[self.file.write(left) :]
                self.file.flush()
        except BaseException:
            if self.state:
                self.file.truncate(self.end)
            raise
        self.end += length

    def close(self, is_finished: bool) -> None:
        """End. Of an unfinished file without a line nothing is left."""
        if self.state is None:
            return
        if not is_finished and not self.end:
            self.path.unlink(missing_ok=True)
        if is_finished or not self.end:
            self.state.unlink(missing_ok=True)
        self.file.close()


def opened_input(args: Namespace) -> tuple[BinaryIO, int | None]:
    """The stream of --input, and how many lines it has where that can be known.

    Raises: ValueError if there is no such file, or it is --output.
    """
    if args.input in (None, "-"):
        return sys.stdin.buffer, None
    path = Path(args.input)
    if not path.exists() or path.is_dir():
        raise ValueError(f"--input {path}: no such file; give one with {'a text' if args.text else 'JSON'} a line")
    if args.output != "-" and Path(args.output).exists() and os.path.samefile(path, args.output):
        raise ValueError(f"--output {args.output}: is --input, too; choose another file")
    stream = path.open("rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream, None
    return stream, count_lines(path)


def count_lines(path: Path) -> int:
    """Lines of a file; the last may lack its end."""
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(2**20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def route_lines(args: Namespace) -> None:
    """Route the lines of --input to --output.

    Raises: ValueError for bad flags or a broken line; OSError for what cannot be read or written. What was routed
        before is written.
    """
    stream, total = opened_input(args)
    router = load(args)
    answers = Answers(router, args)
    reader = Reader(args, answers.names())
    options = ("llms", "cost_rate", "threshold", "explain", "neighbours", "field", "text", "prefix", "backend", "file")
    about = {"router": router.identity(), **{name: getattr(args, name) for name in options}}
    output = Output(args.output, about, args.overwrite)
    is_finished = False
    try:
        with bar(total, "route", "query") as progress, contextlib.closing(stream):
            for records in reader.records(stream):
                left = [record for record in records if not output.goes_with(record)]
                if left:
                    found = answers.of([record.question for record in left], f"{reader.title}, lines to {reader.lines}")
                    output.write([with_fields(record, fields) for record, fields in zip(left, found)])
                progress.update(reader.lines - progress.n)
            output.check_all_taken()
        is_finished = True
    finally:
        output.close(is_finished)
        if reader.skipped:
            print(f"left out: {reader.skipped} of {reader.lines} lines", file=sys.stderr)


def with_fields(record: Record, fields: dict[str, Any]) -> bytes:
    """A line as it was read, byte for byte, with fields added."""
    added = json.dumps(fields, ensure_ascii=False)[1:]
    return b"%b, %b\n" % (record.opened, added.encode())
