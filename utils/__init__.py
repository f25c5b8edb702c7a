"""The library behind the scripts: data, losses, models, experiments, reports."""

import os

# Threads that wait for one another spin, and on a CPU that other programs use, too, they spin away the time that the
# last one needs. This is the short spin that OpenMP itself chooses when it has more threads than cores. It is read when
# torch is loaded, and changes no result.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
