"""The figures: what they draw from the data they get, rows that differ without colour, errors that say what to do."""

import json
import os
import shlex
import statistics
import subprocess

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import LLMS, REPO, arguments, make_rows
from matplotlib.image import imread
from safetensors.torch import load_file
from sklearn.metrics.pairwise import cosine_similarity

import evaluation_router
import train_router_mdeberta
from utils import plots
from utils.config import HardwareConfig, parse_arguments
from utils.data import load
from utils.report import ablations, drawings, figures


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def words(figure) -> list[str]:
    """All texts of a figure, drawn once so that ticks have theirs."""
    figure.canvas.draw()
    texts = [text.get_text() for text in figure.findobj(plt.Text)]
    return [text for text in texts if text.strip()]


def lines_of(axis) -> dict[str, plt.Line2D]:
    """The lines with a label."""
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


def styles(lines) -> set:
    """Everything but the colour."""
    return {(line.get_linestyle(), line.get_marker(), str(line._unscaled_dash_pattern)) for line in lines}


def is_drawn(path) -> None:
    """A picture of a sensible size that is neither blank nor all ink."""
    image = imread(path)[..., :3]
    assert image.shape[0] > 300 and image.shape[1] > 300
    ink = (image.min(axis=2) < 0.9).mean()
    assert 0.005 < ink < 0.9


# The overview


def group(router, recipe, averages, fidelity="paper", seeds=2) -> dict:
    """A group of comparison.json: averages one point apart from seed to seed, intervals of two points to each side."""
    sides = {}
    for side, value in zip(("id", "ood"), averages):
        per_seed = [value + seed - (seeds - 1) / 2 for seed in range(seeds)]
        sides[side] = {"per_seed": per_seed, "interval_with_seeds": [value - 2, value + 2]}
    return {"router": router, "recipe": recipe, "fidelity": fidelity, "seeds": list(range(seeds)), **sides}


COMPARISON = {
    "of_paper": True,
    "groups": [
        group("BestSingle", "control", (54, 44), seeds=1),
        group("RouterDC", "frozen", (55, 43)),
        group("RouterDC", "frozen", (99, 99), fidelity="upstream"),
        group("RouterDC", "tuned", (58, 45)),
        group("kNN", "frozen", (53, 43)),
        group("Ridge", "frozen", (56, 44)),
        group("MLP", "tuned", (57, 45)),
    ],
}


def test_the_overview_has_the_paper_our_recipes_and_the_baselines_of_one_recipe():
    rows = figures.overview_rows(COMPARISON, "frozen")
    labels = [
        "RouterDC, tuned (2 seeds)",
        "RouterDC, frozen (2 seeds)",
        "Ridge, frozen (2 seeds)",
        "kNN, frozen (2 seeds)",
    ]
    assert list(rows) == ["RouterDC, the paper (mDeBERTa)", *labels]
    assert rows["RouterDC, the paper (mDeBERTa)"]["in distribution"] == (58.54, 0, 58.54, 58.54)
    assert rows["kNN, frozen (2 seeds)"]["out of distribution"] == pytest.approx((43, 0.5**0.5, 41, 45))
    assert figures.overview_marks(COMPARISON) == {"best single LLM": {"in distribution": 54, "out of distribution": 44}}
    with pytest.raises(ValueError, match="--recipe layers: .* it has control, frozen, tuned"):
        figures.overview_rows(COMPARISON, "layers")


