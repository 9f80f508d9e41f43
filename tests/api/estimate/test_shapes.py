"""Rows as other programs write them: TRL, Hugging Face, ShareGPT, Alpaca, LLaMA-Factory. Each is read, and what is
changed on the way is noticed."""

import json
from typing import Any

import pytest

from api.spec.formats import (
    FORMATS,
    ChatOrText,
    Conversation,
    Pair,
    Prompt,
    PromptCompletion,
    RowError,
    Unpaired,
    detect,
    possible_formats,
)

USER, ANSWER = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
SYSTEM, BAD = {"role": "system", "content": "Add."}, {"role": "assistant", "content": "5"}
FUNCTION = {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"name": "add", "arguments": {"a": 2, "b": 2}}
RESULT = {"role": "tool", "name": "add", "content": "4"}


def read(name: str, row: dict[str, Any]) -> Any:
    assert detect(row, [name]) == name
    return FORMATS[name].read(row)


def codes(example: Any) -> list[str]:
    return [warning.code for warning in example.warnings]


def calling(*calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls)}


WHOLE = {"type": "function", "function": CALL}
TEXT = {"type": "function", "function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}


@pytest.mark.parametrize(
    ("call", "noticed"),
    [
        ({"id": "x", **TEXT}, []),
        ({"id": "x", **WHOLE}, []),
        (WHOLE, ["call_ids"]),
        ({"function": CALL}, ["bare_tool_call", "call_ids"]),
        (CALL, ["bare_tool_call", "call_ids"]),
        ({"id": "x", **CALL}, ["bare_tool_call"]),
    ],
)
def test_a_tool_call_is_read_however_it_is_written(call: dict[str, Any], noticed: list[str]) -> None:
    answer = RESULT | ({"tool_call_id": "x"} if "id" in call else {})
    example = read("chat", {"messages": [USER, calling(call), answer, ANSWER], "tools": [TOOL]})
    [found] = example.messages[1]["tool_calls"]
    assert found["function"] == CALL
    assert found["id"] == example.messages[2]["tool_call_id"] == ("x" if "id" in call else "call00001")
    assert codes(example) == noticed


def test_answers_without_ids_belong_to_the_calls_of_their_name_in_order() -> None:
    other = {"type": "function", "function": {"name": "negate", "arguments": {}}}
    second = {"role": "tool", "content": "-4"}
    example = read("chat", {"messages": [USER, calling(WHOLE, other, WHOLE), RESULT, second, RESULT, ANSWER]})
    ids = [call["id"] for call in example.messages[1]["tool_calls"]]
    assert [message["tool_call_id"] for message in example.messages[2:5]] == [ids[0], ids[1], ids[2]]
    assert all(len(each) == 9 and each.isalnum() for each in ids), "Mistral's templates refuse other ids"
    assert codes(example).count("call_ids") == 1


def test_an_answer_without_an_id_and_without_a_call_is_refused() -> None:
    with pytest.raises(RowError, match="message 2 must have a 'tool_call_id'"):
        read("chat", {"messages": [USER, RESULT, ANSWER]})


@pytest.mark.parametrize("calls", [[], None])
def test_no_calls_are_none(calls: Any) -> None:
    example = read("chat", {"messages": [USER, {**ANSWER, "tool_calls": calls}]})
    assert (example.messages[1], codes(example)) == (ANSWER, [])


@pytest.mark.parametrize(
    ("tools", "noticed"),
    [
        ([TOOL], []),
        (json.dumps([TOOL]), []),
        ([json.dumps(TOOL)], []),
        ([FUNCTION], ["bare_tool"]),
        (json.dumps([FUNCTION]), ["bare_tool"]),
        ([{"type": "function", **FUNCTION}], ["bare_tool"]),
        ([{"function": FUNCTION}, FUNCTION], ["bare_tool"]),
    ],
)
@pytest.mark.parametrize("name", ["chat", "sharegpt", "preference", "prompts", "completion"])
def test_tools_are_read_however_they_are_written(name: str, tools: Any, noticed: list[str]) -> None:
    rows = {
        "chat": {"messages": [USER, ANSWER]},
        "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        "preference": {"prompt": [USER], "chosen": [ANSWER], "rejected": [BAD]},
        "prompts": {"messages": [USER]},
        "completion": {"prompt": [USER], "completion": [ANSWER]},
    }
    example = read(name, {**rows[name], "tools": tools})
    text = {"preference": lambda: example.chosen, "prompts": lambda: example.prompt}.get(name, lambda: example)()
    assert all(tool == TOOL for tool in text.tools)
    assert codes(example) == noticed


@pytest.mark.parametrize(
    "turns",
    [
        [USER, ANSWER],
        [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}],
        [{"from": "Human", "value": "2 + 2?"}, {"from": "ChatGPT", "value": "4"}],
        [{"from": "user", "value": "2 + 2?"}, {"from": "model", "value": "4"}],
        [{"role": "User", "content": "2 + 2?"}, {"role": "Assistant", "content": "4"}],
        [{"role": "human", "value": "2 + 2?"}, {"role": "gpt", "value": "4"}],
    ],
)
def test_speakers_are_known_by_their_names(turns: list[dict[str, Any]]) -> None:
    for name, row in (
        ("sharegpt", {"conversations": turns}),
        ("sharegpt", {"conversation": turns}),
        ("sharegpt", {"conversations": json.dumps(turns)}),
        ("chat", {"messages": turns}),
        ("chat", {"messages": json.dumps(turns)}),
    ):
        example = read(name, row)
        assert example.messages == [USER, ANSWER]
        changed = name == "chat" and turns != [USER, ANSWER]
        assert codes(example) == (["renamed_role"] if changed else [])


