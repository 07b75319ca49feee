"""Every entry of every table, trained for a few steps in float32."""

from test_parts_combinations import check_training, trainings_in


@trainings_in("float32")
def test_a_few_steps_of_training_stay_finite(statics, options):
    check_training(statics, options)
