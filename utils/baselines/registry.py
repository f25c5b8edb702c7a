"""The routers and controls that `python -m utils.baselines` knows.

To add a router: write a file beside this one with a subclass of `utils.baselines.base.Router`, and add a line to
ROUTERS. Its key is its name on the command line; `Router.name` is its name in results.
"""

from .base import Gradient, Router
from .controls import BestPerTask, BestSingle, Control, Oracle, Random
from .irt import IRT
from .kmeans import KMeans
from .knn import KNN
from .lora_retriever import LoraRetriever
from .matrix_factorization import MatrixFactorization
from .mlp import MLP
from .ridge import Ridge
from .task_classifier import TaskClassifier

ROUTERS: dict[str, type[Router]] = {
    "knn": KNN,
    "ridge": Ridge,
    "mlp": MLP,
    "matrix_factorization": MatrixFactorization,
    "kmeans": KMeans,
    "lora_retriever": LoraRetriever,
    "irt": IRT,
    "task_classifier": TaskClassifier,
}
CONTROLS: dict[str, type[Control]] = {
    "random": Random,
    "best_single": BestSingle,
    "best_per_task": BestPerTask,
    "oracle": Oracle,
}
VOTING = "voting"
KNOWN = (*ROUTERS, *CONTROLS, VOTING)
TRAINED = ("routerdc", "cosine_classifier", "zooter")  # what the training loop fits, by its --loss
BOUNDED = tuple(  # their targets must be in [0, 1], so they cannot charge a cost
    name for name, router in ROUTERS.items() if issubclass(router, Gradient)
)
