"""Chat templates as published models have them: those in TRL's package, and older kinds written here."""

from importlib.metadata import distribution
from pathlib import Path

from tests.worker import bases

_ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for message in messages %}"
    + _ALTERNATE
    + "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_V01 = (
    "{{ bos_token }}{% for message in messages %}" + _ALTERNATE + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token + ' ' }}{% endif %}"
    "{% endfor %}"
)
MISTRAL_V02 = MISTRAL_V01.replace(
    "{{ message['content'] + eos_token + ' ' }}", "{{ ' ' + message['content'] + eos_token }}"
)
MISTRAL_V03 = (
    "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}{{ bos_token }}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% if tools and message == users[-1] %}"
    "{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + message['content'] + '[/INST]' }}{% elif message['tool_calls'] %}{{ '[TOOL_CALLS] [' }}"
    "{% for call in message['tool_calls'] %}{% set out = call.function | tojson %}{{ out[:-1] }}"
    "{% if call.id | length != 9 %}{{ raise_exception('Tool call IDs should have length 9!') }}{% endif %}"
    "{{ ', \"id\": \"' + call.id + '\"}' }}{{ ', ' if not loop.last }}{% endfor %}{{ ']' + eos_token }}"
    "{% elif message['role'] == 'tool' %}{{ '[TOOL_RESULTS] {\"content\": ' + message['content'] }}"
    "{{ ', \"call_id\": \"' + message['tool_call_id'] + '\"}[/TOOL_RESULTS]' }}{% else %}"
    "{{ ' ' + message['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'USER: ' + message['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"
)
OPENCHAT = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ 'GPT4 Correct ' + message['role'].title() + ': ' + message['content'] + '<|end_of_turn|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}"
)
OLDER = {
    "llama_2": LLAMA_2,
    "mistral_v01": MISTRAL_V01,
    "mistral_v02": MISTRAL_V02,
    "mistral_v03": MISTRAL_V03,
    "vicuna": VICUNA,
    "zephyr": ZEPHYR,
    "openchat": OPENCHAT,
}
OURS = {
    "chatml": bases.CHATML,
    "stripping": bases.STRIPPING,
    "tools": bases.TOOLS,
    "thinking": bases.THINKING,
    "marked": bases.MARKED_CHATML,
}
_FOR_IMAGES = ("idefics3", "llava_next", "smolvlm")
"""Templates that take the content of a message as an array of parts, which Attune does not train on."""


def _of_trl() -> dict[str, str]:
    folder = Path(str(distribution("trl").locate_file("trl/chat_templates")))  # found without its import, which is slow
    files = [file for file in sorted(folder.glob("*.jinja")) if not file.stem.startswith(_FOR_IMAGES)]
    return {file.stem: file.read_text(encoding="utf-8") for file in files}


TRL = _of_trl()
REAL = TRL | OLDER
ALL = REAL | OURS
