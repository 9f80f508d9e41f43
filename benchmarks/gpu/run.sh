#!/usr/bin/env bash
# All checks that need a GPU, in one command: bash benchmarks/gpu/run.sh | tee results.txt
# Needs a Python with the packages of `pip install -c constraints.txt -e '.[worker]'`: .venv if there is one, else python3.
# To try it on a CPU: bash benchmarks/gpu/run.sh --device cpu --small
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore PIP_RETRIES=1  # offline, pip fails at once
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true
exec "$python" -m benchmarks.gpu "$@"
