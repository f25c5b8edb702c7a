"""The learnable ceiling: known truths are found, nothing where there is nothing; no label leaks, no order matters."""

import itertools
import json

import numpy as np
import pytest
from conftest import LLMS, make_rows

from utils.ceiling import __main__ as command
from utils.ceiling import crossval, known, repeats
from utils.ceiling import measure as measurement
from utils.ceiling.crossval import ALL, BEST, EXCHANGED, canonical, cross_validated, folds, learning_curve, nested
from utils.ceiling.features import FEATURES, surface
from utils.ceiling.fine_tuned import FineTuned
from utils.ceiling.learners import Boosting, Constant, Labelled, Neighbours, Ridge
from utils.ceiling.page import page, span
from utils.ceiling.record import curve_of, gains_of, repeats_of, summary
from utils.data import RoutingData, load
from utils.download import load_manifest
from utils.encoders import load_encoder
from utils.evaluate import measure
from utils.experiment import choose_hardware
from utils.metrics import CEILING, ORACLE, PER_TASK, accuracy, references
from utils.miniature import report as miniature
from utils.report import drawings as plots
from utils.report import figures
from utils.report import results as report
from utils.tables import tables
from utils.tasks import LLMS as PAPER_LLMS
from utils.tasks import TASKS

QUICK = (Ridge(), Neighbours())


def problem(count: int, seed: int, learnable: bool) -> Labelled:
    """Queries on two sides, and three LLMs. The third is right on 30 % of all.

    learnable: the first is right on 90 % of one side and 10 % of the other, the second the other way round. Otherwise
    the side tells nothing of who is right.
    """
    rng = np.random.default_rng(seed)
    side = rng.integers(2, size=count)
    x = rng.normal(size=(count, 6)) + 2.5 * np.eye(6)[side]
    chances = np.stack([np.where(side == 0, 0.9, 0.1), np.where(side == 0, 0.1, 0.9), np.full(count, 0.3)], axis=1)
    chances = chances if learnable else np.broadcast_to([0.6, 0.45, 0.3], chances.shape)
    y = (rng.random(chances.shape) < chances).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return Labelled([f"question {number}" for number in range(count)], y, x, rng.normal(size=(count, 3)))


def figures_of(data: Labelled, learners=QUICK, seeds=(1, 2)):
    runs = [cross_validated(data, learners, seed) for seed in seeds]
    gained = gains_of(data.y, runs, 500)
    return gained, summary(data.y, [f"llm {t}" for t in range(data.y.shape[1])], gained)


# What is found


def test_a_gain_that_is_there_is_found():
    gained, found = figures_of(problem(300, 1, learnable=True))
    assert found["ceiling"]["accuracy"] == pytest.approx(89, abs=4)  # 90 %, less the few queries on the wrong side
    assert gained[BEST]["low"] < 40 < gained[BEST]["high"] + 4 and gained[BEST]["low"] > 25
    assert found["learnable_share"]["mean"] > 60


@pytest.mark.parametrize("seed", [1, 2])
def test_no_gain_is_found_where_nothing_can_be_learned(seed):
    gained, found = figures_of(problem(300, seed, learnable=False))
    for name in ("ridge", "kNN", BEST):
        for figure in (gained[name], gained[name]["against_best_of_all_rows"]):
            assert figure["low"] <= 0 and abs(figure["mean"]) < 5
    assert found["ceiling"]["accuracy"] < 65 < found["oracle"]  # the oracle has much luck to count


def test_boosting_finds_what_surface_features_tell():
    data = problem(240, 3, learnable=False)
    tell = data.surface[:, 1] > 0
    y = np.stack([tell, ~tell], axis=1).astype(float)
    data = Labelled(data.questions, y, data.x, data.surface)
    gained, _ = figures_of(data, (Boosting(),), (1,))
    assert gained["boosting"]["mean"] > 35  # of 50


def test_the_curve_rises_with_labels_and_is_flat_with_exchanged_texts():
    data = problem(300, 4, learnable=True)
    curve = learning_curve(data, QUICK, [20, 80, 1000], 1)
    assert list(curve) == ["20", "80", ALL, EXCHANGED]  # 1000 there are not
    points = {point["labelled"]: point for point in curve_of(data.y, [curve], 200)}
    assert points[ALL]["mean"] > 25 and points["20"]["mean"] < points[ALL]["mean"] + 2
    assert abs(points[EXCHANGED]["mean"]) < 8 and points[EXCHANGED]["low"] <= 0


