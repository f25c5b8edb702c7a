#!/usr/bin/env bash
# Let LLMs answer the tasks of the paper with lm-evaluation-harness 0.4.13; utils.scoring.convert reads the answers.
#   bash eval_scripts/score.sh                  the paper's seven LLMs, all tasks, vllm
#   DRY_RUN=1 bash eval_scripts/score.sh        print the commands, run nothing
#   bash eval_scripts/score.sh --list           the cells: number, LLM, group, and whether it is done
#   CELL=17 bash eval_scripts/score.sh          cell number 17 alone; score_slurm.sh and score_ray.sh do so on a cluster
#   MODELS="org/a mine=runs/b" TASKS="mmlu gsm8k_test" bash eval_scripts/score.sh    one's own; name=path loads the path
#
# A path with spaces is quoted in MODELS: MODELS="org/a 'mine=my runs/b'".
#
# Relative paths are seen from the root of the repository. The harness is called once per LLM and group of tasks. Its
# logs go to $OUT/<org>__<name>/<group>/ when it has succeeded. Finished ones are skipped, so a stopped run goes on with
# the same command. A failing call is reported, the others still run, and the exit code is 1.
# A cell is one LLM and one group. Cells are numbered from 1 in the order of MODELS, and for each LLM in that of TASKS.
# A number means the same as long as no LLM before it is added or removed, and TASKS stays as it is.
# Per LLM: about 162,000 log-likelihoods, 23,000 answers to GSM8K, 900 to MATH, 8,300 programs. With 7B LLMs these are
# hours on one GPU. Not timed.
#
#   BACKEND=vllm     vllm has its own torch: install it with lm_eval in an environment of its own and name that one's
#                    command, LM_EVAL="/that/environment/bin/python -m lm_eval"
#   BACKEND=hf       transformers, slower; on a CPU DEVICE=cpu
#   BACKEND=local-completions
#                    a server with an OpenAI-style completions address, BASE_URL. Multiple choice needs a server that
#                    returns log-probabilities of the prompt (echo and logprobs, as vllm's); chat addresses give none
#   TP=2 DP=4        GPUs per copy of the LLM, and copies (with vllm, copies need ray; with hf, the accelerate of
#                    LM_EVAL's interpreter starts them). With vllm, groups that sample, and one's own, run one copy: all
#                    copies have the same seed, so that some of the ten answers would be the same. For these, start
#                    the script once per GPU (CUDA_VISIBLE_DEVICES), each time with other MODELS
#   LIMIT=20         the first documents only, for trials; utils.scoring.convert refuses such logs without --allow_limit
#   INCLUDE=DIR      a folder of one's own task YAMLs, for entries of TASKS such as mine=task_a+task_b:5 (tasks,
#                    examples)
#   MODEL_ARGS       further arguments for the backend (dtype=bfloat16,max_model_len=4096)
#   BATCH_SIZE       for the backend; further flags go to lm_eval run
#   SHARE=1          several processes share the work: each does the cells that no other has, and in the end waits for
#                    those that others have, and does them if these were stopped
#   LOCK=none        for a file system without locks: the caller sees to it that no cell is started twice at a time
#   REDO=1           replace finished outputs that were made with other settings (without it they are an error)
#
# MATH needs lm_eval[math]. C-Eval, CMMLU and HumanEvalPack may need datasets < 4. Programs are only written here;
# nothing is executed.
set -euo pipefail
cd "$(dirname "$0")/.."
source eval_scripts/common.sh

TABLE=(  # group=harness task+harness task:worked examples (none given: what the task's YAML says)
  gsm8k_train=gsm8k_train        # 5 examples, 10 answers at temperature 0.2 (eval_scripts/tasks)
  gsm8k_test=gsm8k_test          # likewise
  mmlu=mmlu:5
  cmmlu=cmmlu:5
  ceval=ceval-valid:5
  arc_challenge=arc_challenge:0
  arc_easy=arc_easy:0
  hellaswag=hellaswag:10
  math_prealgebra=minerva_math_prealgebra  # 4 examples, one greedy answer
  humaneval=humaneval_generate             # 10 programs at temperature 0.2 (eval_scripts/tasks)
  mbpp=mbpp_generate                       # likewise
  humaneval_js=humaneval_js_generate       # likewise
)
# The other groups sample, as one's own may.
NOTHING_DRAWN=" mmlu cmmlu ceval arc_challenge arc_easy hellaswag math_prealgebra "

