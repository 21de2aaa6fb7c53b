"""Where a prior misleads, to slice an evaluation on. Shapes: N pairs; a trailing 2 is the side."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from training.tiny.prior import Prior

Bools = npt.NDArray[np.bool_]


def misled_sides(table: pa.Table, prior: Prior) -> tuple[Bools, Bools]:
    """Where the prior takes no part, and where it misleads: (neutral_N2, misled_N2), to slice an
    evaluation on.

    neutral: both or neither of a pair's answers are favoured. misled: the side's own answer is not,
    the other side's is. The remaining sides are helped by the prior, or ask a question that the
    prior does not know.

        favoured "blue";  a: "red", b: "blue"   ->  neutral (no, no),    misled (yes, no)
        favoured "green"; a: "red", b: "blue"   ->  neutral (yes, yes),  misled (no, no)

    Args:
        table: Rows with question, answer_a and answer_b, for example `read_mvc(folder,
            "validation")`.
        prior: The contents of prior.json.
    """
    favored = prior["favoured"]
    neutral_N2, misled_N2 = np.zeros((2, table.num_rows, 2), np.bool_)
    for index, row in enumerate(table.select(["question", "answer_a", "answer_b"]).to_pylist()):
        if row["question"] not in favored:
            continue
        a, b = (row[name] in favored[row["question"]] for name in ("answer_a", "answer_b"))
        neutral_N2[index] = a == b
        misled_N2[index] = (not a and b), (not b and a)
    return neutral_N2, misled_N2
