#!/bin/sh
# A bilingual chat model from raw text to a report: docs/example-report.md was made by this, on one H200 in two and a half minutes.
#
#     NANOCHAT_BASE_DIR=/data/run scripts/real_run.sh DATA
#
# DATA holds corpus/en and corpus/zh (parquet shards, the last of each for validation), chat/en.jsonl, chat/zh.jsonl with
# chat/en_val.jsonl, chat/zh_val.jsonl beside them (conversations, one a line), and eval/ (gsm8k, mmlu, humaneval, ceval, cmmlu,
# agieval as their authors give them, eval_bundle of CORE). Sizes are variables, so that the same script can be tried on a CPU.
set -eu
data=$(cd "$1" && pwd)
nanochat=${NANOCHAT:-nanochat}
device=${DEVICE:-cuda}
base=${NANOCHAT_BASE_DIR:?a folder for the run}

run() {
    echo "\$ nanochat $*"
    "$nanochat" --device "$device" "$@"
}

mkdir -p "$base"
ln -sfn "$data/eval" "$base/task_data"
en=$data/corpus/en zh=$data/corpus/zh
[ -e "$base/tokenizer/tokenizer.json" ] ||
    run tok train --vocab-size "${VOCAB:-32768}" --mix "zh=0.5:$zh" "en=0.5:$en"

run train base --depth "${DEPTH:-8}" --max-seq-len "${ROW:-2048}" --device-batch-size "${ROWS:-32}" \
    --total-batch-size "${BATCH:-131072}" --num-iterations "${BASE_STEPS:-800}" --data "en=0.5:$en" --data "zh=0.5:$zh" \
    --eval-every "${EVAL_EVERY:-100}" --eval-tokens "${EVAL_TOKENS:-1048576}" --save-every 0 --sample-every 0 \
    --no-core --sample-prompt 'The history of the city begins' --sample-prompt 'The law says that' \
    --sample-prompt 'Water is made of' --sample-prompt '中国的首都是' --sample-prompt '他走进房间，' --sample-prompt '计算机是'

run eval core --bundle "$data/eval/eval_bundle" --limit "${CORE_ITEMS:-500}"
run eval exam --limit "${QUESTIONS:-0}"

evaluate() {
    run eval chat --source "$1" --limit "${QUESTIONS:-0}" --max-tokens "${ANSWER:-256}" \
        --task MMLU --task GSM8K --task HumanEval --task SpellingBee --task C-Eval --task CMMLU \
        --task AGIEval-en --task AGIEval-zh
}

chats="--data $data/chat/en.jsonl --data $data/chat/zh.jsonl"
held_out="--val-data $data/chat/en_val.jsonl --val-data $data/chat/zh_val.jsonl"
# shellcheck disable=SC2086
run train mid $chats --data GSM8K,repeat=2 --data C-Eval,repeat=4 --data CMMLU,repeat=4 \
    --data SimpleSpelling,limit=20000 --data SpellingBee,limit=8000 $held_out --eval-every 25 --save-every 0 ${MID_STEPS:+--num-iterations "$MID_STEPS"}
evaluate mid
chats="--data $data/chat/en.jsonl,limit=6000 --data $data/chat/zh.jsonl,limit=6000"
# shellcheck disable=SC2086
run train sft $chats --data GSM8K --data C-Eval --data CMMLU --data SimpleSpelling,limit=300 --data SpellingBee,limit=2000 \
    $held_out --eval-every 50 --device-batch-size "${SFT_ROWS:-32}" --target-examples-per-step "${SFT_ROWS:-32}" --init-lr-frac 0.1 \
    --save-every 0 ${SFT_STEPS:+--num-iterations "$SFT_STEPS"}
evaluate sft
run train rl --data SpellingBee,limit=2000 --val-data SpellingBee --num-iterations "${RL_STEPS:-20}" --num-samples "${SAMPLES:-16}" \
    --eval-examples "${RL_QUESTIONS:-128}" --eval-samples 4 --eval-every 0 --save-every 0
evaluate rl
run report
