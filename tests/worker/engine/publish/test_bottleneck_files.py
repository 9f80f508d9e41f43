"""The files of bottleneck adapters are AdapterHub's: its own library computes from them what the trainer did."""

import json
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from api.spec.techniques.bottleneck import Bottleneck
from tests.tiny_models import ENCODERS, make_encoder, make_model
from tests.worker import adapterhub
from worker.techniques.bottleneck import WrongAdapter, add, load_bottleneck, loading_code, save
from worker.techniques.bottleneck_families import FAMILIES, UnsupportedFamily

TOKENS_B_T = torch.arange(40).view(2, 20)
KNOWN = sorted(family for family, placed in FAMILIES.items() if placed.in_adapterhub)
LABELS = {0: "no", 1: "yes", 2: "perhaps"}


def _trained(model: Any, technique: Bottleneck, folder: Path) -> torch.Tensor:
    """Fills the folder. Returns the logits of the model in memory."""
    for parameter in add(model.eval(), technique).values():
        torch.nn.init.normal_(parameter, std=0.2)
    folder.mkdir(parents=True)
    save(model, technique, folder, "tiny")
    with torch.no_grad():
        logits: torch.Tensor = model(TOKENS_B_T).logits
    return logits


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Logits, ours and AdapterHub's, of a tiny model of each family with each placement and some non-linearity."""
    root, functions = tmp_path_factory.mktemp("adapterhub"), cycle(["relu", "gelu", "silu", "tanh"])
    cases, ours = {}, {}
    for family in KNOWN:
        encoder = family in ENCODERS
        base = make_encoder(root / family, family) if encoder else make_model(root / family, family)
        auto = "AutoModelForSequenceClassification" if encoder else "AutoModelForCausalLM"
        options = {"num_labels": 3} if encoder else {}
        for placement in ("houlsby", "pfeiffer"):
            name, function = f"{family}-{placement}", next(functions)
            technique = Bottleneck.model_validate(
                {"placement": placement, "reduction_factor": 3, "non_linearity": function}
            )
            model = getattr(transformers, auto).from_pretrained(base, attn_implementation="eager", **options)
            ours[name] = _trained(model, technique, root / name)
            cases[name] = adapterhub.Case(str(base), str(root / name), auto, options)
    theirs = adapterhub.logits(cases, TOKENS_B_T.tolist(), root)
    return {name: (ours[name], theirs[name]) for name in cases}


@pytest.mark.pairs
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("family", KNOWN)
def test_adapterhubs_own_library_computes_the_same(family: str, placement: str, both: dict[str, Any]) -> None:
    ours, theirs = both[f"{family}-{placement}"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A folder with a BERT's adapter and head of three labels, beside its base."""
    base = make_encoder(tmp_path / "base", "bert")
    model = AutoModelForSequenceClassification.from_pretrained(base, id2label=LABELS, label2id={"no": 0, "yes": 1})
    model.config.label2id = {label: number for number, label in LABELS.items()}
    _trained(model, Bottleneck(placement="pfeiffer"), tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_head_comes_with_its_labels_and_the_encoder_alone_takes_the_adapter(classifier: Path) -> None:
    base = classifier.parent / "base"
    loaded = load_bottleneck(AutoModelForSequenceClassification.from_pretrained(base, num_labels=3), classifier)
    assert loaded.config.id2label == LABELS
    assert torch.equal(loaded.classifier.weight, load_file(classifier / "model_head.safetensors")["classifier.weight"])
    encoder = load_bottleneck(AutoModel.from_pretrained(base), classifier)
    with torch.no_grad():
        states = [model.eval()(TOKENS_B_T).last_hidden_state for model in (encoder, loaded.bert)]
    assert torch.equal(*states)


def test_the_same_weights_give_the_same_bytes(tiny_llama: Path, tmp_path: Path) -> None:
    model, technique = AutoModelForCausalLM.from_pretrained(tiny_llama), Bottleneck()
    _trained(model, technique, tmp_path / "one")
    (tmp_path / "two").mkdir()
    save(
        load_bottleneck(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path / "one"),
        technique,
        tmp_path / "two",
        "tiny",
    )
    for name in ("adapter_config.json", "adapter.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert not (tmp_path / "one" / "model_head.safetensors").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ln_before", True),
        ("scaling", 4.0),
        ("non_linearity", "gelu_new"),
        ("leave_out", [0]),
        ("reduction_factor", {}),
    ],
)
def test_adapters_of_another_kind_are_refused_by_name(key: str, value: Any, tiny_llama: Path, tmp_path: Path) -> None:
    _trained(AutoModelForCausalLM.from_pretrained(tiny_llama), Bottleneck(), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"config": written["config"] | {key: value}}))
    with pytest.raises(WrongAdapter, match=key):
        load_bottleneck(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path / "adapter")


def test_an_adapter_for_more_layers_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    _trained(AutoModelForCausalLM.from_pretrained(tiny_llama), Bottleneck(), tmp_path / "adapter")
    shorter = AutoModelForCausalLM.from_pretrained(tiny_llama, num_hidden_layers=1)
    with pytest.raises(WrongAdapter, match=r"layers\.1\..* nothing in the model"):
        load_bottleneck(shorter, tmp_path / "adapter")


def test_a_family_without_a_place_is_told_which_have_one(bases: dict[str, Path]) -> None:
    with pytest.raises(UnsupportedFamily, match=r"falcon_h1.*bert.*llama.*qwen3"):
        add(AutoModelForCausalLM.from_pretrained(bases["falcon_h1"]), Bottleneck())


def test_the_model_card_names_adapterhubs_library_only_where_it_works() -> None:
    assert "adapters.init(model)" in loading_code("llama")
    assert "adapters.init(model)" not in loading_code("phi3")
    for family in FAMILIES:
        compile(loading_code(family), family, "exec")


def test_a_second_adapter_is_refused_instead_of_stacked(tiny_llama: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    _trained(model, Bottleneck(), tmp_path / "adapter")
    with pytest.raises(ValueError, match="adapters already"):
        load_bottleneck(model, tmp_path / "adapter")