def test_figures_equal_plain_loops():
    data = problem(60, 5, learnable=True)
    runs = [cross_validated(data, QUICK, seed) for seed in (1, 2)]
    gained = gains_of(data.y, runs, 200)
    best = max(range(3), key=lambda t: data.y[:, t].mean())
    fair, other, earned = [], [], []
    for run in runs:
        for row, (pick, constant) in enumerate(zip(run["picks"][BEST], run["picks"][Constant.name])):
            fair.append(data.y[row, pick] - data.y[row, constant])
            other.append(data.y[row, pick] - data.y[row, best])
            earned.append(data.y[row, pick])
    assert gained[BEST]["mean"] == pytest.approx(100 * np.mean(fair), abs=1e-3)
    assert gained[BEST]["against_best_of_all_rows"]["mean"] == pytest.approx(100 * np.mean(other), abs=1e-3)
    assert sum(gained[BEST]["chosen"].values()) == 2 * crossval.FOLDS
    ceiling = summary(data.y, "abc", gained)["ceiling"]["accuracy"]
    assert ceiling == pytest.approx(100 * np.mean(earned), abs=1e-3)  # what the picks earn, no more


# No label leaks


@pytest.mark.parametrize("learner", [Ridge(), Neighbours(), Boosting()], ids=lambda learner: learner.name)
def test_labels_of_a_held_out_fold_change_none_of_its_picks(learner):
    data = problem(60, 6, learnable=True)
    fold = folds(data.questions, 1, "outer", crossval.FOLDS)
    train, held = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
    other = data.y.copy()
    other[held] = 1 - other[held]
    before, settings = nested(data, [learner], train, held, 1)
    changed = Labelled(data.questions, other, data.x, data.surface)
    after, settings_after = nested(changed, [learner], train, held, 1)
    assert settings == settings_after
    for name, picks in before.items():
        np.testing.assert_array_equal(picks, after[name])
    other[train] = other[train][:, [1, 0, 2]]
    swapped, _ = nested(Labelled(data.questions, other, data.x, data.surface), [learner], train, held, 1)
    assert (swapped[learner.name] != before[learner.name]).mean() > 0.5  # labels of the training folds do


def test_labels_of_a_held_out_fold_change_no_point_of_the_curve():
    data = problem(60, 7, learnable=True)
    held = folds(data.questions, 3, "outer", crossval.FOLDS) == 2
    other = data.y.copy()
    other[held] = 1 - other[held]
    before = learning_curve(data, QUICK, [20], 3)
    after = learning_curve(Labelled(data.questions, other, data.x, data.surface), QUICK, [20], 3)
    for point, picks in before.items():
        for name, columns in picks.items():
            assert np.array(columns)[held].tolist() == np.array(after[point][name])[held].tolist()


def test_equal_questions_are_on_one_side_and_folds_are_even():
    questions = [f"q{number % 37}" for number in range(100)]
    fold = folds(questions, 1, "outer", 5)
    assert len({*zip(questions, fold)}) == len(set(questions))  # one fold for each
    fold_of = dict(zip(questions, fold))
    sizes = np.bincount([fold_of[question] for question in set(questions)])
    assert sizes.max() - sizes.min() <= 1
    assert not np.array_equal(fold, folds(questions, 2, "outer", 5))
    assert not np.array_equal(fold, folds(questions, 1, "inner", 5))


# No order matters


def npz(folder, order, columns):
    """A file of embeddings with its rows and columns in another order."""
    names = np.array(["org/a", "org/b", "lab/c"])
    data = problem(80, 8, learnable=True)
    scores = np.random.default_rng(1).uniform(0.3, 1, data.y.shape) * data.y
    folder.mkdir()
    np.savez(folder / "mine_test.npz", scores=scores[order][:, columns], embeddings=data.x[order], llms=names[columns])


def test_the_order_of_rows_and_columns_changes_no_figure(tmp_path):
    records = []
    for name, order, columns in (("forwards", np.arange(80), [0, 1, 2]), ("backwards", np.arange(80)[::-1], [2, 0, 1])):
        folder = tmp_path / name
        npz(folder, order, columns)
        words = "--encoder given --test_data_type probability --seeds 1 --curve_seeds 1 --sizes 30 --resamples 200"
        words += " --learners ridge kNN"
        paths = ["--test_data_paths", folder / "mine_test.npz", "--save_path", folder / "runs", "--results", folder]
        assert command.main([*words.split(), *map(str, paths)]) == 0
        records += known.read_records(folder / known.FILE)
    for record in records:
        for name in ("path", "sha256", "seconds", "command"):
            del record[name]
    assert records[0] == records[1] and records[0]["gain"][BEST]["mean"] > 10


