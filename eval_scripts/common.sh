# What score.sh and bigcode.sh share: errors, and commands in print. Sourced.

fail() { echo "error: $*" >&2; exit 2; }

shown() {  # a command as one would type it
  local word words=()
  for word in "$@"; do
    if [[ "$word" =~ ^[A-Za-z0-9_./:=,+@%-]+$ ]]; then words+=("$word"); else words+=("$(printf '%q' "$word")"); fi
  done
  echo "${words[*]}"
}
