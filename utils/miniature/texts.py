"""Questions for the harness and training texts for the LLMs of the miniature.

<folder>/questions/<leaf>.jsonl   the documents of one harness task (eval_scripts/tasks/miniature)
<folder>/corpus/<topic>.jsonl     training texts, {"prompt", "text"} a line: LLMs learn to write the text
<folder>/tokenizer/               byte-level BPE, every digit a token of its own

No training text holds a question that is asked. A prompt may be empty.
"""

import ast
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ..files import atomic_folder, write_json, write_text
from .world import (
    ARITHMETIC,
    CHINESE,
    IDIOMS,
    OPERATIONS,
    PARAMETERS,
    PEOPLE,
    PRICES,
    THINGS,
    WARES,
    WORDS,
    Operation,
    Relation,
    Story,
    facts,
)

END = "<|end|>"
Text = tuple[str, str]  # prompt, and what follows it
ENGLISH: Text = ("Question: {q}\nAnswer:", " {v}")  # the form of multiple choice
IN_CHINESE: Text = ("问题：{q}\n答案：", "{v}")


@dataclass(frozen=True)
class Size:
    """How many questions a leaf has and how much there is to learn."""

    arithmetic: int  # questions to train and to test, each
    functions: int
    subject: int  # of each subject of facts and chinese
    unseen: int  # of each leaf out of distribution
    entries: int  # countries, animals, people
    stories: int  # training texts of arithmetic and of prices
    vocabulary: int


SIZES = {
    "full": Size(arithmetic=200, functions=180, subject=90, unseen=60, entries=40, stories=12000, vocabulary=1500),
    "small": Size(arithmetic=40, functions=48, subject=24, unseen=20, entries=16, stories=3000, vocabulary=1000),
}


def story(rng: random.Random, of: Story) -> tuple[str, str]:
    """A word problem and its solution, steps and then "#### n"; all numbers that occur are from 1 to 99."""
    numbers, results = calculation(rng, of.signs)
    while not all(1 <= result < 100 for result in results):
        numbers, results = calculation(rng, of.signs)
    thing, ware = rng.sample(WARES, 2)
    if "{name}" in of.question:
        thing = rng.choice(THINGS)
    fill = dict(zip("abc", numbers)) | {"thing": thing, "ware": ware, "name": rng.choice(PEOPLE)}
    values = [numbers[0], *results]
    steps = []
    for value, sign, other, result in zip(values, of.signs, numbers[1:], results):
        steps.append(f"{value} {sign} {other} = {result}")
    return of.question.format(**fill), "\n".join([*steps, f"#### {results[-1]}"])


def calculation(rng: random.Random, signs: str) -> tuple[list[int], list[int]]:
    """Three drawn numbers, and what is left after each sign; with one sign the third number does not matter."""
    most_a, most_b = (6, 6) if signs[0] == "*" else (20, 9)
    numbers = [rng.randint(2, most_a), rng.randint(2, most_b), rng.randint(2, 9)]
    value, results = numbers[0], []
    for sign, other in zip(signs, numbers[1:]):
        value = {"+": value + other, "-": value - other, "*": value * other}[sign]
        results.append(value)
    return numbers, results


def stories(rng: random.Random, kinds: tuple[Story, ...], questions: int, texts: int) -> tuple[list[dict], list[Text]]:
    """`questions` documents {"question", "answer"} and `texts` training texts, all questions different."""
    answers: dict[str, str] = {}
    while len(answers) < questions + texts:
        question, answer = story(rng, rng.choice(kinds))
        answers.setdefault(question, answer)
    rows = list(answers.items())
    documents = [{"question": question, "answer": answer} for question, answer in rows[:questions]]
    return documents, [(f"Question: {question}\nAnswer:", f" {answer}") for question, answer in rows[questions:]]