def test_the_overview_draws_means_deviations_and_intervals():
    rows = figures.overview_rows(COMPARISON, "frozen")
    figure = drawings.overview(rows, figures.overview_marks(COMPARISON), "baselines: frozen")
    text = words(figure)
    assert {*rows, "best single LLM", "in distribution: accuracy (%)", "out of distribution: accuracy (%)"} <= set(text)
    assert figure.get_suptitle().startswith("baselines: frozen\n")
    for axis, title in zip(figure.axes, ("in distribution", "out of distribution")):
        drawn = [(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axis.lines]
        for place, (label, row) in enumerate(rows.items()):
            mean, deviation, low, high = row[title]
            assert ((mean,), (place,)) in drawn, label
            if low < high:
                assert ((low, high), (place, place)) in drawn
                assert ((mean - deviation, mean + deviation), (place, place)) in drawn
        assert axis.yaxis_inverted()  # the first row on top


# Ablations


def test_settings_have_means_deviations_the_recipe_and_panels_of_their_own():
    measures = {}
    for i, value in enumerate(("0", "1", "5")):
        measures[value] = {"id_avg": (50.0 + i, 0.5 * i), "ood_avg": (40.0 - i, 0.1), "validation": (55.0, 0.2)}
    no_validation = {
        "1": {"id_avg": (51.0, 0.0), "ood_avg": (41.0, 0.0)},
        "3": {"id_avg": (52.0, 0.0), "ood_avg": (42.0, 0.0)},
    }
    figure = drawings.settings_curves({"lambda": measures, "K+": no_validation}, {"lambda": "1"}, "frozen")
    columns = [figure.axes[number::2] for number in range(2)]
    bars = [axis.containers[0].lines for axis in columns[0]]
    assert [drawn[0].get_ydata().tolist() for drawn in bars] == [[55, 55, 55], [50, 51, 52], [40, 39, 38]]
    segments = bars[1][2][0].get_segments()  # the error bars
    assert [(segment[0][1], segment[1][1]) for segment in segments] == [(50, 50), (50.5, 51.5), (51, 53)]
    for axis in columns[0]:  # the recipe's own is the second value
        assert [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":"] == [1]
    assert [len(axis.containers) for axis in columns[1]] == [0, 1, 1]
    rows = {round(axis.get_position().y0, 3) for axis in columns[0]}
    assert len(rows) == 3  # validation and test share no axis
    labels = ("validation", "test, in distribution", "test, out of distribution")
    assert {"lambda", "K+", "0", "5", *[f"{label}\naccuracy (%)" for label in labels]} <= set(words(figure))
    assert len(styles([drawn[0] for drawn in bars])) == 3


def test_lost_llms_have_a_mark_for_each_way_to_route():
    routes = {"RouterDC": (50.0, 0.5), "best LLM per task of those left": (52.0, 0.0)}
    row = {side: routes for side in ("in distribution", "out of distribution")}
    figure = drawings.lost_llms({"none": row, "alpha": row}, "title")
    assert [len(axis.containers) for axis in figure.axes] == [2, 2]
    assert figure.axes[0].containers[1].lines[0].get_xdata().tolist() == [52, 52]
    assert {"none", "alpha", "LLM lost", "accuracy (%)", "RouterDC", "in distribution"} <= set(words(figure))
    assert len(styles(container.lines[0] for container in figure.axes[0].containers)) == 2


def test_llms_of_one_short_name_stay_apart():
    """Two organisations' LLMs of one name: a row each, with their own values."""
    lines = []
    for value, accuracy in (("none", 50.0), ("org-a/x", 40.0), ("org-b/x", 30.0), ("org-c/y", 20.0)):
        limits = dict.fromkeys(figures.LIMITS, {"id_avg": 1.0, "ood_avg": 2.0})
        line = {"setting": figures.LOST, "value": value, "id_avg": accuracy, "ood_avg": 10.0, "limits": limits}
        lines.append(line)
    rows = figures.lost_rows(lines)
    assert [row["in distribution"]["RouterDC"][0] for row in rows.values()] == [50, 40, 30, 20]
    assert list(rows) == ["none", "org-a/x", "org-b/x", "y"]


@pytest.mark.parametrize("draw", [plots.llm_accuracies, plots.llm_disagreement])
def test_figures_of_a_data_set_tell_llms_of_one_short_name_apart(tmp_path, monkeypatch, draw):
    kept = []
    monkeypatch.setattr(plots.plt, "close", kept.append)
    rows = make_rows(12, "probability", 1, clusters=False)
    for row in rows:
        row["scores"] = dict(zip(("org-a/x", "org-b/x", "org-c/y"), row["scores"].values()))
    (tmp_path / "poems_test.json").write_text(json.dumps(rows))
    draw({"poems_test.json": load(tmp_path / "poems_test.json", "probability")}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert {"org-a/x", "org-b/x", "y", "poems_test"} <= set(words(kept[0]))


# A router


def test_shares_are_stacked_to_100_and_told_apart_by_hatches():
    shares = {"mmlu": {"a": 70.0, "b": 25.0, "c": 5.0}, "mbpp": {"a": 0.0, "b": 10.0, "c": 90.0}}
    figure = drawings.routing_shares(shares, "title")
    (axis,) = figure.axes
    bars = {container.get_label(): container.patches for container in axis.containers}
    assert list(bars) == ["a", "b", "c"]
    for place, row in enumerate(shares.values()):
        assert [patches[place].get_width() for patches in bars.values()] == list(row.values())
        assert [patches[place].get_x() for patches in bars.values()] == [0, row["a"], row["a"] + row["b"]]
    assert len({patches[0].get_hatch() or "" for patches in bars.values()}) == 3
    text = words(figure)
    assert {"MMLU", "MBPP", "70", "25", "10", "90", "a", "b", "c"} <= set(text) and "5" not in text
    assert any("(%)" in piece for piece in text)


def test_llm_embeddings_show_the_cosines_and_keep_their_distances():
    vectors = np.random.default_rng(0).normal(size=(3, 8)) * [[1], [5], [0.2]]
    figure = drawings.llm_embeddings(vectors, ["one", "two", "three"], "title")
    expected = cosine_similarity(vectors)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), expected, atol=1e-12)
    text = words(figure)
    assert [piece for piece in text if piece == f"{expected[0, 1]:.2f}"] and "1.00" in text and text.count("two") >= 3
    points = np.array([marks.get_offsets()[0] for marks in figure.axes[1].collections])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for i in range(3):  # three points lie in a plane: nothing is lost
        for j in range(3):
            assert np.linalg.norm(points[i] - points[j]) == pytest.approx(np.linalg.norm(unit[i] - unit[j]))
    assert any("%" in piece for piece in text)


