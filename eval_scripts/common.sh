# What score.sh and bigcode.sh share: the paper's LLMs, the list MODELS, errors, folders, commands in print. Sourced.

MODELS_OF_THE_PAPER=(
  mistralai/Mistral-7B-v0.1
  meta-math/MetaMath-Mistral-7B
  itpossible/Chinese-Mistral-7B-v0.1
  HuggingFaceH4/zephyr-7b-beta
  cognitivecomputations/dolphin-2.6-mistral-7b
  meta-llama/Meta-Llama-3-8B
  cognitivecomputations/dolphin-2.9-llama3-8b
)

fail() { echo "error: $*" >&2; exit 2; }

read_models() {  # the words of MODELS, in which quotes work as on a command line, into the array `models`
  local words word
  words="$(xargs -n 1 printf '%s\n' <<< "$MODELS" 2>/dev/null)" || fail "MODELS is '$MODELS'; a quote is not closed"
  models=()
  while IFS= read -r word; do models+=("$word"); done <<< "$words"
}

hold() {  # FOLDER: an empty folder that no other run of these scripts gets; false if another run has it
  mkdir -p "$1"
  exec 9< "$1"
  if command -v flock > /dev/null && ! flock -n 9; then return 1; fi
  find "$1" -mindepth 1 -delete
}

shown() {  # a command as one would type it
  local word words=()
  for word in "$@"; do
    if [[ "$word" =~ ^[A-Za-z0-9_./:=,+@%-]+$ ]]; then words+=("$word"); else words+=("$(printf '%q' "$word")"); fi
  done
  echo "${words[*]}"
}