@pytest.mark.parametrize("value", [json.dumps(CALL), json.dumps([CALL])])
def test_a_function_call_of_sharegpt_is_a_tool_call(value: str) -> None:
    turns = [
        {"from": "human", "value": "2 + 2?"},
        {"from": "function_call", "value": value},
        {"from": "observation", "value": "4"},
        {"from": "gpt", "value": "4"},
    ]
    example = read("sharegpt", {"conversations": turns, "tools": json.dumps([FUNCTION])})
    assert [message["role"] for message in example.messages] == ["user", "assistant", "tool", "assistant"]
    assert example.messages[1]["tool_calls"] == [{"id": "call00001", "type": "function", "function": CALL}]
    assert example.messages[2]["tool_call_id"] == "call00001"
    assert example.weights == [0, 1, 0, 1]
    with pytest.raises(RowError, match="message 1 is a function_call and must hold JSON of the form"):
        read("sharegpt", {"conversations": [{"from": "function_call", "value": "add(2, 2)"}]})


@pytest.mark.parametrize("name", ["chat", "sharegpt", "prompts"])
def test_a_system_text_beside_messages_is_their_first(name: str) -> None:
    key, turns = ("conversations", [USER, ANSWER]) if name == "sharegpt" else ("messages", [USER, ANSWER])
    turns = [USER] if name == "prompts" else turns
    example = read(name, {key: turns, "system": "Add."})
    text = example.prompt if name == "prompts" else example
    assert text.messages == [SYSTEM, *turns]
    own = read(name, {key: [SYSTEM, *turns], "system": "Subtract."})
    assert "ignored_key" in codes(own)


@pytest.mark.parametrize(
    ("row", "noticed"),
    [
        ({"prompt": [USER], "completion": [ANSWER]}, []),
        ({"prompt": "2 + 2?", "completion": [ANSWER]}, []),
        ({"prompt": [USER], "completion": "4"}, []),
        ({"prompt": json.dumps([USER]), "completion": json.dumps([ANSWER])}, ["json_text", "json_text"]),
        ({"prompt": [{"from": "human", "value": "2 + 2?"}], "completion": [{"from": "gpt", "value": "4"}]},
         ["renamed_role"]),
    ],
)  # fmt: skip
def test_prompts_and_completions_of_messages_are_conversations(row: dict[str, Any], noticed: list[str]) -> None:
    example = read("completion", row)
    assert isinstance(example, Conversation)
    assert (example.messages, example.weights) == ([USER, ANSWER], [0, 1])
    assert codes(example) == noticed
    single = read("unpaired", {**row, "label": True})
    assert isinstance(single, Unpaired)
    assert isinstance(single.answer, Conversation)
    assert single.answer.messages == [USER, ANSWER]


