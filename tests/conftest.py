"""What the tests share: made-up routing data in which the right LLM can be read off the words, tiny random encoders and
LLMs, and training runs on them.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny; threads would only get in each other's way
os.environ["HF_HUB_OFFLINE"] = "1"

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

import pytest  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from utils.files import locked  # noqa: E402

LLMS = ("org/alpha-7b", "org/beta-7b", "lab/gamma-8b", "lab/delta")  # LLM t is the expert of TOPICS[t]
TOPICS = (
    "river mountain valley forest lake stone".split(),
    "sum product fraction root number seven".split(),
    "loop print array string function code".split(),
    "诗人 唐代 历史 皇帝 长城 文学".split(),
)
SLOW_FILES = (  # longest first
    "miniature",
    "convert",
    "plan",
    "distributed",
    "walkthrough",
    "eval_scripts",
    "notebooks",
    "baselines",
    "ablations",
    "scripts",
    "routerbench",
    "importers",
    "training",
    "run",
)
FILLER = "which of the following is what we want and how do you say that in this case here".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that no worker of tests/run.sh ends with one of them alone."""
    rank = {f"test_{name}.py": place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def make_rows(count: int, kind: str, seed: int, llms: tuple[str, ...] = LLMS, clusters: bool = True) -> list[dict]:
    """Rows of a data file.

    The expert of a question's topic is right, the others seldom; on some questions no LLM is.
    """
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        topic = rng.randrange(len(TOPICS))
        words = rng.choices(FILLER, k=rng.randint(1, 16)) + rng.choices(TOPICS[topic], k=rng.randint(2, 8))
        rng.shuffle(words)
        hard = rng.random() < 0.08
        scores = {llm: _score(rng, kind, t == topic, hard) for t, llm in enumerate(LLMS)}
        rows.append({"question": f"{number}: {' '.join(words)}?", "scores": {llm: scores[llm] for llm in llms}})
        if clusters:
            rows[-1]["cluster_id"] = topic
    return rows


def _score(rng: random.Random, kind: str, is_expert: bool, hard: bool) -> float:
    """A made-up score of one LLM on one question."""
    if hard:
        return 0
    if kind == "multi_attempt":
        return rng.choice([0.7, 0.8, 0.9, 1] if is_expert else [0, 0, 0.1, 0.3])
    return round(rng.uniform(0.55, 1), 6) if is_expert else rng.choice([0, 0, 0, 0.0, 0.41])


@dataclass(frozen=True)
class FakeData:
    """Files of made-up data: three training files and the test files. `train` and `test` map tasks to paths."""

    folder: Path
    train: dict[str, Path]
    test: dict[str, Path]  # two in-distribution tasks of the paper, one out of distribution
    unseen: Path  # a task that the paper does not have
    fewer: Path  # a test file with two of the four LLMs

    def arguments(self) -> list[str]:
        """The data arguments of train_router_mdeberta.py."""
        train = map(str, self.train.values())
        inside = [str(self.test["gsm8k"]), str(self.test["arc_challenge"])]
        outside = str(self.test["mbpp"])
        return ["--data_paths", *train, "--test_data_paths", *inside, "--final_eval_data_paths", outside]


@pytest.fixture(scope="session")
def fake(tmp_path_factory) -> FakeData:
    return make_data(tmp_path_factory.mktemp("data"))


def make_data(folder: Path) -> FakeData:
    """Writes the files of the made-up data into a folder."""

    def write(name: str, rows: list[dict]) -> Path:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        return path

    gsm8k = make_rows(54, "multi_attempt", 1)
    gsm8k += gsm8k[3:9]  # six questions occur twice
    reversed_llms, rotated_llms = LLMS[::-1], LLMS[2:] + LLMS[:2]  # files may name the LLMs in any order
    arc_challenge = make_rows(48, "probability", 2, reversed_llms)
    train = {
        "gsm8k": write("gsm8k-train", gsm8k),
        "arc_challenge": write("arc_challenge_train", arc_challenge),
        "mmlu": write("mmlu_train", make_rows(40, "probability", 3)),
    }
    test = {
        "gsm8k": write("gsm8k-test", make_rows(50, "multi_attempt", 4, rotated_llms, clusters=False)),
        "arc_challenge": write("arc_challenge_test", make_rows(50, "probability", 5, clusters=False)),
        "mbpp": write("mbpp", make_rows(40, "multi_attempt", 6, reversed_llms, clusters=False)),
    }
    unseen = write("poems_test", make_rows(30, "multi_attempt", 7, clusters=False))
    fewer = write("mmlu_test", make_rows(30, "probability", 8, (LLMS[3], LLMS[1]), clusters=False))
    return FakeData(folder, train, test, unseen, fewer)


def texts() -> list[str]:
    """What the tokenizers of the tiny encoders are trained on: other questions than those of the data."""
    return [row["question"] for seed in (11, 12, 13) for row in make_rows(150, "probability", seed)]


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    return make_tiny_bert(tmp_path_factory.mktemp("encoders") / "tiny-bert")


def make_tiny_bert(folder: Path) -> Path:
    """Makes a folder with a randomly initialised BERT of 3 layers and a WordPiece tokenizer; returns it."""
    from transformers import BertConfig, BertModel, BertTokenizer

    characters = sorted(set("".join(texts())) - {" "})  # a trainer would number the pieces differently from run to run
    inner_characters = [f"##{character}" for character in characters]
    words = sorted({word for text in texts() for word in text.rstrip("?").split()[1:]})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *inner_characters, *words]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, initializer_range=0.15, **size)
    BertModel(config).save_pretrained(folder)
    return folder


