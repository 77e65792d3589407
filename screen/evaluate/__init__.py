"""A screen held against a real one, and against what is known without a model."""

from screen.evaluate.evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