def test_of_a_completion_of_messages_all_answers_are_learnt_and_none_of_the_prompt() -> None:
    example = read("completion", {"prompt": [USER, ANSWER, USER], "completion": [BAD, USER, ANSWER]})
    assert example.weights == [0, 0, 0, 1, 0, 1]


@pytest.mark.parametrize("prompt", [[USER], json.dumps([USER])])
def test_a_prompt_of_messages_is_a_prompt(prompt: Any) -> None:
    example = read("prompts", {"prompt": prompt, "answer": "4"})
    assert isinstance(example, Prompt)
    assert isinstance(example.prompt, Conversation)
    assert example.prompt.messages == [USER]
    assert codes(example) == ([] if isinstance(prompt, list) else ["json_text"])


@pytest.mark.parametrize("name", ["completion", "instruction", "preference", "unpaired", "labelled", "text"])
@pytest.mark.parametrize("text", ['{"n": 1}', "[1, 2]", '[{"n": 1}]', '{"messages": 3}', '"x"', "[x]"])
def test_a_text_that_looks_like_json_is_a_text(name: str, text: str) -> None:
    """Cells of a CSV come as texts, whatever they look like."""
    rows: dict[str, dict[str, Any]] = {
        "completion": {"prompt": text, "completion": text},
        "instruction": {"instruction": text, "input": text, "output": text},
        "preference": {"prompt": text, "chosen": text, "rejected": "x"},
        "unpaired": {"prompt": text, "completion": text, "label": "true"},
        "labelled": {"text": text, "label": "a"},
        "text": {"text": text},
    }
    example = read(name, rows[name])
    passage = {
        "instruction": lambda: example.plain,
        "preference": lambda: example.chosen,
        "unpaired": lambda: example.answer,
        "labelled": lambda: example.document,
    }.get(name, lambda: example)()
    assert isinstance(passage, PromptCompletion)
    assert text in passage.prompt + passage.completion
    assert codes(example) == []


def test_alpacas_system_and_history_are_given() -> None:
    row = {"instruction": "Add.", "input": "2 + 2", "output": "4", "system": "Be brief.", "history": [["Hi", "Hello"]]}
    for each in (row, row | {"history": json.dumps(row["history"])}):
        example = read("instruction", each)
        assert isinstance(example, ChatOrText)
        assert [message["role"] for message in example.conversation.messages] == [
            "system", "user", "assistant", "user", "assistant"
        ]  # fmt: skip
        assert example.conversation.weights == [0, 0, 1, 0, 1]
        assert example.plain.prompt == (
            "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello\n\n"
            "### Instruction:\nAdd.\n\n### Input:\n2 + 2\n\n### Response:\n"
        )
        assert codes(example) == []
    with pytest.raises(RowError, match="'history' must be an array of"):
        read("instruction", row | {"history": ["Hi"]})


def pair(row: dict[str, Any]) -> Pair:
    example = read("preference", row)
    assert isinstance(example, Pair)
    return example


def shown(text: Any) -> list[str]:
    """What a base model with a template sees of each message; of a text, what is given and what answers."""
    if isinstance(text, PromptCompletion):
        return [text.prompt, text.completion]
    text = text.conversation if isinstance(text, ChatOrText) else text
    return [f"{message['role']}: {message['content']}" for message in text.messages]


ANSWERS: list[tuple[Any, Any]] = [
    ("4", "5"),
    ([ANSWER], [BAD]),
    (ANSWER, BAD),
    ({"from": "gpt", "value": "4"}, {"from": "gpt", "value": "5"}),
    (json.dumps([ANSWER]), json.dumps([BAD])),
    ([USER, ANSWER], [USER, BAD]),
]


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize(
    "asked",
    [
        {"input": "2 + 2?"},
        {"question": "2 + 2?"},
        {"query": "2 + 2?"},
        {"instruction": "2 + 2?"},
        {"instruction": "2 + 2?", "input": ""},
        {"prompt": "", "question": "2 + 2?"},
        {"messages": [USER]},
        {"messages": json.dumps([USER])},
        {"messages": [USER, ANSWER]},
        {"conversations": [{"from": "human", "value": "2 + 2?"}]},
        {"prompt": [USER]},
        {"prompt": json.dumps([USER])},
        {"input": {"messages": [USER]}},
    ],
)
def test_the_prompt_of_a_pair_is_found_under_whichever_key(asked: dict[str, Any], answers: tuple[Any, Any]) -> None:
    for system in ({}, {"system": "Add."}):
        found = pair({**asked, **system, "chosen": answers[0], "rejected": answers[1]})
        before = [*(["system: Add."] if system else []), "user: 2 + 2?"]
        assert shown(found.chosen) == [*before, "assistant: 4"]
        assert shown(found.rejected) == [*before, "assistant: 5"]