# Training


def test_training_curves_are_means_over_seeds_and_differences_are_paired():
    groups = {
        "x": {
            1: [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0}, {"step": 20, "validation": 50.0}],
            2: [{"step": 10, "loss": 4.0}, {"step": 20, "validation": 90.0}],
        },
        "y": {
            3: [{"step": 10, "loss": 1.0}, {"step": 20, "validation": 10.0}],
            2: [{"step": 10, "loss": 1.0}, {"step": 20, "validation": 93.0}, {"step": 30, "validation": 0.0}],
            1: [{"step": 10, "loss": 1.0}, {"step": 20, "validation": 51.0}],
        },
    }
    figure = drawings.training_curves(groups, "Training")
    loss, validation, difference = (lines_of(axis) for axis in figure.axes)
    assert loss["x (2 seeds)"].get_xydata().tolist() == [[10, 3.0]]  # the second seed has no loss at step 20
    assert validation["x (2 seeds)"].get_xydata().tolist() == [[20, 70.0]]
    assert loss["y (3 seeds)"].get_xydata().tolist() == [[10, 1.0]]
    assert difference["y minus x"].get_xydata().tolist() == [[20, 2.0]]  # of seeds 1 and 2, which both have
    assert not figure.axes[1].collections  # the splits' levels, which differ by 40 points, hide nothing
    band = figure.axes[2].collections[0].get_paths()[0].vertices[:, 1]
    deviation = statistics.stdev([51 - 50, 93 - 90])
    assert (band.min(), band.max()) == pytest.approx((2 - deviation, 2 + deviation))
    labels = {"optimizer step", "validation accuracy (%)", "training loss\n(mean of 10 steps)"}
    assert labels <= set(words(figure)) and len(styles(loss.values())) == 2
    assert len(drawings.training_curves({"x": groups["x"]}, "one group").axes) == 2


# Cost


