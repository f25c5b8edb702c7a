"""Large data files: texts and columns that are mapped from the cache, against what the same file is in memory."""

import json
import random
import re
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from utils import clustering, columns, data, evaluate, formats, scale, training_set
from utils.config import parse_config
from utils.data import DataError, count_training_questions, load, load_all
from utils.experiment import choose_hardware
from utils.reading import cut
from utils.texts import Texts, numbers, question_numbers

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".npz")
WORDS = ("river", "唐代", "é", "🙂", "a\nb", '"quoted"', "x")


@pytest.fixture
def small_is_large(monkeypatch):
    """Files of any size are large, and are read in small pieces."""
    monkeypatch.setattr(formats, "LARGE", 0)
    monkeypatch.setattr(formats, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(formats, "BYTES_AT_ONCE", 5)
    monkeypatch.setattr(columns, "AT_ONCE", 64)


def made_up_rows(count: int, priced: bool = False, gaps: bool = False) -> list[dict]:
    """Rows with questions that come again, some with other scores."""
    rng = random.Random(count)
    rows = []
    for number in range(count):
        scores = {llm: rng.choice((0, 1, 0.25, 0.1)) for llm in ("a", "b", "c")}
        row = {"question": f"{number % (count - 2)}: {rng.choice(WORDS[:2])}?", "scores": scores}
        row["cluster_id"] = rng.choice((0, 5, 2**60))
        if priced:
            row["costs"] = {llm: round(rng.random(), 6) for llm in scores}
        rows.append(row)
    if gaps:
        rows[3]["scores"]["b"] = None
    return rows


def save(path: Path, rows: list[dict]) -> Path:
    """Rows in the format of the suffix, tables by pandas."""
    import pandas

    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
    elif path.suffix == ".npz":
        arrays = {"scores": [[np.nan if x is None else x for x in row["scores"].values()] for row in rows]}
        if "costs" in rows[0]:
            arrays["costs"] = [list(row["costs"].values()) for row in rows]
        arrays["cluster_id"] = [row["cluster_id"] for row in rows]
        vectors = np.random.default_rng(0).normal(size=(len(rows), 4)).astype(np.float32)
        np.savez(path, embeddings=vectors, llms=["a", "b", "c"], **{k: np.array(v) for k, v in arrays.items()})
    else:
        flat = []
        for row in rows:
            costs = {f"{llm}|total_cost": cost for llm, cost in row.get("costs", {}).items()}
            flat.append({"question": row["question"], **row["scores"], **costs, "cluster_id": row["cluster_id"]})
        table = pandas.DataFrame(flat)
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
    return path


def assert_same(one: data.RoutingData, other: data.RoutingData) -> None:
    for name in ("task", "kind", "llms", "sha256", "left_out"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("questions", "whole"):
        first, second = getattr(one, name), getattr(other, name)
        assert (first is None) == (second is None) and (first is None or list(first) == list(second))
    for name in ("scores", "costs", "clusters", "embeddings"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(getattr(one, name), "dtype", None) == getattr(getattr(other, name), "dtype", None)


# Texts


def texts_of(strings: list[str]) -> Texts:
    raw = [string.encode() for string in strings]
    ends = np.cumsum([len(text) for text in raw])
    return Texts(np.frombuffer(b"".join(raw), dtype=np.uint8), ends)


def test_texts_are_the_strings_of_a_list():
    rng = random.Random(1)
    strings = [" ".join(rng.choices(WORDS, k=rng.randint(1, 4))) for _ in range(40)]
    texts = texts_of(strings)
    assert list(texts) == strings and len(texts) == 40 and texts == strings and texts != strings[1:]
    assert (texts[0], texts[-1], texts[3:9], texts[::-7]) == (strings[0], strings[-1], strings[3:9], strings[::-7])
    with pytest.raises(IndexError):
        texts[40]
    index = np.array([5, 5, 0, 39, 7])
    assert texts.take(index) == [strings[number] for number in index]
    assert texts.take(index).take(np.array([3, 0])) == [strings[39], strings[5]]
    for keep in ("last", "first"):
        shortened = texts.cut(3, keep)
        assert shortened == [cut(string, 3, keep) for string in strings]
        np.testing.assert_array_equal(shortened.digests, texts.digests)  # whole questions are told apart


def test_equal_texts_have_one_number():
    rng = random.Random(2)
    strings = [rng.choice(WORDS) * rng.randint(1, 3) for _ in range(200)]
    expected = [list(dict.fromkeys(strings)).index(string) for string in strings]
    assert question_numbers(strings).tolist() == expected
    assert question_numbers(texts_of(strings)).tolist() == expected
    assert numbers(np.array([[1, 2], [2, 1], [1, 2], [1, 1]], dtype=np.uint64)).tolist() == [0, 1, 0, 2]


# Files


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("priced", "gaps"), [(False, False), (True, False), (True, True)])
def test_a_large_file_is_what_it_is_in_memory(tmp_path, suffix, priced, gaps, request, monkeypatch, capsys):
    path = save(tmp_path / f"gsm8k_train{suffix}", made_up_rows(20, priced, gaps))
    options = {"missing": "drop" if gaps else "error", "characters": 5}
    expected = load(path, **options)
    said = capsys.readouterr().err
    request.getfixturevalue("small_is_large")
    for again in (False, True):
        if again:
            monkeypatch.setattr(data, "read_parts", None)  # the file is not parsed again
        found = load(path, **options, cache=tmp_path / "cache")
        assert_same(found, expected)
        assert capsys.readouterr().err == said
    assert gaps or (isinstance(found.scores, np.memmap) and suffix == ".npz") or isinstance(found.questions, Texts)
    assert found.left_out == gaps


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bad_rows_of_a_large_file_are_named_as_in_memory(tmp_path, suffix, small_is_large):
    rows = made_up_rows(11)
    rows[7]["scores"]["c"] = 1.5
    path = save(tmp_path / f"gsm8k_train{suffix}", rows)
    with pytest.raises(DataError) as error:
        load(path)
    assert str(error.value) == f"{path}, row 7: the score of c must be a number in [0, 1], found 1.5"
    with pytest.raises(DataError, match=re.escape(str(error.value))):
        load(path, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_clusters_that_are_needed_are_asked_for_again(tmp_path, small_is_large):
    rows = made_up_rows(9)
    del rows[4]["cluster_id"]
    path = save(tmp_path / "gsm8k_train.jsonl", rows)
    assert load(path, cache=tmp_path / "cache").clusters is None
    with pytest.raises(DataError, match="row 4: 'cluster_id' must be an integer"):
        load(path, need_clusters=True, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", ["scores", "text", "ends", "columns.json"])
@pytest.mark.parametrize("way", ["bit", "end", "gone"])
def test_a_damaged_cache_is_read_anew(tmp_path, name, way, small_is_large, capsys):
    path = save(tmp_path / "gsm8k_train.jsonl", made_up_rows(20))
    expected = load(path, cache=tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    content = bytearray((folder / name).read_bytes())
    if way == "gone":
        (folder / name).unlink()
    else:
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content if way == "bit" else content[:-1])
    assert_same(load(path, cache=tmp_path / "cache"), load(path))
    assert ("damaged" in capsys.readouterr().err) == (name != "columns.json" or way != "gone")
    assert expected.questions[3] == load(path).questions[3]


def test_two_at_once_read_a_file_once(tmp_path, small_is_large, monkeypatch):
    path = save(tmp_path / "gsm8k_train.jsonl", made_up_rows(300))
    calls = []
    read = data.read_parts
    monkeypatch.setattr(data, "read_parts", lambda *arguments: calls.append(1) or read(*arguments))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: load(path, cache=tmp_path / "cache"), range(2))
    assert_same(first, second)
    assert len(calls) == 1


def test_what_is_held_does_not_grow_with_the_file(tmp_path, small_is_large, monkeypatch):
    monkeypatch.setattr(formats, "BYTES_AT_ONCE", 2**12)
    peaks = []
    for count in (300, 4800):
        row = json.dumps({"question": "q" * 50, "scores": {f"org/{number}": 0.5 for number in range(30)}})
        path = tmp_path / f"gsm8k_{count}.jsonl"
        path.write_text("\n".join([row] * count))
        tracemalloc.start()
        load(path, "multi_attempt", cache=tmp_path / "cache")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000  # sixteen times the rows: 0.6 MB of scores, 0.2 MB of text


def test_wrong_bytes_are_found_wherever_a_piece_ends(tmp_path, small_is_large):
    text = json.dumps({"question": "唐代🙂é?", "scores": {"a": 1, "b": 0}}, ensure_ascii=False).encode()
    path = tmp_path / "gsm8k.jsonl"
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + text)
        assert load(path).questions == ["唐代🙂é?"]
    for place in range(len(text)):
        path.write_bytes(text[:place] + b"\xff" + text[place:])
        with pytest.raises(DataError, match=r"not a text in UTF-8 \(byte \d+: "):
            load(path)
    path.write_bytes(text[:15])  # within a character
    with pytest.raises(DataError, match="unexpected end of data"):
        load(path)


# Training, routing, clustering


def test_a_training_set_is_the_same_from_memory_and_from_the_cache(fake, tmp_path, small_is_large, capsys):
    config = parse_config([*fake.arguments(), "--training_samples_per_dataset", "60", "--target_shrinkage", "0.3"])
    sets = []
    for cache in (None, tmp_path / "cache"):
        options = config.data, config.encoder, config.training_set, 1
        sets.append(training_set.load_training_set(*options, need_clusters=True, cache=cache))
    memory, mapped = sets
    assert list(memory.inputs) == list(mapped.inputs) and isinstance(mapped.files[0].questions, Texts)
    for name in ("targets", "pool", "clusters", "tasks"):
        np.testing.assert_array_equal(getattr(memory, name), getattr(mapped, name))
    for (one, rows), (other, other_rows) in zip(memory.validation, mapped.validation):
        assert_same(one, other)
        np.testing.assert_array_equal(rows, other_rows)


def test_questions_in_training_files_are_counted_in_either_kind(tmp_path, small_is_large, capsys):
    one = save(tmp_path / "one.jsonl", made_up_rows(20))
    two = save(tmp_path / "two.jsonl", [*made_up_rows(20)[:7], *made_up_rows(30)[20:]])
    expected = len({row["question"] for row in made_up_rows(20)} & set(load(two, "probability").questions))
    loaded = []
    for cache in (None, tmp_path / "cache"):
        loaded.append(load_all([str(one), str(two)], ["probability"], ("--a", "--b"), cache=cache))
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2 and notes[0] == notes[1] and "stand in several rows" in notes[0]
    for train in loaded:
        for test in loaded:
            assert count_training_questions([test[1]], [train[0]]) == {str(two): expected} and expected >= 5


def test_many_queries_are_routed_in_blocks(monkeypatch, tmp_path):
    import torch

    from utils.encoders import Given, Queries
    from utils.model import RouterDC

    torch.manual_seed(1)
    model = RouterDC(Given(6), ("a", "b", "c"), head=True)
    vectors = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    queries = Queries(model.encoder, vectors, choose_hardware("cpu", "fp32"), "none")
    expected = evaluate.route(model, queries, ["c", "a"])
    monkeypatch.setattr(evaluate, "MANY", 20)
    monkeypatch.setattr(evaluate, "BLOCK", 7)
    np.testing.assert_array_equal(evaluate.route(model, queries, ["c", "a"]), expected)
    np.testing.assert_array_equal(evaluate.route(model, queries, ["c", "a"], np.arange(40)), expected[:40])
    assert len(set(expected)) == 2


@pytest.mark.parametrize("space", ["tsne", "embedding"])
def test_many_queries_are_clustered_by_a_sample(tmp_path, space, monkeypatch, capsys):
    monkeypatch.setattr(clustering, "MANY", 200)
    monkeypatch.setattr(clustering, "SAMPLE", 80)
    monkeypatch.setattr(clustering, "MINI_BATCH", 64)
    monkeypatch.setattr(clustering, "BLOCK", 50)
    monkeypatch.setattr(clustering, "ITERATIONS", 300)
    rng = np.random.default_rng(1)
    truth = rng.permutation(np.repeat([0, 1, 2], (180, 140, 80)))
    vectors = (10 * np.eye(3, 8)[truth] + rng.normal(size=(400, 8))).astype(np.float32)
    path = tmp_path / "poems_train.npz"
    np.savez(path, embeddings=vectors, scores=rng.random((400, 2)), llms=["a", "b"])
    report = tmp_path / "report.json"
    flags = ["--encoder", "given", "--clusters", "3", "--perplexity", "10", "--space", space, "--report", str(report)]
    ids = []
    for name in ("one", "two"):
        words = ["--data_paths", str(path), "--output", str(tmp_path / name), "--cache_dir", str(tmp_path / "cache")]
        assert clustering.main([*words, *flags]) == 0, capsys.readouterr().err
        ids.append(load(tmp_path / name / path.name, "probability").clusters)
    np.testing.assert_array_equal(*ids)
    assert {info.compress_type for info in zipfile.ZipFile(tmp_path / "one" / path.name).infolist()} == {0, 8}
    np.testing.assert_array_equal(ids[0], truth)  # the largest is 0
    about = json.loads(report.read_text())
    assert about.get("mapped_queries") == (80 if space == "tsne" else None)
    assert about.get("mini_batch") == (64 if space == "embedding" else None)


# The command


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_files_to_measure_hold_the_same_rows(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(scale, "BLOCK", 16)
    path = tmp_path / f"many{suffix}"
    scale.write_file(path, 40, 3)
    found = load(path, "probability")
    expected = np.concatenate([block.scores for block in scale.blocks(40, 3, vectors=False)])
    np.testing.assert_array_equal(found.scores, expected)
    assert found.llms == ("llm-0", "llm-1", "llm-2") and len(set(found.questions)) == 40
    assert (found.embeddings is None) == (suffix != ".npz")


def test_a_step_is_measured_stopped_and_explained():
    code = "import time; held = bytearray(b'x') * (80 * 2**20); time.sleep(0.3)"
    found = scale.measure(["-c", code], 1000)
    assert 80 <= found["own"] <= found["peak"] < 160 and 0.3 < found["seconds"] < 60
    stopped = scale.measure(["-c", code + "; time.sleep(60)"], 40)
    assert stopped["seconds"] is None and stopped["stopped_at"] == 40
    with pytest.raises(RuntimeError, match="(?s)failed:.*no such thing"):
        scale.measure(["-c", "raise ValueError('no such thing')"], 1000)
    rows = [{"step": "load .npz", "rows": 10, "llms": 2, "megabytes": 1.5} | found, {"step": "x", "rows": 1, "llms": 2}]
    rows[1] |= stopped
    about = {"command": "c", "seconds": 60, "date": "d", "commit": "e", "device": "f", "rows": rows}
    assert "stopped at 40 MB" in scale.page(about)


def test_a_tightly_packed_file_is_as_large_as_its_numbers(tmp_path, monkeypatch):
    path = tmp_path / "many.parquet"
    scale.write_file(path, 5000, 20)
    size = path.stat().st_size
    monkeypatch.setattr(formats, "LARGE", 400_000)
    with path.open("rb") as file:
        assert size < 200_000 and formats.is_large(path, file) and file.tell() == 0
        monkeypatch.setattr(formats, "LARGE", 500_000)
        assert not formats.is_large(path, file)
    path.write_bytes(b"x" * 1000)
    with path.open("rb") as file:
        assert not formats.is_large(path, file)
