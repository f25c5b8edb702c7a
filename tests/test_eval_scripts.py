"""eval_scripts/score.sh and the task files beside it: the commands it prints, what it skips and redoes, and the harness
itself.
"""

import json
import os
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.conftest import HARNESS_GROUPS, REPO, SUM, score_script, tiny_documents
from utils.files import locked
from utils.tasks import LLMS

TASKS = REPO / "eval_scripts" / "tasks"
GROUPS = {  # group: harness task, worked examples given on the command line
    "gsm8k_train": ("gsm8k_train", None),
    "gsm8k_test": ("gsm8k_test", None),
    "mmlu": ("mmlu", "5"),
    "cmmlu": ("cmmlu", "5"),
    "ceval": ("ceval-valid", "5"),
    "arc_challenge": ("arc_challenge", "0"),
    "arc_easy": ("arc_easy", "0"),
    "hellaswag": ("hellaswag", "10"),
    "math_prealgebra": ("minerva_math_prealgebra", None),
    "humaneval": ("humaneval_generate", None),
    "mbpp": ("mbpp_generate", None),
    "humaneval_js": ("humaneval_js_generate", None),
}
SAMPLED = ("gsm8k_train", "gsm8k_test", "humaneval", "mbpp", "humaneval_js")


def commands(**settings) -> list[dict]:
    """The commands of a dry run: {"words": all, flag: value, "model_args": {name: value}}."""
    run = score_script(DRY_RUN=1, **settings)
    assert run.returncode == 0, run.stderr
    found = []
    for line in run.stdout.splitlines():
        words = shlex.split(line)
        flags = {
            word[2:]: words[place + 1] if place + 1 < len(words) else None
            for place, word in enumerate(words)
            if word.startswith("--")
        }
        flags["model_args"] = dict(pair.split("=", 1) for pair in flags["model_args"].split(","))
        found.append({"words": words} | flags)
    return found


@pytest.mark.parametrize("backend", ["vllm", "hf", "local-completions"])
def test_the_commands_of_every_group_and_backend(backend, tmp_path):
    found = commands(BACKEND=backend, OUT=tmp_path / "out")
    assert len(found) == len(LLMS) * len(GROUPS) and not (tmp_path / "out").exists()
    for command, (llm, group) in zip(found, [(llm, group) for llm in LLMS for group in GROUPS]):
        task, shots = GROUPS[group]
        assert command["words"][:4] == [sys.executable, "-m", "lm_eval", "run"] and "--log_samples" in command["words"]
        assert (command["model"], command["tasks"], command.get("num_fewshot")) == (backend, task, shots)
        assert command["model_args"]["model" if backend == "local-completions" else "pretrained"] == llm
        assert command["output_path"] == str(tmp_path / "out" / llm.replace("/", "__") / f".{group}.part")
        assert command["model_args"]["add_bos_token"] == "False"
        assert command.keys().isdisjoint(
            {"apply_chat_template", "seed", "limit", "use_cache", "confirm_run_unsafe_code", "predict_only"}
        )
        assert "seed" not in command["model_args"]
        assert command.get("gen_kwargs") == ("seed=None" if backend == "local-completions" else None)
        assert (REPO / command["include_path"]).is_dir()


def test_sizes_of_the_backends():
    found = commands(BACKEND="vllm", TP=2, DP=3, MODELS="a/b")
    for group, command in zip(GROUPS, found):
        copies = "1" if group in SAMPLED else "3"  # copies of vLLM share a seed: equal answers
        assert (command["model_args"]["tensor_parallel_size"], command["model_args"]["data_parallel_size"]) == (
            "2",
            copies,
        )
    (command,) = commands(
        BACKEND="hf", TP=2, DP=3, MODELS="a/b", TASKS="mmlu", DEVICE="cuda", MODEL_ARGS="dtype=float32", BATCH_SIZE=4
    )
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "3",
        "-m",
        "lm_eval",
        "run",
    ]  # LM_EVAL's interpreter
    assert command["words"][:9] == launch
    assert command["model_args"]["parallelize"] == "True" and command["model_args"]["dtype"] == "float32"
    assert (command["device"], command["batch_size"]) == ("cuda", "4")