def routerbench(recipe: str | None, better: float) -> dict:
    """A routerbench.json of one task and two cost rates; its RouterDC is `better` by so many points."""
    routers = {}
    for number, name in enumerate(("RouterDC", "kNN")):
        routers[name] = []
        for rate in (0, 10):
            for seed in (1, 2):
                value = 60.0 + number + rate / 10 + 2 * seed + (better if name == "RouterDC" else 0)
                point = {"cost_rate": rate, "seed": seed, "accuracy": {"mbpp": value}, "cost": {"mbpp": 0.01 * seed}}
                routers[name].append(point)
    llms = {f"org-{name}/x": {"accuracy": {"mbpp": 50.0}, "cost": {"mbpp": 0.01}} for name in "ab"}
    result = {"tasks": ["mbpp"], "seeds": [1, 2], "encoder": "minilm", "cost_rates": [0, 10], "llms": llms}
    command = {"command": "python -m utils.report.routerbench runs/minilm_routerbench_tuned"}
    return result | command | {"routers": routers} | ({"recipe": recipe} if recipe else {})


def test_cost_has_both_recipes_with_their_spread(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(plots.plt, "close", kept.append)
    tuned = tmp_path / "results" / "routerbench_tuned"
    tuned.mkdir(parents=True)
    target = tmp_path / "cost.png"
    flags = ["cost", "--results", str(tmp_path / "results"), "--output", str(target)]
    (tuned.parent / "routerbench.json").write_text(json.dumps(routerbench("routerbench", 0)))
    assert figures.main(flags) == 0
    (tuned / "routerbench.json").write_text(json.dumps(routerbench(None, 20)))
    assert figures.main(flags) == 0
    alone, both = (figure.axes[0] for figure in kept)
    assert [bars.get_label() for bars in alone.containers] == ["RouterDC, routerbench", "kNN"]
    drawn = {bars.get_label(): bars.lines for bars in both.containers}
    assert list(drawn) == ["RouterDC, routerbench", "RouterDC, routerbench_tuned", "kNN"]
    for label, mean in (("RouterDC, routerbench", 63.0), ("RouterDC, routerbench_tuned", 83.0), ("kNN", 64.0)):
        line, _, bars = drawn[label]
        assert line.get_xydata().tolist() == [[15, mean], [15, mean + 1]]
        upright = bars[1].get_segments()[0]
        assert upright[:, 1].tolist() == pytest.approx([mean - 2**0.5, mean + 2**0.5])
    assert len({line[0].get_marker() for line in drawn.values()}) == 3
    text = words(kept[1])
    assert any("RouterBench (MBPP)" in piece and "2 seeds" in piece for piece in text)
    assert {"1  org-a/x", "2  org-b/x"} <= set(text)  # short names would be alike


# Files


def test_a_picture_has_a_pdf_beside_it_and_both_repeat_to_the_byte(tmp_path):
    shares = {"mmlu": {"a": 70.0, "b": 30.0}}
    contents = []
    for name in ("one", "two"):
        plots.save(drawings.routing_shares(shares, "title"), tmp_path / name / "figure.png")
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1] and sorted(contents[0]) == ["figure.pdf", "figure.png"]
    assert contents[0]["figure.pdf"].startswith(b"%PDF") and b"CreationDate" not in contents[0]["figure.pdf"]
    plots.save(drawings.routing_shares(shares, "title"), tmp_path / "alone" / "figure.svg")
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["figure.svg"]


def test_committed_figures_are_small_pairs():
    for picture in (REPO / "results").rglob("figures/*.png"):
        assert picture.with_suffix(".pdf").is_file(), picture
        for path in (picture, picture.with_suffix(".pdf")):
            assert path.stat().st_size < 1_000_000, path


@pytest.fixture(scope="module")
def files(fake, tiny_bert, tmp_path_factory):
    """A results folder and the runs of a tiny ablation."""
    folder = tmp_path_factory.mktemp("figures")
    changes = (("base", 1, {}), ("base", 2, {}), ("lambda=0", 1, {"cluster_loss_weight": 0}), ("K+=1", 1, {"top_k": 1}))
    short = {"training_steps": 20, "eval_steps": 10, "cache_dir": folder / "cache"}
    for name, seed, flags in changes:
        label = "minilm_tiny" if name == "base" else f"minilm_tiny {name}"
        path = folder / name / f"seed_{seed}"
        command = arguments(fake, tiny_bert, path, label=label, seed=seed, **short, **flags)
        assert train_router_mdeberta.main(command) == 0
    results = folder / "results"
    flags = {"--results": results, "--device": "cpu", "--cache_dir": folder / "cache"}
    words = [str(word) for pair in flags.items() for word in pair]
    assert ablations.main([str(folder), "--lose_llms", *words]) == 0
    (results / "comparison.json").write_text(json.dumps(COMPARISON))
    return folder


