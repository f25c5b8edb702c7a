"""Questions for the harness and training texts for the LLMs of the miniature; no training text holds a question that is asked.

<folder>/questions/<leaf>.jsonl   the documents of one harness task (eval_scripts/tasks/miniature)
<folder>/corpus/<topic>.jsonl     training texts, {"prompt", "text"} a line: LLMs learn to write the text, which may have no prompt
<folder>/tokenizer/               byte-level BPE, every digit a token of its own
"""

import ast
import json
import random
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from utils.files import atomic_folder, write_json, write_text
from utils.miniature.world import (
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
    while True:
        a, b = (rng.randint(2, 6), rng.randint(2, 6)) if of.signs[0] == "*" else (rng.randint(2, 20), rng.randint(2, 9))
        steps, value = [], a
        for sign, other in zip(of.signs, (b, rng.randint(2, 9))):
            result = {"+": value + other, "-": value - other, "*": value * other}[sign]
            steps.append(f"{value} {sign} {other} = {result}")
            value = result
        if all(1 <= int(step.rsplit(" ", 1)[1]) < 100 for step in steps):
            break
    c = steps[-1].split()[2] if len(of.signs) > 1 else ""
    thing, ware = rng.sample(WARES, 2)
    fill = {"thing": rng.choice(THINGS), "ware": ware} if "{name}" in of.question else {"thing": thing, "ware": ware}
    return of.question.format(name=rng.choice(PEOPLE), a=a, b=b, c=c, **fill), "\n".join(steps) + f"\n#### {value}"


def stories(rng: random.Random, kinds: tuple[Story, ...], questions: int, texts: int) -> tuple[list[dict], list[Text]]:
    """`questions` documents {"question", "answer"} and `texts` training texts, all questions different."""
    found: dict[str, str] = {}
    while len(found) < questions + texts:
        question, answer = story(rng, rng.choice(kinds))
        found.setdefault(question, answer)
    rows = list(found.items())
    return [{"question": q, "answer": a} for q, a in rows[:questions]], [
        (f"Question: {q}\nAnswer:", f" {a}") for q, a in rows[questions:]
    ]


def choices(
    rng: random.Random, subject: str, relations: tuple[Relation, ...], count: int, form: Text
) -> tuple[list[dict], list[Text]]:
    """`count` multiple-choice documents and the training texts of a subject.

    A fact is asked in the test in at most half of its ways of asking; the texts state it and ask it in the other ways. `form` has {q} in the prompt
    and {v} in the text.
    """
    ways = [(relation, k, q) for relation in relations for k in relation.values for q in relation.questions]
    rng.shuffle(ways)
    documents, asked, texts = [], {}, []
    for relation, k, q in ways:
        held = asked.setdefault((id(relation), k), [])
        if len(documents) < count and len(held) < len(relation.questions) // 2:
            held.append(q)
            others = sorted(set(relation.values.values()) - {relation.values[k]})
            options = [relation.values[k], *rng.sample(others, 3)]
            rng.shuffle(options)
            documents.append(
                {
                    "question": q.format(k=k),
                    "choices": options,
                    "answer": options.index(relation.values[k]),
                    "subject": subject,
                }
            )
        else:
            texts.append((form[0].format(q=q.format(k=k)), form[1].format(v=relation.values[k])))
    if len(documents) < count:
        raise ValueError(
            f"{subject}: {count} questions wanted, and there are {len(documents)}; ask for fewer (SIZES in utils/miniature/texts.py)"
        )
    texts += [
        ("", statement.format(k=k, v=v))
        for relation in relations
        for k, v in relation.values.items()
        for statement in relation.statements
    ]
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
    names = PARAMETERS[operation.kind][0][0]
    body = operation.body.format(**digits, **dict(zip("ab", names)))
    while True:
        found = {arguments: None for arguments in (literal(rng, operation.kind) for _ in range(count))}
        for arguments in found:
            values = ast.literal_eval(f"({arguments},)")
            found[arguments] = repr(eval(body, dict(zip(names, values))))  # an expression of world.py
        if len(found) == count and len(set(found.values())) > 1:
            return list(found.items())


def function_forms(rng: random.Random) -> list[tuple[Operation, dict[str, int], str, tuple[str, ...], str]]:
    """Every (operation, digits, name, parameters, saying) that differs in words, in drawn order."""
    forms = []
    for operation in OPERATIONS:
        for k in range(2, 10) if "{k}" in operation.body else (0,):
            for m in range(2, 10) if "{m}" in operation.body else (0,):
                digits = {"k": k, "m": m}
                names = [name.format(**digits) for name in operation.names]
                forms += [
                    (operation, digits, *rest) for rest in product(names, PARAMETERS[operation.kind][0], operation.says)
                ]
    rng.shuffle(forms)
    return forms


def functions(rng: random.Random, count: int) -> tuple[list[dict], list[Text]]:
    """Documents with the fields of HumanEval (prompt, canonical_solution, test, entry_point) and training texts."""
    documents, texts = [], []
    for operation, digits, name, parameters, says in function_forms(rng):
        words = digits | dict(zip("ab", parameters))
        says = says.format(**words)
        prompt = f'def {name}({", ".join(parameters)}):\n    """{says[0].upper()}{says[1:]}."""\n'
        body = f"    return {operation.body.format(**words)}\n"
        if len(documents) < count:
            checks = "\n".join(
                f"    assert candidate({arguments}) == {value}" for arguments, value in calls(rng, operation, digits)
            )
            test = f"def check(candidate):\n{checks}\n"
            documents.append(
                {
                    "task_id": len(documents),
                    "prompt": prompt,
                    "canonical_solution": body,
                    "test": test,
                    "entry_point": name,
                }
            )
        else:
            texts.append((prompt.rstrip(), f"\n{body}"))  # the harness cuts the white space at the end of a prompt
    return documents, texts


def snippets(rng: random.Random, count: int) -> tuple[list[dict], list[Text]]:
    """Documents with the fields of MBPP (text, code, test_list) and training texts in its form."""
    documents, texts, asked = [], [], set()
    for operation, digits, name, parameters, says in function_forms(rng):
        task = f"Write a Python function to {says.format(**digits, **dict(zip('ab', PARAMETERS[operation.kind][1])))}."
        code = f"def {name}({', '.join(parameters)}):\n    return {operation.body.format(**digits, **dict(zip('ab', parameters)))}\n"
        tests = [f"assert {name}({arguments}) == {value}" for arguments, value in calls(rng, operation, digits)]
        if (task, name) in asked:  # the same in other parameters
            continue
        if len(documents) < count:
            asked.add((task, name))
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
    questions["arithmetic_train"], questions["arithmetic_test"] = (
        documents[: size.arithmetic],
        documents[size.arithmetic :],
    )
    questions["prices"], corpus["prices"] = stories(stream("prices"), PRICES, size.unseen, size.stories // 2)
    for subject, relations in facts(seed, size.entries).items():
        questions[f"facts_{subject}"], texts = choices(
            stream(subject), subject, relations, size.subject, ("Question: {q}\nAnswer:", " {v}")
        )
        corpus.setdefault("numbers" if subject == "numbers" else "facts", []).extend(texts)
    for topic, subjects, count in (("chinese", CHINESE, size.subject), ("idioms", IDIOMS, size.unseen // 2)):
        for subject, relations in subjects.items():
            questions[f"{topic}_{subject}"], texts = choices(
                stream(subject), subject, relations, count, ("问题：{q}\n答案：", "{v}")
            )
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
    tokenizer.train_from_iterator(
        (prompt + text for texts in corpus.values() for prompt, text in texts[:2000]), trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END, model_max_length=256
    )


def write(folder: Path, seed: int, size: str) -> dict[str, dict[str, int]]:
    """Generate and write everything into `folder`, which appears only when all of it is there. Returns how much there is."""
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
                write_text(
                    part / name / f"{file}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                )
        train_tokenizer(corpus, SIZES[size].vocabulary).save_pretrained(part / "tokenizer")
        write_json(part / "about.json", {"size": size, "seed": seed, **about})
    return about