def test_own_models_and_tasks(tmp_path):
    found = commands(MODELS="mine=runs/x org/b", TASKS="own=one+two:3 mmlu", INCLUDE=tmp_path, LIMIT=7, OUT="out")
    assert [command["model_args"]["pretrained"] for command in found] == ["runs/x", "runs/x", "org/b", "org/b"]
    assert [command["output_path"] for command in found] == [
        f"out/{llm}/.{group}.part" for llm in ("mine", "org__b") for group in ("own", "mmlu")
    ]
    assert (found[0]["tasks"], found[0]["num_fewshot"], found[0]["include_path"], found[0]["limit"]) == (
        "one,two",
        "3",
        str(tmp_path),
        "7",
    )
    assert found[1]["include_path"] == "eval_scripts/tasks"


def test_paths_with_spaces(tmp_path):
    models = "'mine=my runs/b' org/b two\\ words=\"it's here\"\nlast=x"
    found = commands(MODELS=models, TASKS="mmlu", INCLUDE=tmp_path, OUT="the out")
    assert [command["model_args"]["pretrained"] for command in found] == ["my runs/b", "org/b", "it's here", "x"]
    assert [command["output_path"] for command in found] == [
        f"the out/{llm}/.mmlu.part" for llm in ("mine", "org__b", "two words", "last")
    ]


def test_an_llm_below_a_path_with_spaces_is_scored(stand_in, tmp_path):
    (tmp_path / "my runs").mkdir()
    settings = {"MODELS": f"'mine={tmp_path}/my runs/b'", "OUT": tmp_path / "the out"}
    run, called = stand_in(**settings)
    assert run.returncode == 0 and called == ["one", "two"], run.stderr
    assert f"model: {tmp_path}/my runs/b" in (tmp_path / "the out" / "mine" / "one" / "settings.txt").read_text()
    run, called = stand_in(**settings)
    assert called == [] and "2 done already" in run.stdout


def test_bigcode_takes_paths_with_spaces(tmp_path):
    folder = tmp_path / "my runs"
    folder.mkdir()
    run = subprocess.run(
        ["bash", REPO / "eval_scripts" / "bigcode.sh"],
        env=os.environ
        | {"DRY_RUN": "1", "MODELS": f"'mine={folder}' org/b", "TASKS": "mbpp"}
        | {"BIGCODE": str(folder), "OUT": str(folder / "out")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    lines = [shlex.split(line.strip("()")) for line in run.stdout.splitlines()]
    assert [line[line.index("--model") + 1] for line in lines] == [str(folder), "org/b"]
    assert [line[1] for line in lines] == [f"{folder}/out/{llm}/.mbpp.part" for llm in ("mine", "org__b")]
    assert all(f"PYTHONPATH={folder}" in line for line in lines)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"MODELS": "'mine=a b"}, "MODELS is ''mine=a b'; a quote is not closed"),
        ({"MODELS": "mine=a,b"}, "MODELS has 'mine=a,b'; the harness takes no path with a comma"),
        ({"BACKEND": "gpt"}, "BACKEND is 'gpt'; it must be vllm, hf or local-completions"),
        ({"TASKS": "mmlu poems"}, "TASKS has 'poems'"),
        ({"TASKS": "x=:3"}, "write group=task+task:examples"),
        ({"TASKS": "..=y"}, "write group=task+task:examples"),
        ({"MODELS": ".."}, "MODELS has '..'"),
        ({"MODELS": "name="}, "MODELS has 'name='"),
        ({"LIMIT": "0.5"}, "LIMIT is '0.5'"),
        ({"DP": "0"}, "DP is '0'"),
        ({"BACKEND": "local-completions", "TP": "2"}, "the server has the GPUs"),
        (
            {"BACKEND": "hf", "DP": "2", "LM_EVAL": "lm_eval"},
            "LM_EVAL is 'lm_eval', and copies (DP=2) with BACKEND=hf are started by accelerate",
        ),
        ({"DEVICE": "cpu"}, "DEVICE is for BACKEND=hf"),
        ({"INCLUDE": "nowhere"}, "INCLUDE is 'nowhere', which is no folder"),
    ],
)
def test_bad_settings(settings, message):
    run = score_script(DRY_RUN=1, **settings)
    assert run.returncode == 2 and message in run.stderr and not run.stdout


# A stand-in for the harness: notes every call, and writes logs as it does, or behaves badly for some tasks.
STAND_IN = """
import json, os, sys, time
words = sys.argv[1:]
get = lambda flag: words[words.index(flag) + 1]
open(os.environ["CALLS"], "a").write(json.dumps(words) + "\\n")
folder = os.path.join(get("--output_path"), "org__x")
os.makedirs(folder)
if get("--tasks") == "half":
    open(os.path.join(folder, "samples_half_1.jsonl"), "w").write("{}")
    sys.exit(0 if os.environ.get("SILENT") else 3)
for name in ("results_1.json", "samples_x_1.jsonl"):
    open(os.path.join(folder, name), "w").write(str(time.time_ns()))
"""


