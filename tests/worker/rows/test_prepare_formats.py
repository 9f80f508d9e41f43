"""Each method's formats become the arrays that it trains on: sequences, labels, items."""

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from tokenizers import Tokenizer, processors

from api.spec.formats import FORMATS, KEYS, RowError, detect
from api.spec.methods import Method
from tests.worker import bases
from tests.worker.prepared import Outcome, jsonl, prepare
from worker.rows.chat_template import ChatTemplate
from worker.rows.render import Renderer
from worker.rows.row_builder import LabelSpec, RowBuilder
from worker.shared.arrays import Rows, load_rows

USER, GOOD = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
BAD = {"role": "assistant", "content": "5"}
OPENAI_PAIR = {"input": {"messages": [USER]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}
PPO = {"type": "ppo", "ppo": {"reward_model": "rm"}}


def prepared(folder: Path, base: Path, method: Any, *rows: Any, **options: Any) -> tuple[Outcome, Rows]:
    asked = {"type": method} if isinstance(method, str) else method
    outcome = prepare(folder / "run", base, jsonl(*rows), method=asked, **options)
    assert outcome.report["ok"], outcome.report
    return outcome, load_rows(folder / "run/data/train.safetensors")


def texts(base: Path, rows: Rows) -> list[tuple[str, str]]:
    """(whole text, what of it is supervised) of each sequence."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    decode = lambda ids: tokenizer.decode(ids.tolist(), skip_special_tokens=False)  # noqa: E731
    return [(decode(tokens_T), decode(tokens_T[weights_T > 0])) for tokens_T, weights_T in rows]


def question(answer: str) -> str:
    return f"<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n{answer}"


@pytest.mark.parametrize(
    "row",
    [
        OPENAI_PAIR,
        {"input": {"messages": [USER]}, "preferred_completion": [GOOD], "non_preferred_completion": [BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "2 + 2?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "2 + 2?", "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
)
def test_every_way_to_write_a_pair_is_two_sequences_the_preferred_first(
    tmp_path: Path, base: Path, row: dict[str, Any]
) -> None:
    outcome, rows = prepared(tmp_path, base, "dpo", row)
    assert texts(base, rows) == [
        (question("4<|im_end|>\n"), "4<|im_end|>"),
        (question("5<|im_end|>\n"), "5<|im_end|>"),
    ]
    assert (rows.width, len(rows), rows.labels) == (2, 1, None)
    assert outcome.report["files"][0]["width"] == 2


def test_only_the_last_answer_of_a_pair_is_compared(tmp_path: Path, base: Path) -> None:
    history = [USER, {"role": "assistant", "content": "Three?"}, {"role": "user", "content": "No."}]
    _, rows = prepared(tmp_path, base, "orpo", {**OPENAI_PAIR, "input": {"messages": history}})
    assert [learnt for _, learnt in texts(base, rows)] == ["4<|im_end|>", "5<|im_end|>"]


def test_pairs_of_texts_have_no_template(tmp_path: Path, base: Path) -> None:
    _, rows = prepared(
        tmp_path,
        base,
        "simpo",
        {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"},
        {"chosen": "a", "rejected": "b"},
    )
    assert texts(base, rows) == [
        ("2 + 2 = 4<|im_end|>", " 4<|im_end|>"),
        ("2 + 2 = 5<|im_end|>", " 5<|im_end|>"),
        ("a<|im_end|>", "a<|im_end|>"),
        ("b<|im_end|>", "b<|im_end|>"),
    ]


def test_margins_are_labels_where_any_row_gives_one(tmp_path: Path, base: Path) -> None:
    _, rows = prepared(tmp_path, base, "reward", OPENAI_PAIR, {"chosen": "a", "rejected": "b", "margin": 1.5})
    assert rows.labels is not None
    assert rows.labels.tolist() == [[0.0], [1.5]]


@pytest.mark.parametrize(("method", "codes"), [("dpo", {"unused_margin"}), ("reward", set())])
def test_a_margin_that_the_method_does_not_learn_from_is_a_finding(
    tmp_path: Path, base: Path, method: str, codes: set[str]
) -> None:
    outcome, _ = prepared(tmp_path, base, method, {"prompt": "?", "chosen": "a", "rejected": "b", "margin": 1.5})
    assert {finding["code"] for finding in outcome.findings} == codes


def test_kto_takes_single_answers_and_both_of_a_pair(tmp_path: Path, base: Path) -> None:
    single = [
        {"prompt": "2 + 2?", "completion": [GOOD], "label": True},
        {"prompt": "a", "completion": "b", "label": False},
    ]
    _, rows = prepared(tmp_path / "single", base, "kto", *single)
    assert rows.labels is not None
    assert rows.labels.tolist() == [[1.0], [0.0]]
    assert texts(base, rows)[0] == (question("4<|im_end|>\n"), "4<|im_end|>")
    outcome, rows = prepared(tmp_path / "pair", base, "kto", OPENAI_PAIR)
    assert rows.labels is not None
    assert (rows.width, rows.labels.tolist()) == (1, [[1.0], [0.0]])
    assert (outcome.report["files"][0]["rows"], outcome.report["files"][0]["array_rows"]) == (1, 2)


@pytest.mark.parametrize(
    ("problem", "labels", "expected", "names"),
    [
        ("auto", ["b", "a", "b"], [[1], [0], [1]], ["a", "b"]),
        ("auto", [2, 10, 2.0], [[1], [0], [1]], ["10", "2"]),
        ("auto", [True, False], [[1], [0]], ["false", "true"]),
        ("auto", [1, 2.5, 3], [[1], [2.5], [3]], None),
        ("auto", [["b", "a"], [], ["c"]], [[1, 1, 0], [0, 0, 0], [0, 0, 1]], ["a", "b", "c"]),
        ("auto", [[1, 0, 1], [0, 0, 1]], [[1, 0, 1], [0, 0, 1]], ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ("auto", [[1.0, 0.0], [0.0, 0.0]], [[1, 0], [0, 0]], ["LABEL_0", "LABEL_1"]),
        ("auto", [[True, False], [False, True]], [[1, 0], [0, 1]], ["LABEL_0", "LABEL_1"]),
        ("auto", [[0, 1], [2], []], [[1, 1, 0], [0, 0, 1], [0, 0, 0]], ["0", "1", "2"]),
        ("auto", ["0.5", "2", "-5e-1"], [[0.5], [2], [-0.5]], None),
        ("auto", ["0.5", 2, 0.25], [[0.5], [2], [0.25]], None),
        ("auto", ["1.0", "2.0", "1.0"], [[0], [1], [0]], ["1.0", "2.0"]),
        ("auto", ["0.5", "1.5", "beta"], [[0], [1], [2]], ["0.5", "1.5", "beta"]),
        ("single_label", ["0.5", "1.5", "0.5"], [[0], [1], [0]], ["0.5", "1.5"]),
        ("regression", [1, "2.5"], [[1], [2.5]], None),
        ("multi_label", ["b", ["a", "b"]], [[0, 1], [1, 1]], ["a", "b"]),
    ],
)
def test_labels_become_indices_hot_columns_or_numbers(
    tmp_path: Path, base: Path, problem: str, labels: list[Any], expected: list[list[float]], names: list[str] | None
) -> None:
    method = {"type": "classification", "classification": {"problem": problem}}
    given = [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]
    outcome, rows = prepared(tmp_path, base, method, *given)
    assert rows.labels is not None
    assert rows.labels.tolist() == expected
    assert rows.label_names == (None if names is None else tuple(names))
    assert outcome.report["files"][0]["label_names"] == names
    assert not rows.loss_weights.any()
    assert texts(base, rows)[0][0] == "text 0", "as plain tokenizer(text) has it"


def test_a_validation_file_has_the_problem_of_the_training_file(tmp_path: Path, base: Path) -> None:
    train, validation = ([{"text": str(label), "label": label} for label in labels] for labels in ([0.5, 1], [1, 2]))
    outcome = prepare(tmp_path, base, jsonl(*train), jsonl(*validation), method={"type": "classification"})
    assert [file["problem"] for file in outcome.report["files"]] == ["regression", "regression"]


def test_zeros_and_ones_of_a_validation_file_are_the_training_files_classes(tmp_path: Path, base: Path) -> None:
    train = [{"text": str(label), "label": label} for label in ([1, 0, 1], [0, 1, 0])]
    valid = [{"text": "a", "label": [0, 0, 1]}, {"text": "b", "label": ["LABEL_1"]}]
    outcome = prepare(tmp_path / "run", base, jsonl(*train), jsonl(*valid), method={"type": "classification"})
    assert outcome.report["ok"], outcome.report
    rows = load_rows(tmp_path / "run/data/validation.safetensors")
    assert rows.label_names == ("LABEL_1", "LABEL_2")
    assert rows.labels is not None
    assert rows.labels.tolist() == [[0, 1], [1, 0]]
    other = jsonl({"text": "a", "label": [0, 1]})
    refused = prepare(tmp_path / "other", base, jsonl(*train), other, method={"type": "classification"})
    assert refused.message.endswith("'label' 0 does not occur in the training file")


def test_more_real_numbers_in_a_table_than_classes_can_be_are_numbers(tmp_path: Path, base: Path) -> None:
    rows = [{"text": "a", "label": str(number / 7)} for number in range(10_100)]
    outcome = prepare(tmp_path, base, jsonl(*rows), method={"type": "classification"})
    assert (outcome.report["ok"], outcome.report["files"][0]["problem"]) == (True, "regression")


def test_a_table_becomes_the_arrays_of_the_same_rows_in_json(tmp_path: Path, base: Path) -> None:
    labels = [0.5, 1, 2.25]
    rows = [{"text": f'{{"n": {label}}}', "label": label} for label in labels]
    cells = "".join(f'"{{""n"": {label}}}",{label}\n' for label in labels)
    method = {"type": "classification"}
    found = []
    for name, content in (("json", jsonl(*rows)), ("table", f"text,label\n{cells}".encode())):
        assert prepare(tmp_path / name, base, content, method=method).report["ok"]
        found.append(load_rows(tmp_path / name / "data/train.safetensors"))
    assert [each.label_names for each in found] == [None, None]
    assert all(each.labels is not None and each.labels[:, 0].tolist() == labels for each in found)
    assert np.array_equal(found[0].tokens, found[1].tokens)


def test_a_validation_file_has_no_labels_of_its_own(tmp_path: Path, base: Path) -> None:
    train, validation = ([{"text": name, "label": name} for name in names] for names in (["a", "b"], ["b", "c"]))
    outcome = prepare(tmp_path, base, jsonl(*train), jsonl(*validation), method={"type": "classification"})
    assert outcome.message.endswith("Example 2, 'label' c does not occur in the training file")


def test_an_encoders_tokenizer_alone_frames_the_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(bases.byte_level())
    frame = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=frame)
    base = bases.base(tmp_path / "base", template=None, tokenizer=tokenizer.to_str())
    rows = [{"text": text, "label": text} for text in ("good", "bad")]
    _, found = prepared(tmp_path, base, "classification", *rows)
    assert texts(base, found)[0][0] == "<s>good</s>"


def test_prompts_end_where_the_assistant_speaks_and_carry_their_row(tmp_path: Path, base: Path) -> None:
    row = {"messages": [USER], "answer": {"value": "ü"}, "number": 1.5}
    _, rows = prepared(tmp_path, base, PPO, row, {"prompt": "Once", "hint": None})
    assert texts(base, rows) == [(question(""), ""), ("Once", "")]
    assert rows.items is not None
    assert [rows.items[number] for number in (0, 1)] == [row, {"prompt": "Once", "hint": None}]
    assert '"ü"' in rows.items.text.tobytes().decode()


def test_instructions_are_a_chat_or_alpacas_prompt_as_the_base_model_is(tmp_path: Path, base: Path) -> None:
    row = {"instruction": "Add.", "input": "2 + 2", "output": "4"}
    _, rows = prepared(tmp_path / "chat", base, "supervised", row)
    assert texts(base, rows) == [(question("4<|im_end|>\n").replace("2 + 2?", "Add.\n\n2 + 2"), "4<|im_end|>")]
    plain = bases.base(tmp_path / "plain", template=None)
    _, rows = prepared(tmp_path / "text", plain, "supervised", row)
    [(whole, learnt)] = texts(plain, rows)
    assert whole.startswith("Below is an instruction")
    assert whole.endswith("### Input:\n2 + 2\n\n### Response:\n4<|im_end|>")
    assert learnt == "4<|im_end|>"


def test_sharegpt_is_a_chat_by_other_names(tmp_path: Path, base: Path) -> None:
    row = {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}
    _, rows = prepared(tmp_path, base, "supervised", row)
    assert texts(base, rows) == [(question("4<|im_end|>\n"), "4<|im_end|>")]


@pytest.mark.parametrize("row", [{"messages": [USER, GOOD]}, {"prompt": "a", "completion": "b"}])
def test_what_is_given_has_the_weight_that_was_asked_for(tmp_path: Path, base: Path, row: dict[str, Any]) -> None:
    method = {"type": "supervised", "supervised": {"prompt_loss_weight": 0.25}}
    _, rows = prepared(tmp_path, base, method, row)
    assert set(np.unique(rows.loss_weights)) == {0.25, 1.0}


def test_a_forced_format_is_what_the_rows_are_taken_for(tmp_path: Path, base: Path) -> None:
    row = {"text": "a document", "prompt": "a", "completion": "b"}
    outcome, _ = prepared(tmp_path / "forced", base, "supervised", row, format="text")
    assert outcome.report["files"][0]["format"] == "text"
    refused = prepare(tmp_path / "refused", base, jsonl(row), format="preference")
    assert (refused.code, refused.report["error"]["param"]) == ("invalid_recipe", "training.format")


METHODS: list[dict[str, Any]] = [
    {"type": "supervised"},
    {"type": "classification"},
    {"type": "dpo"},
    {"type": "kto"},
    PPO,
]
words = st.sampled_from(["", "a", "user", "assistant", "human", "gpt", "true", "1.5"])
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": words},
    optional={"weight": st.sampled_from([0, 1, None, "1"]), "name": words},
)
value = words | st.lists(message, max_size=4) | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.none()
row = st.dictionaries(st.sampled_from(sorted(KEYS)), value, max_size=6)


@cache
def renderer() -> Renderer:
    template = ChatTemplate({"default": bases.CHATML}, {})
    return Renderer(template, end_texts=frozenset({"<|im_end|>"}), added_texts=set(bases.SPECIAL))


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(METHODS), st.lists(row, min_size=1, max_size=4))
def test_any_rows_are_composed_or_refused(method: dict[str, Any], given_rows: list[dict[str, Any]]) -> None:
    asked = TypeAdapter[Method](Method).validate_python(method)
    builder = RowBuilder(asked, renderer())
    for each in given_rows:
        name = detect(each, asked.formats)
        if name not in asked.formats:
            continue
        labels = builder.labels(name, LabelSpec())
        with suppress(RowError):
            built, _ = builder.build(FORMATS[name].parse(each))
            assert {len(one.sequences) for one in built} == {2 if asked.type == "dpo" else 1}
            for one in built:
                if labels is not None:
                    labels.add(one.label)