def test_a_prompt_of_a_pair_under_another_key_is_noticed() -> None:
    assert codes(pair({"input": "2 + 2?", "chosen": "4", "rejected": "5"})) == ["prompt_key"]
    assert codes(pair({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"})) == []


def test_a_question_without_a_template_is_alpacas_prompt() -> None:
    found = pair({"system": "Add.", "question": "2 + 2?", "chosen": "4", "rejected": "5"})
    assert isinstance(found.chosen, ChatOrText)
    assert found.chosen.plain == PromptCompletion("Add.\n\n### Instruction:\n2 + 2?\n\n### Response:\n", "4")


@pytest.mark.parametrize("unread", [{"post": "2 + 2?"}, {"turns": [USER]}, {"state": {"messages": [USER]}}])
@pytest.mark.parametrize("answers", [("4", "5"), ([ANSWER], [BAD])])
def test_a_pair_whose_prompt_may_be_under_an_unknown_key_is_refused(
    unread: dict[str, Any], answers: tuple[Any, Any]
) -> None:
    row = {"chosen": answers[0], "rejected": answers[1]}
    with pytest.raises(RowError, match=f"key '{next(iter(unread))}' may hold the prompt"):
        pair(row | unread)
    described = pair(row | {"id": "row-1", "source": "mine", "score_chosen": 0.5, "prompt_id": "a1b2"})
    assert "no_prompt" in codes(described)
    assert "no_prompt" not in codes(pair({**row, **unread, "prompt": "2 + 2?"}))


def test_two_questions_of_a_pair_are_refused_unless_one_holds_the_other() -> None:
    row = {"chosen": "4", "rejected": "5", "prompt": "Add: 2 + 2?"}
    with pytest.raises(RowError, match="keys prompt and question may all be the prompt"):
        pair(row | {"question": "3 + 3?"})
    assert codes(pair(row | {"question": "2 + 2?"})) == ["unknown_key"]


DIALOGS = [
    "\n\nHuman: hi\n\nAssistant:",
    "\n\nHuman: a\n\nAssistant: b\n\nHuman: hi\n\nAssistant:",
    "USER: hi\nASSISTANT:",
    "### Instruction:\nhi\n\n### Response:\n",
    "[INST] hi [/INST]",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
]


@pytest.mark.parametrize("dialog", DIALOGS)
@pytest.mark.parametrize("extra", [{}, {"prompt": None}, {"prompt": "hi"}, {"prompt": ...}])
def test_a_prompt_that_both_answers_repeat_is_split_off(dialog: str, extra: dict[str, Any]) -> None:
    extra = {key: dialog if value is ... else value for key, value in extra.items()}
    found = pair({"chosen": f"{dialog} good day", "rejected": f"{dialog} good, bad", **extra})
    assert (found.chosen, found.rejected) == (
        PromptCompletion(dialog, " good day"),
        PromptCompletion(dialog, " good, bad"),
    )
    assert codes(found) == ["repeated_prompt"]


def test_a_long_prompt_is_taken_off_the_answers_and_a_short_one_that_may_be_chance_is_not() -> None:
    long = pair({"prompt": "Once upon a time", "chosen": "Once upon a time, x", "rejected": "Once upon a time, y"})
    assert (long.chosen, codes(long)) == (PromptCompletion("Once upon a time", ", x"), ["repeated_prompt"])
    short = pair({"prompt": "Hi", "chosen": "Hi there", "rejected": "Hi you"})
    assert (short.chosen, codes(short)) == (PromptCompletion("Hi", "Hi there"), ["repeated_prompt"])


def test_what_two_answers_share_by_chance_is_no_prompt() -> None:
    found = pair({"chosen": "The answer is 4", "rejected": "The answer is 5"})
    assert (found.chosen, codes(found)) == (PromptCompletion("", "The answer is 4"), ["no_prompt"])


@pytest.mark.parametrize(
    ("asked", "answers", "noticed"),
    [
        ("2 + 2?", ("4", "5"), ["bare_message"]),
        ({"messages": [USER]}, (ANSWER, BAD), ["bare_message"]),
        ([USER], ([ANSWER], [BAD]), []),
        (json.dumps({"messages": [USER]}), (json.dumps([ANSWER]), json.dumps([BAD])), []),
    ],
)
@pytest.mark.parametrize("kind", ["output", "completion"])
def test_openais_pairs_may_be_texts(kind: str, asked: Any, answers: tuple[Any, Any], noticed: list[str]) -> None:
    found = pair({"input": asked, f"preferred_{kind}": answers[0], f"non_preferred_{kind}": answers[1]})
    assert shown(found.chosen) == ["user: 2 + 2?", "assistant: 4"]
    assert shown(found.rejected) == ["user: 2 + 2?", "assistant: 5"]
    assert codes(found) == noticed


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_what_the_assistant_thinks_is_reasoning_content(key: str) -> None:
    example = read("chat", {"messages": [USER, {**ANSWER, "thinking": None, key: "Two and two."}]})
    assert example.messages[1] == {**ANSWER, "reasoning_content": "Two and two."}
    assert codes(example) == []


@pytest.mark.parametrize("name", FORMATS)
def test_null_is_no_value(name: str) -> None:
    """Tables written as JSON lines have every column in every row."""
    row = {**dict.fromkeys(("messages", "prompt", "text", "chosen", "tools", "extra")), **FORMATS[name].example}
    assert detect(row, [name]) == name
    assert codes(FORMATS[name].read(row)) == []


@pytest.mark.parametrize("key", ["train", "loss"])
@pytest.mark.parametrize("name", ["chat", "sharegpt"])
def test_messages_that_are_not_to_be_learnt_are_not(name: str, key: str) -> None:
    messages = [{**USER, key: False}, {**BAD, key: False}, USER, {**ANSWER, key: True}]
    example = read(name, {{"chat": "messages", "sharegpt": "conversations"}[name]: messages})
    assert (example.weights, codes(example)) == ([0, 0, 0, 1], ["weight_key"])
    with pytest.raises(RowError, match="only assistant messages can have a 'weight'"):
        read("chat", {"messages": [{**USER, key: True}, ANSWER]})


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("chat", {"messages": [USER, ANSWER]}),
        ("sharegpt", {"conversations": [USER, ANSWER]}),
        ("instruction", {"question": "2 + 2?", "response": "4"}),
        ("completion", {"prompt": "2 + 2?", "completion": "4"}),
        ("preference", {"question": "2 + 2?", "chosen": "4", "rejected": "5"}),
        ("unpaired", {"prompt": "2 + 2?", "completion": "4", "label": True}),
        ("prompts", {"prompt": "2 + 2?"}),
    ],
)
def test_openorcas_system_text_is_read(name: str, row: dict[str, Any]) -> None:
    row = {"system_prompt": "Add.", "system": None, **row}
    example = read(name, row)
    text = {"preference": "chosen", "unpaired": "answer", "prompts": "prompt"}.get(name)
    assert shown(getattr(example, text) if text else example)[:2] == ["system: Add.", "user: 2 + 2?"]
    assert "system_key" in codes(example)
    assert "unknown_key" not in codes(example)
    if isinstance(example, Prompt):
        assert example.item == row


@pytest.mark.parametrize("answer", ["output", "response", "answer"])
@pytest.mark.parametrize("question", ["instruction", "question", "query", "input"])
def test_a_question_and_its_answer_go_by_many_names(question: str, answer: str) -> None:
    row = {question: "Add.", "context": "2 + 2", answer: "4"}
    example = read("instruction", row)
    assert shown(example) == ["user: Add.\n\n2 + 2", "assistant: 4"]
    assert len(codes(example)) == (question != "instruction") + (answer != "output") + 1


@pytest.mark.parametrize(
    ("other", "expected"),
    [({"text": "a"}, "text"), ({"messages": [USER, ANSWER]}, "chat"), ({"prompt": "a"}, "prompts")],
)
def test_a_question_and_its_answer_beside_another_format_are_left(other: dict[str, Any], expected: str) -> None:
    assert detect({"question": "a", "answer": "b", **other}, ["chat", "instruction", "text"]) == expected


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER]},
        {"conversations": [USER, ANSWER]},
        {"prompt": [USER], "response": [ANSWER]},
        {"prompt": "2 + 2?", "response": "4"},
        {"instruction": "2 + 2?", "output": "4"},
    ],
)
@pytest.mark.parametrize("key", ["label", "kto_tag"])
def test_single_answers_are_read_under_either_label(key: str, row: dict[str, Any]) -> None:
    example = read("unpaired", {**row, key: False})
    assert isinstance(example, Unpaired)
    assert not example.desirable
    assert shown(example.answer)[-1].endswith("4")
    assert "unknown_key" not in codes(example)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("unpaired", {"messages": [USER, ANSWER], "prompt": "a", "completion": "b", "label": True}),
        ("unpaired", {"prompt": "a", "completion": "b", "response": "c", "label": True}),
        ("completion", {"prompt": "a", "completion": "b", "response": "c"}),
        ("labelled", {"messages": [USER], "text": "a", "label": "b"}),
        ("instruction", {"instruction": "a", "query": "b", "output": "c"}),
        ("instruction", {"instruction": "a", "output": "b", "answer": "c"}),
    ],
)
def test_a_known_key_that_is_not_read_is_noticed(name: str, row: dict[str, Any]) -> None:
    assert "ignored_key" in codes(read(name, row))


