"""The table of faults in the docs: every line of it is shown by tests that there are."""

import re

from conftest import ROOT

ROW = re.compile(r"^\| .* \|$", re.MULTILINE)
NAME = re.compile(r"`(test_\w+\.py)?(?:::(test_\w+))?`")


def test_every_line_of_the_table_names_tests_that_there_are() -> None:
    text = (ROOT / "docs" / "faults.md").read_text()
    tables = [part for part in text.split("\n\n") if part.startswith("| fault |")]
    assert len(tables) >= 4
    rows = [row for table in tables for row in ROW.findall(table)[1:]]
    assert len(rows) >= 40
    for row in rows:
        names = NAME.findall(row.rsplit(" | ", 1)[1])
        assert names, row
        file = ""
        for other, test in names:
            file = other or file
            content = (ROOT / "tests" / file).read_text()
            assert test, f"{row}: {file} without a test"
            assert re.search(rf"^def {test}\(", content, re.MULTILINE), f"{row}: {test}"
