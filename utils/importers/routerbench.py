"""RouterBench (hub data set withmartian/routerbench): routerbench_0shot.pkl, routerbench_5shot.pkl, or an export.

An export is a CSV or parquet file. Columns: prompt, eval_name (the task; the subjects of MMLU are one task), a score
column for each LLM and its `LLM|total_cost`. A pickle can run any code when it is opened: it is read with
--allow_pickle only. To export one where you trust it:

    python -c "import pandas; pandas.read_pickle('routerbench_0shot.pkl').to_parquet('routerbench_0shot.parquet')"
"""

from pathlib import Path

from ..formats import DataError, table_rows
from .common import Pairs, check_text, csv_lines


def read(source: Path, allow_pickle: bool = False) -> Pairs:
    """All pairs of the table `source` (.csv, .parquet, or .pkl with `allow_pickle`).

    Raises: DataError that names file and row.
    """
    columns, records = read_table(source, allow_pickle)
    if "eval_name" not in columns:
        raise DataError(f"{source}: not RouterBench's table; it has no column eval_name")
    pairs = Pairs()
    lines = ([*record.values()] for record in records)
    for number, row in enumerate(table_rows(source, columns, lines)):
        where, name = f"{source}, row {number}", records[number]["eval_name"]
        check_text(name, "eval_name, the task,", where)
        task = "mmlu" if name.startswith("mmlu-") else name
        costs = row.get("costs", {})
        for llm, score in row["scores"].items():
            pairs.add(task, "", number, row["question"], llm, score, costs.get(llm), where)
    return pairs


def read_table(source: Path, allow_pickle: bool) -> tuple[list[str], list[dict]]:
    """The columns and the rows of the table as it is.

    Raises: DataError for a pickle that is not allowed, or a file that is no such table.
    """
    suffix = source.suffix.lower()
    if suffix not in (".csv", ".parquet", ".pkl", ".pickle"):
        raise DataError(f"{source}: expected .csv, .parquet or .pkl")
    if suffix in (".pkl", ".pickle") and not allow_pickle:
        raise DataError(
            f"{source}: a pickle can run any code when it is opened. If you trust where it comes from, "
            "--allow_pickle; else have it exported to .parquet or .csv by someone who does"
        )
    if suffix == ".csv":
        records = [line for _, line in csv_lines(source)]
        return list(records[0]) if records else [], records
    import pandas  # slow to import

    try:
        frame = pandas.read_parquet(source) if suffix == ".parquet" else pandas.read_pickle(source)
        columns = frame.columns.tolist()
        if len(set(columns)) < len(columns) or not all(isinstance(name, str) for name in columns):
            raise DataError(f"{source}: its columns must have names, each another one; found {str(columns):.200}")
        return columns, frame.to_dict("records")
    except DataError:
        raise
    except ImportError:
        raise DataError(
            f"{source}: reading .parquet needs pyarrow; `pip install -r requirements.txt`, or export to .csv"
        ) from None
    except Exception as error:  # whatever a damaged file, or another object than a table, makes of pandas or pickle
        cause = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise DataError(f"{source}: cannot be read ({cause}). Is it truncated?") from None