MODELS="${MODELS:-${MODELS_OF_THE_PAPER[*]}}"
TASKS="${TASKS:-${TABLE[*]%%=*}}"
OUT="${OUT:-eval_outputs}"
BACKEND="${BACKEND:-vllm}"
LM_EVAL="${LM_EVAL:-python -m lm_eval}"
MODEL_ARGS="${MODEL_ARGS:-}"
BATCH_SIZE="${BATCH_SIZE:-}"
DEVICE="${DEVICE:-}"
BASE_URL="${BASE_URL:-http://localhost:8000/v1/completions}"
TP="${TP:-1}"
DP="${DP:-1}"
LIMIT="${LIMIT:-}"
INCLUDE="${INCLUDE:-}"
DRY_RUN="${DRY_RUN:-0}"
REDO="${REDO:-0}"
SHARE="${SHARE:-0}"
CELL="${CELL:-}"
LIST=0
if [[ "${1:-}" == --list ]]; then LIST=1 && shift; fi

case "$BACKEND" in
  vllm) BATCH_SIZE="${BATCH_SIZE:-auto}" ;;
  hf) BATCH_SIZE="${BATCH_SIZE:-8}" ;;
  local-completions)
    BATCH_SIZE="${BATCH_SIZE:-1}"
    [[ "$TP$DP" == 11 ]] \
      || fail "TP=$TP DP=$DP: with BACKEND=local-completions the server has the GPUs;" \
        "give it its sizes and unset both" ;;
  *) fail "BACKEND is '$BACKEND'; it must be vllm, hf or local-completions" ;;
esac
for size in TP DP; do
  [[ "${!size}" =~ ^[1-9][0-9]*$ ]] || fail "$size is '${!size}'; it must be a number of GPUs or copies, 1 or more"
done
if [[ "$BACKEND" == hf && "$DP" != 1 && ! "$LM_EVAL" =~ ^[^[:space:]]+\ -m\ lm_eval$ ]]; then
  fail "LM_EVAL is '$LM_EVAL', and copies (DP=$DP) with BACKEND=hf are started by accelerate with the same" \
    "interpreter; write LM_EVAL=\"/that/environment/bin/python -m lm_eval\", or DP=1"
fi
[[ -z "$LIMIT" || "$LIMIT" =~ ^[1-9][0-9]*$ ]] \
  || fail "LIMIT is '$LIMIT'; it must be a number of documents, or empty for all"
[[ "$BACKEND" == hf || -z "$DEVICE" ]] \
  || fail "DEVICE is for BACKEND=hf; with vllm choose GPUs with CUDA_VISIBLE_DEVICES"
[[ -z "$INCLUDE" || -d "$INCLUDE" ]] || fail "INCLUDE is '$INCLUDE', which is no folder"

entries=()  # of the table or one's own, one for each group of TASKS
for group in $TASKS; do
  entry="$group"
  if [[ "$group" != *=* ]]; then
    entry=""
    for known in "${TABLE[@]}"; do
      if [[ "${known%%=*}" == "$group" ]]; then entry="$known"; fi
    done
    [[ -n "$entry" ]] \
      || fail "TASKS has '$group'; it must be of ${TABLE[*]%%=*}, or group=task+task:examples for your own tasks"
  fi
  [[ "$entry" =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]*=[^:=]+(:[0-9]+)?$ ]] \
    || fail "TASKS has '$entry'; write group=task+task:examples, such as mine=task_a+task_b:5"
  entries+=("$entry")
done

