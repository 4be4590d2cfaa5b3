"""A labelled record as a question with answers: any classification set as chats, preferences or choices."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError
from fmjax.data.jsonlines import field


@dataclasses.dataclass(frozen=True)
class Asked:
    """Turns {"sentence": "a joy", "label": 1} into a question, its answers, and which one is right.

    A record becomes {"prompt", "response", "chosen", "rejected", "question", "choices", "answer"}; what is rejected is
    the answer after the right one, the first after the last.

    Attributes:
      question: the text, with fields of the record in braces: "Is this review positive? {sentence}".
      answers: what each label is called, in their order.
      label: the field that holds the index of the right one.
    """

    question: str
    answers: tuple[str, ...]
    label: str = "label"

    def __post_init__(self) -> None:
        if len(set(self.answers)) < max(2, len(self.answers)):
            raise ConfigError(f"a question needs two or more different answers, not {self.answers}")

    def __call__(self, record: Mapping[str, Any], at: str) -> dict[str, Any]:
        """The record as a question.

        Raises:
          DataError: a field of the question is not there, or the label is no index of an answer.
        """
        right = field(record, self.label, at)
        if type(right) is not int or not 0 <= right < len(self.answers):
            raise DataError(f"{at}: {self.label!r} is {right!r}, and the {len(self.answers)} answers are 0, 1, ...")
        try:
            question = self.question.format_map(record)
        except (KeyError, IndexError, AttributeError) as error:
            name = str(error.args[0])
            raise DataError(f"{at} has no {name!r}, which the question names; {did_you_mean(name, record)}") from None
        answers = {"response": right, "chosen": right, "rejected": (right + 1) % len(self.answers)}
        words = {key: self.answers[i] for key, i in answers.items()}
        return {"prompt": question, "question": question, "choices": list(self.answers), "answer": right, **words}
