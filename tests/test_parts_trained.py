"""Every entry of every table, trained for a few steps in each type of number."""

import pytest
from test_parts_combinations import check_training, trainings_in


@pytest.mark.slow
@trainings_in("float32", "float64", "bfloat16", "float16")
def test_a_few_steps_of_training_stay_finite(statics, options):
    check_training(statics, options)