def test_canonical_sorts_and_says_where_rows_were():
    rng = np.random.default_rng(2)
    data = RoutingData("t", "probability", ["b", "a", "b", "c"], rng.random((4, 2)).astype(np.float32), ("y", "x"))
    found, order = canonical(data)
    assert found.questions == ["a", "b", "b", "c"] and found.llms == ("x", "y")
    np.testing.assert_array_equal(found.scores, data.scores[order][:, ::-1])


# What repeats


def test_halves_equal_an_enumeration_of_all_splits():
    answers, counts = 4, np.array([[3, 2, 2], [0, 1, 4], [4, 4, 4], [2, 2, 1], [0, 0, 0]])
    splits = list(itertools.combinations(range(answers), answers // 2))
    rank = np.argsort(np.argsort(-counts.mean(axis=0), kind="stable"))
    in_sample, repeated, ranked = np.zeros(5), np.zeros(5), np.zeros(5)
    for row, count in enumerate(counts):
        cases = list(itertools.product(splits, repeat=3))
        for halves in cases:
            first = np.array([sum(answer < k for answer in half) for half, k in zip(halves, count)])
            second, top = count - first, np.flatnonzero(first == first.max())
            in_sample[row] += first.max() / 2 / len(cases)
            repeated[row] += second[top].mean() / 2 / len(cases)
            ranked[row] += second[min(top, key=lambda t: rank[t])] / 2 / len(cases)
    found = repeats.halves(counts / answers, answers)
    np.testing.assert_allclose(found.in_sample, in_sample, atol=1e-12)
    np.testing.assert_allclose(found.repeats, repeated, atol=1e-12)
    np.testing.assert_allclose(found.ranked, ranked, atol=1e-12)


def test_luck_does_not_repeat_and_skill_does():
    rng = np.random.default_rng(3)
    luck = rng.binomial(10, 0.5, size=(400, 6)) / 10  # six equal LLMs
    found = repeats_of(luck, 200)
    assert found["answers"] == 10 and found["in_sample"]["mean"] > 15
    assert found["repeats"]["low"] < 1 and abs(found["repeats"]["mean"]) < 2.5
    skill = np.eye(6)[rng.integers(6, size=400)]  # the right LLM is always right, the others never
    skill[0, 0] = 0.5
    assert repeats_of(skill, 200)["share"]["mean"] == pytest.approx(100, abs=1)


def test_how_many_answers_a_score_is_a_share_of():
    assert repeats.answers_of(np.array([[0.1, 0.5], [0.3, 1]], dtype=np.float32)) == 10
    assert repeats.answers_of(np.array([[0.25, 0.5]])) == 4
    assert repeats.answers_of(np.array([[0.0, 1.0]])) is None and repeats_of(np.array([[0.0, 1.0]])) is None
    assert repeats.answers_of(np.array([[0.12345, 1.0]])) is None


# Features and the fine-tuned encoder


def test_surface_features_count_what_their_names_say():
    text = "What is 12 + 3.5?\n(A) \\frac{1}{2}\n(B) $20\nC. 长城"
    row = dict(zip(FEATURES, surface(["plain words here", text])[1]))
    assert row["options"] == 3 and row["question marks"] == 1
    assert row["begins with a question word"] == 1 and row["money"] == 1
    assert row["digits (share)"] == pytest.approx(sum(c.isdigit() for c in text) / len(text))
    assert row["letters outside ASCII (share)"] == pytest.approx(2 / len(text))
    assert row["lines (log)"] == pytest.approx(np.log(4)) and row["LaTeX commands (log)"] == pytest.approx(np.log(2))
    assert row["longest number (characters)"] == 3 and row["gaps to fill"] == 0
    assert np.isfinite(surface([" ", "?", "答"])).all()


def test_the_fine_tuned_encoder_learns_words_and_begins_afresh(tiny_bert):
    rows = make_rows(60, "multi_attempt", 21)
    questions = [row["question"] for row in rows]
    y = np.array([[row["scores"][llm] for llm in LLMS] for row in rows])
    data = Labelled(questions, y, np.zeros((60, 1)), np.zeros((60, 0)))
    hardware = choose_hardware("cpu", "fp32")
    encoder = load_encoder(str(tiny_bert), "mean", 64)
    encoder.place(hardware)
    encoder.train_last(2)
    learner = FineTuned(encoder, questions, hardware)
    learner.learning_rate = 3e-3
    train, new = np.arange(48), np.arange(48, 60)
    first, again = (learner.estimates(data, train, new, 1) for _ in range(2))
    assert first.shape == (len(learner.settings), 12, 4)
    np.testing.assert_array_equal(first, again)
    other = y.copy()
    other[new] = 1 - other[new]
    changed = Labelled(questions, other, data.x, data.surface)
    np.testing.assert_array_equal(first, learner.estimates(changed, train, new, 1))
    everything = learner.estimates(data, train, train, 1)[-1]
    picked = y[train][np.arange(48), everything.argmax(axis=1)].mean()
    assert picked > y[train].mean(axis=0).max() + 0.1


# The command, and who reads its figures


def flags(fake, tmp_path, tiny_bert, *more):
    """A quick command line, with its folders in `tmp_path`."""
    words = "--max_length 64 --seeds 1 --curve_seeds 1 --sizes 20 --resamples 200 --precision fp32 --device cpu"
    words += " --learners ridge kNN"
    paths = ["--encoder", tiny_bert, "--cache_dir", tmp_path / "cache", "--save_path", tmp_path / "runs"]
    return [*words.split(), *map(str, [*paths, "--results", tmp_path / "results", *more])]


@pytest.fixture
def measured(fake, tiny_bert, tmp_path, capsys):
    """The command on two files, one after the other, into one folder."""
    assert command.main(flags(fake, tmp_path, tiny_bert, "--test_data_paths", fake.test["gsm8k"])) == 0
    more = ["--test_data_paths", fake.unseen, "--test_data_type", "multi_attempt"]
    assert command.main(flags(fake, tmp_path, tiny_bert, *more)) == 0
    assert "| poems" in capsys.readouterr().out
    return tmp_path


def test_the_command_joins_files_resumes_and_its_figures_reach_the_tables(
    measured, fake, tiny_bert, monkeypatch, capsys
):
    records = known.read_records(measured / "results" / known.FILE)
    assert [record["task"] for record in records] == ["gsm8k", "poems"]
    text = (measured / "results" / "ceiling.md").read_text(encoding="utf-8")
    assert text == page(records) and span(records[0]["ceiling"], "") in text
    assert records[0]["repeats"]["answers"] == 10 and "repeat in" in text

    def forbidden(*_):
        raise AssertionError("it was measured again")

    monkeypatch.setattr(measurement, "cross_validated", forbidden)  # what is there is read
    monkeypatch.setattr(measurement, "learning_curve", forbidden)
    assert command.main(flags(fake, measured, tiny_bert, "--test_data_paths", fake.test["gsm8k"])) == 0
    again = known.read_records(measured / "results" / known.FILE)
    assert [record["gain"] for record in again] == [record["gain"] for record in records]

    data, other = load(fake.test["gsm8k"]), load(fake.test["mbpp"])
    value = records[0]["ceiling"]["accuracy"]
    assert known.known_ceilings([data, other], measured / "results") == {"gsm8k": value}
    assert known.known_ceilings([data.for_llms(LLMS[::-1])], measured / "results") == {"gsm8k": value}
    assert known.known_ceilings([data.for_llms(LLMS[1:])], measured / "results") == {}  # an LLM less: another ceiling
    assert known.known_ceilings([data.rows(np.arange(10))], measured / "results") == {}
    monkeypatch.chdir(measured)  # where tables look for results/
    tests = [data, other.for_llms(data.llms)]
    result = measure({test.task: np.zeros(len(test), dtype=int) for test in tests}, tests, ["gsm8k", "mbpp"])
    assert list(result["references"])[-3:] == [PER_TASK, CEILING, ORACLE]
    assert result["references"][CEILING] == {"gsm8k": value}
    row = next(line for line in tables(result).splitlines() if CEILING in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == [f"{value:.2f}", "-", "-"]


def test_references_without_a_ceiling_have_no_such_row(fake):
    data = load(fake.test["gsm8k"])
    assert list(references([data])) == list(references([data], {})) == [*data.llms, PER_TASK, ORACLE]
    assert references([data], {"gsm8k": 50.0, "mmlu": 60.0})[CEILING] == {"gsm8k": 50.0}
    best = max(accuracy(np.full(len(data), t), data) for t in range(len(data.llms)))
    assert references([data], {"gsm8k": 50.0})[PER_TASK]["gsm8k"] == best


def test_the_report_puts_the_papers_ceilings_before_the_oracle(tmp_path):
    files = load_manifest()["files"]
    record = {"sha256": files["split2_model7/mbpp.json"]["sha256"], "llms": PAPER_LLMS[::-1], "queries": 500}
    others = [record | {"llms": PAPER_LLMS[1:]}, record | {"sha256": "0"}]
    ceilings = [other | {"ceiling": {"accuracy": 1.0}} for other in others] + [record | {"ceiling": {"accuracy": 48.0}}]
    (tmp_path / known.FILE).write_text(json.dumps({"tasks": ceilings}))
    tasks = [task.name for task in TASKS]
    controls = {PER_TASK: dict.fromkeys(tasks, 50.0), ORACLE: dict.fromkeys(tasks, 90.0)}
    found = report.with_ceilings(controls, tmp_path)
    assert list(found) == [PER_TASK, CEILING, ORACLE] and found[CEILING] == {"mbpp": 48.0}
    assert report.with_ceilings(found, tmp_path) == found  # not twice
    assert list(report.with_ceilings(found, tmp_path / "nothing there")) == [PER_TASK, ORACLE]
    assert CEILING not in report.accuracy_table([], found, inside=True)  # of the tasks there it has none
    row = next(line for line in report.accuracy_table([], found, inside=False).splitlines() if CEILING in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == ["-", "48.00", "-", "-", ""]


def test_figures_are_drawn_from_the_file(measured, tmp_path, monkeypatch):
    records = known.read_records(measured / "results" / known.FILE)
    seen = {}

    def spy(name, original):
        def draw(rows, title):
            seen[name] = rows
            return original(rows, title)

        monkeypatch.setattr(plots, name, draw)

    for name in ("ceilings", "learning_panels"):
        spy(name, getattr(plots, name))
    for name in ("ceiling", "learning"):
        target = tmp_path / f"{name}.png"
        assert figures.main([name, "--results", str(measured / "results"), "--output", str(target)]) == 0
        assert target.stat().st_size > 5000
    assert seen["ceilings"]["GSM8K"]["ceiling"] == records[0]["ceiling"]["accuracy"]
    assert [size for size, *_ in next(iter(seen["learning_panels"]["GSM8K"].values()))] == [20, 40]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--test_data_paths", "{unseen}"], "give its kind with --test_data_type"),
        (
            ["--test_data_paths", "{gsm8k}", "--test_data_type", "probability", "probability"],
            "give one kind for each file",
        ),
        (["--test_data_paths", "{gsm8k}", "--llms", LLMS[0]], "takes two LLMs"),
        (["--test_data_paths", "{gsm8k}", "--fine_tuned", "mmlu"], "no file is for that task"),
        (["--test_data_paths", "{gsm8k}", "--seeds", "1", "1"], "names something twice"),
        (["--test_data_paths", "{gsm8k}", "--sizes", "3"], "at least"),
        (["--test_data_paths", "{gsm8k}", "--encoder", "given"], "has text"),
    ],
)
def test_errors_name_the_flag(more, message, fake, tiny_bert, tmp_path, capsys):
    more = [word.format(unseen=fake.unseen, gsm8k=fake.test["gsm8k"]) for word in more]
    assert command.main(flags(fake, tmp_path, tiny_bert, *more)) == 2
    assert message in capsys.readouterr().err


def test_a_broken_or_small_file_is_named(tmp_path, capsys):
    (tmp_path / known.FILE).write_text("[]")
    with pytest.raises(ValueError, match="not a file of"):
        known.read_records(tmp_path / known.FILE)
    small = tmp_path / "few_test.json"
    small.write_text(json.dumps(make_rows(9, "probability", 1)), encoding="utf-8")
    folders = ["--results", str(tmp_path / "r"), "--save_path", str(tmp_path / "s")]
    assert command.main(["--test_data_paths", str(small), "--test_data_type", "probability", *folders]) == 2
    assert "9 distinct questions are too few" in capsys.readouterr().err


def test_the_miniatures_table_takes_a_ceiling_of_some_tasks(fake):
    data = load(fake.test["gsm8k"])
    runs = []
    for ceilings in ({}, {"gsm8k": 61.0}):  # one run from before the ceiling was measured
        test = {"tasks": {"gsm8k": 60.0}, "in_distribution": ["gsm8k"], "llms": list(data.llms)}
        runs.append({"test": test | {"references": references([data], ceilings)}})
    text, found = miniature.table(runs[::-1])
    row = next(line for line in text.splitlines() if CEILING in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == ["61.00", "61.00"]
    assert found["oracle"] == pytest.approx(runs[0]["test"]["references"][ORACLE]["gsm8k"])
    assert CEILING not in miniature.table(runs)[0]