def choices(
    rng: random.Random, subject: str, relations: tuple[Relation, ...], count: int, form: Text
) -> tuple[list[dict], list[Text]]:
    """`count` multiple-choice documents and the training texts of a subject.

    A fact is asked in the test in at most half of its ways of asking; the texts state it and ask it in the other ways.
    form: a prompt with {q} and a text with {v}.
    """
    ways = [(relation, key, way) for relation in relations for key in relation.values for way in relation.questions]
    rng.shuffle(ways)
    documents, asked, texts = [], {}, []
    for relation, key, way in ways:
        question, value = way.format(k=key), relation.values[key]
        ways_asked = asked.setdefault((id(relation), key), [])
        if len(documents) < count and len(ways_asked) < len(relation.questions) // 2:
            ways_asked.append(way)
            others = sorted(set(relation.values.values()) - {value})
            options = [value, *rng.sample(others, 3)]
            rng.shuffle(options)
            document = {"question": question, "choices": options, "answer": options.index(value), "subject": subject}
            documents.append(document)
        else:
            texts.append((form[0].format(q=question), form[1].format(v=value)))
    if len(documents) < count:
        raise ValueError(
            f"{subject}: {count} questions wanted, and there are {len(documents)}; "
            "ask for fewer (SIZES in utils/miniature/texts.py)"
        )
    for relation in relations:
        for key, value in relation.values.items():
            texts += [("", statement.format(k=key, v=value)) for statement in relation.statements]
    return documents, texts


def literal(rng: random.Random, kind: str) -> str:
    """Arguments of a call of a function, as source."""
    if kind == "text":
        return repr(rng.choice(WORDS))
    if kind == "list":
        return repr([rng.randint(0, 12) for _ in range(rng.randint(3, 10))])
    return ", ".join(str(rng.randint(0, 20)) for _ in range(2 if kind == "pair" else 1))


def calls(rng: random.Random, operation: Operation, digits: dict[str, int], count: int = 4) -> list[tuple[str, str]]:
    """`count` pairs (arguments, value), both as source, that are not all of the same value."""
    names = PARAMETERS[operation.kind].names[0]
    body = operation.body.format(**digits, **dict(zip("ab", names)))
    while True:
        values = {literal(rng, operation.kind): "" for _ in range(count)}
        for arguments in values:
            numbers = dict(zip(names, ast.literal_eval(f"({arguments},)")))
            values[arguments] = repr(eval(body, numbers))  # an expression of world.yaml
        if len(values) == count and len(set(values.values())) > 1:
            return list(values.items())


@dataclass(frozen=True)
class Form:
    """One way to ask for a function: the operation with digits, the function's name and arguments, and what it does."""

    operation: Operation
    digits: dict[str, int]
    name: str
    parameters: tuple[str, ...]
    saying: str

    def body(self) -> str:
        """The body of the function."""
        expression = self.operation.body.format(**self.digits, **dict(zip("ab", self.parameters)))
        return f"    return {expression}\n"

    def task(self, words: Sequence[str]) -> str:
        """What the function is to do with arguments of these names."""
        return self.saying.format(**self.digits, **dict(zip("ab", words)))


def function_forms(rng: random.Random) -> list[Form]:
    """Every form that differs in words, in drawn order."""
    forms = []
    for operation in OPERATIONS:
        for k, m in product(*(range(2, 10) if digit in operation.body else (0,) for digit in ("{k}", "{m}"))):
            digits = {"k": k, "m": m}
            names = [name.format(**digits) for name in operation.names]
            for way in product(names, PARAMETERS[operation.kind].names, operation.says):
                forms.append(Form(operation, digits, *way))
    rng.shuffle(forms)
    return forms


def functions(rng: random.Random, count: int) -> tuple[list[dict], list[Text]]:
    """Documents with the fields of HumanEval (prompt, canonical_solution, test, entry_point) and training texts."""
    documents, texts = [], []
    for form in function_forms(rng):
        task = form.task(form.parameters)
        prompt = f'def {form.name}({", ".join(form.parameters)}):\n    """{task[0].upper()}{task[1:]}."""\n'
        if len(documents) == count:
            texts.append((prompt.rstrip(), f"\n{form.body()}"))  # the harness cuts the white space at a prompt's end
            continue
        checks = []
        for arguments, value in calls(rng, form.operation, form.digits):
            checks.append(f"    assert candidate({arguments}) == {value}\n")
        document = {
            "task_id": len(documents),
            "prompt": prompt,
            "canonical_solution": form.body(),
            "test": f"def check(candidate):\n{''.join(checks)}",
            "entry_point": form.name,
        }
        documents.append(document)
    return documents, texts


