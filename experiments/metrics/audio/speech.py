"""The row of figures of one rebuilt speech signal."""

import importlib.util
import warnings

from torch import Tensor

from pyromodels.experiments.metrics.audio.distortion import scaled_rmse, si_sdr
from pyromodels.experiments.metrics.audio.perceptual import estoi, pesq_figures


def speech_metrics(
    reference: Tensor,                # shape: (n,), 16 kHz
    estimate: Tensor,                 # shape: (n,), 16 kHz
) -> dict[str, float]:
    """Return all figures of one utterance; none depends on the level of the estimate.

    =============  ==========================================  ===========  =====================
    key            what it is                                  best         unit
    =============  ==========================================  ===========  =====================
    ``rmse``       `scaled_rmse`                               0            that of the reference
    ``si_sdr``     `si_sdr`                                    large        decibels
    ``estoi``      `estoi`                                     1            -
    ``pesq_wb``    wide-band MOS-LQO, P.862.2                  4.64         MOS
    ``pesq_nb``    narrow-band MOS-LQO, P.862.1                4.55         MOS
    ``pesq_raw``   narrow band on the scale of P.862           4.5          -
    =============  ==========================================  ===========  =====================

    Without the package pesq its three keys are absent, and a warning says so. Table 7.1 of the
    thesis most likely quotes ``pesq_raw``, and its RMSE is for references of peak 1.

    Raises:
        ShapeError: for different shapes, or more than one axis.
        ValueError: for silence, a NaN, or a signal that ESTOI or PESQ cannot judge.
    """
    figures = {"rmse": scaled_rmse(reference, estimate).item(),
               "si_sdr": si_sdr(reference, estimate).item(),
               "estoi": estoi(reference, estimate)}
    if importlib.util.find_spec("pesq") is None:
        warnings.warn("pesq_wb, pesq_nb and pesq_raw are left out: package pesq is not installed, "
                      "it comes with the extra `pesq`: pip install 'pyromodels[pesq]'",
                      stacklevel=2)
        return figures
    return figures | pesq_figures(reference, estimate)
