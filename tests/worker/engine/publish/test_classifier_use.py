"""A classifier scores what its users send, plain `tokenizer(text)`, as it did in training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from api.spec.formats import FORMATS
from api.spec.methods.classification import Classification
from api.spec.resolve import Labels
from tests.tiny_models import make_encoder
from tests.worker import bases, template_bases
from tests.worker.parity import ours
from worker.engine.data import load_data
from worker.engine.publish.card import TrainingSummary
from worker.engine.publish.export import export
from worker.engine.publish.usage import Usage, usage_section
from worker.rows.row_builder import RowBuilder, load_renderer
from worker.rows.tokenize_rows import TokenizerWrapper
from worker.shared.arrays import Rows, load_rows, save_rows

TEXTS = ("The sky is blue", "Grass", "<s>It</s>", " two\n words ", "It is so and so <|im_end|>")
NAMES = {0: "no", 1: "yes"}
FRAMES = {"bare": "$A", "begun": "<s> $A", "ended": "$A </s>", "both": "<s> $A </s>"}


def framed(base: Path, frame: str) -> Path:
    """A tokenizer that puts those tokens around a text."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    named = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, pair=f"{frame} $B", special_tokens=named)
    tokenizer.save(str(base / "tokenizer.json"))
    return base


def prepared(base: Path, documents: list[dict[str, Any]]) -> list[list[int]]:
    tokens = TokenizerWrapper.load(base)
    builder, found = RowBuilder(Classification(), load_renderer(base, tokens)), []
    for document in documents:
        (built,), _ = builder.build(FORMATS["labelled"].parse(document | {"label": "yes"}))
        found += [row.tokens.tolist() for row in tokens.encode(built.sequences)]
    return found


def saved(folder: Path, sequences: list[list[int]]) -> Path:
    """Arrays of labelled rows, as prepare writes them."""
    folder.mkdir(parents=True)
    tokens, starts = np.concatenate(sequences), np.cumsum([0, *map(len, sequences)])
    labels = np.arange(len(sequences), dtype=np.float32)[:, None] % 2
    save_rows(
        folder / "train.safetensors", tokens, np.zeros(len(tokens)), starts, labels=labels, label_names=["no", "yes"]
    )
    return folder


def recipe_of(rows: int, technique: Any = ours.FULL, max_length: int = 64) -> Any:
    labels = Labels(problem="single_label", names=("no", "yes"))
    recipe = ours.settled("classification", {}, technique)
    return recipe.model_copy(
        update={"labels": labels, "max_length": max_length, "steps_per_epoch": rows, "batch_size": 1}
    )


@pytest.mark.parametrize("frame", FRAMES)
def test_a_labelled_text_is_what_the_tokenizer_makes_of_it(frame: str, tmp_path: Path) -> None:
    base = framed(template_bases.base(tmp_path / "base", "chatml"), FRAMES[frame])
    plainly = AutoTokenizer.from_pretrained(base)
    assert prepared(base, [{"text": text} for text in TEXTS]) == [plainly(text)["input_ids"] for text in TEXTS]


def test_sentence_pieces_and_conversations_are_what_a_user_sends(tmp_path: Path) -> None:
    base = bases.base(tmp_path / "base", tokenizer=bases.sentence_piece())
    plainly: Any = AutoTokenizer.from_pretrained(base)
    assert prepared(base, [{"text": text} for text in TEXTS]) == [plainly(text)["input_ids"] for text in TEXTS]
    messages = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "It is."}]
    assert prepared(base, [{"messages": messages}]) == [plainly.apply_chat_template(messages)["input_ids"]]


