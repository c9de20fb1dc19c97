"""Whether the float model is of any use itself: what is made of it keeps no more than it has. Pure."""

from limpq_deploy.train.evaluate import Accuracy
from limpq_deploy.verdict.record import AccuracyResult

TIMES, SHARE = 3, 0.25
"""A float model is of no use that is right on less than three times as many images as guessing, and that closes less
than a quarter of the distance from guessing to all of them: of two classes nothing is right three times as often."""


def float_notes(accuracy: AccuracyResult | None) -> tuple[str, ...]:
    """A sentence where the float model of a classification is of no use; none for other tasks."""
    found = accuracy.float if accuracy is not None else None
    if not isinstance(found, Accuracy) or found.classes < 2:
        return ()
    right, guessed = found.correct * found.classes, found.images
    if right >= TIMES * guessed or right - guessed >= SHARE * (found.classes - 1) * guessed:
        return ()
    return (
        f"The float model itself is right on {found.top1:.2f} % of the test images where guessing gives "
        f"{100 / found.classes:.4g} %: no file made of it is of use; check its weights, the preprocessing and the "
        "order of the classes (--classes), or train it longer.",
    )
