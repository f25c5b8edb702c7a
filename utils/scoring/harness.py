"""Read the sample logs of lm-evaluation-harness, today's and those of 2024.

Today's (0.4.13) are JSON lines with answers as strings. Those of 2024 are one JSON list a file, with numbers.

An LLM's logs lie at or below one folder, `<logs>/<org>__<name>/`. Today a run writes `samples_<leaf>_<time>.jsonl` for
each leaf task and `results_<time>.json` beside them. In 2024 it wrote `<model arguments>_<leaf>.jsonl` and
`results.json`. A line is one document: `resps` holds one list of answers per request (an option of a multiple choice,
else one request), so `resps[0]` has the M samples of a generated answer. Tested with logs that the harness wrote, see
tests/test_convert.py.
"""

import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

TODAY = re.compile(r"samples_(?P<leaf>.+)_(?P<time>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(\.\d+)?)\.jsonl")
# What values of other types than expected may raise where they are used.
FIELD_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
AGAIN = "delete the folder of this task and score it again (eval_scripts/score.sh skips what is done)"


class LogError(ValueError):
    """A log is missing, broken or does not fit the others.

    The message names the LLM, the leaf task or the file, and what to do.
    """


def parsed(raw: bytes | str, problem: str, remedy: str) -> Any:
    """JSON. Raises: LogError, `problem` (cause); `remedy`, for whatever the JSON reader finds wrong."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise LogError(f"{problem} ({error}); {remedy}") from None


@dataclass
class Log:
    """The log of one LLM on one leaf task.

    results: the results file of its run, None where a run of 2024 left none.
    """

    llm: str
    leaf: str
    path: Path
    time: str = ""
    results: Path | None = None
    sha256: str = field(default="", compare=False)  # of the file, once it has been read

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Sample:
    """One document and what the LLM answered.

    where: file and line, for errors.
    arguments: of each request, (context, continuation) or (context, generation settings).
    responses: of each request, its M answers: a string, or [log-likelihood, is greedy].
    line: the whole line, which also has a key for each metric.
    """

    where: str
    doc_id: int
    doc_hash: str
    doc: dict[str, Any]
    target: Any
    arguments: list[list[Any]]
    responses: list[list[Any]]
    line: dict[str, Any]


def find_llms(folder: Path) -> dict[str, Path]:
    """The LLMs that have logs, {"org/name": its folder}: the folders just below `folder`, `__` standing for `/`.

    Folders without logs are left out, which is noted on stderr.
    Raises: LogError if there is none.
    """
    if not folder.is_dir():
        raise LogError(
            f"{folder}: no such folder. `bash eval_scripts/score.sh` writes the logs; name their folder with --logs"
        )
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    llms = {path.name.replace("__", "/"): path for path in folders if next(_logs_below(path), None)}
    if not llms:
        raise LogError(
            f"{folder}: no folder in it holds logs. Expected {folder}/<org>__<name>/**/samples_<task>_<time>.jsonl; "
            "was --log_samples given?"
        )
    for path in folders:
        if path not in llms.values():
            print(f"note: {path} holds no logs, so that it is left out", file=sys.stderr)
    return llms


def _logs_below(folder: Path) -> Iterator[Path]:
    """Files that may be sample logs.

    Left out are results files, our files of verdicts, and what lies in hidden folders (runs that were stopped).
    """
    for path in sorted(folder.rglob("*.json*")):
        is_json = path.suffix in (".json", ".jsonl")
        is_other = path.name.startswith("results") or path.name.endswith(".verdicts.jsonl")
        is_hidden = any(name.startswith(".") for name in path.relative_to(folder).parts)
        if is_json and not is_other and not is_hidden and path.is_file():
            yield path


def find_logs(llm: str, folder: Path, leaves: Collection[str]) -> dict[str, Log]:
    """The newest log of each leaf task below an LLM's folder, {leaf: log}.

    Args:
        leaves: names, or patterns such as "mmlu_*" (for today's logs only, which carry the leaf's name). Leaves
            without a log are left out.
    Raises: LogError for two logs of 2024 of one leaf: their names have no time.
    """
    found: dict[str, Log] = {}
    longest = sorted(leaves, key=len, reverse=True)  # "my_gsm8k" before "gsm8k": a name of 2024 ends in the leaf
    for path in _logs_below(folder):
        if match := TODAY.fullmatch(path.name):
            if not any(fnmatchcase(match["leaf"], leaf) for leaf in leaves):
                continue
            log = Log(llm, match["leaf"], path, match["time"], path.with_name(f"results_{match['time']}.json"))
        else:
            leaf = next((leaf for leaf in longest if path.stem == leaf or path.stem.endswith(f"_{leaf}")), None)
            if leaf is None:
                continue
            results = path.with_name("results.json")
            log = Log(llm, leaf, path, "", results if results.is_file() else None)
        other = found.get(log.leaf)
        if other and other.time == log.time:
            raise LogError(
                f"{llm}: {other} and {log} are both logs of {log.leaf}, and nothing tells which is newer; "
                "keep one of them"
            )
        if not other or other.time < log.time:
            found[log.leaf] = log
    return found


def find_verdicts(llm: str, folder: Path, leaves: Collection[str]) -> dict[str, Log]:
    """The verdicts that eval_scripts/bigcode.sh left below an LLM's folder: {task of that harness: file}."""
    return {leaf: Log(llm, leaf, path) for leaf in leaves if (path := folder / leaf / "verdicts.json").is_file()}


