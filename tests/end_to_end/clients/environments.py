"""One environment for each version of OpenAI's clients."""

import sys
from importlib import metadata
from pathlib import Path

from tests import environments

DSPY = "3.4.1"
LITELLM = "1.110.2"
BEFORE_1_0 = "0.28.1"
LM_EVAL = "0.4.13"


def python_with(version: str) -> Path:
    """The interpreter of an environment that holds this version of `openai`: the tests' own, if it does.

    What the client needs (its HTTP library, pydantic) is there in the versions that all our tests use.
    """
    if metadata.version("openai") == version:
        return Path(sys.executable)
    constraints = [line for line in environments.our_constraints() if not line.startswith("openai==")]
    folder = environments.CACHE / "clients" / version
    return environments.python_with(f"openai=={version}", folder=folder, constraints=constraints)


def node_folder(version: str) -> Path:
    """A folder in which Node finds this version of `openai`."""
    return environments.node_folder_with("openai", version, environments.CACHE / "clients" / f"node-{version}")


def python_with_dspy() -> Path:
    """The interpreter of an environment that holds DSPy, and what it brings."""
    folder = environments.CACHE / "clients" / f"dspy-{DSPY}"
    return environments.python_with(f"dspy=={DSPY}", folder=folder)


def python_with_litellm() -> Path:
    folder = environments.CACHE / "clients" / f"litellm-{LITELLM}"
    return environments.python_with(f"litellm=={LITELLM}", folder=folder)


def python_with_openai_before_1_0() -> Path:
    """The interpreter of an environment that holds the last `openai` whose functions were the module's own."""
    folder = environments.CACHE / "clients" / BEFORE_1_0
    return environments.python_with(f"openai=={BEFORE_1_0}", folder=folder)


def command_line() -> Path:
    """`openai`, the command, which openai-python had up to 2.34."""
    return python_with("1.109.1").with_name("openai")


def python_with_lm_eval() -> Path:
    """The interpreter of an environment that holds lm-eval beside our versions of torch, transformers and peft."""
    folder = environments.CACHE / "clients" / f"lm-eval-{LM_EVAL}"
    constraints = environments.our_constraints()
    requirements = [f"lm-eval[hf,api]=={LM_EVAL}", "peft"]
    return environments.python_with(*requirements, folder=folder, constraints=constraints)
