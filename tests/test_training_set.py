"""utils/training_set.py: which rows train, which validate, and what the router learns, recomputed from the files."""

import json

import numpy as np
import pytest
from conftest import LLMS, make_rows

from utils import training
from utils.config import EncoderConfig, TrainingSetConfig, parse_config
from utils.data import DataError, load
from utils.denoise import pool_targets
from utils.training_set import (
    TrainingSet,
    check_encoder_reads,
    load_training_set,
    offsets_of,
    split_validation,
    targets,
    task_rows,
)

COUNTS = [60, 48, 40]  # rows of the made-up training files


def training_set(fake, *flags: str, validate_on_training: bool = False) -> TrainingSet:
    """The training set of the made-up data, 60 rows a task in an epoch, with more flags of the trainer."""
    config = parse_config([*fake.arguments(), "--training_samples_per_dataset", "60", *flags])
    return load_training_set(
        config.data,
        config.encoder,
        config.training_set,
        config.optimization.seed,
        need_clusters=config.loss.cluster_loss_weight > 0,
        missing_clusters=config.loss.missing_clusters,
        validate_on_training=validate_on_training,
    )


@pytest.fixture
def files_with_and_without_clusters(tmp_path) -> list[str]:
    """Two training files, of which the first has cluster ids."""
    paths = [tmp_path / "letters.json", tmp_path / "emails.json"]
    for path, clusters in zip(paths, (True, False)):
        path.write_text(json.dumps(make_rows(20, "probability", 5, clusters=clusters)), encoding="utf-8")
    return ["--data_paths", *map(str, paths), "--data_type", "probability"]


# Rows


@pytest.mark.parametrize("validate_on_training", [False, True])
def test_no_validation_question_is_trained_on(fake, validate_on_training):
    """But with fidelity row 5 they are the same questions."""
    rows = training_set(fake, "--validation_fraction", "0.3", validate_on_training=validate_on_training)
    questions = rows.inputs
    train_questions = {questions[number] for number in rows.pool}
    held_questions = {questions[number] for _, numbers in rows.validation for number in numbers}
    assert train_questions | held_questions == set(questions)
    if validate_on_training:
        assert train_questions == held_questions
    else:
        assert train_questions.isdisjoint(held_questions)
    assert [data.task for data, _ in rows.validation] == list(fake.train)
    for data, numbers in rows.validation:
        assert data.questions == [questions[number] for number in numbers]


def test_fidelity_row_5_is_what_makes_all_rows_validate(fake):
    held = [split_validation(load(path), 0.1, 1)[1] for path in fake.train.values()]
    count = sum(map(len, held))
    for fidelity, expected in (("paper", count), ("1,2,3,4,6,7", count), ("5", sum(COUNTS)), ("upstream", sum(COUNTS))):
        config = parse_config([*fake.arguments(), "--fidelity", fidelity, "--no_final_eval"])
        _, data = training.load_data(config)
        assert sum(len(numbers) for _, numbers in data.training.validation) == expected, fidelity


@pytest.mark.parametrize("count", [0, 10, 60])
def test_an_epoch_is_the_first_rows_of_each_file_repeated_where_there_are_fewer(fake, count):
    rows = training_set(fake, "--training_samples_per_dataset", str(count))
    expected, begin = [], 0
    for path, size in zip(fake.train.values(), COUNTS):
        train, _ = split_validation(load(path), 0.1, 1)
        numbers = [begin + int(row) for row in train]
        wanted = count or len(numbers)
        expected += [numbers[n % len(numbers)] for n in range(wanted)]
        begin += size
    assert rows.pool.tolist() == expected


