"""The figures: what they draw against the data they get, that rows differ without colour, and that commands name what is missing."""

import json
import os
import shlex
import statistics
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import LLMS, REPO, arguments
from matplotlib.image import imread
from safetensors.torch import load_file
from sklearn.metrics.pairwise import cosine_similarity

import evaluation_router
import train_router_mdeberta
from utils import plots
from utils.report import ablations, figures


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def words(figure) -> list[str]:
    """All texts of a figure, drawn once so that ticks have theirs."""
    figure.canvas.draw()
    found = [text.get_text() for text in figure.findobj(plt.Text)]
    return [text for text in found if text.strip()]


def lines_of(axis) -> dict[str, plt.Line2D]:
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


def group(router, recipe, averages, fidelity="paper", seeds=2) -> dict:
    """A group of comparison.json: both averages, one point apart from seed to seed, and intervals of two points to each side."""
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
    figure = plots.overview(rows, figures.overview_marks(COMPARISON))
    text = words(figure)
    assert {*rows, "best single LLM", "in distribution: accuracy (%)", "out of distribution: accuracy (%)"} <= set(text)
    for axis, title in zip(figure.axes, ("in distribution", "out of distribution")):
        drawn = [(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axis.lines]
        for place, (label, row) in enumerate(rows.items()):
            mean, deviation, low, high = row[title]
            assert ((mean,), (place,)) in drawn, label
            if low < high:
                assert ((low, high), (place, place)) in drawn and (
                    (mean - deviation, mean + deviation),
                    (place, place),
                ) in drawn
        assert axis.yaxis_inverted()  # the first row on top


def test_settings_have_means_deviations_the_recipe_and_units():
    measures = {
        value: {"id_avg": (50.0 + i, 0.5 * i), "ood_avg": (40.0 - i, 0.1), "validation": (55.0, 0.2)}
        for i, value in enumerate(("0", "1", "5"))
    }
    no_validation = {
        "1": {"id_avg": (51.0, 0.0), "ood_avg": (41.0, 0.0)},
        "3": {"id_avg": (52.0, 0.0), "ood_avg": (42.0, 0.0)},
    }
    figure = plots.settings_curves({"lambda": measures, "K+": no_validation}, {"lambda": "1"}, "frozen")
    top, bottom = figure.axes[0], figure.axes[2]
    inside, validation = (bars.lines for bars in top.containers)
    assert inside[0].get_ydata().tolist() == [50, 51, 52] and validation[0].get_ydata().tolist() == [55, 55, 55]
    segments = inside[2][0].get_segments()  # the error bars
    assert [(part[0][1], part[1][1]) for part in segments] == [(50, 50), (50.5, 51.5), (51, 53)]
    assert bottom.containers[0].lines[0].get_ydata().tolist() == [40, 39, 38]
    assert [line.get_xdata()[0] for line in top.lines if line.get_linestyle() == ":"] == [1]  # at the second value
    assert len(figure.axes[1].containers) == 1
    text = words(figure)
    for label in (
        "lambda",
        "K+",
        "accuracy (%)",
        "validation",
        "test, in-distribution average",
        "test, out-of-distribution average",
        "0",
        "5",
    ):
        assert label in text
    assert len(styles([inside[0], validation[0], bottom.containers[0].lines[0]])) == 3


def test_shares_are_stacked_to_100_and_told_apart_by_hatches():
    shares = {"mmlu": {"a": 70.0, "b": 25.0, "c": 5.0}, "mbpp": {"a": 0.0, "b": 10.0, "c": 90.0}}
    figure = plots.routing_shares(shares, "title")
    (axis,) = figure.axes
    bars = {container.get_label(): container.patches for container in axis.containers}
    assert list(bars) == ["a", "b", "c"]
    for place, row in enumerate(shares.values()):
        assert [patches[place].get_width() for patches in bars.values()] == list(row.values())
        assert [patches[place].get_x() for patches in bars.values()] == [0, row["a"], row["a"] + row["b"]]
    assert len({patches[0].get_hatch() or "" for patches in bars.values()}) == 3
    text = words(figure)
    assert (
        {"MMLU", "MBPP", "70", "25", "10", "90", "a", "b", "c"} <= set(text)
        and "5" not in text
        and any("(%)" in piece for piece in text)
    )


def test_llm_embeddings_show_the_cosines_and_keep_their_distances():
    vectors = np.random.default_rng(0).normal(size=(3, 8)) * [[1], [5], [0.2]]
    figure = plots.llm_embeddings(vectors, ["one", "two", "three"], "title")
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


def test_training_curves_are_means_over_seeds():
    runs = {"x": [[{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0}, {"step": 20, "validation": 50.0}], [{"step": 10, "loss": 4.0}, {"step": 20, "validation": 53.0}]], "y": [[{"step": 10, "loss": 1.0}]]}  # fmt: skip
    figure = plots.training_curves(runs, "Training")
    loss, validation = (lines_of(axis) for axis in figure.axes)
    assert loss["x (2 seeds)"].get_xydata().tolist() == [[10, 3.0]]  # the second seed has no loss at step 20
    assert validation["x (2 seeds)"].get_xydata().tolist() == [[20, 51.5]] and loss[
        "y (1 seed)"
    ].get_xydata().tolist() == [[10, 1.0]]
    band = figure.axes[1].collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(51.5 - statistics.stdev([50, 53])) and band.max() == pytest.approx(
        51.5 + statistics.stdev([50, 53])
    )
    assert {"optimizer step", "validation accuracy (%)", "training loss (mean of 10 steps)"} <= set(
        words(figure)
    ) and len(styles(loss.values())) == 2


def test_lost_llms_have_a_mark_for_each_way_to_route():
    row = {
        side: {"RouterDC": (50.0, 0.5), "best LLM per task of those left": (52.0, 0.0)}
        for side in ("in distribution", "out of distribution")
    }
    figure = plots.lost_llms({"none": row, "alpha": row}, "title")
    assert [len(axis.containers) for axis in figure.axes] == [2, 2]
    assert figure.axes[0].containers[1].lines[0].get_xdata().tolist() == [52, 52]
    assert {"none", "alpha", "LLM lost", "accuracy (%)", "RouterDC", "in distribution"} <= set(words(figure))
    assert len(styles(container.lines[0] for container in figure.axes[0].containers)) == 2


@pytest.fixture(scope="module")
def files(fake, tiny_bert, tmp_path_factory):
    """A results folder and the runs of a tiny ablation."""
    folder = tmp_path_factory.mktemp("figures")
    for name, seed, flags in (
        ("base", 1, {}),
        ("base", 2, {}),
        ("lambda=0", 1, {"cluster_loss_weight": 0}),
        ("K+=1", 1, {"top_k": 1}),
    ):
        label = "tiny" if name == "base" else f"tiny {name}"
        command = arguments(
            fake,
            tiny_bert,
            folder / name / f"seed_{seed}",
            recipe=label,
            seed=seed,
            cache_dir=folder / "cache",
            training_steps=20,
            eval_steps=10,
            **flags,
        )
        assert train_router_mdeberta.main(command) == 0
    results = folder / "results"
    assert (
        ablations.main(
            [
                str(folder),
                "--results",
                str(results),
                "--lose_llms",
                "--device",
                "cpu",
                "--cache_dir",
                str(folder / "cache"),
            ]
        )
        == 0
    )
    (results / "comparison.json").write_text(json.dumps(COMPARISON))
    return folder


def test_every_command_draws_its_figure(files, tmp_path, capsys):
    results, cache = files / "results", files / "cache"
    commands = {
        "overview": ["--results", results, "--recipe", "tuned"],
        "settings": ["--results", results, "--settings", "lambda", "K+"],
        "lost": ["--results", results],
        "tsne": [
            "--with_loss",
            files / "base" / "seed_1",
            "--without_loss",
            files / "lambda=0" / "seed_1",
            "--per_task",
            30,
            "--perplexity",
            10,
            "--device",
            "cpu",
            "--cache_dir",
            cache,
        ],
        "embeddings": ["--ckpt", files / "base" / "seed_1"],
        "curves": ["--runs", files / "base", files / "lambda=0"],
        "shares": ["--runs", files / "base"],
    }
    for name, flags in commands.items():
        target = tmp_path / "new folder" / f"{name}.png"
        assert figures.main([name, *map(str, flags), "--output", str(target)]) == 0, capsys.readouterr().err
        is_drawn(target)
    assert sorted(path.name for path in (tmp_path / "new folder").iterdir()) == sorted(
        f"{name}.png" for name in commands
    )  # and nothing half-written


def test_the_shares_drawn_are_the_means_over_the_seeds(files, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "routing_shares", lambda shares, title: drawn.append(shares) or plt.figure())
    assert figures.main(["shares", "--runs", str(files / "base"), "--output", str(tmp_path / "x.png")]) == 0
    tested = [
        json.loads((files / "base" / f"seed_{seed}" / "results.json").read_text())["test"]["shares"] for seed in (1, 2)
    ]
    for task, row in drawn[0].items():
        for llm in LLMS:
            assert row[llm.split("/")[1]] == pytest.approx(statistics.mean(share[task][llm] for share in tested))


def test_query_embeddings_are_those_that_the_router_compares(files, fake, tmp_path):
    """Their cosines to the LLM embeddings give the picks of the evaluation."""
    run = files / "base" / "seed_1"
    found, tasks, places = figures.query_embeddings(run, 1000, 1, "cpu", files / "cache")
    assert evaluation_router.main(["--ckpt", str(run), "--device", "cpu", "--output", str(tmp_path / "out.json")]) == 0
    picks = json.loads((tmp_path / "out.json").read_text())["picks"]
    llms = load_file(run / "checkpoint" / "model.safetensors")["llm_embeddings.weight"].numpy()
    for number, task in enumerate(tasks):
        near = cosine_similarity(found[places == number], llms)
        assert (near.argmax(axis=1) == picks[task]).mean() > 0.97  # but for ties in the last digit
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    few, _, places = figures.query_embeddings(run, 7, 1, "cpu", files / "cache")
    assert np.bincount(places).tolist() == [7, 7, 7] and all(
        np.abs(found - row).max(axis=1).min() < 1e-4 for row in few
    )


def test_what_is_missing_is_named_with_the_command_that_makes_it(files, tmp_path, capsys):
    def says(*argv) -> str:
        assert figures.main([*map(str, argv), "--output", str(tmp_path / "x.png")]) == 2
        assert not (tmp_path / "x.png").exists()
        return capsys.readouterr().err

    empty = tmp_path / "empty"
    empty.mkdir()
    for name, script in (
        ("overview", "baselines.sh"),
        ("settings", "ablations.sh"),
        ("lost", "ablations.sh"),
        ("cost", "router_train_routerbench.sh"),
    ):
        text = says(name, "--results", empty)
        assert str(empty) in text and f"bash train_scripts/{script}" in text
    assert "ablations.sh" in says("tsne", "--with_loss", empty / "a", "--without_loss", empty / "b")
    assert "ablations.sh" in says("embeddings", "--ckpt", empty / "a")
    for name in ("curves", "shares"):
        assert f"{empty}: no finished run" in says(name, "--runs", empty)
    assert "runs of 3 recipes" in says("shares", "--runs", files)
    assert "name one of them" in says("settings", "--results", files / "results", "--recipe", "large")
    assert (
        figures.main(["overview", "--output", str(tmp_path / "x.bmp")]) == 2
        and "must end in" in capsys.readouterr().err
    )


def test_the_script_draws_all_and_says_which_it_could_not(tmp_path):
    """With a stand-in for python that notes its arguments and fails for one figure: every command parses, the others still run."""
    stand_in = tmp_path / "bin" / "python"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/usr/bin/env bash\nprintf "%q " "$@" >> {tmp_path}/log; echo >> {tmp_path}/log\n[[ "$3" != tsne ]]\n'
    )
    stand_in.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
        "ROUTERDC_NO_VENV": "1",
        "RESULTS": "elsewhere",
        "ABLATIONS": "runs/mine_frozen",
    }
    run = subprocess.run(
        ["bash", str(REPO / "train_scripts" / "figures.sh")],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert run.returncode == 2, run.stderr
    commands = [shlex.split(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert all(command[:2] == ["-m", "utils.report.figures"] for command in commands)
    parsed = [figures.parser().parse_args(command[2:]) for command in commands]
    names = {"overview", "settings", "lost", "tsne", "embeddings", "curves", "shares", "cost", "ceiling", "learning"}
    assert {args.figure for args in parsed} == names
    assert len({args.output for args in parsed}) == len(parsed) and all(
        str(args.output.parent) == "elsewhere/figures" for args in parsed
    )
    assert all(args.recipe == "mine_frozen" for args in parsed if args.figure in ("settings", "lost"))
