"""Tiny bases with real chat templates, which have all of a template's special tokens."""

import json
import re
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.worker import bases, templates

PLAIN = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""Without any token of its own."""
ALL = {**templates.ALL, "plain": PLAIN}
SPECIAL = re.compile(
    r"<\|[^|>\s]+\|?>|<｜[^｜\s]+｜>|<(?:start|end)_of_turn>|<turn\|>|</?s>"  # noqa: RUF001 (DeepSeek writes them so)
)


WINDOW = 2048
"""Of the bases with weights: some templates write a long beginning."""


def base(folder: Path, name: str, *, eos: str = "</s>", pad: str | None = "<pad>", weights: bool = False) -> Path:
    """A base model's folder with that template. `weights`: with those of a tiny random Llama, too."""
    tokenizer = Tokenizer.from_str(bases.byte_level())
    special = [AddedToken(text, special=True, normalized=False) for text in sorted(set(SPECIAL.findall(ALL[name])))]
    tokenizer.add_special_tokens(special)
    bases.base(folder, template=ALL[name], tokenizer=tokenizer.to_str(), eos=eos)
    settings = json.loads((folder / "tokenizer_config.json").read_bytes()) | {"pad_token": pad}
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    if weights:
        config = LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=WINDOW,
            eos_token_id=tokenizer.token_to_id(eos),
            pad_token_id=None if pad is None else tokenizer.token_to_id(pad),
            bos_token_id=tokenizer.token_to_id("<s>"),
        )
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.data.normal_(0.0, 0.2)
        model.save_pretrained(folder)
    return folder