def test_rows_of_all_files_stand_end_to_end(fake):
    files = [load(path).for_llms(LLMS) for path in fake.train.values()]
    rows = training_set(fake)
    assert rows.llms == LLMS and [file.task for file in rows.files] == list(fake.train)
    assert rows.offsets.tolist() == offsets_of(rows.parts).tolist() == [0, 60, 108]
    assert rows.inputs == [question for file in files for question in file.questions]
    np.testing.assert_array_equal(rows.tasks, np.repeat([0, 1, 2], COUNTS))
    np.testing.assert_array_equal(rows.clusters, np.concatenate([file.clusters for file in files]))
    assert training_set(fake, "--cluster_loss_weight", "0").clusters is None


def test_the_split_depends_on_the_seed_and_the_file_alone(fake):
    def held(*flags: str) -> dict[str, list[int]]:
        return {part.data.task: part.held.tolist() for part in training_set(fake, *flags).parts}

    assert held() == held("--llms", *LLMS[:3]) == held("--targets", "gain") != held("--seed", "2")
    alone = held("--data_paths", str(fake.train["mmlu"]))
    assert alone == {"mmlu": held()["mmlu"]}


def test_a_refit_trains_on_the_validation_rows_too(fake):
    data = load(fake.train["gsm8k"])
    config = TrainingSetConfig(validation_fraction=0.3, target_shrinkage=1.0)
    chosen, refit = task_rows(data, config, 1), task_rows(data, config, 1, refit=True)
    assert refit.train.tolist() == list(range(60)) and refit.held.tolist() == chosen.held.tolist()
    np.testing.assert_allclose(refit.targets, np.tile(data.scores.mean(axis=0), (60, 1)), rtol=1e-5)
    assert sorted([*chosen.train, *chosen.held]) == list(range(60))


# Clusters


def test_missing_clusters_are_an_error_or_leave_all_rows_without(fake, files_with_and_without_clusters):
    with pytest.raises(DataError, match="emails.json, row 0: 'cluster_id' must be an integer"):
        training_set(fake, *files_with_and_without_clusters)
    rows = training_set(fake, *files_with_and_without_clusters, "--missing_clusters", "task")
    assert rows.clusters is None  # one file alone cannot be contrasted by cluster
    assert training_set(fake, "--missing_clusters", "task").clusters is not None


def test_means_of_clusters_need_them_whatever_the_loss_does(fake, files_with_and_without_clusters):
    flags = ["--target_shrinkage", "0.5", "--target_groups", "cluster", "--missing_clusters", "task"]
    with pytest.raises(DataError, match="emails.json, row 0: 'cluster_id' must be an integer"):
        training_set(fake, *files_with_and_without_clusters, *flags)
    with pytest.raises(DataError, match="emails.json, row 0: 'cluster_id' must be an integer"):
        training_set(fake, *files_with_and_without_clusters, *flags, "--cluster_loss_weight", "0")
    no_shrinkage = ["--target_groups", "cluster", "--missing_clusters", "task"]
    assert training_set(fake, *files_with_and_without_clusters, *no_shrinkage).clusters is None


# Targets


def test_targets_are_scores_and_gains(fake):
    files = [load(path).for_llms(LLMS) for path in fake.train.values()]
    plain = training_set(fake).targets
    np.testing.assert_array_equal(plain, np.concatenate([data.scores for data in files]))
    assert plain.dtype == np.float32
    gain = training_set(fake, "--targets", "gain").targets
    np.testing.assert_array_equal(gain[:60], files[0].scores)  # shares of right answers are gains as they are
    np.testing.assert_array_equal(gain[60:], np.concatenate([data.scores > 0 for data in files[1:]]))


def test_shrunk_targets_are_group_means_of_training_rows(fake):
    data = load(fake.train["gsm8k"]).for_llms(LLMS)
    train, held = split_validation(data, 0.1, 1)
    shrunk = training_set(fake, "--target_shrinkage", "1").targets
    mean = data.scores[train].mean(axis=0)
    np.testing.assert_allclose(shrunk[train], np.tile(mean, (len(train), 1)), rtol=1e-5)
    np.testing.assert_array_equal(shrunk[held], data.scores[held])
    halfway = training_set(fake, "--target_shrinkage", "0.5").targets
    np.testing.assert_allclose(halfway[train], (data.scores[train] + mean) / 2, rtol=1e-5)

    flags = ("--target_shrinkage", "1", "--target_groups", "cluster", "--cluster_loss_weight", "0")
    by_cluster = training_set(fake, *flags).targets
    for cluster in range(4):
        members = train[data.clusters[train] == cluster]
        mean = data.scores[members].mean(axis=0)
        np.testing.assert_allclose(by_cluster[members], np.tile(mean, (len(members), 1)), rtol=1e-5)


