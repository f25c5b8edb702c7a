"""RouterBench (hub data set withmartian/routerbench): routerbench_0shot.pkl, routerbench_5shot.pkl, or an export.

An export is a CSV or parquet file. Columns: prompt, eval_name (the task; the subjects of MMLU are one task), a score
column for each LLM and its `LLM|total_cost`. A pickle can run any code when it is opened: it is read with
--allow_pickle only. To export one where you trust it:

    python -c "import pandas; pandas.read_pickle('routerbench_0shot.pkl').to_parquet('routerbench_0shot.parquet')"
"""

from pathlib import Path
from typing import TYPE_CHECKING

from utils.formats import DataError, table_rows
from utils.importers.common import Pairs

if TYPE_CHECKING:
    import pandas


def read(source: Path, allow_pickle: bool = False) -> Pairs:
    """All pairs of the table `source` (.csv, .parquet, or .pkl with `allow_pickle`).

    Raises: DataError that names file and row.
    """
    frame = read_table(source, allow_pickle)
    pairs = Pairs()
    rows = table_rows(source, list(frame.columns), frame.to_dict("records"))
    for number, (name, row) in enumerate(zip(frame["eval_name"].tolist(), rows)):
        where = f"{source}, row {number}"
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{where}: eval_name must be the name of a task, found {name!r}")
        task = "mmlu" if name.startswith("mmlu-") else name
        costs = row.get("costs", {})
        for llm, score in row["scores"].items():
            pairs.add(task, "", number, row["question"], llm, score, costs.get(llm), where)
    return pairs


def read_table(source: Path, allow_pickle: bool) -> "pandas.DataFrame":
    """The table as it is. Raises: DataError for a pickle that is not allowed, or a file that is no such table."""
    import pandas  # slow to import

    suffix = source.suffix.lower()
    if suffix not in (".csv", ".parquet", ".pkl", ".pickle"):
        raise DataError(f"{source}: expected .csv, .parquet or .pkl")
    if suffix in (".pkl", ".pickle") and not allow_pickle:
        raise DataError(
            f"{source}: a pickle can run any code when it is opened. If you trust where it comes from, "
            "--allow_pickle; else have it exported to .parquet or .csv by someone who does"
        )
    try:
        if suffix == ".csv":
            frame = pandas.read_csv(source, dtype=str, keep_default_na=False, index_col=False)
        elif suffix == ".parquet":
            frame = pandas.read_parquet(source)
        else:
            frame = pandas.read_pickle(source)
    except ImportError:
        raise DataError(
            f"{source}: reading .parquet needs pyarrow; `pip install -r requirements.txt`, or export to .csv"
        ) from None
    except Exception as error:  # whatever a damaged file makes of pandas or pickle
        raise DataError(f"{source}: cannot be read ({type(error).__name__}: {error}). Is it truncated?") from None
    if not isinstance(frame, pandas.DataFrame) or "eval_name" not in frame.columns:
        raise DataError(f"{source}: not RouterBench's table; it has no column eval_name")
    return frame
