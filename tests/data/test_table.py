"""A table of metrics is one of ours, or is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from sciflow.data.table import read_rows
from sciflow.errors import InputError

HEAD = "run,posterior,metric,value,stderr,n,unit,note,better\n"


@pytest.mark.parametrize("rows", ["a,b,c,one,0.1,2,nat,,\n", f"a,b,c,1.0,0.1,2,nat,{200_000 * 'x'},\n"], ids=len)
def test_a_table_that_holds_something_else_is_refused(rows: str, tmp_path: Path) -> None:
    """A word for a number, and a field that is longer than a reader takes."""
    (tmp_path / "metrics.csv").write_text(HEAD + rows)
    with pytest.raises(InputError, match=r"metrics\.csv is no metrics table"):
        read_rows(tmp_path / "metrics.csv")
