"""An empty torchaudio for LLaMA-Factory, which imports it although only rows with sound need it.

PyPI's build for CUDA cannot be imported beside a torch for CPUs. Import this module first.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

torchaudio = ModuleType("torchaudio")
torchaudio.__spec__ = ModuleSpec("torchaudio", None)
sys.modules["torchaudio"] = torchaudio