def doc_hash(doc: dict[str, Any]) -> str:
    """What the harness calls doc_hash, for logs that lack it: SHA-256 of the document as indented JSON."""
    return hashlib.sha256(json.dumps(doc, indent=2, ensure_ascii=False).encode("utf-8")).hexdigest()


def run_of(log: Log, allow_limit: bool) -> tuple[dict[str, Any], int | None]:
    """The results of the log's run, and how many documents it says that the leaf has (None if it does not say).

    Raises: LogError if the results file is missing or broken, or if the run had a limit and `allow_limit` is False.
    """
    if log.results is None:
        return {}, None
    try:
        raw = log.results.read_bytes()
    except FileNotFoundError:
        raise LogError(
            f"{log}: its results file {log.results.name} is missing, and only it can tell whether the log is whole; "
            f"copy both, or {AGAIN}"
        ) from None
    results = parsed(raw, f"{log.results}: not valid JSON", AGAIN)
    if not _are_results(results, log.leaf):
        raise LogError(f"{log.results}: not a results file of the harness; {AGAIN}")
    count = results.get("n-samples", {}).get(log.leaf, {})
    original, effective = count.get("original"), count.get("effective")
    limit = results.get("config", {}).get("limit")
    if not allow_limit and (limit is not None or original != effective):
        cause = f"--limit {limit}" if limit is not None else "--samples"
        taken = effective if effective is not None else "only some"
        raise LogError(
            f"{log}: a run of {log.llm} with {cause}: {taken} of {original or 'all'} documents. "
            "Run it without, or take it for a trial with --allow_limit"
        )
    return results, effective


def _are_results(results: Any, leaf: str) -> bool:
    """Whether a results file has the fields that are read of it in the form that the harness gives them."""
    if not isinstance(results, dict):
        return False
    sections = [results.get(name, {}) for name in ("n-samples", "n-shot", "config")]
    if not all(isinstance(section, dict) for section in sections):
        return False
    samples_of, shots = sections[0].get(leaf, {}), sections[1].get(leaf)
    if not isinstance(samples_of, dict):
        return False
    counts = [shots, samples_of.get("original"), samples_of.get("effective")]
    versions = [results.get(name) or "" for name in ("lm_eval_version", "git_hash")]
    are_texts = all(isinstance(version, str) and version.isascii() for version in versions)
    return are_texts and all(count is None or type(count) is int for count in counts)


