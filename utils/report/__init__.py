"""Finished runs, and the tables, comparisons and figures made from them."""
