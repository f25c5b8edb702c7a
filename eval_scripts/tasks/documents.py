"""Which documents of a data set are scored; the YAML files beside this one name these functions."""

from datasets import Dataset


def first_thousand(documents: Dataset) -> Dataset:
    """The first 1000 documents, or all where there are fewer: the paper's number of training queries per task."""
    return documents.select(range(min(1000, len(documents))))
