"""Runs lm-evaluation-harness through a running `nanochat serve`, on a whole task made from a run's own questions.

    pip install "lm_eval[api]" transformers
    python scripts/clients/lm_eval_task.py http://127.0.0.1:8000 BASE_DIR/chat_data/questions.jsonl TOKENIZER_FOLDER

The task is multiple choice: the right answer beside the wrong ones that questions.jsonl has, or beside the answers of
the three questions before. It downloads nothing.
"""

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

base, questions, tokenizer = sys.argv[1:4]
rows, before = [], []
for line in open(questions, encoding="utf-8"):
    item = json.loads(line)
    wrong = item["wrong"][:3] or [answer for answer in before if answer != item["answer"]][-3:]
    before.append(item["answer"])
    if wrong:
        text = item["conversation"]["messages"][0]["content"]
        rows.append({"question": text, "choices": [item["answer"], *wrong], "label": 0})

folder = Path(tempfile.mkdtemp())
(folder / "questions.jsonl").write_text("\n".join(json.dumps(row) for row in rows[:200]), encoding="utf-8")
(folder / "own.yaml").write_text(
    f"""task: own_questions
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "questions.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
)
model = json.load(urllib.request.urlopen(f"{base}/v1/models"))["data"][0]
arguments = f"model={model['id']},base_url={base}/v1/completions,tokenizer={tokenizer},max_length={model['max_model_len']},num_concurrent=4,max_retries=1"
command = [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", arguments]
sys.exit(subprocess.run([*command, "--tasks", "own_questions", "--include_path", str(folder), "--batch_size", "8"]).returncode)
