"""Tasks: every row has an example of each source, wherever it is asked for."""

import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.data import pipeline
from fmjax.data.embedded import Counting, Digits
from fmjax.data.tasks import Tasks

COUNTS, DIGITS = Counting(vocab=7, length=4), Digits("validation")
BOTH = Tasks({"text": COUNTS, "digits": DIGITS})


def test_a_row_holds_an_example_of_each_and_the_shorter_begins_again():
    assert len(BOTH) == len(DIGITS) > len(COUNTS)
    row = BOTH[9]
    assert row.keys() == {"text/tokens", "digits/image", "digits/label"}
    np.testing.assert_array_equal(row["text/tokens"], COUNTS[9 % 7]["tokens"])
    np.testing.assert_array_equal(row["digits/image"], DIGITS[9]["image"])
    batch = pipeline.stream(BOTH, batch_size=6).batch(40, seed=2)
    again = pipeline.stream(Tasks({"text": COUNTS, "digits": DIGITS}), batch_size=6).batch(40, seed=2)
    assert batch.keys() == again.keys() == {*row, "valid"}
    for key, value in batch.items():
        np.testing.assert_array_equal(value, again[key])


def test_names_and_members_are_a_part_of_the_fingerprint():
    others = [Tasks({"a": COUNTS, "digits": DIGITS}), Tasks({"text": COUNTS}), Tasks({"text": Counting(8, 4)})]
    assert len({BOTH.fingerprint, *(other.fingerprint for other in others)}) == 4
    with pytest.raises(ConfigError, match="without a slash"):
        Tasks({"a/b": COUNTS})
