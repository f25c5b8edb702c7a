"""RouterBench (hub data set withmartian/routerbench): routerbench_0shot.pkl and routerbench_5shot.pkl, or one exported
to CSV or parquet.

Columns: prompt, eval_name (the task; the subjects of MMLU are one task), a score column for each LLM and its
`LLM|total_cost`.
A pickle can run any code when it is opened: it is read with --allow_pickle only. To export one where you trust it:

    python -c "import pandas; pandas.read_pickle('routerbench_0shot.pkl').to_parquet('routerbench_0shot.parquet')"
"""

from pathlib import Path

from utils.formats import DataError, table_rows
from utils.importers.common import Pairs


def read(source: Path, allow_pickle: bool = False) -> Pairs:
    """All pairs of the table `source` (.csv, .parquet, or .pkl with `allow_pickle`).

    Raises: DataError that names file and row.
    """
    import pandas  # slow to import

    pickled = source.suffix.lower() in (".pkl", ".pickle")
    if pickled and not allow_pickle:
        raise DataError(
            f"{source}: a pickle can run any code when it is opened. If you trust where it comes from, "
            "--allow_pickle; else have it exported to .parquet or .csv by someone who does"
        )
    try:
        if pickled:
            frame = pandas.read_pickle(source)
        elif source.suffix.lower() == ".csv":
            frame = pandas.read_csv(source, dtype=str, keep_default_na=False, index_col=False)
        elif source.suffix.lower() == ".parquet":
            frame = pandas.read_parquet(source)
        else:
            raise DataError(f"{source}: expected .csv, .parquet or .pkl")
    except DataError:
        raise
    except ImportError:
        raise DataError(
            f"{source}: reading .parquet needs pyarrow; `pip install -r requirements.txt`, or export to .csv"
        ) from None
    except Exception as error:  # whatever a damaged file makes of pandas or pickle
        raise DataError(f"{source}: cannot be read ({type(error).__name__}: {error}). Is it truncated?") from None
    if not isinstance(frame, pandas.DataFrame) or "eval_name" not in frame.columns:
        raise DataError(f"{source}: not RouterBench's table; it has no column eval_name")
    pairs = Pairs()
    names = frame["eval_name"].tolist()
    for number, (name, row) in enumerate(zip(names, table_rows(source, list(frame.columns), frame.to_dict("records")))):
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{source}, row {number}: eval_name must be the name of a task, found {name!r}")
        task = "mmlu" if name.startswith("mmlu-") else name
        for llm, score in row["scores"].items():
            pairs.add(
                task, "", number, row["question"], llm, score, row.get("costs", {}).get(llm), f"{source}, row {number}"
            )
    return pairs