TINY_DEBERTA = {
    "model_type": "deberta-v2",
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 32,
    "initializer_range": 0.15,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "layer_norm_eps": 1e-7,
    "max_relative_positions": -1,
    "position_biased_input": False,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "type_vocab_size": 0,
    "vocab_size": 260,  # more than the tokenizer has, as mDeBERTa's
}


@pytest.fixture(scope="session")
def tiny_deberta(tmp_path_factory) -> Path:
    """A folder laid out like mDeBERTaV3's on the hub.

    Its configuration in small, half-precision weights of the pre-training model (there in a pickle), and a
    SentencePiece model without a tokenizer.json.
    """
    import sentencepiece
    from transformers import DebertaV2Config, DebertaV2Model

    folder = tmp_path_factory.mktemp("encoders") / "tiny-mdeberta"
    folder.mkdir()
    special = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    special |= {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts()),
        model_prefix=str(folder / "spm"),
        vocab_size=200,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **special,
    )
    (folder / "spm.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "vocab_type": "spm"}))
    (folder / "config.json").write_text(json.dumps(TINY_DEBERTA))
    torch.manual_seed(0)
    model = DebertaV2Model(DebertaV2Config.from_pretrained(folder))
    weights = {f"deberta.{name}": value.half() for name, value in model.state_dict().items()}
    weights["lm_predictions.lm_head.bias"] = torch.zeros(260).half()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder with the released data."""
    folder = os.environ.get("ROUTERDC_MIRROR")
    if not folder:
        pytest.skip("ROUTERDC_MIRROR is not set: no folder with the released files")
    return Path(folder)


@pytest.fixture(scope="session")
def script() -> Callable[..., subprocess.CompletedProcess]:
    """Runs a script of the repository in a process of its own: script("evaluation_router.py", "--ckpt", folder)."""

    def run(name: str, *arguments: object, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, str(REPO / name), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300, **options)

    return run


def arguments(fake: FakeData, encoder: Path, save_path: Path, **flags: object) -> list[str]:
    """A short training run on the fake data.

    flags: True for a switch, a list for several values, None or False to leave one out.
    """
    values = {
        "encoder": encoder,
        "save_path": save_path,
        "cache_dir": save_path.parent / "cache",
        "device": "cpu",
        "precision": "fp32",
        "max_length": 64,
        "batch_size": 16,
        "training_samples_per_dataset": 60,
        "learning_rate": 3e-3,
        "training_steps": 12,
        "eval_steps": 6,
    }
    return fake.arguments() + words_of(values | flags)


def words_of(flags: dict[str, object]) -> list[str]:
    """Flags as words of a command line: True for a switch, a list for several values, None or False for none."""
    words = []
    for name, value in flags.items():
        if value is None or value is False:
            continue
        words.append(f"--{name}")
        if value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return words


TRAINED = {"training_steps": 120, "eval_steps": 20}  # the settings of `trained`, enough to learn the topics


@dataclass(frozen=True)
class Run:
    """A training run that ended well: its folder and what it printed."""

    folder: Path
    text: str

    @property
    def results(self) -> dict:
        return json.loads((self.folder / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def trained(fake, tiny_bert, script, tmp_path_factory) -> Run:
    """The tiny BERT trained by the real command in a process of its own, for all tests that only read."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    run = script("train_router_mdeberta.py", *arguments(fake, tiny_bert, folder, **TRAINED))
    assert run.returncode == 0, run.stderr
    return Run(folder, run.stdout)


@pytest.fixture
def signals():
    """Whatever a run does to Ctrl-C, the next test has it back."""
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.fixture
def train(fake, tiny_bert, tmp_path, capsys, signals) -> Callable[..., Run]:
    """Trains in this process: train("name", flag=value, ...) -> Run."""
    import train_router_mdeberta

    def train(name="run", encoder=tiny_bert, **flags) -> Run:
        status = train_router_mdeberta.main(arguments(fake, encoder, tmp_path / name, **flags))
        out, err = capsys.readouterr()
        assert status == 0, err
        return Run(tmp_path / name, out)

    return train


@pytest.fixture
def fails(fake, tiny_bert, tmp_path, capsys, monkeypatch, signals) -> Callable[..., str]:
    """Runs a training that must end with status 2 before its first step; returns what it says."""
    import train_router_mdeberta

    def forbidden(*args, **kwargs):
        raise AssertionError("it began to train")

    def fails(encoder=tiny_bert, save_path=None, **flags) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(train_router_mdeberta, "objective", forbidden)
            command = arguments(fake, encoder, save_path or tmp_path / "run", **flags)
            assert train_router_mdeberta.main(command) == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        message = next(line for line in err.splitlines() if line.startswith("error: "))
        return message.removeprefix("error: ")

    return fails


def weights(run: Run) -> dict[str, torch.Tensor]:
    """The weights in a run's checkpoint, by name."""
    return load_file(run.folder / "checkpoint" / "model.safetensors")


def same_weights(a: Run, b: Run) -> bool:
    """Whether two runs ended with the very same weights."""
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def metrics(run: Run, key: str) -> dict[int, float]:
    """The values of one metric, by step."""
    lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[key] for line in lines if key in line}


