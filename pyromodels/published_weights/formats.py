"""Formats of published weights: whose module is which of ours, for every state dict known.

The authors of the review of dynamical VAEs released weights of every model for speech, those of
MixDVAE two SRNNs: for speech and music, and for tracking.

Reference: Girin et al., 2021, Dynamical variational autoencoders: a comprehensive review; Lin, 2024
(thesis), appendix A.1.2.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Format(NamedTuple):
    """One kind of state dict. `{}` in a module's name stands for the number of a layer."""

    prior: str  # the registered model
    emission: str
    modules: Mapping[str, str]  # their module -> ours
    encoder: Mapping[str, Any]  # its arguments but for sizes


SIZES = {
    "lstm": "hidden_dim",
    "recurrence.lstm": "hidden_dim",
    "input": "input_dims",
    "recurrence.input": "input_dims",
    "latent_input": "latent_dims",
    "prior.body": "prior_dims",
    "prior.gate.0": "gate_dim",
    "decoder.body": "decoder_dims",
    "encoder.input": "input_dims",
    "encoder.forward_lstm": "summary_dim",
    "encoder.backward_lstm": "summary_dim",
    "encoder.fed": "feedback_dims",
    "encoder.feedback_lstm": "feedback_dim",
    "encoder.head.body": "dims",
}
"""Our module -> the argument, of the model or of its encoder, that is its size."""

HEADS = {
    "inf_mean": "encoder.head.mean",
    "inf_logvar": "encoder.head.log_variance",
    "gen_logvar": "decoder.log_variance",
}
GAUSSIAN_PRIOR = {"prior_mean": "prior.mean", "prior_logvar": "prior.log_variance"}

VAE = HEADS | {
    "mlp_x_z.linear{}": "encoder.head.body.layers.{}",
    "mlp_z_x.linear{}": "decoder.body.layers.{}",
}
DKF = HEADS | {
    "mlp_x_gx.linear{}": "encoder.input.layers.{}",
    "rnn_gx": "encoder.backward_lstm",
    "mlp_ztm1_g.linear{}": "encoder.fed.layers.{}",
    "mlp_ztm1_g.linear_last": "encoder.fed.layers.2",
    "mlp_g_z.linear{}": "encoder.head.body.layers.{}",
    "mlp_gate.linear1": "prior.gate.0",
    "mlp_gate.linear2": "prior.gate.2",
    "mlp_z_prop.linear1": "prior.proposal.0",
    "mlp_z_prop.linear2": "prior.proposal.2",
    "prior_mean": "prior.linear",
    "prior_logvar.1": "prior.variance",
    "mlp_z_x.linear{}": "decoder.body.layers.{}",
}
RVAE = HEADS | {
    "mlp_x_gx.linear{}": "encoder.input.layers.{}",
    "rnn_g_x": "encoder.backward_lstm",
    "mlp_z_gz.linear{}": "encoder.fed.layers.{}",
    "rnn_g_z": "encoder.feedback_lstm",
    "mlp_g_z.linear{}": "encoder.head.body.layers.{}",
    "mlp_z_h.linear{}": "latent_input.layers.{}",
    "rnn_h": "lstm",
    "mlp_h_x.linear{}": "decoder.body.layers.{}",
}
STORN = HEADS | {
    "mlp_x_g.linear{}": "encoder.input.layers.{}",
    "rnn_g": "encoder.forward_lstm",
    "mlp_g_z.linear{}": "encoder.head.body.layers.{}",
    "mlp_z_h.linear{}": "latent_input.layers.{}",
    "mlp_xtm1_h.linear{}": "input.layers.{}",
    "rnn_h": "lstm",
    "mlp_h_x.linear{}": "decoder.body.layers.{}",
}
VRNN = HEADS | GAUSSIAN_PRIOR | {
    "feature_extractor_x.linear{}": "input.layers.{}",
    "feature_extractor_z.linear{}": "latent_input.layers.{}",
    "mlp_hx_z.linear{}": "encoder.head.body.layers.{}",
    "mlp_h_z.linear{}": "prior.body.layers.{}",
    "mlp_hz_x.linear{}": "decoder.body.layers.{}",
    "rnn": "lstm",
}
SRNN = HEADS | GAUSSIAN_PRIOR | {
    "mlp_x_h.linear{}": "recurrence.input.layers.{}",
    "rnn_h": "recurrence.lstm",
    "mlp_hx_g.linear{}": "encoder.input.layers.{}",
    "rnn_g": "encoder.backward_lstm",
    "mlp_gz_z.linear{}": "encoder.head.body.layers.{}",
    "mlp_hz_z.linear{}": "prior.body.layers.{}",
    "mlp_hz_x.linear{}": "decoder.body.layers.{}",
}
SRNN_SEPARATION = {
    re.sub("^(inf|prior)_", r"\1_z_", theirs)
    .replace("gen_logvar", "gen_x")
    .replace("linear", "linear_"): ours
    for theirs, ours in SRNN.items()
}
SRNN_TRACKING = {
    theirs: ours
    for theirs, ours in SRNN_SEPARATION.items()
    if theirs not in ("rnn_g", "mlp_hx_g.linear_{}", "gen_x")
} | {"gen_x_mean": "decoder.mean", "gen_x_logvar": "decoder.log_variance"}

FORMATS: dict[str, Format] = {
    "vae": Format("vae", "spectral", VAE, {"preset": "vae"}),
    "dkf": Format("dkf", "spectral", DKF, {"preset": "dkf", "combine": "average"}),
    "rvae": Format("rvae", "spectral", RVAE, {"preset": "rvae"}),
    "storn": Format("storn", "spectral", STORN, {"preset": "storn"}),
    "vrnn": Format("vrnn", "spectral", VRNN, {"preset": "vrnn"}),
    "srnn": Format("srnn", "spectral", SRNN, {"preset": "srnn"}),
    "srnn_separation": Format("srnn", "spectral", SRNN_SEPARATION, {"preset": "srnn"}),
    "srnn_tracking": Format("srnn", "gaussian", SRNN_TRACKING, {"preset": "srnn_filter"}),
}
"""State dicts by name: the models of the review for speech, and MixDVAE's two SRNNs."""
