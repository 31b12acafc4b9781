"""A search over hyper-parameters that can be stopped anywhere, and that no finishing order changes.

Trials are proposed in generations of fixed size by Optuna's TPE, from the finished generations alone: what a generation
proposes is a function of the finished ones, the seed and the trial's number. So the storage holds finished trials only,
and whatever was under way when a search was killed is proposed again.
"""

from __future__ import annotations

import json
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from boostershot.errors import InputError

if TYPE_CHECKING:
    import optuna

    from boostershot.config.space import Dimension, Space

State = Literal["done", "pruned", "failed"]
BOUND = "utility"  # the name of the one constraint
BEST = 5  # trials at least that count as the best: PED-ANOVA's authors advise no fewer


@dataclass(frozen=True)
class Trial:
    """What was tried, and what came of it.

    Args:
        number: from 0, in the order of proposal.
        values: of the space's hyper-parameters.
        state: pruned is given up early, on its harmful loss.
        value: lower is better; None unless it is done.
        excess: how far the utility lay below the bound when it was told; more than 0 is outside. None where it is not
            known.
        course: step -> harmful loss at the steps at which trials are given up.
        facts: JSON data that comes back with the trial.
    """

    number: int
    values: Mapping[str, Any]
    state: State
    value: float | None = None
    excess: float | None = None
    course: Mapping[int, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Importance:
    """What brought trials among the best.

    Args:
        shares: hyper-parameter -> its share, all together 1.
        best: how many trials are the best.
        of: how many trials there were.
    """

    shares: Mapping[str, float]
    best: int
    of: int


Excess = Callable[[Trial], float | None]  # a finished trial's, as it is known now


class Search:
    """A TPE search in an SQLite file.

    Args:
        file: made where it is missing; several searches may share one.
        name: of this search in the file; all that decides its trials belongs in it.
        space: what is chosen.
        seed: of the proposals.
        generation: how many trials are proposed together. The first generation is drawn at random.
        first: values of the first trial, such as the untuned attack's; None where they are drawn, too.

    Raises:
        InputError: the file cannot be written, or is no such storage.
    """

    def __init__(
        self, file: Path, name: str, space: Space, seed: int, generation: int, first: Mapping[str, Any] | None = None
    ):
        self.space, self.seed, self.generation, self.first = space, seed, generation, first
        self._file = file
        with _storage_errors(file):
            self._study = _study(file, name)
            self.finished = self._known()

    @property
    def whole(self) -> Sequence[Trial]:
        """The finished trials of whole generations, from which alone others follow: the last one may be short."""
        return self.finished[: len(self.finished) // self.generation * self.generation]

    def propose(self, trials: int, excess: Excess) -> list[dict[str, Any]]:
        """The values of the next generation's trials, none once there are so many trials.

        Args:
            trials: how many there are to be in the end. A generation that they cut short is made whole by a later
                search for more of them.
            excess: of a finished trial; a bound that is relative to the best utility moves with it.
        """
        start = len(self.whole)
        study = self._study_of(self.whole, excess)
        asked = [self._asked(study, number) for number in range(start, min(start + self.generation, trials))]
        return asked[len(self.finished) - start :]

    def _study_of(self, trials: Sequence[Trial], excess: Excess) -> optuna.Study:
        """These trials in memory, with the excess as it is known now."""
        from optuna import create_study

        study = create_study()
        study.add_trials([_frozen(replace(trial, excess=excess(trial)), self.space) for trial in trials])
        return study

    def _asked(self, study: optuna.Study, number: int) -> dict[str, Any]:
        """One proposal; the running ones before it in the study keep it from proposing the same."""
        import numpy as np
        from optuna.samplers import TPESampler

        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        study.sampler = TPESampler(seed=seed, n_startup_trials=self.generation)
        if number == 0 and self.first is not None:
            study.enqueue_trial({key: _encoded(self.space[key], value) for key, value in self.first.items()})
        trial = study.ask()
        found: dict[str, Any] = {}
        for one in self.space.dimensions:
            if one.of is None and one.applies(found):
                found[one.key] = _decoded(one, _suggested(trial, one))
        return found

    def tell(self, trials: Sequence[Trial]) -> None:
        """Keep a finished generation, in the order of its numbers."""
        ends = len(self.finished) + len(trials)
        with _storage_errors(self._file):
            stored = len(self._study.get_trials(deepcopy=False))
            for trial in trials:
                if trial.number >= stored:  # a kill may have come between two of them
                    one = _frozen(trial, self.space)
                    one.set_user_attr("generation_ends", ends)
                    self._study.add_trial(one)
        self.finished += trials

    def _known(self) -> list[Trial]:
        """The trials of the generations that were told whole: a kill may have come while the last one was."""
        stored = self._study.get_trials(deepcopy=False)
        return [_trial(one, self.space) for one in stored if one.user_attrs["generation_ends"] <= len(stored)]

    def importance(self, excess: Excess) -> Importance | None:
        """What brought done trials, but for those outside the bound, among the best tenth, the best five at least.

        PED-ANOVA, arXiv 2304.10255. None where those five are more than half of the trials.

        Args:
            excess: as for `propose`.
        """
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        inside = [trial for trial in self.finished if trial.state == "done" and (excess(trial) or 0.0) <= 0]
        best = max(BEST, math.ceil(0.1 * len(inside)))
        if len(inside) < 2 * best:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that few trials had
            evaluator = PedAnovaImportanceEvaluator(target_quantile=best / len(inside))
            shares = get_param_importances(self._study_of(inside, excess), evaluator=evaluator)
        return Importance({key: float(share) for key, share in shares.items()}, best, len(inside))


def limits(finished: Sequence[Trial], steps: Sequence[int], least: int) -> dict[int, float | None]:
    """At which harmful loss the next generation's trials are given up: above the median of all earlier ones.

    Args:
        finished: trials of the finished generations.
        steps: at which it is decided; None for one that fewer than `least` trials have come to.
        least: how many trials make a median.
    """
    found: dict[int, float | None] = {}
    for step in steps:
        there = [trial.course[step] for trial in finished if step in trial.course]
        found[step] = statistics.median(there) if len(there) >= least else None
    return found


def _study(file: Path, name: str) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
    return optuna.create_study(storage=storage, study_name=name, load_if_exists=True)


@contextmanager
def _storage_errors(file: Path) -> Iterator[None]:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__
        said = str(getattr(cause, "orig", None) or error).splitlines()[0]
        raise InputError(f"{file}: cannot be used: {said}; expected a storage of trials, or none") from error


def _suggested(trial: optuna.Trial, one: Dimension) -> Any:
    if one.choices is not None:
        return trial.suggest_categorical(one.key, [_encoded(one, value) for value in one.choices])
    assert one.low is not None and one.high is not None
    if one.whole:
        return trial.suggest_int(one.key, int(one.low), int(one.high), log=one.log)
    return trial.suggest_float(one.key, one.low, one.high, log=one.log)


def _distribution(one: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.choices is not None:
        return CategoricalDistribution([_encoded(one, value) for value in one.choices])
    assert one.low is not None and one.high is not None
    if one.whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)


def _encoded(one: Dimension, value: Any) -> Any:
    """As Optuna takes it: lists and mappings as JSON."""
    plain = one.choices is None or isinstance(value, str | int | float | None)
    return value if plain else json.dumps(value, sort_keys=True)


def _decoded(one: Dimension, drawn: Any) -> Any:
    if one.choices is not None:
        return next(value for value in one.choices if _encoded(one, value) == drawn)
    assert one.low is not None and one.high is not None
    # Four digits, so that a rate can be typed again from a table.
    return drawn if one.whole else min(max(float(f"{drawn:.4g}"), one.low), one.high)


def _frozen(trial: Trial, space: Space) -> optuna.trial.FrozenTrial:
    from optuna.trial import TrialState, create_trial

    states = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    return create_trial(
        state=states[trial.state],
        value=trial.value if trial.state == "done" else None,
        params={key: _encoded(space[key], value) for key, value in trial.values.items()},
        distributions={key: _distribution(space[key]) for key in trial.values},
        user_attrs={"number": trial.number, "facts": dict(trial.facts)},
        intermediate_values=dict(trial.course),
        constraints=None if trial.excess is None else {BOUND: trial.excess},
    )


def _trial(one: optuna.trial.FrozenTrial, space: Space) -> Trial:
    states: dict[str, State] = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}
    return Trial(
        one.user_attrs["number"],
        {key: _decoded(space[key], value) for key, value in one.params.items()},
        states[one.state.name],
        one.value,
        one.constraints.get(BOUND),
        dict(one.intermediate_values),
        one.user_attrs["facts"],
    )
