"""Run by adapterhub.py in an environment of its own: CASES.json LOGITS.safetensors."""

import json
import sys
from pathlib import Path

import adapters
import torch
import transformers
from safetensors.torch import save_file

asked = json.loads(Path(sys.argv[1]).read_text())
tokens = torch.tensor(asked["tokens"])
found = {}
for name, case in asked["cases"].items():
    auto = getattr(transformers, case["auto_class"])
    model = auto.from_pretrained(case["base"], attn_implementation="eager", **case["options"])
    adapters.init(model)
    model.load_adapter(case["adapter"], set_active=True, use_safetensors=True)
    with torch.no_grad():
        found[name] = model.eval()(tokens).logits
save_file(found, sys.argv[2])
