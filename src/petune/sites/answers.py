"""Which queries of an attention predict a token of the answer.

Shapes: R rows named by the caller, B rows of the call (a multiple of R where a beam search repeats rows), T queries.
"""

from torch import Tensor

from petune.errors import ConfigError


def predicts_answer(places: Tensor, rows: int, answers: Tensor | None) -> Tensor:
    """Return which queries [B, T] predict a token of the answer: the last one before it, and those of it.

    Places count from the first token that was ever read. Among the keys they cannot be told: a cache may have room
    behind them, and that of a sliding window has let go of the oldest.

    Args:
        places: the index of each query's token [T].
        rows: B.
        answers: index of the first token of each row's answer [R], where the places lie.

    Raises:
        ConfigError: ``answers`` is None.
    """
    if answers is None:
        raise ConfigError(
            "an adapter is hidden from all but the answer, and nobody said where the answer begins: call the model"
            " inside `with model.answers_from([...]):`, with the index of each row's first answer token (training,"
            " evaluation and generation with petune do so themselves)"
        )
    starts = answers.repeat_interleave(rows // len(answers), output_size=rows)
    return places >= starts[:, None] - 1
