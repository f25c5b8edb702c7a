"""From the answers of LLMs to scores: logs of the harness, rules per family of tasks, programs run in a sandbox."""
