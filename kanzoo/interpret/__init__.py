"""Reading what a KAN has learned: edge functions, scores, pruning, prior knowledge, formulas."""

from kanzoo.interpret.edges import Edge, LayerEdges, edge_functions
from kanzoo.interpret.prior import constrain_edge, exchangeable, impose, separable
from kanzoo.interpret.pruning import Pruning, prune, shrink
from kanzoo.interpret.scores import Attribution, LayerScores, attribution, contrast, edge_scores

__all__ = [
    "Attribution",
    "Edge",
    "LayerEdges",
    "LayerScores",
    "Pruning",
    "attribution",
    "constrain_edge",
    "contrast",
    "edge_functions",
    "edge_scores",
    "exchangeable",
    "impose",
    "prune",
    "separable",
    "shrink",
]
