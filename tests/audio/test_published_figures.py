"""The whole chain, file to figures, against a row of figures measured elsewhere."""

import json

import pytest
import torch
from torch.nn.functional import linear

from pyromodels.audio.stft import STFT
from pyromodels.distributions.spectral import itakura_saito
from pyromodels.experiments.datasets.speech.audio import peak_normalise, read_audio, trim_silence
from pyromodels.experiments.metrics.audio.speech import speech_metrics

# Means over 60 utterances of a VAE of four dense layers (public weights); z was sampled there too.
PUBLISHED = {
    "rmse": 0.139, "si_sdr": 0.05, "pesq_raw": 1.48, "pesq_nb": 1.33, "pesq_wb": 1.12,
    "estoi": 0.679, "itakura_saito": 465,
}
TOLERANCE = {
    "rmse": 1e-3, "si_sdr": 0.03, "pesq_raw": 0.01, "pesq_nb": 0.01, "pesq_wb": 0.01,
    "estoi": 2e-3, "itakura_saito": 2,
}


@pytest.mark.slow
def test_resynthesis_by_the_published_vae(audio_data):
    weights = torch.load(
        audio_data / "weights" / "VAE_final_epoch164.pt", weights_only=True, map_location="cpu"
    )
    generator = torch.Generator().manual_seed(0)

    def dense(name: str, x: torch.Tensor) -> torch.Tensor:
        return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def variance(power: torch.Tensor) -> torch.Tensor:
        hidden = power
        for layer in range(4):
            hidden = dense(f"mlp_x_z.linear{layer}", hidden).tanh()
        mean, log_variance = dense("inf_mean", hidden), dense("inf_logvar", hidden)
        hidden = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=generator)
        for layer in range(4):
            hidden = dense(f"mlp_z_x.linear{layer}", hidden).tanh()
        return dense("gen_logvar", hidden).exp()

    stft, rows = STFT(window=512, hop=256), []
    for file in json.loads((audio_data / "resynth_test.json").read_text()):
        signal = trim_silence(read_audio(audio_data / "speech" / "test" / file))
        signal = peak_normalise(signal[:stft.num_samples(150)])
        spectrum = stft.analyse(signal)
        power = spectrum.abs().square()
        rebuilt = variance(power)
        estimate = stft.synthesise(rebuilt.sqrt() * spectrum.sgn(), len(signal))
        rows.append(speech_metrics(signal, estimate))
        rows[-1]["itakura_saito"] = itakura_saito(power, rebuilt).mean().item()
    assert len(rows) == 60
    for key, published in PUBLISHED.items():
        mean = sum(row[key] for row in rows) / len(rows)
        assert mean == pytest.approx(published, abs=TOLERANCE[key]), key
