#!/usr/bin/env bash
# All checks that need a GPU, in one command: bash benchmarks/gpu/run.sh > results.txt
# Needs a Python with the packages of `pip install -c constraints.txt -e '.[worker]'`: .venv if there is one, else python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true
"$python" -m benchmarks.gpu.check "$@"
# Predicted against actual memory and time, with random base models only, so that nothing is downloaded.
case " $* " in
  *" --small "*) ;;
  *) "$python" -m benchmarks.estimates --rounds 1 --only tiny,encoder,middle,wide,deep,reader ;;
esac