@pytest.fixture
def stand_in(tmp_path):
    """Runs score.sh with the stand-in; returns the process and the tasks it was called for."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    calls = tmp_path / "calls"

    def run(**settings):
        calls.write_text("")
        own = {
            "LM_EVAL": f"{sys.executable} {tmp_path / 'stand_in.py'}",
            "OUT": tmp_path / "out",
            "CALLS": calls,
            "MODELS": "org/a org/b",
        }
        found = score_script(**(own | {"TASKS": "one=one two=two"} | settings))
        called = [json.loads(line) for line in calls.read_text().splitlines()]
        return found, [words[words.index("--tasks") + 1] for words in called]

    return run


def logs_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_finished_outputs_are_skipped_and_a_stopped_run_goes_on(stand_in, tmp_path):
    run, called = stand_in(TASKS="one=one")
    assert run.returncode == 0 and called == ["one", "one"], run.stderr
    first = logs_of(tmp_path / "out")
    assert {
        "org__a/one/org__x/results_1.json",
        "org__b/one/org__x/samples_x_1.jsonl",
        "org__a/one/settings.txt",
    } <= first.keys()
    (tmp_path / "out" / "org__b" / ".two.part").mkdir()  # what a killed run left
    (tmp_path / "out" / "org__b" / ".two.part" / "old").touch()
    run, called = stand_in()
    assert run.returncode == 0 and called == ["two", "two"] and "2 finished, 2 done already" in run.stdout
    assert first.items() <= logs_of(tmp_path / "out").items()
    assert not list((tmp_path / "out").rglob("*.part")) and not (tmp_path / "out" / "org__b" / "two" / "old").exists()
    run, called = stand_in()
    assert run.returncode == 0 and called == []


def test_what_another_run_is_writing_is_left_alone(stand_in, tmp_path):
    part = tmp_path / "out" / "org__a" / ".one.part"
    part.mkdir(parents=True)
    (part / "theirs").touch()
    part.with_name(".one.part.lock").touch()
    with locked(part.with_name(".one.part.lock")):
        run, called = stand_in()
        assert run.returncode == 1 and called == ["two", "one", "two"] and (part / "theirs").exists()
    assert f"org/a, one: another run is writing {part}" in run.stderr and "org/a one (another run)" in run.stderr
    run, called = stand_in()
    assert run.returncode == 0 and called == ["one"] and not part.exists()
    assert not (tmp_path / "out" / "org__a" / "one" / "theirs").exists()


@pytest.mark.parametrize(
    "silent", ["", "1"]
)  # exit code 0, but the results were not written: the harness does that when the disk is full
def test_a_failing_call_is_reported_and_the_others_go_on(stand_in, tmp_path, silent):
    run, called = stand_in(TASKS="half=half two=two", SILENT=silent)
    assert run.returncode == 1 and called == ["half", "two", "half", "two"]
    assert f"org/a half (exit code {0 if silent else 3})" in run.stderr and run.stderr.count("failed: ") == 2
    assert sorted(path.name for path in (tmp_path / "out" / "org__a").iterdir()) == [
        "two"
    ]  # nothing half-written is left


CHANGES = [  # a changed setting, and how many of the four outputs it makes anew
    ({"LIMIT": "5"}, 4),
    ({"MODELS": "org/a=elsewhere org/b"}, 2),
    ({"TASKS": "one=one:3 two=two"}, 2),
    ({"MODEL_ARGS": "dtype=float32"}, 4),
    ({"INCLUDE": "tests"}, 4),
]


@pytest.mark.parametrize("changed, count", CHANGES)
def test_outputs_made_with_other_settings_are_not_taken_silently(stand_in, tmp_path, changed, count):
    stand_in()
    before = logs_of(tmp_path / "out")
    run, called = stand_in(**changed)
    assert run.returncode == 1
    assert len(called) == 0
    assert run.stderr.count("was made with other settings") == count
    assert "REDO=1" in run.stderr
    assert logs_of(tmp_path / "out") == before
    run, called = stand_in(**changed, REDO="1")
    assert run.returncode == 0 and len(called) == count
    assert stand_in(**changed)[1] == []


def test_a_folder_that_the_script_did_not_make_is_not_taken(stand_in, tmp_path):
    (tmp_path / "out" / "org__a" / "one").mkdir(parents=True)
    run, called = stand_in()
    assert run.returncode == 1 and "not made by this script" in run.stderr and called == ["two", "one", "two"]


# The task files.


def test_every_task_file_of_ours_samples_as_the_paper_did():
    from lm_eval.tasks._yaml_loader import load_yaml

    named = {path.stem: load_yaml(path) for path in TASKS.glob("*.yaml")}
    assert set(named) == {GROUPS[group][0] for group in SAMPLED}
    for name, config in named.items():
        assert config["task"] == name and config["repeats"] == 10 and not config.get("unsafe_code")
        sampling = config["generation_kwargs"]
        assert sampling["do_sample"] is True
        assert sampling["temperature"] == 0.2
        assert "seed" not in sampling
        assert sampling["until"]


def test_the_other_tasks_are_the_harness_own():
    import lm_eval.tasks

    folder, names = Path(lm_eval.tasks.__file__).parent, set()
    for part in ("mmlu/default", "cmmlu", "ceval", "arc", "hellaswag", "minerva_math"):
        for path in (folder / part).glob("*.yaml"):
            text = path.read_text()
            names |= {
                line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(("task:", "group:"))
            }
    assert {task for group, (task, _) in GROUPS.items() if group not in SAMPLED} <= names


DOCUMENTS = {  # made up, in the form of the data sets
    "gsm8k_test": {"question": "How many?", "answer": "So 1,234.\n#### 1,234"},
    "gsm8k_train": {"question": "How many?", "answer": "So 1,234.\n#### 1,234"},
    "humaneval_generate": {
        "prompt": "\ndef one():\n    '''One.'''\n",
        "test": "def check(f):\n    assert f() == 1\n",
        "entry_point": "one",
    },
    "mbpp_generate": {"text": "Write one.", "test_list": ["assert one() == 1", "assert one() < 2"], "code": ""},
    "humaneval_js_generate": {
        "prompt": "/* One. */\nconst one = () => {\n",
        "test": "\nconsole.assert(one() === 1);\n",
    },
}
PROMPTS = {
    "gsm8k_test": ("Question: How many?\nAnswer:", "So 1,234.\n#### 1,234"),
    "gsm8k_train": ("Question: How many?\nAnswer:", "So 1,234.\n#### 1,234"),
    "humaneval_generate": ("def one():\n    '''One.'''", "def check(f):\n    assert f() == 1\n\ncheck(one)"),
    "mbpp_generate": ('"""\nWrite one.\nassert one() == 1\n"""\n', "assert one() == 1\nassert one() < 2"),
    "humaneval_js_generate": ("/* One. */\nconst one = () => {", "\nconsole.assert(one() === 1);\n"),
}


@pytest.mark.parametrize("leaf", DOCUMENTS)
def test_prompts_of_our_task_files(leaf, monkeypatch):
    """The harness's own task object, made from our file; the hub's data set is replaced by one document, 1200 times."""
    from lm_eval.tasks import TaskManager

    import datasets

    asked = []

    def load_dataset(path, name=None, **_):
        asked.append((path, name))
        data = datasets.Dataset.from_list([DOCUMENTS[leaf] | {"number": number} for number in range(1200)])
        return datasets.DatasetDict(train=data, test=data)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    made = TaskManager(include_path=str(TASKS), include_defaults=False).load([leaf])["tasks"][leaf]
    prompt, target = PROMPTS[leaf]
    assert made.doc_to_text(DOCUMENTS[leaf]) == prompt and made.doc_to_target(DOCUMENTS[leaf]) == target
    assert len(made.eval_docs) == (1000 if leaf == "gsm8k_train" else 1200)
    made.set_fewshot_seed(1)
    shots = 5 if leaf.startswith("gsm8k") else 0
    assert made.config.num_fewshot == shots
    context = made.fewshot_context(made.eval_docs[0], shots)
    assert context.endswith(prompt) and context.count(prompt) == shots + 1
    expected = {
        "gsm8k": ("openai/gsm8k", "main"),
        "humaneval": ("openai/openai_humaneval", None),
        "mbpp": ("google-research-datasets/mbpp", "full"),
        "humaneval_js": ("bigcode/humanevalpack", "js"),
    }
    assert asked == [expected[leaf.rsplit("_", 1)[0]]]


# The harness itself.


def read(folder: Path, leaf: str) -> tuple[list[dict], dict]:
    """The lines of a leaf's log, and the results file beside it."""
    (path,) = folder.rglob(f"samples_{leaf}_*.jsonl")
    (results,) = path.parent.glob("results_*.json")
    return [json.loads(line) for line in path.read_text().splitlines()], json.loads(results.read_text())


