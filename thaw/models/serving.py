"""The finished model as MLflow loads and serves it: MLflow runs this file, nothing is unpickled (models from code).

It stands in the folder of a published model, with the few modules of thaw that it needs. A picture is the bytes of an
image file, these in base64, or its RGB pixels; for each there is an answer of label, probability, whether the model is
unsure, and the probabilities of all classes.
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException
from mlflow.pyfunc import PythonModel
from pydantic import BaseModel

from thaw.errors import UserError
from thaw.models.portable import Model

# MLflow says, at each loading, that it does not look into pictures of several types; ``Model.square`` does.
logging.getLogger("mlflow.types.type_hints").setLevel(logging.ERROR)

Picture = str | bytes | list[list[list[int]]]


class Answer(BaseModel):
    """What MLflow's signature says of ``portable.Answer``."""

    label: str
    probability: float
    unsure: bool
    probabilities: dict[str, float]


class Served(PythonModel):  # type: ignore[misc]
    """See the module."""

    def load_context(self, context: Any) -> None:
        """Load the model once, when MLflow does."""
        self.model = Model(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: list[Picture], params: Any = None) -> list[Answer]:  # noqa: ARG002
        """Answer for each picture; a request that cannot be answered is the client's mistake (HTTP 400)."""
        try:
            return [asdict(answer) for answer in self.model.answer(model_input)]  # type: ignore[misc]
        except UserError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None


mlflow.models.set_model(Served())
