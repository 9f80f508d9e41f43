"""Answer a question with a downloaded adapter, in plain transformers and peft.

attune adapters download MODEL --output adapter
attune adapters download smollm2-135m-instruct --output base
python examples/use_adapter.py base adapter "What does math.gcd do?"
"""

import sys
from typing import Any

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, question = sys.argv[1:]
tokenizer: Any = AutoTokenizer.from_pretrained(adapter)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()

inputs = tokenizer.apply_chat_template(
    [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs, max_new_tokens=60, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

merged = model.merge_and_unload()  # from here on a plain transformers model, for programs without peft
print(f"{merged.num_parameters():,} parameters in one model")
