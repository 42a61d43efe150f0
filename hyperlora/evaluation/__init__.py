"""What a model is worth: the claims of the method on held-out people, and methods side by side.

Identity is judged by a recogniser that has no part in the model. Each public name loads its module when it is first
used.

    from hyperlora.evaluation import Extent, MiniStudy, PortraitModel, load_judge, run_claims

    model = PortraitModel.from_pack("path/to/pack")
    judge = load_judge("path/to/judge", conditioning=model.analyzer)
    results = run_claims(MiniStudy(model, judge, Extent(people=100)))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperlora.evaluation.claims import CLAIMS
    from hyperlora.evaluation.clip_scores import ClipScores
    from hyperlora.evaluation.compare import Comparison, Scores, Subject
    from hyperlora.evaluation.judges import FaceJudge, Judge, Labeller, load_judge
    from hyperlora.evaluation.methods import (
        METHODS,
        HyperLoRAMethod,
        Method,
        PlainSDXL,
        Prepared,
        Rendered,
        make_method,
    )
    from hyperlora.evaluation.model import PortraitModel, Setting
    from hyperlora.evaluation.report import Report
    from hyperlora.evaluation.rows import ClaimResult, Row
    from hyperlora.evaluation.run import run_claims
    from hyperlora.evaluation.statistics import Estimate
    from hyperlora.evaluation.study import Extent, MiniStudy

__all__ = [
    "CLAIMS",
    "METHODS",
    "ClaimResult",
    "ClipScores",
    "Comparison",
    "Estimate",
    "Extent",
    "FaceJudge",
    "HyperLoRAMethod",
    "Judge",
    "Labeller",
    "Method",
    "MiniStudy",
    "PlainSDXL",
    "PortraitModel",
    "Prepared",
    "Rendered",
    "Report",
    "Row",
    "Scores",
    "Setting",
    "Subject",
    "load_judge",
    "make_method",
    "run_claims",
]

_HOME_OF = {
    "CLAIMS": "claims",
    "METHODS": "methods",
    "ClaimResult": "rows",
    "ClipScores": "clip_scores",
    "Comparison": "compare",
    "Estimate": "statistics",
    "Extent": "study",
    "FaceJudge": "judges",
    "HyperLoRAMethod": "methods",
    "Judge": "judges",
    "Labeller": "judges",
    "Method": "methods",
    "MiniStudy": "study",
    "PlainSDXL": "methods",
    "PortraitModel": "model",
    "Prepared": "methods",
    "Rendered": "methods",
    "Report": "report",
    "Row": "rows",
    "Scores": "compare",
    "Setting": "model",
    "Subject": "compare",
    "load_judge": "judges",
    "make_method": "methods",
    "run_claims": "run",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
