"""Environment variables that torch's libraries read when they load. Import this module before torch.

Variables that are already set keep their values.

- GOMP_SPINCOUNT: by default, an OpenMP thread that waits for another spins for milliseconds. On a machine with other
  work, it then occupies the core that the other thread needs: steps became three times slower, and small operations
  took a whole time slice of the scheduler (docs/engine-log.md).
- CUBLAS_WORKSPACE_CONFIG: cuBLAS repeats its sums exactly only with a workspace of fixed size
  (docs.nvidia.com/cuda/cublas, "Results reproducibility").
- PYTORCH_ALLOC_CONF: micro-batches differ in size, which fragments the GPU's memory. Expandable segments prevent that.
- TORCHDYNAMO_DISABLE: nothing here is compiled, but bitsandbytes decorates four functions with `torch.compile`. That
  would import `torch._inductor`, which takes a second of processor time.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # about 0.1 ms, then sleep
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # the variable's older name
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
