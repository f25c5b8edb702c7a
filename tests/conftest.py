"""What the tests share: made-up routing data and tiny random encoders.

In the data the right LLM can be read off the words of a question.
"""

import json
import os
import random
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

LLMS = ("org/alpha-7b", "org/beta-7b", "lab/gamma-8b", "lab/delta")  # LLM t is the expert of TOPICS[t]
TOPICS = (
    "river mountain valley forest lake stone".split(),
    "sum product fraction root number seven".split(),
    "loop print array string function code".split(),
    "诗人 唐代 历史 皇帝 长城 文学".split(),
)
SLOW_FILES = (
    "miniature",
    "convert",
    "eval_scripts",
    "notebooks",
    "baselines",
    "ablations",
    "scripts",
    "routerbench",
    "importers",
    "training",
)  # longest first
FILLER = "which of the following is what we want and how do you say that in this case here".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that no worker of tests/run.sh ends with one of them alone."""
    rank = {f"test_{name}.py": place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def draw_share(rng: random.Random, expert: bool) -> float:
    """The share of ten answers that are right."""
    return rng.choice([0.7, 0.8, 0.9, 1] if expert else [0, 0, 0.1, 0.3])


def draw_probability(rng: random.Random, expert: bool) -> float:
    """The probability of the right option, or 0 if another one is more probable."""
    return round(rng.uniform(0.55, 1), 6) if expert else rng.choice([0, 0, 0, 0.0, 0.41])


def make_rows(count: int, kind: str, seed: int, llms: tuple[str, ...] = LLMS, clusters: bool = True) -> list[dict]:
    """Rows of a data file.

    The expert of a question's topic is right, the others seldom are; on some questions nobody is.
    """
    rng, rows = random.Random(seed), []
    for number in range(count):
        topic = rng.randrange(len(TOPICS))
        words = rng.choices(FILLER, k=rng.randint(1, 16)) + rng.choices(TOPICS[topic], k=rng.randint(2, 8))
        rng.shuffle(words)
        hard = rng.random() < 0.08
        draw_score = draw_share if kind == "multi_attempt" else draw_probability
        scores = {llm: 0 if hard else draw_score(rng, t == topic) for t, llm in enumerate(LLMS)}
        rows.append({"question": f"{number}: {' '.join(words)}?", "scores": {llm: scores[llm] for llm in llms}})
        if clusters:
            rows[-1]["cluster_id"] = topic
    return rows


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
        inside = [str(self.test["gsm8k"]), str(self.test["arc_challenge"])]
        return [
            "--data_paths",
            *map(str, self.train.values()),
            "--test_data_paths",
            *inside,
            "--final_eval_data_paths",
            str(self.test["mbpp"]),
        ]


@pytest.fixture(scope="session")
def fake(tmp_path_factory) -> FakeData:
    """The files of made-up data."""
    folder = tmp_path_factory.mktemp("data")

    def write(name: str, rows: list[dict]) -> Path:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        return path

    gsm8k = make_rows(54, "multi_attempt", 1)
    gsm8k += gsm8k[3:9]  # six questions occur twice
    train = {
        "gsm8k": ("gsm8k-train", gsm8k),
        "arc_challenge": ("arc_challenge_train", make_rows(48, "probability", 2, LLMS[::-1])),  # another key order
        "mmlu": ("mmlu_train", make_rows(40, "probability", 3)),
    }
    test = {
        "gsm8k": ("gsm8k-test", make_rows(50, "multi_attempt", 4, LLMS[2:] + LLMS[:2], clusters=False)),
        "arc_challenge": ("arc_challenge_test", make_rows(50, "probability", 5, clusters=False)),
        "mbpp": ("mbpp", make_rows(40, "multi_attempt", 6, LLMS[::-1], clusters=False)),
    }
    return FakeData(
        folder,
        {task: write(*file) for task, file in train.items()},
        {task: write(*file) for task, file in test.items()},
        unseen=write("poems_test", make_rows(30, "multi_attempt", 7, clusters=False)),
        fewer=write("mmlu_test", make_rows(30, "probability", 8, (LLMS[3], LLMS[1]), clusters=False)),
    )


def texts() -> list[str]:
    """What the tokenizers of the tiny encoders are trained on: other questions than those of the data."""
    return [row["question"] for seed in (11, 12, 13) for row in make_rows(150, "probability", seed)]


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    """A folder with a randomly initialised BERT of 3 layers and a WordPiece tokenizer."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("encoders") / "tiny-bert"
    characters = sorted(set("".join(texts())) - {" "})  # a trainer would number the pieces differently from run to run
    words = sorted({word for text in texts() for word in text.rstrip("?").split()[1:]})
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *(f"##{character}" for character in characters),
        *words,
    ]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, initializer_range=0.15, **size)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_deberta(tmp_path_factory) -> Path:
    """A folder laid out like mDeBERTaV3's on the hub.

    Its configuration in small, half-precision weights of the pre-training model in pytorch_model.bin, and a
    SentencePiece model without a tokenizer.json.
    """
    import sentencepiece
    from transformers import DebertaV2Config, DebertaV2Model

    folder = tmp_path_factory.mktemp("encoders") / "tiny-mdeberta"
    folder.mkdir()
    special = {}
    for number, (name, piece) in enumerate({"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}.items()):
        special |= {f"{name}_id": number, f"{name}_piece": piece}
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
    config = {
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
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    weights = DebertaV2Model(DebertaV2Config.from_pretrained(folder)).state_dict()
    weights = {f"deberta.{name}": value.half() for name, value in weights.items()}
    weights["lm_predictions.lm_head.bias"] = torch.zeros(260).half()
    torch.save(weights, folder / "pytorch_model.bin")
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
    """The command of a short training run on the fake data.

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
    } | flags
    result = fake.arguments()
    for name, value in values.items():
        if value is True:
            result.append(f"--{name}")
        elif value is not None and value is not False:
            result += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return result


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


SUM = 13  # of all sums, and all functions add: two tiny LLMs can learn that in seconds
FUNCTIONS = ("add", "plus", "total")


def tiny_documents() -> dict[str, list[dict]]:
    """Documents of five made-up tasks in the form of the paper's.

    Multiple choice, GSM8K, HumanEval, MBPP and HumanEval-JavaScript.
    """
    choices, sums, humaneval, mbpp, javascript = [], [], [], [], []
    for n in range(1, 10):
        choices.append({"question": f"Is {n} odd or even?", "choices": ["odd", "even"], "answer": (n + 1) % 2})
    for n in range(14):
        sums.append({"question": f"What is {n} plus {SUM - n}?", "answer": f"It is {SUM}. #### {SUM}"})
    for number, name in enumerate(FUNCTIONS):
        prompt = f'def {name}(a, b):\n    """{name}"""\n'
        test = "def check(f):\n    assert f(7, 5) == 12\n"
        humaneval.append({"task_id": f"tiny/{number}", "prompt": prompt, "test": test, "entry_point": name})
        asserts = [f"assert {name}(7, 5) == 12", f"assert {name}(0, 0) == 0"]
        mbpp.append({"text": f"Write {name}.", "test_list": asserts})
        test = f"\nconsole.assert({name}(7, 5) === 12);\n"
        javascript.append({"prompt": f"const {name} = (a, b) => {{\n", "test": test})
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
        return f"{document['question']}\nAnswer:", " " + document["choices"][document["answer"] ^ (not right)]
    if task == "tiny_sums":
        answer = document["answer"] if right else document["answer"].replace(f"#### {SUM}", f"#### {SUM - 1}")
        return f"Question: {document['question']}\nAnswer:", f" {answer}"
    name = (
        document["text"][6:-1] if task == "tiny_mbpp" else document.get("entry_point") or document["prompt"].split()[1]
    )
    line = f"return a {'+' if right else '-'} b"
    if task == "tiny_mbpp":
        return f'"""\n{document["text"]}\n{document["test_list"][0]}\n"""\n', f"def {name}(a, b):\n    {line}\n"
    return document["prompt"].strip(), f"\n  {line};\n}}\n" if task == "tiny_js" else f"\n    {line}\n"


@pytest.fixture(scope="session")
def tiny_llms(tmp_path_factory) -> dict[str, Path]:
    """Two causal language models with a byte for a token, {name: folder}.

    They are trained for seconds on as many right as wrong answers, so that what they sample differs. The LLMs differ
    by their seed.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llms")
    vocabulary = {piece: number for number, piece in enumerate(["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>")
    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    config = LlamaConfig(
        vocab_size=len(vocabulary), max_position_embeddings=1024, bos_token_id=0, eos_token_id=0, pad_token_id=0, **size
    )
    documents, made = tiny_documents(), {}
    for seed, name in enumerate(("tiny/words", "tiny/code")):
        rng = random.Random(seed)
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters())
        for step in range(140):
            optimizer.param_groups[0]["lr"] = 6e-3 * (1 - step / 140)
            texts = []
            for task in rng.choices(list(documents), k=7):
                example, document = rng.choices(documents[task], k=2)
                before = "".join(tiny_answer(task, example, rng.random() < 0.5)) + "\n\n" if task == "tiny_sums" else ""
                texts += [before + "".join(tiny_answer(task, document, right)) for right in (True, False)]
            batch = tokenizer([text + "<end>" for text in texts], return_tensors="pt", padding=True)
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        made[name] = folder / name.replace("/", "_")
        model.save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
    return made


@pytest.fixture(scope="session")
def tiny_tasks(tmp_path_factory) -> Path:
    """A folder of task YAMLs on local data: those of eval_scripts/tasks with other data, and a multiple choice."""
    folder = tmp_path_factory.mktemp("tasks")
    for task, rows in tiny_documents().items():
        (folder / f"{task}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours = REPO / "eval_scripts" / "tasks"

    def write(task: str, split: str, lines: str) -> None:
        data = "dataset_path: json\ndataset_name: null\ndataset_kwargs:\n  data_files:\n"
        file = f"    {split}: {folder / task}.json\n"
        (folder / f"{task}.yaml").write_text(f"task: {task}\n{data}{file}{lines}")

    sampling = "generation_kwargs:\n  do_sample: true\n  temperature: 0.2\n  max_gen_toks: 40\n  until: "
    prompt = 'doc_to_text: "{{question}}\\nAnswer:"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: answer\n'
    write(
        "tiny_choice",
        "test",
        f"test_split: test\nfewshot_split: test\noutput_type: multiple_choice\n{prompt}metric_list:\n  - metric: acc\n",
    )
    write("tiny_sums", "train", f"include: {ours}/gsm8k_train.yaml\nnum_fewshot: 1\n{sampling}['Question:']\n")
    for task, name in (("tiny_humaneval", "humaneval"), ("tiny_mbpp", "mbpp"), ("tiny_js", "humaneval_js")):
        write(task, "test", f'include: {ours}/{name}_generate.yaml\n{sampling}["\\n\\n\\n"]\n')
    return folder


def score_script(**settings: object) -> subprocess.CompletedProcess:
    """Runs eval_scripts/score.sh in the current environment, without a network.

    settings: environment variables.
    """
    own = {
        "ROUTERDC_NO_VENV": "1",
        "LM_EVAL": f"{sys.executable} -m lm_eval",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = os.environ | own | {"PATH": path} | {name: str(value) for name, value in settings.items()}
    return subprocess.run(
        ["bash", str(REPO / "eval_scripts" / "score.sh")], capture_output=True, text=True, timeout=600, env=environment
    )


HARNESS_GROUPS = {  # one call of the harness for each, most of which is its start
    "tiny/words": "choice=tiny_choice:1 sums=tiny_sums code=tiny_humaneval+tiny_mbpp+tiny_js",
    "tiny/code": "all=tiny_choice+tiny_sums+tiny_humaneval+tiny_mbpp+tiny_js:1",
}


@pytest.fixture(scope="session")
def harness_logs(tiny_llms, tiny_tasks, tmp_path_factory) -> Path:
    """The folder that eval_scripts/score.sh filled by running lm-evaluation-harness itself.

    It has <tiny__words or tiny__code>/<group>/ with the logs of HARNESS_GROUPS: tiny_choice, 9 documents with 2
    options; tiny_sums, 14 documents with 10 answers, filter strict-match; tiny_humaneval, tiny_mbpp and tiny_js, 3
    documents with 10 answers each. The documents are `tiny_documents()`.
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
