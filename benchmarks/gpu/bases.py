"""Base models with random weights, in the shapes of well-known ones, so that nothing is downloaded."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.training.workloads import docstring_words
from tests.tiny_models import write_chat_settings
from worker.bases.facts import facts_of
from worker.bases.weights import Weights

SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": {  # Qwen2.5-0.5B
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True,
    },
    "1B": {  # Llama-3.2-1B
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": True,
    },
    "8B": {  # Llama-3.1-8B
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""Shapes by the number of weights."""
SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 8192,
}  # fmt: skip
"""Sizes that make every shape small enough to try the benchmark on a CPU."""
CONTEXT = 4096
WORDS = 4096
"""Most tokens of the tokenizer. The model's vocabulary is larger: random weights know no words."""


def random_base(folder: Path, shape: str, *, small: bool = False) -> Path:
    """Return the folder of a model of the shape, in bfloat16, which is made if it does not exist."""
    if (folder / "attune.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    end = make_tokenizer(folder)
    sizes = SHAPES[shape] | (SMALL if small else {}) | {"max_position_embeddings": CONTEXT}
    config = AutoConfig.for_model(**sizes, bos_token_id=None, eos_token_id=end, pad_token_id=end)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    network.save_pretrained(folder)
    weights = Weights(network.num_parameters(), "bfloat16")
    facts = facts_of(folder, weights, source=f"random {shape}", revision=None, license_name=None, dequantised_from=None)
    (folder / "attune.json").write_text(json.dumps(facts))
    return folder


def make_tokenizer(folder: Path) -> int:
    """Write a tokenizer in which most words of the docstrings are one token, and the tiny models' chat template. Return
    the end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = docstring_words()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=WORDS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*words, " ".join(words)], trainer)  # without and with a space before the word
    tokenizer.add_special_tokens(["<s>", "<turn>", "</turn>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_chat_settings(folder)
    end = tokenizer.token_to_id("</turn>")
    assert end is not None
    return end
