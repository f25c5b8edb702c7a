"""The learnable ceiling of a task: how much of the per-query oracle's head-room its queries' text can give, and how
much of it repeats at all."""