read_models
for model in "${models[@]}"; do
  [[ "${model%%=*}" =~ [A-Za-z0-9] && -n "${model#*=}" ]] \
    || fail "MODELS has '$model'; it must be org/name, or name=path"
  [[ "$model" != *,* ]] || fail "MODELS has '$model'; the harness takes no path with a comma"
done

count=$((${#models[@]} * ${#entries[@]}))
if [[ -n "$CELL" ]]; then
  [[ "$CELL" =~ ^[1-9][0-9]{0,8}$ && "$CELL" -le "$count" ]] \
    || fail "CELL is '$CELL'; it must be a number from 1 to $count: bash eval_scripts/score.sh --list"
fi

if [[ "$DRY_RUN" != 1 && "$LIST" != 1 ]]; then
  source train_scripts/env.sh
  if [[ "$LM_EVAL" == "python -m lm_eval" ]]; then
    needs="lm_eval"
    if [[ "$BACKEND" == vllm ]]; then needs="lm_eval vllm"; fi
    for module in $needs; do
      python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$module') is None)" \
        || fail "there is no $module in this environment; install it in one of its own and set LM_EVAL," \
          "see the head of eval_scripts/score.sh, or use BACKEND=hf"
    done
  fi
fi

# The command for one LLM and one entry, in the array `command`; $part is where it writes.
build() {
  local path="$1" group="$2" tasks="$3" shots="$4" include="$5" copies="$DP" arguments
  shift 5
  read -r -a command <<< "$LM_EVAL"
  if [[ "$BACKEND" == hf && "$DP" -gt 1 ]]; then
    command=("${LM_EVAL% -m lm_eval}" -m accelerate.commands.launch --multi_gpu --num_processes "$DP" -m lm_eval)
  fi
  case "$BACKEND" in
    vllm)
      if [[ "$NOTHING_DRAWN" != *" $group "* ]]; then copies=1; fi
      arguments="pretrained=$path,tensor_parallel_size=$TP,data_parallel_size=$copies" ;;
    hf)
      arguments="pretrained=$path"
      if [[ "$TP" -gt 1 ]]; then arguments+=",parallelize=True"; fi ;;
    local-completions) arguments="model=$path,base_url=$BASE_URL,max_length=4096" ;;
  esac
  # add_bos_token=False: vllm added none in 2024, and today's default is the tokenizer's. The paper used no chat
  # template.
  arguments+=",add_bos_token=False${MODEL_ARGS:+,$MODEL_ARGS}"
  command+=(run --model "$BACKEND" --model_args "$arguments" --include_path "$include" --tasks "$tasks")
  if [[ -n "$shots" ]]; then command+=(--num_fewshot "$shots"); fi
  command+=(--batch_size "$BATCH_SIZE")
  if [[ -n "$DEVICE" ]]; then command+=(--device "$DEVICE"); fi
  if [[ -n "$LIMIT" ]]; then command+=(--limit "$LIMIT"); fi
  # Sampling is set in the YAMLs (do_sample with the temperature, which alone would stay greedy). This backend sends
  # seed 1234 with every request unless told not to, and the ten answers would be the same.
  if [[ "$BACKEND" == local-completions ]]; then command+=(--gen_kwargs seed=None); fi
  command+=(--log_samples --output_path "$part" "$@")
}

# What decides whether a finished output is the one that is wanted now.
settings() {
  printf '%s\n' "model: $1" "tasks: $2" "examples: ${3:-as in the task}" "task files: $4" "limit: ${LIMIT:-none}" \
    "model arguments: ${MODEL_ARGS:-none}" "flags: ${*:5}"
}

state_of() {  # FOLDER SETTINGS: whether a cell is done, or open, or its folder was made with other settings
  if [[ ! -d "$1" ]]; then
    echo open
  elif [[ "$(cat "$1/settings.txt" 2>/dev/null)" == "$2" ]]; then
    echo done
  else
    echo "other settings"
  fi
}

say_other_settings() {  # FOLDER SETTINGS
  local found
  found="$(cat "$1/settings.txt" 2>/dev/null || echo "settings unknown: not made by this script")"
  echo "error: $1 was made with other settings. There (<) and wanted (>):" >&2
  diff <(echo "$found") <(echo "$2") | grep '^[<>]' >&2 || true
  echo "Choose another OUT, remove that folder, or set REDO=1 to replace it" >&2
}

