"""The model as MLflow loads it. This file is logged as code, so nothing is ever unpickled."""

import importlib
from pathlib import Path
from typing import Any

# MLflow inspects the types of predict() and warns if it cannot find them.
import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class PyfuncModel(PythonModel):
    """Expose a saved model folder through MLflow's interface."""

    def load_context(self, context: Any) -> None:
        """Load the model from the logged folder, with the project's module that was logged with it."""
        module = importlib.import_module(context.model_config["module"])
        self.model = module.load(Path(context.artifacts["model"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray[Any, Any]:
        """Return one score for each row."""
        return np.asarray(self.model.predict(pa.Table.from_pandas(model_input, preserve_index=False)))


set_model(PyfuncModel())
