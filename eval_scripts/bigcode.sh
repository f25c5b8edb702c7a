#!/usr/bin/env bash
# The second route for code: bigcode-evaluation-harness writes the programs, a sandbox judges them.
#   BIGCODE=DIR bash eval_scripts/bigcode.sh               generate only: nothing is executed
#   BIGCODE=DIR RUN_CODE=1 bash eval_scripts/bigcode.sh    also run the programs, see utils/scoring/sandbox.py
#   BIGCODE=DIR DRY_RUN=1 bash eval_scripts/bigcode.sh     print the commands, run nothing
#
#   BIGCODE           folder of a checkout, which is used as it is (tried with commit 8fc5bae6)
#   BIGCODE_PYTHON    interpreter of its environment; default: the python of the caller
#   MODELS, TASKS     org/name or name=path ('name=a path' in quotes); of humaneval, mbpp, humanevalsynthesize-js
#   OUT               folder of the outputs; relative paths are seen from the root of the repository
#   BATCH_SIZE, PRECISION, LIMIT    for its main.py, which also gets all further flags
#
# For each LLM and task, $OUT/<org>__<name>/<task>/ has generations_<task>.json, references_<task>.json and, when
# judged, verdicts.json; datasets/README.md says how they become data. Finished steps are skipped, and stopped judging
# goes on. A failing step is reported, the others still run, and the exit code is 1. Not timed.
set -euo pipefail
cd "$(dirname "$0")/.."
source eval_scripts/common.sh

MODELS="${MODELS:-${MODELS_OF_THE_PAPER[*]}}"
TASKS="${TASKS:-humaneval mbpp humanevalsynthesize-js}"
OUT="${OUT:-eval_outputs_bigcode}"
BIGCODE="${BIGCODE:-}"
BIGCODE_PYTHON="${BIGCODE_PYTHON:-python}"
BATCH_SIZE="${BATCH_SIZE:-10}"
PRECISION="${PRECISION:-bf16}"
LIMIT="${LIMIT:-}"
RUN_CODE="${RUN_CODE:-0}"
DRY_RUN="${DRY_RUN:-0}"

[[ -n "$BIGCODE" ]] || fail "BIGCODE is not set; it is the folder of a checkout of bigcode-evaluation-harness"
if [[ "$DRY_RUN" != 1 ]]; then
  [[ -f "$BIGCODE/main.py" ]] \
    || fail "BIGCODE is '$BIGCODE', which has no main.py; it is the folder of a checkout of bigcode-evaluation-harness"
fi
# The harness runs in the folder that it writes to, so its paths are made absolute. Its interpreter is looked up now,
# because the judge's environment, which is entered below, has a python of its own.
if [[ -d "$BIGCODE" ]]; then BIGCODE="$(cd "$BIGCODE" && pwd)"; fi
[[ "$OUT" == /* ]] || OUT="$PWD/$OUT"
interpreter="$(type -P "$BIGCODE_PYTHON" || true)"
[[ -n "$interpreter" || "$DRY_RUN" == 1 ]] \
  || fail "BIGCODE_PYTHON is '$BIGCODE_PYTHON', which is no command; name the interpreter of that harness's environment"
BIGCODE_PYTHON="${interpreter:-$BIGCODE_PYTHON}"
[[ "$BIGCODE_PYTHON" == /* || -z "$interpreter" ]] || BIGCODE_PYTHON="$PWD/$BIGCODE_PYTHON"
[[ -z "$LIMIT" || "$LIMIT" =~ ^[1-9][0-9]*$ ]] \
  || fail "LIMIT is '$LIMIT'; it must be a number of problems, or empty for all"

if [[ "$DRY_RUN" != 1 && "$RUN_CODE" == 1 ]]; then source train_scripts/env.sh; fi  # the judge's environment
failed=()
run() {  # folder to run in, then the command
  local folder="$1"
  shift
  if [[ "$DRY_RUN" == 1 ]]; then
    echo "(cd $(shown "$folder") && $(shown "$@"))"
  else
    (cd "$folder" && "$@")
  fi
}

trap 'echo "interrupted: finished steps stay in $OUT, and the same command goes on" >&2; exit 130' INT TERM
read_models
for model in "${models[@]}"; do
  name="${model%%=*}" path="${model#*=}"
  if [[ -d "$path" && "$DRY_RUN" != 1 ]]; then path="$(cd "$path" && pwd)"; fi
  for task in $TASKS; do
    case "$task" in
      humaneval|mbpp) language=python ;;
      *-js) language=javascript ;;
      *) fail "TASKS has '$task'; it must be of humaneval, mbpp, humanevalsynthesize-js" ;;
    esac
    folder="$OUT/${name//\//__}/$task"
    settings="model: $path, limit: ${LIMIT:-none}, flags: $*"
    part="$OUT/${name//\//__}/.$task.part"
    if [[ -d "$folder" ]]; then
      if [[ "$(cat "$folder/settings.txt" 2>/dev/null)" != "$settings" ]]; then
        echo "error: $folder was made with other settings than '$settings';" \
          "choose another OUT or remove that folder" >&2
        failed+=("$name $task")
        continue
      fi
      echo "generated already: $folder"
    else
      if [[ "$DRY_RUN" != 1 ]] && ! hold "$part"; then
        echo "error: $name, $task: another run is writing $part; going on with the others" >&2
        failed+=("$name $task")
        continue
      fi
      command=(
        env "PYTHONPATH=$BIGCODE"
        "$BIGCODE_PYTHON" "$BIGCODE/main.py"
        --model "$path"
        --tasks "$task"
        --n_samples 10
        --do_sample True
        --temperature 0.2
        --max_length_generation 1024
        --batch_size "$BATCH_SIZE"
        --precision "$PRECISION"
        --generation_only
        --save_generations
        --save_generations_path generations.json
        --save_references
      )
      if [[ "$language" == javascript ]]; then command+=(--prompt continue); fi
      if [[ -n "$LIMIT" ]]; then command+=(--limit "$LIMIT"); fi
      # It writes generations_<task>.json beside the path given and references_<task>.json into the folder it runs in.
      if ! run "$part" "${command[@]}" "$@"; then
        echo "error: $name, $task: generating failed, see above; going on with the others" >&2
        if [[ "$DRY_RUN" != 1 ]]; then rm -rf "$part" && release "$part"; fi
        failed+=("$name $task")
        continue
      fi
      if [[ "$DRY_RUN" != 1 ]]; then
        for file in generations references; do
          if [[ ! -s "$part/${file}_$task.json" ]]; then
            echo "error: $name, $task: the harness left no ${file}_$task.json in $part;" \
              "is it the commit that this was written for?" >&2
            release "$part"
            failed+=("$name $task")
            continue 2
          fi
        done
        echo "$settings" > "$part/settings.txt"
        mv "$part" "$folder"
        release "$part"
      fi
    fi
    if [[ "$RUN_CODE" == 1 ]]; then
      if ! run . python -m utils.scoring.bigcode \
        --generations "$folder/generations_$task.json" \
        --references "$folder/references_$task.json" \
        --language "$language" \
        --task "$task" \
        --llm "$name" \
        --output "$folder/verdicts.json" \
        --run_code; then
        failed+=("$name $task")
      fi
    fi
  done
done
if [[ ${#failed[@]} -gt 0 ]]; then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