@pytest.mark.parametrize("kind", ["encoder", *FRAMES])
def test_a_text_that_is_cut_keeps_its_frame(kind: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    base = run / "base"
    if kind == "encoder":
        make_encoder(base)
    else:
        framed(template_bases.base(base, "chatml"), FRAMES[kind])
    texts = ["short", "a text that is longer than nine tokens by far", "another one that has to be cut in the middle"]
    data = saved(run / "data", prepared(base, [{"text": text} for text in texts]))
    loaded = load_data(data, recipe_of(3, max_length=9))
    assert loaded.truncated
    kept = loaded.train
    plainly = AutoTokenizer.from_pretrained(base)
    expected = [plainly(text, truncation=True, max_length=9)["input_ids"] for text in texts]
    assert [tokens_T.tolist() for tokens_T, _ in kept] == expected
    assert len(load_rows(data / "train.safetensors").sequence(1)[0]) > 9, "the file stays as it was"


@pytest.mark.parametrize("technique", [ours.FULL, ours.LORA], ids=["full", "lora"])
@pytest.mark.parametrize("pad", ["<pad>", "</s>", None])
@pytest.mark.parametrize("frame", ["bare", "both"])
def test_what_was_published_scores_as_the_trainer_does(
    frame: str, pad: str | None, technique: Any, tmp_path: Path, seed: int
) -> None:
    torch.manual_seed(seed)
    base = framed(template_bases.base(tmp_path / "base", "chatml", pad=pad, weights=True), FRAMES[frame])
    recipe = recipe_of(len(TEXTS), technique)
    objective = ours.begin(base, tmp_path / "run", recipe)
    ours.change_weights(objective)
    rows = load_rows(saved(tmp_path / "data", prepared(base, [{"text": text} for text in TEXTS])) / "train.safetensors")
    expected = trained_scores(objective, rows)
    folder = tmp_path / "model"
    folder.mkdir()
    export(objective.model, folder, base, recipe, TrainingSummary())

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, padding = as_the_card_says(folder, base, technique)
    one_by_one = [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in TEXTS]
    np.testing.assert_allclose(one_by_one, expected, atol=1e-4)
    if padding is not None:
        tokenizer.pad_token_id = padding
    together = model(**tokenizer(list(TEXTS), padding=True, return_tensors="pt")).logits
    np.testing.assert_allclose(together.tolist(), expected, atol=1e-4)


def as_the_card_says(folder: Path, base: Path, technique: Any) -> tuple[Any, int | None]:
    """The model, and the token that its tokenizer has to be given to pad with, if any."""
    card = (folder / "README.md").read_text()
    padding = card.partition("tokenizer.pad_token_id = ")[2].partition("`")[0]
    if technique is ours.FULL:
        assert json.loads((folder / "config.json").read_bytes())["pad_token_id"] is not None
        model = AutoModelForSequenceClassification.from_pretrained(folder)
    else:
        number = int(card.partition("pad_token_id=")[2].partition(")")[0])
        kind = AutoModelForSequenceClassification.from_pretrained(base, id2label=NAMES, pad_token_id=number)
        model = PeftModel.from_pretrained(kind, str(folder))
    return model.eval(), int(padding) if padding else None


@pytest.mark.parametrize(("truncated", "length"), [(True, 64), (False, 128)])
def test_the_card_cuts_at_the_context_unless_training_did(truncated: bool, length: int, tmp_path: Path) -> None:
    make_encoder(tmp_path / "base")
    config = AutoConfig.from_pretrained(tmp_path / "base")
    recipe = recipe_of(2, ours.LORA)
    section = usage_section(recipe, Usage.of(tmp_path / "base", recipe, config, truncated=truncated))
    assert f"truncation=True, max_length={length}, " in section
    assert "print(model.config.id2label[int(scores.argmax())])" in section
    assert "as MISSING" in section


@torch.no_grad()
def trained_scores(objective: Any, rows: Rows) -> list[list[float]]:
    objective.model.train(False)
    alone = [replace(rows, numbers=np.zeros(0, np.int64)).take(np.array([row])) for row in range(len(rows))]
    return [objective.model.sequence_scores(batch)[0].tolist() for row in alone for batch in objective.batches(row)]
