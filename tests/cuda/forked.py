"""A child on a machine with a GPU: whether it was forked, and could start CUDA."""

import os
import sys

import torch


def main() -> int:
    forked = "torch._inductor" in sys.modules and "transformers.modeling_utils" in sys.modules
    return 0 if forked and not torch.cuda._is_in_bad_fork() and os.environ["CUDA_VISIBLE_DEVICES"] == "0" else 1