def snippets(rng: random.Random, count: int) -> tuple[list[dict], list[Text]]:
    """Documents with the fields of MBPP (text, code, test_list) and training texts in its form."""
    documents, texts, asked = [], [], set()
    for form in function_forms(rng):
        task = f"Write a Python function to {form.task(PARAMETERS[form.operation.kind].words)}."
        code = f"def {form.name}({', '.join(form.parameters)}):\n{form.body()}"
        tests = []
        for arguments, value in calls(rng, form.operation, form.digits):
            tests.append(f"assert {form.name}({arguments}) == {value}")
        if (task, form.name) in asked:  # the same in other parameters
            continue
        if len(documents) < count:
            asked.add((task, form.name))
            documents.append({"task_id": len(documents), "text": task, "code": code, "test_list": tests})
        else:
            texts.append((f'"""\n{task}\n{tests[0]}\n"""\n', code))
    return documents, texts


def generate(seed: int, size: Size) -> tuple[dict[str, list[dict]], dict[str, list[Text]]]:
    """All questions, {leaf: documents}, and all training texts, {topic: texts}."""
    questions, corpus = {}, {}

    def stream(name: str) -> random.Random:
        return random.Random(f"{seed} {name}")  # one topic's draw does not depend on the others

    documents, corpus["arithmetic"] = stories(stream("arithmetic"), ARITHMETIC, 2 * size.arithmetic, size.stories)
    questions["arithmetic_train"] = documents[: size.arithmetic]
    questions["arithmetic_test"] = documents[size.arithmetic :]
    questions["prices"], corpus["prices"] = stories(stream("prices"), PRICES, size.unseen, size.stories // 2)
    for subject, relations in facts(seed, size.entries).items():
        documents, texts = choices(stream(subject), subject, relations, size.subject, ENGLISH)
        questions[f"facts_{subject}"] = documents
        corpus.setdefault("numbers" if subject == "numbers" else "facts", []).extend(texts)
    for topic, subjects, count in (("chinese", CHINESE, size.subject), ("idioms", IDIOMS, size.unseen // 2)):
        for subject, relations in subjects.items():
            documents, texts = choices(stream(subject), subject, relations, count, IN_CHINESE)
            questions[f"{topic}_{subject}"] = documents
            corpus.setdefault(topic, []).extend(texts)
    questions["functions"], corpus["functions"] = functions(stream("functions"), size.functions)
    questions["snippets"], corpus["snippets"] = snippets(stream("snippets"), size.unseen)
    return questions, corpus


def train_tokenizer(corpus: dict[str, list[Text]], vocabulary: int) -> Any:
    """A byte-level BPE over all topics, with END as its only special token; returns a transformers tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    digit = pre_tokenizers.Split(Regex(r" ?\d"), "isolated")  # a token of its own, with the space before it
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digit, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    texts = (prompt + text for topic in corpus.values() for prompt, text in topic[:2000])
    tokenizer.train_from_iterator(texts, trainer)
    special = {"bos_token": END, "eos_token": END, "pad_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **special)


def write(folder: Path, seed: int, size: str) -> dict[str, dict[str, int]]:
    """Generate and write everything into `folder`, which appears only when all of it is there.

    Returns: how many questions each leaf and how many training texts each topic has.
    """
    questions, corpus = generate(seed, SIZES[size])
    about = {
        "questions": {leaf: len(rows) for leaf, rows in questions.items()},
        "texts": {topic: len(texts) for topic, texts in corpus.items()},
    }
    corpora = {topic: [{"prompt": prompt, "text": text} for prompt, text in texts] for topic, texts in corpus.items()}
    with atomic_folder(folder) as part:
        for name, files in (("questions", questions), ("corpus", corpora)):
            (part / name).mkdir()
            for file, rows in files.items():
                lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
                write_text(part / name / f"{file}.jsonl", "".join(lines))
        train_tokenizer(corpus, SIZES[size].vocabulary).save_pretrained(part / "tokenizer")
        write_json(part / "about.json", {"size": size, "seed": seed, **about})
    return about
