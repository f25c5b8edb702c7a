"""The library behind the scripts: data, losses, models, experiments, reports."""
