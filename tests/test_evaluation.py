"""evaluation_router.py: the tables of training again, figures that its picks give by plain loops, and its errors."""

import hashlib
import io
import json
import resource
import shutil

import numpy as np
import pytest
import torch
from conftest import LLMS, arguments, make_rows
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

import evaluation_router
import train_router_mdeberta
from utils.checkpoint import write_config


@pytest.fixture
def evaluate(capsys):
    """Runs the command in this process: evaluate(folder, ...) -> what it prints."""

    def evaluate(folder, *more) -> str:
        status = evaluation_router.main(["--ckpt", str(folder), "--device", "cpu", *map(str, more)])
        out, err = capsys.readouterr()
        assert status == 0, err
        return out

    return evaluate


@pytest.fixture
def fails(capsys):
    """Runs a command that must end with status 2; returns what it says."""

    def fails(folder, *more) -> str:
        assert evaluation_router.main(["--ckpt", str(folder), "--device", "cpu", *map(str, more)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and "Traceback" not in err
        return next(line for line in err.splitlines() if line.startswith("error: ")).removeprefix("error: ")

    return fails


def test_another_process_prints_the_tables_of_training(trained, script, tmp_path):
    """From the checkpoint alone, copied elsewhere and renamed, from another working folder."""
    shutil.copytree(trained.folder / "checkpoint", tmp_path / "copy")
    run = script("evaluation_router.py", "--ckpt", "copy", "--device", "cpu", "--cache_dir", "cache", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == (trained.folder / "tables.md").read_text().strip()
    assert run.stdout.strip() in trained.text
    assert all(title in run.stdout for title in ("Table 1", "Table 2", "Routing share"))


KINDS_OF_RUNS = (
    {"freeze_encoder": True, "pooling": "mean"},
    {"train_layers": 1},
    {"similarity_function": "inner", "max_length": 20},
)


@pytest.mark.parametrize("flags", KINDS_OF_RUNS)
def test_every_kind_of_run_comes_back(fake, tiny_bert, tmp_path, evaluate, capsys, flags):
    assert train_router_mdeberta.main(arguments(fake, tiny_bert, tmp_path / "run", **flags)) == 0
    capsys.readouterr()
    tables = (tmp_path / "run" / "tables.md").read_text().strip()
    for _ in range(2):  # without and with a cache
        assert evaluate(tmp_path / "run", "--cache_dir", tmp_path / "evaluation").strip() == tables


def test_a_files_figures_do_not_depend_on_the_others(trained, fake, evaluate, tmp_path):
    """Alone, or among others in another order: the same picks, query by query."""

    def picks(*names) -> dict[str, list[int]]:
        output = tmp_path / "out.json"
        evaluate(trained.folder, "--test_data_paths", *[fake.test[name] for name in names], "--output", output)
        return json.loads(output.read_text())["picks"]

    together = picks("mbpp", "gsm8k", "arc_challenge")
    assert {"LLMs": list(LLMS), **together} == json.loads((trained.folder / "picks.json").read_text())
    assert all(picks(name) == {name: together[name]} for name in together)


def similarities(folder, questions) -> np.ndarray:
    """Similarities (N, T) of a checkpoint, by transformers and numpy alone.

    The first token of one padded pass, and its cosine to the LLM embeddings.
    """
    weights = load_file(folder / "model.safetensors")
    backbone = AutoModel.from_config(AutoConfig.from_pretrained(folder / "encoder")).eval()
    prefix = "encoder.backbone."
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    result = backbone.load_state_dict(own, strict=False)
    assert not result.unexpected_keys and all("pooler" in name for name in result.missing_keys)
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder", truncation_side="left")
    tokens = tokenizer(questions, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        queries = backbone(**tokens).last_hidden_state[:, 0].numpy()
    llms = weights["llm_embeddings.weight"].numpy()
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries @ (llms / np.linalg.norm(llms, axis=1, keepdims=True)).T


def gain(row: dict, llm: str, kind: str) -> float:
    return float(row["scores"][llm] > 0) if kind == "probability" else row["scores"][llm]


def test_the_output_agrees_with_a_recomputation(trained, fake, evaluate, tmp_path):
    """Picks from the weights by other code, figures from the picks and the files by plain loops."""
    text = evaluate(trained.folder, "--output", tmp_path / "out.json")
    assert f"Written: {tmp_path / 'out.json'}" in text
    output = json.loads((tmp_path / "out.json").read_text())
    assert output["llms"] == list(LLMS) and output["queries"] == {"gsm8k": 50, "arc_challenge": 50, "mbpp": 40}
    for task, kind in (("gsm8k", "multi_attempt"), ("arc_challenge", "probability"), ("mbpp", "multi_attempt")):
        rows = json.loads(fake.test[task].read_text(encoding="utf-8"))
        expected = similarities(trained.folder / "checkpoint", [row["question"] for row in rows])
        clear = np.diff(np.sort(expected, axis=1))[:, -1] > 1e-4  # no tie that rounding could decide
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(np.array(output["picks"][task])[clear], expected.argmax(axis=1)[clear])
        names = [output["llms"][pick] for pick in output["picks"][task]]
        earned = [gain(row, llm, kind) for row, llm in zip(rows, names)]
        assert output["tasks"][task] == pytest.approx(100 * sum(earned) / len(rows), abs=1e-4)
        for llm in LLMS:
            assert output["shares"][task][llm] == pytest.approx(100 * names.count(llm) / len(rows))
    assert output["id_avg"] == pytest.approx((output["tasks"]["gsm8k"] + output["tasks"]["arc_challenge"]) / 2)
    assert output["ood_avg"] == output["tasks"]["mbpp"]
    for name in ("tasks", "id_avg", "shares", "references"):
        assert output[name] == trained.results["test"][name]


def test_losing_llms_at_test_time_picks_the_best_of_those_left(trained, fake, evaluate, tmp_path):
    evaluate(trained.folder, "--test_data_paths", fake.fewer, "--output", tmp_path / "out.json")
    output, rows = json.loads((tmp_path / "out.json").read_text()), json.loads(fake.fewer.read_text(encoding="utf-8"))
    left = [LLMS.index(llm) for llm in output["llms"]]
    assert sorted(left) == [1, 3]
    expected = similarities(trained.folder / "checkpoint", [row["question"] for row in rows])[:, left].argmax(axis=1)
    assert output["picks"]["mmlu"] == expected.tolist()
    assert set(output["shares"]["mmlu"]) == {LLMS[1], LLMS[3]} and set(expected) == {0, 1}
    right = [row["scores"][output["llms"][pick]] > 0 for row, pick in zip(rows, expected)]
    assert output["tasks"]["mmlu"] == pytest.approx(100 * np.mean(right))


def test_queries_from_the_command_line(trained, evaluate, script, tmp_path):
    """The similarities of an independent computation, their arg-max, and the same from standard input."""
    queries = [row["question"] for row in make_rows(12, "probability", 21)]
    expected = similarities(trained.folder / "checkpoint", queries)
    text = evaluate(trained.folder, "--query", *queries, "--output", tmp_path / "out.json")
    routed = json.loads((tmp_path / "out.json").read_text())["queries"]
    assert [pick["query"] for pick in routed] == queries
    found = [[pick["similarity"][llm] for llm in LLMS] for pick in routed]
    assert np.allclose(found, expected, atol=1e-5)
    chosen = [pick["llm"] for pick in routed]
    assert chosen == [LLMS[best] for best in expected.argmax(axis=1)] and len(set(chosen)) > 1
    lines = [line for line in text.splitlines() if not line.startswith(" ")]
    assert lines == [f"{pick['llm']}\t{pick['query']}" for pick in routed]
    command = ("evaluation_router.py", "--ckpt", trained.folder, "--device", "cpu", "--query", "-")
    run = script(*command, input="\n".join(queries))
    assert run.returncode == 0 and run.stdout == text
    text = evaluate(trained.folder, "--query", *queries, "--llms", LLMS[3], LLMS[1])
    left = expected[:, [3, 1]].argmax(axis=1)
    chosen = [line.split("\t")[0] for line in text.splitlines() if "\t" in line]
    assert chosen == [(LLMS[3], LLMS[1])[best] for best in left]


@pytest.mark.parametrize("keep", ["first", "last", None])
def test_queries_are_cut_as_those_of_training_were(fake, tiny_bert, tmp_path, evaluate, capsys, keep):
    """None: a checkpoint from before --keep_characters, which means the last ones. Its tables come again, too."""
    flags = {"max_characters": 12, "keep_characters": keep, "training_steps": 2, "eval_steps": 2}
    assert train_router_mdeberta.main(arguments(fake, tiny_bert, tmp_path / "run", **flags)) == 0
    config = tmp_path / "run" / "checkpoint" / "config.json"
    if keep is None:
        content = json.loads(config.read_text())
        assert content["settings"].pop("keep_characters") == "last"
        write_config(config.parent, content)
    capsys.readouterr()
    assert evaluate(tmp_path / "run").strip() == (tmp_path / "run" / "tables.md").read_text().strip()
    capsys.readouterr()
    queries = [row["question"] for row in make_rows(6, "probability", 21)]
    evaluate(tmp_path / "run", "--query", *queries, "--output", tmp_path / "out.json")
    routed = json.loads((tmp_path / "out.json").read_text())["queries"]
    found = np.array([[pick["similarity"][llm] for llm in LLMS] for pick in routed])
    assert [pick["query"] for pick in routed] == queries  # whole, as they were asked
    cut = [query[:12] if keep == "first" else query[-12:] for query in queries]
    np.testing.assert_allclose(found, similarities(tmp_path / "run" / "checkpoint", cut), atol=1e-5)
    assert np.abs(found - similarities(tmp_path / "run" / "checkpoint", queries)).max() > 1e-3  # the test can fail


def test_queries_that_cannot_be_routed(trained, fails, fake):
    text = fails(trained.folder, "--query", "one?", " ")
    assert text == "--query: number 1 is empty; give the text that an LLM would get"
    text = fails(trained.folder, "--query", "one?", "--llms", "lab/psi")
    assert text.startswith("the router was not trained with lab/psi")
    assert fails(trained.folder, "--llms", LLMS[0]) == "--llms needs --query"
    assert "exclude each other" in fails(trained.folder, "--query", "one?", "--test_data_paths", fake.test["mbpp"])


def lines_routed(text: str) -> list[str]:
    """The queries in what --query prints, whatever ends a line elsewhere."""
    return [line.split("\t", 1)[1] for line in text.split("\n") if "\t" in line]


def stdin(content: str | bytes) -> io.TextIOWrapper:
    """Stands for standard input."""
    return io.TextIOWrapper(io.BytesIO(content.encode() if isinstance(content, str) else content))


def test_only_a_line_feed_ends_a_query_of_standard_input(trained, evaluate, monkeypatch):
    queries = ["one\u2028two\x0bthree\x85four?", "\x1cfive\x0c", "six"]
    monkeypatch.setattr("sys.stdin", stdin("\n".join(queries) + "\n"))
    assert lines_routed(evaluate(trained.folder, "--query", "-")) == queries
    assert lines_routed(evaluate(trained.folder, "--query", *queries)) == queries


def test_standard_input_that_is_no_plain_text(trained, script, fails, monkeypatch):
    for line in ('{"question": "one?"}', ' {"question": "one?", "scores": {}} '):
        monkeypatch.setattr("sys.stdin", stdin(f"a question?\n{line}\n"))
        text = fails(trained.folder, "--query", "-")
        assert (
            text.startswith("--query -: line 2 is a JSON object; give the text alone") and "--test_data_paths" in text
        )
    monkeypatch.setattr("sys.stdin", stdin(b"one?\n\xff\n"))
    assert fails(trained.folder, "--query", "-").startswith("--query -: standard input is not UTF-8 (")
    assert fails(trained.folder, "--query", "one?", "\udcff") == "--query: number 1 is not valid UTF-8: '\\udcff'"


def test_texts_that_look_like_json_or_files_are_routed(trained, capsys, tmp_path, monkeypatch):
    """Whole: a JSON object among the arguments, brackets of standard input, and the name of a file, with a note."""
    (tmp_path / "queries.txt").write_text("one?\ntwo?\n")
    monkeypatch.chdir(tmp_path)
    command = ["--ckpt", str(trained.folder), "--device", "cpu", "--query"]
    assert evaluation_router.main([*command, '{"a": 1}', "queries.txt", "none.txt", "x" * 5000]) == 0
    out, err = capsys.readouterr()
    assert lines_routed(out) == ['{"a": 1}', "queries.txt", "none.txt", "x" * 5000]
    assert err.splitlines() == [
        "note: --query takes texts, and 'queries.txt', a file, is routed as one; its lines: --query - < FILE"
    ]
    monkeypatch.setattr("sys.stdin", stdin("[1, 2]\n{what} is it?\n" + "[" * 100_000))
    assert evaluation_router.main([*command, "-"]) == 0
    assert lines_routed(capsys.readouterr().out) == ["[1, 2]", "{what} is it?", "[" * 100_000]


def test_similarities_that_are_not_finite_pick_no_llm(trained, fake, fails, tmp_path):
    """Finite weights whose products overflow. Such queries went to the first LLM."""
    folder = shutil.copytree(trained.folder / "checkpoint", tmp_path / "large")
    weights = load_file(folder / "model.safetensors")
    weights["llm_embeddings.weight"][2:] *= 3e38 / weights["llm_embeddings.weight"][2:].abs().max()
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    write_config(folder, config | {"similarity_function": "inner"})
    text = fails(folder, "--query", "one?", "two?")
    assert text.startswith("--query: the similarities of 2 of 2 are not finite, so no LLM is the nearest")
    text = fails(folder, "--test_data_paths", fake.test["mbpp"])
    assert text.startswith("queries: the similarities of 40 of 40 are not finite")


def test_another_kind_than_in_training_is_refused(trained, fake, fails, evaluate, tmp_path):
    """Of a test task and of a task that was only trained on; the same kind named is as good as none."""
    path = shutil.copy(fake.test["mbpp"], tmp_path / "mmlu_test.json")
    for data, kind, right in (
        (fake.test["mbpp"], "probability", "multi_attempt"),
        (path, "multi_attempt", "probability"),
    ):
        text = fails(trained.folder, "--test_data_paths", data, "--test_data_type", kind)
        assert text.startswith(f"{data}: the scores of ") and f"are read as {kind}, and in training as {right}" in text
        flags = ("--test_data_paths", data)
        assert evaluate(trained.folder, *flags) == evaluate(trained.folder, *flags, "--test_data_type", right)


def test_training_and_test_of_one_task_have_one_kind(fake, tiny_bert, tmp_path, capsys):
    flags = {"test_data_type": ["probability", "probability"]}
    assert train_router_mdeberta.main(arguments(fake, tiny_bert, tmp_path / "run", **flags)) == 2
    text = f"{fake.test['gsm8k']}: the scores of 'gsm8k' are read as probability, and in training as multi_attempt"
    assert f"error: {text}; give both the same kind" in capsys.readouterr().err


def test_an_unseen_file_needs_a_kind(trained, fake, evaluate, fails, tmp_path):
    text = fails(trained.folder, "--test_data_paths", fake.unseen)
    assert text.startswith(f"{fake.unseen}: the task 'poems'") and "--test_data_type" in text
    scores = {}
    for kind in ("multi_attempt", "probability"):
        flags = ("--test_data_paths", fake.unseen, "--test_data_type", kind, "--output", tmp_path / "out.json")
        text = evaluate(trained.folder, *flags)
        assert "poems" in text and "Table 1" not in text
        scores[kind] = json.loads((tmp_path / "out.json").read_text())["tasks"]["poems"]
    assert scores["multi_attempt"] < scores["probability"]


def test_unknown_llms_are_named_before_any_work(trained, fails, tmp_path, monkeypatch):
    path = tmp_path / "gsm8k.json"
    path.write_text(json.dumps([{"question": "one?", "scores": {LLMS[0]: 1, "lab/omega": 0, "lab/psi": 0}}]))
    monkeypatch.setattr(evaluation_router, "evaluate", None)
    text = fails(trained.folder, "--test_data_paths", path)
    assert text.startswith("the router was not trained with lab/omega, lab/psi; it knows org/alpha-7b, ")


def test_files_with_other_llms_than_each_other(trained, fake, fails):
    text = fails(trained.folder, "--test_data_paths", fake.test["gsm8k"], fake.fewer)
    assert text.startswith(f"{fake.fewer}: scores are for other LLMs than in {fake.test['gsm8k']}")


def test_a_changed_test_file_shows(trained, fake, evaluate, tmp_path):
    """Figures come from the files as they are, not from the checkpoint's memory of them."""
    path = tmp_path / "gsm8k-test.json"
    path.write_text(json.dumps(make_rows(50, "multi_attempt", 40)))
    changed = evaluate(trained.folder, "--test_data_paths", path)
    assert changed != evaluate(trained.folder, "--test_data_paths", fake.test["gsm8k"])


def test_a_test_file_that_changed_since_training_is_noted(trained, fake, capsys, tmp_path):
    folder = shutil.copytree(trained.folder / "checkpoint", tmp_path / "copy")
    path = shutil.copy(fake.test["gsm8k"], tmp_path / "gsm8k-test.json")
    config = json.loads((folder / "config.json").read_text())
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    config["tests"] = [{"path": str(path), "kind": "multi_attempt"}]
    config["settings"]["data"] = {str(path): before}
    write_config(folder, config)
    command = ["--ckpt", str(folder), "--device", "cpu"]
    assert evaluation_router.main(command) == 0
    assert capsys.readouterr().err == ""
    path.write_text(path.read_text() + "\n")
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    assert evaluation_router.main(command) == 0
    note = f"note: {path} has changed since the training run (SHA-256 was {before[:12]}, is {after[:12]}); "
    assert capsys.readouterr().err.startswith(note)


def test_mistakes_on_the_command_line(trained, fake, fails, tmp_path):
    text = fails(tmp_path / "none")
    assert text.startswith(f"--ckpt {tmp_path / 'none'}: no checkpoint there") and "--save_path" in text
    assert fails(trained.folder, "--test_data_type", "probability") == "--test_data_type needs --test_data_paths"
    text = fails(trained.folder, "--test_data_paths", tmp_path / "none.json")
    assert text.startswith(f"{tmp_path / 'none.json'}: no such file")
    flags = ("--test_data_paths", fake.test["gsm8k"], "--test_data_type", "probability", "probability")
    text = fails(trained.folder, *flags)
    assert text == "--test_data_paths names 1 files and --test_data_type 2 kinds; give one kind for each file"
    assert "--device cuda:99: PyTorch sees" in fails(trained.folder, "--device", "cuda:99")


def test_damaged_checkpoints(trained, fails, tmp_path):
    shutil.copytree(trained.folder / "checkpoint", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert str(tmp_path / "cut") in fails(tmp_path / "cut") and "damaged" in fails(tmp_path / "cut")
    shutil.copytree(trained.folder / "checkpoint", tmp_path / "bare")
    (tmp_path / "bare" / "encoder" / "tokenizer.json").unlink()
    assert "tokenizer.json: no such file" in fails(tmp_path / "bare", "--query", "one?")
    config = json.loads((trained.folder / "checkpoint" / "config.json").read_text())
    shutil.copytree(trained.folder / "checkpoint", tmp_path / "older")
    path = tmp_path / "older" / "config.json"
    for key in ("precision", "settings", "tests", "router"):
        path.write_text(json.dumps({name: value for name, value in config.items() if name != key}))
        assert fails(tmp_path / "older").startswith(f"{path}: {key} is missing; ")


def test_a_run_without_test_files(fake, tiny_bert, tmp_path, fails, evaluate, capsys):
    command = arguments(fake, tiny_bert, tmp_path / "run", training_steps=1, no_final_eval=True)
    assert train_router_mdeberta.main(command) == 0
    assert "No test sets were read (--no_final_eval)" in capsys.readouterr().out
    assert "its training run read no test files; name them with --test_data_paths" in fails(tmp_path / "run")
    assert "MBPP" in evaluate(tmp_path / "run", "--test_data_paths", fake.test["mbpp"])


def test_an_output_that_cannot_be_written(trained, fake, fails, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(evaluation_router, "evaluate", None)  # it is said before any work
    text = fails(trained.folder, "--test_data_paths", fake.test["mbpp"], "--output", tmp_path / "file" / "out.json")
    assert text == f"--output {tmp_path / 'file'}: cannot write there (File exists); choose another folder"


@pytest.mark.parametrize("what", ["files", "queries"])
def test_a_full_disk_is_an_error_and_leaves_nothing(trained, fake, tmp_path, capsys, what):
    """The limit on a file's size stands for the disk. Figures may have been printed before it."""
    output = tmp_path / "out" / "out.json"
    more = ["--query", "x " * 2000] if what == "queries" else ["--test_data_paths", str(fake.test["mbpp"])]
    command = ["--ckpt", str(trained.folder), "--device", "cpu", "--output", str(output), *more]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        assert evaluation_router.main(command) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and "File too large" in err and str(output) in err and "Written" not in out
    assert list(output.parent.iterdir()) == []