def test_pooled_targets_come_from_the_training_rows_alone(fake):
    """Other scores and embeddings in the validation rows change nothing, and what validation counts stays as it is."""
    flags = ("--validation_fraction", "0.3", "--target_pooling", "alike")
    rows = training_set(fake, *flags)
    before = rows.targets
    embedded = np.random.default_rng(0).standard_normal((len(rows.inputs), 8)).astype(np.float32)
    estimated = rows.pool_targets(embedded, "alike")

    other = training_set(fake, *flags)
    held = np.concatenate([numbers for _, numbers in other.validation])
    changed = embedded.copy()
    changed[held] = -7.0
    for part in other.parts:
        part.targets[part.held] = 1 - part.targets[part.held]
    assert other.pool_targets(changed, "alike") == estimated

    trains = np.unique(rows.pool)
    np.testing.assert_array_equal(rows.targets[trains], other.targets[trains])
    assert not np.array_equal(rows.targets[trains], before[trains])
    np.testing.assert_array_equal(rows.targets[held], before[held])
    np.testing.assert_array_equal(other.targets[held], 1 - before[held])
    for part, offset in zip(rows.parts, rows.offsets):  # what utils/denoise.py says of these rows
        values = targets(part.data)[part.train]
        expected, _ = pool_targets(part.data.rows(part.train), values, embedded[offset + part.train], "alike")
        np.testing.assert_array_equal(rows.targets[offset + part.train], expected)


# Encoders and files


def test_an_encoder_must_read_what_the_files_have(fake):
    files = [load(path).for_llms(LLMS) for path in fake.train.values()]
    check_encoder_reads(EncoderConfig(encoder="minilm"), files)
    with pytest.raises(ValueError, match=f"--encoder given: {files[0].path} has text; name an encoder that reads it"):
        check_encoder_reads(EncoderConfig(encoder="given"), files)
    for file in files:
        file.embeddings = np.ones((len(file), 4), dtype=np.float32)
    check_encoder_reads(EncoderConfig(encoder="given"), files)
    with pytest.raises(
        ValueError, match=f"--encoder minilm: {files[0].path} has embeddings and no text; use --encoder"
    ):
        check_encoder_reads(EncoderConfig(encoder="minilm"), files)


# What a run reads


@pytest.mark.parametrize(("llms", "top_k", "last_k"), [(2, 1, 1), (3, 1, 2), (4, 1, 3), (4, 3, 1), (4, 4, 1)])
def test_an_open_number_of_negatives_follows_from_the_llms(fake, llms, top_k, last_k):
    words = ["--llms", *LLMS[:llms], "--top_k", str(top_k), "--last_k", "None", "--no_final_eval"]
    config, data = training.load_data(parse_config([*fake.arguments(), *words]))
    assert config.loss.last_k == last_k and len(data.training.llms) == llms


def test_what_a_run_reads_has_digests_and_overlaps(fake):
    config, data = training.load_data(parse_config(fake.arguments()))
    paths = [*fake.train.values(), *fake.test.values()]
    assert list(data.digests) == list(map(str, paths)) and len(set(data.digests.values())) == len(paths)
    assert data.overlap == {} and [test.task for test in data.tests] == ["gsm8k", "arc_challenge", "mbpp"]
    _, untested = training.load_data(parse_config([*fake.arguments(), "--no_final_eval"]))
    assert untested.tests == [] and list(untested.digests) == list(map(str, fake.train.values()))
