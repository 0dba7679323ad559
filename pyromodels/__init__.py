"""What a model is: deep generative models of dynamical signals, as Pyro programs.

    from pyromodels import MixDVAE, SRNN        # imports torch and Pyro now, not before
"""

import ast
import functools
import importlib
import pkgutil
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from os.path import dirname, isfile, join
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # the names at the top: read by type checkers, and by `_homes`
    from pyromodels.batch import MixtureBatch as MixtureBatch
    from pyromodels.batch import SequenceBatch as SequenceBatch
    from pyromodels.densities.base import SmoothedDensity as SmoothedDensity
    from pyromodels.distributions.message import Anchor as Anchor
    from pyromodels.dynamics.base import SourcePrior as SourcePrior
    from pyromodels.dynamics.deep_ar import DeepAR as DeepAR
    from pyromodels.dynamics.dkf import DKF as DKF
    from pyromodels.dynamics.flowavenet import FloWaveNet as FloWaveNet
    from pyromodels.dynamics.glow import Glow as Glow
    from pyromodels.dynamics.hit import HiT as HiT
    from pyromodels.dynamics.light import LigHT as LigHT
    from pyromodels.dynamics.linear import LinearGaussian as LinearGaussian
    from pyromodels.dynamics.rvae import RVAE as RVAE
    from pyromodels.dynamics.srnn import SRNN as SRNN
    from pyromodels.dynamics.storn import STORN as STORN
    from pyromodels.dynamics.tvgmm import TVGMM as TVGMM
    from pyromodels.dynamics.tvnf import TVNF as TVNF
    from pyromodels.dynamics.vae import VAE as VAE
    from pyromodels.dynamics.vrnn import VRNN as VRNN
    from pyromodels.dynamics.wavenet import WaveNetPrior as WaveNetPrior
    from pyromodels.emissions.gaussian import Gaussian as Gaussian
    from pyromodels.emissions.spectral import Spectral as Spectral
    from pyromodels.guides.amortised import Amortised as Amortised
    from pyromodels.guides.amortised_assignment import AmortisedAssignment as AmortisedAssignment
    from pyromodels.guides.auto import AutoGuide as AutoGuide
    from pyromodels.guides.denoising import EncodedSpeech as EncodedSpeech
    from pyromodels.guides.denoising import FreeSpeech as FreeSpeech
    from pyromodels.guides.denoising import SampledSpeech as SampledSpeech
    from pyromodels.guides.mean_field import MeanField as MeanField
    from pyromodels.inference.adequacy.report import guide_report as guide_report
    from pyromodels.inference.engines.langevin import Langevin as Langevin
    from pyromodels.inference.engines.langevin_program import sample_langevin as sample_langevin
    from pyromodels.inference.engines.nuts import sample_nuts as sample_nuts
    from pyromodels.inference.engines.svi import SVI as SVI
    from pyromodels.inference.mixture.vem import VEM as VEM
    from pyromodels.inference.objectives.path_elbo import PathELBO as PathELBO
    from pyromodels.inference.posterior.posterior import Posterior as Posterior
    from pyromodels.inference.training.fit import fit as fit
    from pyromodels.inference.training.options import FitOptions as FitOptions
    from pyromodels.models.additive import Additive as Additive
    from pyromodels.models.classifier import Classifier as Classifier
    from pyromodels.models.dvae import DynamicalVAE as DynamicalVAE
    from pyromodels.models.enhancement import Enhancement as Enhancement
    from pyromodels.models.mixdvae import MixDVAE as MixDVAE
    from pyromodels.noise.nmf import LowRankNoise as LowRankNoise
    from pyromodels.observations.detector import Detector as Detector
    from pyromodels.published_weights.load import load_published as load_published

_FOLDER = dirname(__file__)


class _Checkout:
    """Finds `pyromodels.inference` and `pyromodels.experiments` beside this folder.

    There a checkout has them; an installation has them inside. First in line, or an editable
    installation of another checkout would answer for them.
    """

    parts = {
        f"{__name__}.{part}": join(dirname(_FOLDER), part, "__init__.py")
        for part in ("inference", "experiments")
    }

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        file = cls.parts.get(name)
        return spec_from_file_location(name, file) if file else None


if not isfile(join(_FOLDER, "inference", "__init__.py")):
    sys.meta_path.insert(0, _Checkout)


@functools.cache
def _homes() -> dict[str, str]:
    """Name at the top -> the module that defines it, from the imports above."""
    imports = [
        node
        for node in ast.walk(ast.parse(pkgutil.get_data(__name__, "__init__.py")))
        if isinstance(node, ast.ImportFrom) and node.module.startswith(f"{__name__}.")
    ]
    return {alias.name: node.module for node in imports for alias in node.names}


def __getattr__(name: str) -> Any:
    """Import what a name stands for, at its first use."""
    if name.startswith("_") or name not in _homes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_homes()[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_homes()})
