"""What a task is: the contract between one file of a task and `run`, `compare`, `show`, `report`.

A spec is plain data; an experiment says which tables its specs have, makes of them what is to be
fitted, fits it, and says what came of it. A file `experiments/<task>/experiment.py` registers it:

    @EXPERIMENTS.register("tracking")
    class Tracking(Experiment): ...

The shipped spec of the same name, `specs/tracking.toml`, is what `run tracking` runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pyromodels.errors import SpecError
from pyromodels.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyromodels.experiments.harness.records import RunFolder
    from pyromodels.experiments.harness.spec_tables import Table
    from pyromodels.experiments.runs.spec import Spec
    from pyromodels.inference.adequacy.protocols import Simulate
    from pyromodels.inference.posterior.posterior import Posterior

EXPERIMENTS = Registry("experiment", "pyromodels.experiments", module="experiment")
"""Name -> class; `experiment` makes it."""

STAGES = Registry("stage", "pyromodels.experiments", module="stages")
"""Name -> stage(fit, **options), which changes a fit that goes by stages; see `tracking.stages`."""

METHODS = Registry("method", "pyromodels.experiments.tracking.methods")
"""Name -> class of trackers that bring a model of their own: `(**options)(data, what is told)`."""


class Outcome(NamedTuple):
    """A run after its last step."""

    spec: Spec
    data: Any  # what `Experiment.data` returned
    model: Any  # what `Experiment.model` returned
    fitted: Any  # what `Experiment.fit` returned
    seconds: float  # of the fit, in this call
    metrics: dict[str, float] = {}


class Program(NamedTuple):
    """A Pyro program as `show` draws it."""

    title: str  # e.g. "model  MixDVAE"
    program: Callable[..., Any]
    args: tuple[Any, ...]  # what it is called with
    symbol: str = "p"  # of its densities; "q" of a guide


class Judged(NamedTuple):
    """What the guide-adequacy report takes."""

    fit: Callable[[Any, int], Posterior]  # data and seed -> posterior
    batch: Any
    simulate: Simulate | None = None  # None: as the family of the model does
    left_out: Mapping[str, str] = {}  # protocol, see `guide_report` -> why it does not hold
    about: str = ""  # what is judged, where that is not all of the run


class Experiment(ABC):
    """One task. It has no state: everything it knows of a run is in the spec and the outcome.

    Attributes:
        tables: the tables of a spec, of `runs.spec.TABLES`, and how each is read and written.
        dtype: where a spec says none.
        columns: metric -> its title, in comparisons; the first one is drawn.
        footnote: what a reader of a comparison must know of these figures.
    """

    tables: ClassVar[Mapping[str, Table]]
    dtype: ClassVar[Literal["float32", "float64"]] = "float32"
    columns: ClassVar[Mapping[str, str]]
    footnote: ClassVar[str] = "mean ± standard error over seeds"

    @abstractmethod
    def data(self, spec: Spec) -> Any:
        """Return the data set."""

    @abstractmethod
    def model(self, spec: Spec, data: Any) -> Any:
        """Return all that is fitted, before its first step: program, guide, engine, batch."""

    @abstractmethod
    def fit(self, spec: Spec, data: Any, model: Any, *, folder: Path | None, resume: bool) -> Any:
        """Fit; checkpoints, where there are any, go into the folder."""

    @abstractmethod
    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """Return the figures of a run, those of `columns` among them; flat: "kalman/mota"."""

    @abstractmethod
    def summary(self, outcome: Outcome) -> str:
        """Return what `run` prints."""

    def keep(self, folder: RunFolder, outcome: Outcome) -> None:  # noqa: B027
        """Write what the metrics do not say: tracks, sounds, weights, the posterior."""

    def figures(self, outcome: Outcome) -> dict[str, Figure]:
        """Return the figures of a run by their file's name, without suffix."""
        return {}

    def programs(self, spec: Spec, data: Any, model: Any) -> list[Program]:
        """Return the programs that `show` draws: model and guide."""
        return []

    def inference(self, spec: Spec, model: Any) -> str:
        """Return the last lines of `show`: how it is fitted."""
        return f"inference  {spec.inference['name']}" if spec.inference else ""

    def python(self, spec: Spec) -> str:
        """Return a script of plain constructors that makes the same run, for `show --python`."""
        raise SpecError(f"show --python: the experiment {spec.experiment!r} prints no script yet")

    def judged(self, spec: Spec, data: Any, model: Any) -> Judged:
        """Return what the guide-adequacy report takes."""
        raise SpecError(
            f"report: the experiment {spec.experiment!r} has no posterior that a report can judge"
        )


def experiment(name: str) -> Experiment:
    """Return an experiment by name; raise `SpecError`, with the nearest name, where there is none.
    """
    return EXPERIMENTS[name]()


@contextmanager
def naming(part: str) -> Iterator[None]:
    """Say which part of the spec an error is about, in one line."""
    try:
        yield
    except OSError:
        raise
    except SpecError as error:
        message = str(error)
        prefix = "" if message.startswith(part.partition(".")[0]) else f"{part}: "
        raise SpecError(f"{prefix}{message}") from error
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise SpecError(f"{part}: {' '.join(str(error).split())}") from error