@pytest.mark.parametrize("llm", ["tiny__words", "tiny__code"])
def test_the_harness_leaves_all_answers(harness_logs, llm):
    groups = [entry.split("=")[0] for entry in HARNESS_GROUPS[llm.replace("__", "/")].split()]
    assert sorted(path.name for path in (harness_logs / llm).iterdir()) == sorted(groups)
    for leaf, documents in tiny_documents().items():
        lines, results = read(harness_logs / llm, leaf)
        assert results["n-samples"][leaf] == {"original": len(documents), "effective": len(documents)}
        assert results["config"]["limit"] is None
        assert [line["doc_id"] for line in lines] == [*range(len(documents))]
        for line, document in zip(lines, documents):
            assert {name: line["doc"][name] for name in document} == document
            if leaf == "tiny_choice":
                assert len(line["resps"]) == 2 and line["target"] == str(document["answer"])
            else:
                assert len(line["resps"]) == 1 and len(line["resps"][0]) == 10
        config = results["configs"][leaf]
        assert config["num_fewshot"] == (1 if leaf in ("tiny_choice", "tiny_sums") else 0)
        if leaf != "tiny_choice":
            assert config["repeats"] == 10 and config["generation_kwargs"]["do_sample"] is True


def test_the_ten_answers_differ(harness_logs):
    """And they are worth converting: some right, some wrong."""
    for llm in ("tiny__words", "tiny__code"):
        for leaf, right in (
            ("tiny_sums", f"#### {SUM}"),
            ("tiny_humaneval", "a + b"),
            ("tiny_mbpp", "a + b"),
            ("tiny_js", "a + b"),
        ):
            answers = [line["resps"][0] for line in read(harness_logs / llm, leaf)[0]]
            assert any(len(set(ten)) > 1 for ten in answers), f"ten equal answers at temperature 0.2: {answers}"
            assert 0 < sum(right in answer for ten in answers for answer in ten) < 10 * len(answers)


