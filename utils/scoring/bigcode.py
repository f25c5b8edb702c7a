"""The second route for code: from what bigcode-evaluation-harness saved to verdicts on programs and scores of problems.

    python -m utils.scoring.bigcode --generations generations_humaneval.json --references references_humaneval.json \\
        --language python --task humaneval --llm org/name --output verdicts.json --run_code

That harness (`--save_generations --save_references`; eval_scripts/bigcode.sh drives it) saves generations as
list[problem][sample], whole programs, and references as list[problem], the tests of each, both in the order of the data
set: problem 0 is HumanEval/0, and so on. So everything here is joined by the problem's number, and never by the order
in which programs happened to end. A program passes as `utils.scoring.sandbox` says, run as generation, newline,
reference.

The output is one JSON object,

    {"task": "humaneval", "llm": "org/name", "language": "python",
     "passed": [[true, false, ...], ...], "scores": [0.5, ...],
     "limits": {"seconds": 10.0, "megabytes": 4096}, "generations_sha256": "...", "references_sha256": "..."}

passed[i][j] is the verdict on sample j of problem i, scores[i] the share of problem i's samples that pass. Verdicts are
kept beside it in `<output stem>.verdicts.jsonl` while they come, so that a stopped run goes on where it was.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import writable_folder, write_json
from .harness import LogError, parsed
from .rules import Judging, key_of, verdicts
from .sandbox import LANGUAGES, Program


def _read(path: Path, what: str) -> tuple[Any, str]:
    """A JSON file and its SHA-256. Raises: LogError if it is missing or no JSON list."""
    if not path.is_file():
        raise LogError(
            f"{path}: no such file; bigcode-evaluation-harness writes it with --save_{what}, and adds the task's "
            "name to the file's"
        )
    raw = path.read_bytes()
    value = parsed(raw, f"{path}: not valid JSON", "is it truncated? Generate it again")
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else type(value).__name__
        raise LogError(f"{path}: expected a list with an entry for each problem, found {found}")
    return value, hashlib.sha256(raw).hexdigest()


def read_generations(generations: Path, references: Path, language: str) -> tuple[list[list[Program]], dict[str, str]]:
    """The programs with their tests, list[problem][sample], and the SHA-256 of both files.

    Raises: LogError if a file is broken, if the files have different numbers of problems, or a problem another number
    of samples than the first.
    """
    texts, generations_sha256 = _read(generations, "generations")
    tests, references_sha256 = _read(references, "references")
    if len(texts) != len(tests):
        raise LogError(
            f"{generations} has {len(texts)} problems and {references} {len(tests)}: "
            "they are not of the same run; generate both in one run"
        )
    for number, (samples, test) in enumerate(zip(texts, tests)):
        if not isinstance(samples, list) or not samples or not all(isinstance(sample, str) for sample in samples):
            raise LogError(f"{generations}, problem {number}: expected a list of programs, found {str(samples)[:60]!r}")
        if len(samples) != len(texts[0]):
            raise LogError(
                f"{generations}, problem {number}: {len(samples)} samples, but problem 0 has {len(texts[0])}; "
                "was it stopped? Generate it again"
            )
        if not isinstance(test, str) or not test.strip():
            raise LogError(f"{references}, problem {number}: expected the tests as text, found {str(test)[:60]!r}")
    programs = []
    for samples, test in zip(texts, tests):
        programs.append([Program(language, f"{sample}\n{test}\n") for sample in samples])
    return programs, {"generations_sha256": generations_sha256, "references_sha256": references_sha256}


def judge_generations(programs: Sequence[Sequence[Program]], store: Path, how: Judging, title: str) -> list[list[bool]]:
    """Whether each program passes, list[problem][sample]; verdicts are kept in the file `store`.

    Raises: LogError if programs must be run and how.run is False, SandboxError if they cannot be run here.
    """
    passed = verdicts([program for samples in programs for program in samples], store, how, title)
    return [[passed[key_of(program)] for program in samples] for samples in programs]


def shares(passed: Sequence[Sequence[bool]]) -> list[float]:
    """The share of each problem's samples that pass, in [0, 1].

    It is the paper's score of an LLM on a query (section 3.1).
    """
    return [sum(samples) / len(samples) for samples in passed]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m utils.scoring.bigcode",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--generations", type=Path, required=True, help="saved generations, list[problem][sample]")
    p.add_argument("--references", type=Path, required=True, help="saved references, list[problem]")
    p.add_argument("--language", choices=LANGUAGES, required=True)
    p.add_argument("--task", required=True, help="name of the task, for the output")
    p.add_argument("--llm", required=True, help="name of the LLM (org/name), for the output")
    p.add_argument("--output", type=Path, required=True, help="JSON file to write")
    p.add_argument(
        "--run_code", action="store_true", help="allow running the programs that LLMs wrote; best in a container"
    )
    p.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="programs at a time")
    p.add_argument("--time_limit", type=float, default=10.0, help="seconds for each program")
    p.add_argument("--memory_limit", type=int, default=4096, help="MB for each program")
    return p


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    args = parser().parse_args(argv)
    how = Judging(args.run_code, args.workers, args.time_limit, args.memory_limit)
    try:
        programs, hashes = read_generations(args.generations, args.references, args.language)
        writable_folder(args.output.parent, "--output")
        passed = judge_generations(
            programs, args.output.with_suffix(".verdicts.jsonl"), how, f"{args.task} of {args.llm}"
        )
        scores = shares(passed)
        about = {"task": args.task, "llm": args.llm, "language": args.language}
        limits = {"seconds": args.time_limit, "megabytes": args.memory_limit}
        write_json(args.output, about | {"passed": passed, "scores": scores, "limits": limits} | hashes)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: the verdicts so far are kept, and the same command goes on", file=sys.stderr)
        return 130
    share = 100 * sum(scores) / len(scores)
    print(
        f"{args.task} of {args.llm}: {len(scores)} problems with {len(passed[0])} samples each, "
        f"{share:.2f} % pass; written to {args.output}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