def _lines(log: Log) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a log, each with its name for errors. Sets log.sha256 at the end.

    Raises: LogError for a log that was cut off.
    """
    digest, seen, name = hashlib.sha256(), 0, str(log)
    remedy = f"a truncated copy or a stopped run; copy it again, or {AGAIN}"
    with log.path.open("rb") as file:
        if file.read(1) == b"[":  # 2024
            raw = b"[" + file.read()
            digest.update(raw)
            lines = parsed(raw, f"{log}: the list is cut off or broken", remedy)
            for seen, line in enumerate(lines, 1):
                yield f"{name}, entry {seen}", line
        else:
            file.seek(0)
            for seen, raw in enumerate(file, 1):
                digest.update(raw)
                where = f"{name}, line {seen}"
                line = parsed(raw, f"{where}: cut off or broken", remedy)
                if not raw.endswith(b"\n"):
                    raise LogError(f"{where}: cut off or broken (no line end); {remedy}")
                yield where, line
    if not seen:
        raise LogError(f"{log}: empty; {AGAIN}")
    log.sha256 = digest.hexdigest()


def _sample(where: str, line: Any) -> Sample:
    """One line in the form of both years. Raises: LogError if it is not a line of a log."""
    try:
        doc, responses, arguments = line["doc"], line["resps"], _arguments(line["arguments"])
        doc_id, digest = line["doc_id"], line.get("doc_hash") or doc_hash(doc)
        fits = (isinstance(doc, dict), _are_lists(responses), _are_lists(arguments))
        fits += (type(doc_id) is int, isinstance(digest, str), isinstance(line.get("filter"), (str, type(None))))
        if not all(fits):
            names = ("doc", "resps", "arguments", "doc_id", "doc_hash", "filter")
            raise TypeError(", ".join(name for name, is_right in zip(names, fits) if not is_right))
        return Sample(where, doc_id, digest, doc, line["target"], arguments, responses, line)
    except FIELD_ERRORS as error:
        raise LogError(
            f"{where}: not a sample of lm-evaluation-harness ({type(error).__name__}: {error}); "
            "was it written with --log_samples?"
        ) from None


def _are_lists(value: Any) -> bool:
    """Whether this is a list with a list, of one entry at least, for each request."""
    if not isinstance(value, list) or not value:
        return False
    for of_request in value:
        if not isinstance(of_request, list) or not of_request:
            return False
    return True


def _arguments(arguments: Any) -> Any:
    """The arguments of each request as a list; today they are {"gen_args_0": {"arg_0": ..., "arg_1": ...}}."""
    if not isinstance(arguments, dict):
        return arguments
    requests = [arguments[f"gen_args_{n}"] for n in range(len(arguments))]
    return [[request[f"arg_{n}"] for n in range(len(request))] for request in requests]


def samples(log: Log, filter: str | None = None, allow_limit: bool = False) -> Iterator[Sample]:
    """The samples of a log, one for each document, in the file's order.

    Args:
        filter: the harness's filter to take. A log has each document once per filter (GSM8K: strict-match,
            flexible-extract). Needed where there are several; logs of 2024 do not name the filter, and their repeats,
            which hold the same answers, are dropped.
        allow_limit: take a run with --limit.
    Raises: LogError for a truncated log, a run with --limit, a missing filter, a document that occurs twice with
    different answers.
    """
    _, expected = run_of(log, allow_limit)
    filters: dict[str | None, None] = {}
    seen: dict[int, tuple[str, list[list[Any]] | None]] = {}
    for where, line in _lines(log):
        sample = _sample(where, line)
        name = sample.line.get("filter")
        filters[name] = None
        if len(filters) > 1 and (filter is None or None in filters):
            names = ", ".join(map(str, filters))
            raise LogError(
                f"{log}: each document is there once per filter ({names}); "
                'choose one with "filter" in the conversion table'
            )
        if name is not None and filter is not None and name != filter:
            continue
        if sample.doc_id in seen:
            where_before, responses_before = seen[sample.doc_id]
            if name is not None or responses_before != sample.responses:
                line_before = where_before.rsplit(", ", 1)[1]
                raise LogError(
                    f"{where}: doc_id {sample.doc_id} was there before, {line_before}: two runs in one file? {AGAIN}"
                )
            continue
        seen[sample.doc_id] = (where, sample.responses if name is None else None)
        yield sample
    if not seen:
        raise LogError(f"{log}: no line has the filter {filter!r}; it has {', '.join(map(str, filters))}")
    if expected is not None and len(seen) != expected:
        raise LogError(
            f"{log}: {len(seen)} documents, and {log.results.name} says {expected}: a truncated copy; "
            f"copy it again, or {AGAIN}"
        )


def sampling(sample: Sample) -> dict[str, Any]:
    """The generation settings of a sample (temperature, do_sample, until, ...); empty for a multiple choice."""
    last = sample.arguments[0][-1] if sample.arguments and sample.arguments[0] else None
    return last if isinstance(last, dict) else {}