def test_a_second_run_skips_what_the_harness_did(harness_logs, tiny_llms, tiny_tasks):
    name = "tiny/words"
    settings = {
        "MODELS": f"{name}={tiny_llms[name]}",
        "TASKS": HARNESS_GROUPS[name],
        "INCLUDE": tiny_tasks,
        "OUT": harness_logs,
    }
    run = score_script(**settings, BACKEND="hf", DEVICE="cpu")
    assert run.returncode == 0 and "0 finished, 3 done already, 0 failed" in run.stdout


class Completions(BaseHTTPRequestHandler):
    """A server with an OpenAI-style completions address. With a seed it gives the same answer every time, as such
    servers do.
    """

    bodies: list[dict] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        number = len(self.bodies) if body.get("seed") is None else body["seed"]
        texts = [f" it is {number}. #### {number}"] * (
            len(body["prompt"]) if isinstance(body["prompt"][0], (list, str)) else 1
        )
        answer = json.dumps({"choices": [{"index": place, "text": text} for place, text in enumerate(texts)]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


def test_a_server_is_asked_for_ten_different_answers(tiny_llms, tiny_tasks, tmp_path):
    pytest.importorskip("tenacity", reason="needs lm_eval[api]")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Completions)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        run = score_script(
            MODELS=f"tiny/words={tiny_llms['tiny/words']}",
            TASKS="sums=tiny_sums",
            INCLUDE=tiny_tasks,
            OUT=tmp_path / "out",
            LIMIT=2,
            BACKEND="local-completions",
            BASE_URL=f"http://127.0.0.1:{server.server_port}/v1/completions",
            HF_HOME=tmp_path / "cache",
        )
    finally:
        server.shutdown()
    assert run.returncode == 0, run.stderr[-3000:]
    lines, results = read(tmp_path / "out" / "tiny__words" / "sums", "tiny_sums")
    assert results["config"]["limit"] == 2
    assert len(lines) == 2
    assert all(len(set(line["resps"][0])) == 10 for line in lines)
    assert len(Completions.bodies) == 20
    assert all(body["seed"] is None and body["temperature"] == 0.2 for body in Completions.bodies)


def test_task_files_are_plain_yaml_without_machine_paths():
    for path in TASKS.glob("*.yaml"):
        text = path.read_text()
        included = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("include:")]
        assert all("/" not in name and (TASKS / name).is_file() for name in included)
        assert isinstance(yaml.safe_load(text.replace("!function ", "")), dict)
