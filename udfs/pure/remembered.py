"""A model is asked of each version of a trace once while its minute is open, however often that is judged."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from udfs.pure.case import Case
from udfs.pure.predict import Prediction, Predictor
from udfs.pure.tokens import Tokens, rows_of_traces


class Remembered:
    """A predictor of one look at an open minute, which the next look is made of.

    What is usual moves a little from look to look, and with it what a model would say of a trace that it has been asked
    of; that waits until the minute is over.
    """

    def __init__(self, model: Predictor, case: Case, before: Remembered | None) -> None:
        """before: of the look before, at the same minute."""
        self._model = model
        self._before = before if before and before.version == model.version else None
        # A trace that has grown is another one.
        self._traces = list(zip(case.trace_ids, case.tokens.lengths.tolist()))
        self._first: dict[tuple[str, int], int] = {}  # trace -> its first row in what was said
        self._said: Prediction | None = None

    @property
    def version(self) -> str:
        return self._model.version

    @property
    def names(self) -> Mapping[str, int]:
        return self._model.names

    def predict(self, tokens: Tokens, usual: Prediction) -> Prediction:
        """Of the case's tokens."""
        first = np.cumsum(tokens.lengths) - tokens.lengths
        self._first = dict(zip(self._traces, first.tolist()))
        known, said = (self._before._first, self._before._said) if self._before else ({}, None)
        is_new = np.array([trace not in known for trace in self._traces], bool)
        new = rows_of_traces(tokens.lengths, is_new)
        asked = tokens.of_traces(is_new)
        found = self._model.predict(asked, Prediction(*(of[new] for of in usual))) if len(new) else usual
        if said is None:
            self._said = found
        else:
            old = np.ones(len(tokens.known), bool)
            old[new] = False
            starts = np.array([known[trace] for trace in self._traces if trace in known], np.int64)
            lengths = tokens.lengths[~is_new]
            rows = np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
            columns = [np.empty((len(old), *of.shape[1:])) for of in usual]
            for column, fresh, kept in zip(columns, found, said, strict=True):
                column[new], column[old] = fresh[: len(new)], kept[rows]
            self._said = Prediction(*columns)
        self._before = None
        return self._said