@pytest.mark.parametrize("key", ["image", "audio", "video", "images"])
def test_what_a_text_only_points_to_is_refused(key: str) -> None:
    with pytest.raises(RowError, match=f"has '{key}'"):
        read("sharegpt", {"conversations": [USER, ANSWER], key: "a.jpg"})


@pytest.mark.parametrize("label", ["['a', 'b']", '[ "a" "b"]', "[1 0 1]", "[1. 0.]"])
def test_a_list_that_python_wrote_is_no_label(label: str) -> None:
    with pytest.raises(RowError, match="in Python's notation"):
        read("labelled", {"text": "a", "label": label})


@pytest.mark.parametrize("label", ["[PER]", "[1]", "[", "[a, b]"])
def test_a_label_in_brackets_is_a_label(label: str) -> None:
    assert read("labelled", {"text": "a", "label": label}).label in (label, ["1"])


@pytest.mark.parametrize("role", ["User", "prompter"])
@pytest.mark.parametrize("speaker", ["Chatbot", "bot", "AI"])
def test_speakers_of_other_programs_are_known(role: str, speaker: str) -> None:
    messages = [{**USER, "role": role}, {**ANSWER, "role": speaker}]
    assert read("chat", {"messages": messages}).messages == [USER, ANSWER]


def test_ms_swifts_calls_and_their_answers_are_read() -> None:
    turns = [
        USER,
        {"role": "tool_call", "content": json.dumps(CALL)},
        {"role": "tool_response", "content": "4"},
        ANSWER,
    ]
    example = read("chat", {"messages": turns, "tools": json.dumps([TOOL])})
    assert [message["role"] for message in example.messages] == ["user", "assistant", "tool", "assistant"]
    assert example.messages[1]["tool_calls"][0]["function"] == CALL


def test_an_answer_to_a_call_that_a_text_made_is_not_suspicious() -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "[add(a=2)]"}, {"from": "tool", "value": "4"}]
    assert codes(read("sharegpt", {"conversations": [*turns, {"from": "gpt", "value": "4"}]})) == []


@pytest.mark.parametrize("tools", ["null", "", " "])
def test_no_tools_as_text_are_none(tools: str) -> None:
    assert read("chat", {"messages": [USER, ANSWER], "tools": tools}).tools is None


def test_a_prompt_beside_messages_leaves_the_row_a_conversation() -> None:
    row = {"messages": [USER, ANSWER], "prompt": "2 + 2?", "prompt_id": "a"}
    assert "chat" in [entry.name for entry in possible_formats(row)]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "user", "content": [{"type": "tool_use"}]}], "part of type 'tool_use'"),
        ([{"input": "a", "output": "b"}], "no 'from' to name its speaker, only 'input', 'output'"),
    ],
)
def test_what_is_not_known_is_named(messages: list[Any], words: str) -> None:
    with pytest.raises(RowError, match=words):
        read("sharegpt", {"conversations": messages})
