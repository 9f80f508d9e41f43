#!/usr/bin/env bash
# examples/quickstart.py with curl, and python3 to parse JSON.
#
#   OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=sk-… examples/quickstart.sh ROWS.jsonl [MODEL]
set -euo pipefail

rows=${1:?give a file of training rows} model=${2:-smollm2-135m-instruct}
auth="Authorization: Bearer ${OPENAI_API_KEY:?}"
url=${OPENAI_BASE_URL:?}

field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
call() { curl --silent --show-error --fail-with-body --header "$auth" "$@"; }

file=$(call "$url/files" --form purpose=fine-tune --form "file=@$rows" | field id)
job=$(call "$url/fine_tuning/jobs" --json '{
  "model": "'"$model"'", "training_file": "'"$file"'", "technique": {"type": "lora", "rank": 16},
  "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 8}}}
}' | field id)
echo "$job"

status='' newest=''
until [[ $status == succeeded || $status == failed || $status == cancelled ]]; do
  sleep 2
  status=$(call "$url/fine_tuning/jobs/$job" | field status)
  message=$(call "$url/fine_tuning/jobs/$job/events?limit=1" |
    python3 -c 'import json, sys; print(*[event["message"] for event in json.load(sys.stdin)["data"]])')
  [[ $message == "$newest" ]] || echo "$message"
  newest=$message
done
[[ $status == succeeded ]]

call "$url/fine_tuning/jobs/$job/adapter" --output "$job.tar"
tar --list --file "$job.tar"
