"""A conversation filled into a skeleton has the text and the spans that its template gives it."""

import random

import pytest

from api.spec.formats import Conversation, RowError
from tests.worker import bases, templates
from tests.worker.rows.odd_rows import TEXTS
from worker.rows.chat_template import ChatTemplate
from worker.rows.render import Rendered, Renderer
from worker.rows.skeleton import Skeletons

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
ORDERS = (("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant", "user", "assistant"))


def renderer(template: str) -> Renderer:
    ends = frozenset({"</s>", "<|im_end|>"})
    return Renderer(ChatTemplate({"default": template}, TOKENS), end_texts=ends, added_texts={*ends, "<s>"})


def conversations(seed: int, count: int) -> list[Conversation]:
    chosen = random.Random(seed)
    found = []
    for _ in range(count):
        messages = [{"role": role, "content": chosen.choice(TEXTS)} for role in chosen.choice(ORDERS)]
        found.append(Conversation(messages, [float(message["role"] == "assistant") for message in messages]))
    return found


def rendered(renderer: Renderer, conversation: Conversation) -> Rendered | str:
    try:
        return renderer.render(conversation)
    except RowError as error:
        return error.message


@pytest.mark.parametrize("name", templates.ALL)
def test_a_filled_skeleton_equals_what_the_template_renders(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template, given = renderer(templates.ALL[name]), conversations(seed=len(name), count=60)
    filled = [rendered(template, conversation) for conversation in given]
    monkeypatch.setattr(Skeletons, "fill", lambda self, messages: None)
    assert filled == [rendered(template, conversation) for conversation in given]


@pytest.mark.parametrize("name", ["chatml", "marked", "llama3", "llama3_1", "gemma3", "mistral_v03", "phi3", "qwen2_5"])
def test_common_templates_have_skeletons(name: str) -> None:
    skeletons = Skeletons(ChatTemplate({"default": templates.ALL[name]}, TOKENS))
    assert skeletons.fill([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]) is not None


@pytest.mark.parametrize(
    "used",
    [
        "{{ content | length }}",
        "{{ content | upper }}",
        "{{ content | tojson }}",
        "{{ content[0] }}",
        "{{ content ~ '' }}",
        "{{ '%s' | format(content) }}",
        "{{ content == 'a' }}",
        "{{ content in ['b'] }}",
        "{{ content in 'abc' }}",
        "{{ content is sequence }}",
        "{{ content.upper is defined }}",
        "{{ content | trim('a') }}",
        "{{ 'a' in (content + 'b') }}",
        "{{ {'a': 1}[content] }}",
        "{{ content | default('') | replace('a', 'b') }}",
        "{{ [content] | join }}",
        "{{ messages | tojson }}",
        "{{ messages[0] == messages[1] }}",
        "{% for letter in content %}{{ letter }}{% endfor %}",
        "{% set copy %}{{ content }}{% endset %}{{ copy | trim }}",
        "{% macro copy() %}{{ content }}{% endmacro %}{{ copy() | trim }}",
        "{% filter upper %}{{ content }}{% endfilter %}",
        "{{ strftime_now('%S') }}",
        "{{ [1, 2] | random }}",
    ],
)
def test_a_template_that_does_more_than_copy_has_no_skeleton(used: str) -> None:
    template = "{% set content = messages[0].content %}" + used + "{{ content }}"
    skeletons = Skeletons(ChatTemplate({"default": template}, TOKENS))
    assert skeletons.fill([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]) is None


def test_a_text_that_the_template_searches_for_is_left_to_it() -> None:
    template = "{% for message in messages %}{{ 'yes' if '<a>' in message.content else message.content }}{% endfor %}"
    skeletons = Skeletons(ChatTemplate({"default": template}, TOKENS))
    filled = skeletons.fill([{"role": "user", "content": " b"}])
    assert filled is not None
    assert filled[0] == " b"
    assert skeletons.fill([{"role": "user", "content": "<a>"}]) is None


def test_a_conversation_with_more_than_roles_and_texts_is_left_to_the_template() -> None:
    skeletons = Skeletons(ChatTemplate({"default": bases.CHATML}, TOKENS))
    for message in ({"reasoning_content": "a"}, {"content": " "}, {"role": "tool"}, {"content": "a</think>b"}):
        assert skeletons.fill([{"role": "assistant", "content": "a"} | message]) is None