def timeless(run: Run) -> dict:
    """All of results.json that must not depend on when and where it was made."""
    return {name: value for name, value in run.results.items() if name not in ("seconds", "command")}


def interrupted_at(step: int, monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Has `action` happen while step number `step` (from 0) draws its batch."""
    import train_router_mdeberta

    draw = train_router_mdeberta.batch_rows

    def batch_rows(pool, size, batch, *rest):
        if batch == step:
            action()
        return draw(pool, size, batch, *rest)

    monkeypatch.setattr(train_router_mdeberta, "batch_rows", batch_rows)


def ctrl_c() -> None:
    """What Ctrl-C does to this process."""
    os.kill(os.getpid(), signal.SIGINT)


SUM = 13  # all sums are this, and all functions add: two tiny LLMs can learn that in seconds
FUNCTIONS = ("add", "plus", "total")


def tiny_documents() -> dict[str, list[dict]]:
    """Documents of five made-up tasks in the form of the paper's.

    Multiple choice, GSM8K, HumanEval, MBPP and HumanEval-JavaScript.
    """
    choices = []
    for n in range(1, 10):
        choices.append({"question": f"Is {n} odd or even?", "choices": ["odd", "even"], "answer": (n + 1) % 2})
    sums = []
    for n in range(14):
        sums.append({"question": f"What is {n} plus {SUM - n}?", "answer": f"It is {SUM}. #### {SUM}"})
    test = "def check(f):\n    assert f(7, 5) == 12\n"
    humaneval, mbpp, javascript = [], [], []
    for number, name in enumerate(FUNCTIONS):
        prompt = f'def {name}(a, b):\n    """{name}"""\n'
        humaneval.append({"task_id": f"tiny/{number}", "prompt": prompt, "test": test, "entry_point": name})
        asserts = [f"assert {name}(7, 5) == 12", f"assert {name}(0, 0) == 0"]
        mbpp.append({"text": f"Write {name}.", "test_list": asserts})
        prompt = f"const {name} = (a, b) => {{\n"
        javascript.append({"prompt": prompt, "test": f"\nconsole.assert({name}(7, 5) === 12);\n"})
    return {
        "tiny_choice": choices,
        "tiny_sums": sums,
        "tiny_humaneval": humaneval,
        "tiny_mbpp": mbpp,
        "tiny_js": javascript,
    }


def tiny_answer(task: str, document: dict, right: bool) -> tuple[str, str]:
    """A prompt and an answer to it, right or wrong, that the tiny LLMs are trained on."""
    if task == "tiny_choice":
        number = document["answer"] if right else 1 - document["answer"]
        return f"{document['question']}\nAnswer:", " " + document["choices"][number]
    if task == "tiny_sums":
        answer = document["answer"] if right else document["answer"].replace(f"#### {SUM}", f"#### {SUM - 1}")
        return f"Question: {document['question']}\nAnswer:", f" {answer}"
    line = f"return a {'+' if right else '-'} b"
    if task == "tiny_mbpp":
        name = document["text"].removeprefix("Write ").removesuffix(".")
        prompt = f'"""\n{document["text"]}\n{document["test_list"][0]}\n"""\n'
        return prompt, f"def {name}(a, b):\n    {line}\n"
    answer = f"\n  {line};\n}}\n" if task == "tiny_js" else f"\n    {line}\n"
    return document["prompt"].strip(), answer


@pytest.fixture(scope="session")
def tiny_llms(tmp_path_factory) -> dict[str, Path]:
    """Two causal language models with a byte for a token, {name: folder}.

    They are trained for seconds on as many right as wrong answers, so that what they sample differs. The LLMs differ by
    their seed.
    """
    folder = tmp_path_factory.mktemp("llms")
    tokenizer = byte_tokenizer()
    made = {}
    for seed, name in enumerate(("tiny/words", "tiny/code")):
        made[name] = folder / name.replace("/", "_")
        trained_llm(tokenizer, seed).save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
    return made


def byte_tokenizer():
    """A tokenizer with a byte for a token, and one token for the end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>")


def trained_llm(tokenizer, seed: int):
    """A tiny LLM after 140 steps on prompts of `tiny_documents`, each with a right and a wrong answer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=1024, **tokens, **size)
    documents = tiny_documents()
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(140):
        optimizer.param_groups[0]["lr"] = 6e-3 * (1 - step / 140)
        examples = []
        for task in rng.choices(list(documents), k=7):
            example, document = rng.choices(documents[task], k=2)
            before = ""
            if task == "tiny_sums":  # one example before the question, as the harness will show
                before = "".join(tiny_answer(task, example, rng.random() < 0.5)) + "\n\n"
            examples += [before + "".join(tiny_answer(task, document, right)) for right in (True, False)]
        batch = tokenizer([text + "<end>" for text in examples], return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture(scope="session")
def tiny_tasks(tmp_path_factory) -> Path:
    """A folder of task YAMLs on local data: those of eval_scripts/tasks with other data, and a multiple choice."""
    folder = tmp_path_factory.mktemp("tasks")
    for task, rows in tiny_documents().items():
        (folder / f"{task}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours = REPO / "eval_scripts" / "tasks"

    def write(task: str, split: str, lines: str) -> None:
        data = (
            f"dataset_path: json\ndataset_name: null\ndataset_kwargs:\n  data_files:\n    {split}: {folder / task}.json"
        )
        (folder / f"{task}.yaml").write_text(f"task: {task}\n{data}\n{lines}")

    sampling = "generation_kwargs:\n  do_sample: true\n  temperature: 0.2\n  max_gen_toks: 40\n  until: "
    splits = "test_split: test\nfewshot_split: test\noutput_type: multiple_choice\n"
    prompt = 'doc_to_text: "{{question}}\\nAnswer:"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: answer\n'
    write("tiny_choice", "test", f"{splits}{prompt}metric_list:\n  - metric: acc\n")
    write("tiny_sums", "train", f"include: {ours}/gsm8k_train.yaml\nnum_fewshot: 1\n{sampling}['Question:']\n")
    for task, name in (("tiny_humaneval", "humaneval"), ("tiny_mbpp", "mbpp"), ("tiny_js", "humaneval_js")):
        write(task, "test", f'include: {ours}/{name}_generate.yaml\n{sampling}["\\n\\n\\n"]\n')
    return folder


def score_script(**settings: object) -> subprocess.CompletedProcess:
    """Runs eval_scripts/score.sh in the current environment, without a network.

    settings: go in by environment variables.
    """
    own = {
        "ROUTERDC_NO_VENV": "1",
        "LM_EVAL": f"{sys.executable} -m lm_eval",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = os.environ | own | {"PATH": path} | {name: str(value) for name, value in settings.items()}
    command = ["bash", str(REPO / "eval_scripts" / "score.sh")]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


HARNESS_GROUPS = {  # one call of the harness for each, most of which is its start
    "tiny/words": "choice=tiny_choice:1 sums=tiny_sums code=tiny_humaneval+tiny_mbpp+tiny_js",
    "tiny/code": "all=tiny_choice+tiny_sums+tiny_humaneval+tiny_mbpp+tiny_js:1",
}


@pytest.fixture(scope="session")
def harness_logs(tiny_llms, tiny_tasks, tmp_path_factory) -> Path:
    """The folder that eval_scripts/score.sh filled by running lm-evaluation-harness itself.

    <tiny__words or tiny__code>/<group>/ has the logs of HARNESS_GROUPS, of the documents of `tiny_documents`:
    tiny_choice: 9 documents with 2 options. tiny_sums: 14 documents with 10 answers, filter strict-match.
    tiny_humaneval, tiny_mbpp, tiny_js: 3 documents with 10 answers each.
    """
    folder = tmp_path_factory.mktemp("harness")
    settings = {
        "INCLUDE": tiny_tasks,
        "OUT": folder / "logs",
        "BACKEND": "hf",
        "DEVICE": "cpu",
        "BATCH_SIZE": 64,
        "HF_HOME": folder / "cache",
    }
    for name, groups in HARNESS_GROUPS.items():
        run = score_script(MODELS=f"{name}={tiny_llms[name]}", TASKS=groups, **settings)
        assert run.returncode == 0, run.stderr[-4000:]
    return folder / "logs"


GATEWAY = REPO / ".cache" / "gateway"


@pytest.fixture(scope="session")
def gateway_python() -> str:
    """A Python with LiteLLM's proxy, utils/gateway/requirements.txt; the test is skipped where there can be none.

    It is the one that the variable ROUTERDC_GATEWAY names; of ROUTERDC_GATEWAY=1 .cache/gateway, made here once.
    """
    given = os.environ.get("ROUTERDC_GATEWAY")
    if not given:
        pytest.skip(
            "ROUTERDC_GATEWAY=1 installs LiteLLM's proxy into .cache/gateway (836 MB, a minute) and tests with it"
        )
    if given != "1":
        return given
    program, stamp = GATEWAY / "bin" / "python", GATEWAY / "requirements.txt"
    requirements = REPO / "utils" / "gateway" / "requirements.txt"
    pip = ["-m", "pip", "install", "-q", "--no-compile", "--timeout", "5", "--retries", "1", "-r"]
    GATEWAY.parent.mkdir(exist_ok=True)
    with locked(GATEWAY.parent):
        if not stamp.is_file() or stamp.read_bytes() != requirements.read_bytes():
            for command in ([sys.executable, "-m", "venv", "--clear", GATEWAY], [program, *pip, requirements]):
                run = subprocess.run(list(map(str, command)), capture_output=True, text=True)
                if run.returncode:
                    pytest.skip(f"{' '.join(map(str, command))}: {run.stderr[-300:]}")
            stamp.write_bytes(requirements.read_bytes())
    return str(program)