# What the harness left in $part becomes the cell's folder $kept, if it is whole.
keep() {
  local code="$1" results samples
  # The harness exits with 0 even if it could not write its files.
  results="$(find "$part" -name 'results_*.json' -size +0)"
  samples="$(find "$part" -name 'samples_*.jsonl' -size +0)"
  if [[ "$code" == 0 && -n "$results" && -n "$samples" ]]; then
    echo "$wanted" > "$part/settings.txt"
    echo "$line" > "$part/command.txt"
    rm -rf "$kept"
    mv "$part" "$kept"
    finished=$((finished + 1))
  else
    rm -rf "$part"
    failed+=("$name $group (exit code $code)")
    echo "error: $name, $group: the harness failed (exit code $code, see above) or left no logs;" \
      "going on with the others" >&2
  fi
}

# One cell: NUMBER, "" or -w (wait for another run that has it), flags of the harness.
score() {
  local number="$1" patience="$2" code=0
  local model="${models[($1 - 1) / ${#entries[@]}]}" entry="${entries[($1 - 1) % ${#entries[@]}]}"
  shift 2
  local name="${model%%=*}" path="${model#*=}" group="${entry%%=*}" tasks="${entry#*=}" shots=""
  local include=eval_scripts/tasks folder state wanted line kept part
  folder="$OUT/${name//\//__}"
  if [[ "$tasks" == *:* ]]; then shots="${tasks##*:}"; fi
  tasks="${tasks%%:*}"
  tasks="${tasks//+/,}"
  if [[ -n "$INCLUDE" && " ${TABLE[*]} " != *" $entry "* ]]; then include="$INCLUDE"; fi
  kept="$folder/$group" part="$folder/.$group.part"
  wanted="$(settings "$path" "$tasks" "$shots" "$include" "$@")"
  state="$(state_of "$kept" "$wanted")"
  if [[ "$LIST" == 1 ]]; then
    printf '%s\t%s\t%s\t%s\n' "$number" "$name" "$group" "$state"
    return
  elif [[ "$state" == done ]]; then
    echo "done already: $kept"
    skipped=$((skipped + 1))
    return
  elif [[ "$state" != open && "$REDO" != 1 ]]; then
    say_other_settings "$kept" "$wanted"
    failed+=("$name $group (other settings)")
    return
  fi
  build "$path" "$group" "$tasks" "$shots" "$include" "$@"
  line="$(shown "${command[@]}")"
  if [[ "$DRY_RUN" == 1 ]]; then
    echo "$line"
    return
  fi
  if ! hold "$part" $patience; then
    if [[ "$SHARE" == 1 ]]; then
      left+=("$number")
      return
    fi
    echo "error: $name, $group: another run is writing $part; going on with the others" >&2
    failed+=("$name $group (another run)")
    return
  fi
  if [[ "$(state_of "$kept" "$wanted")" == done ]]; then  # by another run, before this one had the lock
    echo "done already: $kept"
    skipped=$((skipped + 1))
    rm -rf "$part"
    release "$part"
    return
  fi
  echo "$name, $group: $line"
  "${command[@]}" || code=$?
  keep "$code"
  release "$part"
  if [[ "$code" == 130 || "$code" == 143 ]]; then exit "$code"; fi
}

trap 'echo "interrupted: finished outputs stay in $OUT, and the same command goes on" >&2; exit 130' INT TERM
finished=0 skipped=0 failed=() left=()
for number in ${CELL:-$(seq "$count")}; do score "$number" "" "$@"; done
for number in ${left[@]+"${left[@]}"}; do score "$number" -w "$@"; done
if [[ "$LIST" == 1 ]]; then exit; fi
if [[ "$DRY_RUN" != 1 ]]; then echo "$finished finished, $skipped done already, ${#failed[@]} failed; logs in $OUT"; fi
if [[ ${#failed[@]} -gt 0 ]]; then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
