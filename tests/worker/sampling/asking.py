"""Models of every technique, and a sampler's answers taken apart."""

from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM

from api.spec.sampling import SamplerJob
from api.spec.techniques import Technique
from worker.engine.model.adapters import peft_config
from worker.engine.model.load import quantization_config
from worker.engine.model.modes import keep_four_bits
from worker.sampling.answer import Report
from worker.sampling.bases import LoadedBase, ModelSource
from worker.sampling.refused import RequestRefused
from worker.sampling.server import SamplingServer
from worker.shared.reports import SamplerReport, as_dict
from worker.techniques import TECHNIQUES

CPU = torch.device("cpu")
PROMPT = [3, 250, 17, 90, 4]
TOKENS = 10


def technique(name: str) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(Technique)
    return adapter.validate_python({"type": name})


def plain(base: Path, technique: Any = None) -> Any:
    """As transformers loads it."""
    options: dict[str, Any] = {}
    if technique is not None and technique.four_bits is not None:
        config = quantization_config(technique.four_bits, torch.float32)
        options = {"quantization_config": config, "device_map": {"": CPU}}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=False, **options)
    keep_four_bits(model)
    return model.eval()


def make_adapter(base: Path, folder: Path, technique: Technique, seed: int) -> Path:
    """A published model of this technique with random weights, large enough to change what is said."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = plain(base, technique)
    if technique.type == "full":
        changed: Any = model.parameters()
    elif technique.type in TECHNIQUES:
        changed = list(TECHNIQUES[technique.type].add(model, technique).values())
    else:
        model = get_peft_model(model, peft_config(model, technique, "tokens"))
        changed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in changed:
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    if technique.type in TECHNIQUES:
        TECHNIQUES[technique.type].save(model, technique, folder, "tiny")
    else:
        model.save_pretrained(folder)
    if technique.type == "full":
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (folder / name).write_bytes((base / name).read_bytes())
    return folder


def serving(
    base: LoadedBase, report: Report, *, places: int = 16, cache_tokens: int = 4096, cancelled: Container[str] = ()
) -> SamplingServer:
    """A server that has this base already."""
    return SamplingServer(
        lambda source: base, report, cancelled=cancelled.__contains__, places=places, cache_tokens=cache_tokens
    )


def run(server: SamplingServer) -> None:
    while not server.idle:
        server.step()


class Asked:
    """The reports of one request."""

    def __init__(self, base: LoadedBase, tuned: ModelSource, **fields: Any) -> None:
        self.reports: list[dict[str, Any]] = []
        given = {"prompts": [PROMPT], "max_tokens": TOKENS, "temperature": 0, "top_p": 1, "top_logprobs": 1} | fields
        request = SamplerJob(
            id="cmpl-test",
            base=str(tuned.base),
            adapter=str(tuned.adapter) if tuned.adapter else None,
            technique=tuned.technique,
            **given,
        )
        server = serving(base, self._report)
        server.submit(request)
        run(server)
        last = self.reports[-1]
        if last["type"] == "refused":
            raise RequestRefused(last["message"], param=last["param"], code=last["code"])
        assert last["type"] == "done", last

    def _report(self, report: SamplerReport) -> None:
        self.reports.append({name: value for name, value in as_dict(report).items() if name != "id"})

    def of(self, type_: str, index: int = 0) -> list[dict[str, Any]]:
        return [each for each in self.reports if each["type"] == type_ and each.get("index") == index]

    def tokens(self, index: int = 0) -> list[dict[str, Any]]:
        return [token for report in self.of("text", index) for token in report["tokens"]]

    def bytes(self, index: int = 0) -> list[list[int]]:
        return [token["bytes"] for token in self.tokens(index)]

    def text(self, index: int = 0) -> str:
        return "".join(report["text"] for report in self.of("text", index))

    def end(self, index: int = 0) -> tuple[str, int]:
        (finished,) = self.of("finished", index)
        return finished["reason"], finished["tokens"]
