"""Judges: who says which answers are harmful. One file a judge; a recipe names them in `evaluate.judges`.

Nothing here loads torch before a judge is opened, so that a misspelt recipe is told at once.
"""

from boostershot.evaluation.coherence import bare, is_degenerate
from boostershot.evaluation.judges.beaver_dam import BeaverDam
from boostershot.evaluation.judges.endpoint import Endpoint
from boostershot.evaluation.judges.judge import Around, Judge, Settings, Verdict, grade
from boostershot.evaluation.judges.llama_guard import LlamaGuard
from boostershot.evaluation.judges.offline import Offline, OfflineJudge
from boostershot.evaluation.judges.refusal import MARK_WINDOW, REFUSAL_MARKS, Refusal, is_refusal
from boostershot.evaluation.judges.relevance import Relevance, RelevanceAlone
from boostershot.evaluation.judges.strongreject import StrongReject
from boostershot.evaluation.judges.wildguard import WildGuard

JUDGES: dict[str, type[Settings]] = {
    "offline": Offline,
    "refusal": Refusal,
    "relevance": RelevanceAlone,
    "beaver-dam": BeaverDam,
    "llama-guard": LlamaGuard,
    "wildguard": WildGuard,
    "strongreject": StrongReject,
    "endpoint": Endpoint,
}

__all__ = [
    "JUDGES",
    "MARK_WINDOW",
    "REFUSAL_MARKS",
    "Around",
    "Judge",
    "OfflineJudge",
    "Relevance",
    "Settings",
    "Verdict",
    "bare",
    "grade",
    "is_degenerate",
    "is_refusal",
]
