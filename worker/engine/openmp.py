"""What torch's libraries read from the environment when they load. Import it before torch. What is set already stays.

How OpenMP's threads wait for each other: by default a waiting thread spins for milliseconds. On a machine with other
work that takes the core from the very thread that it waits for: steps became three times slower, and small operations
took a scheduler's whole tick (docs/engine-log.md).

What CUDA's allocator and cuBLAS do: micro-batches differ in size, and segments that grow leave no gaps between them;
and cuBLAS repeats its sums exactly only with a workspace of fixed size (docs.nvidia.com/cuda/cublas, "Results
reproducibility").
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # about a tenth of a millisecond; then sleep
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its older name
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
