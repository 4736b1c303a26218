import numpy as np
import pytest

from keras_robust.certification.padding import padded_rows


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"count": 1}, [0]),
        ({"count": 3}, [0, 1, 2, 2]),
        ({"count": 4}, [0, 1, 2, 3]),
        ({"count": 3, "least": 8}, [0, 1, 2, 2, 2, 2, 2, 2]),
        ({"count": 5, "most": 6}, [0, 1, 2, 3, 4, 4]),
    ],
)
def test_the_last_row_is_repeated_up_to_a_power_of_two(arguments, expected):
    np.testing.assert_array_equal(padded_rows(**arguments), expected)