def test_every_command_draws_its_figure(files, tmp_path, capsys):
    results, base, plain = files / "results", files / "base", files / "lambda=0"
    tsne = {
        "--with_loss": base / "seed_1",
        "--without_loss": plain / "seed_1",
        "--per_task": 30,
        "--perplexity": 10,
        "--device": "cpu",
        "--cache_dir": files / "cache",
    }
    commands = {
        "overview": ["--results", results, "--recipe", "tuned"],
        "settings": ["--results", results, "--settings", "lambda", "K+"],
        "lost": ["--results", results, "--recipe", "tiny"],
        "tsne": [word for pair in tsne.items() for word in pair],
        "embeddings": ["--ckpt", base / "seed_1"],
        "curves": ["--runs", base, plain],
        "shares": ["--runs", base],
    }
    folder = tmp_path / "new folder"
    for name, flags in commands.items():
        target = folder / f"{name}.png"
        assert figures.main([name, *map(str, flags), "--output", str(target)]) == 0, capsys.readouterr().err
        is_drawn(target)
    names = sorted(f"{name}{suffix}" for name in commands for suffix in (".png", ".pdf"))
    assert sorted(path.name for path in folder.iterdir()) == names  # and nothing half-written


def test_titles_name_recipe_and_seed_without_the_encoder(files, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(plots, "query_map", lambda maps, panels, title, target: titles.extend(panels))
    runs = ["--with_loss", str(files / "base" / "seed_2"), "--without_loss", str(files / "lambda=0" / "seed_1")]
    flags = ["--per_task", "30", "--perplexity", "5", "--device", "cpu", "--cache_dir", str(files / "cache")]
    assert figures.main(["tsne", *runs, *flags]) == 0
    with_loss, without = titles
    assert with_loss == "tiny, seed 2: with the sample-sample loss"
    assert without == "tiny lambda=0, seed 1: without the sample-sample loss"


def test_the_shares_drawn_are_the_means_over_the_seeds(files, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(drawings, "routing_shares", lambda shares, title: drawn.append((shares, title)) or plt.figure())
    assert figures.main(["shares", "--runs", str(files / "base"), "--output", str(tmp_path / "x.png")]) == 0
    paths = [files / "base" / f"seed_{seed}" / "results.json" for seed in (1, 2)]
    tested = [json.loads(path.read_text())["test"]["shares"] for path in paths]
    ((shares, title),) = drawn
    for task, row in shares.items():
        for llm in LLMS:
            assert row[llm.split("/")[1]] == pytest.approx(statistics.mean(share[task][llm] for share in tested))
    assert "(tiny, mean of 2 seeds)" in title


def test_query_embeddings_are_those_that_the_router_compares(files, fake, tmp_path):
    """Their cosines to the LLM embeddings give the picks of the evaluation."""
    run = files / "base" / "seed_1"
    queries = figures.query_embeddings(run, 1000, 1, HardwareConfig(device="cpu", cache_dir=files / "cache"))
    assert evaluation_router.main(["--ckpt", str(run), "--device", "cpu", "--output", str(tmp_path / "out.json")]) == 0
    picks = json.loads((tmp_path / "out.json").read_text())["picks"]
    llms = load_file(run / "checkpoint" / "model.safetensors")["llm_embeddings.weight"].numpy()
    for number, task in enumerate(queries.tasks):
        near = cosine_similarity(queries.embeddings[queries.places == number], llms)
        assert (near.argmax(axis=1) == picks[task]).mean() > 0.97  # but for ties in the last digit
    np.testing.assert_allclose(np.linalg.norm(queries.embeddings, axis=1), 1, rtol=1e-5)
    few = figures.query_embeddings(run, 7, 1, HardwareConfig(device="cpu", cache_dir=files / "cache"))
    assert np.bincount(few.places).tolist() == [7, 7, 7]
    for row in few.embeddings:
        assert np.abs(queries.embeddings - row).max(axis=1).min() < 1e-4


def test_what_is_missing_is_named_with_the_command_that_makes_it(files, tmp_path, capsys):
    def says(*argv) -> str:
        assert figures.main([*map(str, argv), "--output", str(tmp_path / "x.png")]) == 2
        assert not (tmp_path / "x.png").exists()
        return capsys.readouterr().err

    empty = tmp_path / "empty"
    empty.mkdir()
    scripts = {
        "overview": "baselines.sh",
        "settings": "ablations.sh",
        "lost": "ablations.sh",
        "cost": "router_train_routerbench.sh",
    }
    for name, script in scripts.items():
        text = says(name, "--results", empty)
        assert str(empty) in text and f"bash train_scripts/{script}" in text
    assert "ablations.sh" in says("tsne", "--with_loss", empty / "a", "--without_loss", empty / "b")
    assert "ablations.sh" in says("embeddings", "--ckpt", empty / "a")
    for name in ("curves", "shares"):
        assert f"{empty}: no finished run" in says(name, "--runs", empty)
    assert "runs of 3 recipes" in says("shares", "--runs", files)
    assert "two runs of tiny with seed 1" in says("curves", "--runs", files / "base", files / "base")
    assert "name one of them" in says("settings", "--results", files / "results", "--recipe", "large")
    assert figures.main(["overview", "--output", str(tmp_path / "x.bmp")]) == 2
    assert "must end in" in capsys.readouterr().err
    assert figures.main(["pie"]) == 2 and "no figure is called 'pie'; there are overview" in capsys.readouterr().err


# All of them


def test_all_draws_every_figure_and_says_which_it_could_not(monkeypatch, tmp_path, capsys):
    drawn = []

    def stand_in(args):
        drawn.append(args)
        if isinstance(args, figures.Tsne):
            raise ValueError("no such run")

    for name, (arguments_class, _) in figures.FIGURES.items():
        monkeypatch.setitem(figures.FIGURES, name, (arguments_class, stand_in))
    flags = ["--results", str(tmp_path), "--runs", "runs/mine", "--recipe", "mine", "--device", "cpu"]
    assert figures.main(["all", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: no such run\n" and captured.out.count("Written: ") == len(drawn) - 1
    assert {type(args) for args in drawn} == {arguments_class for arguments_class, _ in figures.FIGURES.values()}
    outputs = [args.output for args in drawn]
    assert len(set(outputs)) == len(outputs) and {path.parent for path in outputs} == {tmp_path / "figures"}
    assert all(args.recipe == "mine" for args in drawn if isinstance(args, (figures.Settings, figures.Lost)))
    tsne = next(args for args in drawn if isinstance(args, figures.Tsne))
    assert str(tsne.with_loss) == "runs/mine/base/seed_1" and tsne.hardware.device == "cpu"
    committed = {path.name for path in (REPO / "results" / "figures").glob("*.png")}
    of_pages = {"new_llms.png", "reliability.png", "coverage.png"}  # drawn with new_llms.md and certainty.md
    assert {path.name for path in outputs} == committed - of_pages


def test_the_script_hands_its_flags_on(tmp_path):
    """With a stand-in for python that notes its arguments."""
    stand_in = tmp_path / "bin" / "python"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/usr/bin/env bash\nprintf "%q " "$@" >> {tmp_path}/log\nexit 2\n')
    stand_in.chmod(0o755)
    environment = os.environ | {"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "ROUTERDC_NO_VENV": "1"}
    command = ["bash", str(REPO / "train_scripts" / "figures.sh"), "--results", "a b"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert run.returncode == 2, run.stderr
    words_given = shlex.split((tmp_path / "log").read_text())
    assert words_given == ["-m", "utils.report.figures", "all", "--results", "a b"]
    assert str(parse_arguments(figures.All, words_given[3:], "x", "x").results) == "a b"


def test_matplotlib_needs_no_display():
    assert matplotlib.get_backend().lower() == "agg"
