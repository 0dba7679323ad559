"""The pages of `docs/results`: which runs they need, and which of their figures they print."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pyromodels.experiments.demonstrations.report_examples import EXAMPLES
from pyromodels.experiments.enhancement.scores import BASELINES, PARTS

DATA = "DATA"
"""In a command, the folder that `--data` names."""

Split = Callable[[str], tuple[str, str]]
"""Key of `metrics.json` -> the row of the table that it is in, "" for that of the run; column."""


class Run(NamedTuple):
    """One run of a page."""

    table: str
    """The table that its rows are in; runs may share one."""
    row: str
    """Name of the row of figures whose key names none."""
    command: str
    """What follows `pyromodels`."""


class Page(NamedTuple):
    """One page."""

    title: str
    about: str
    columns: Mapping[str, tuple[str, str]]
    """Key -> heading and format of the numbers."""
    runs: tuple[Run, ...]
    split: Split
    weights: tuple[str, ...] = ()
    """What the runs load: names of shipped weights, files under `DATA`."""


def row_first(key: str) -> tuple[str, str]:
    """`"kalman/mota"`: the figure comes last."""
    row, _, column = key.rpartition("/")
    return row, column


def column_first(key: str) -> tuple[str, str]:
    """`"bound/VEM"`: the row comes last; the evidence stands with the bounds."""
    column, _, row = key.partition("/")
    named = {"evidence": ("the evidence, by enumeration", "bound"), "slope": ("VEM", "slope")}
    return named.get(key, (row, column))


def column_only(key: str) -> tuple[str, str]:
    """The whole key is the figure; there is one row a run."""
    return "", key


BESIDE_SOUND = ("mixture", "nmf", "temporal_nmf", "ideal_binary_mask")


def method_first(key: str) -> tuple[str, str]:
    """`"nmf/speech/si_sdr"`: a baseline's name comes first, where it is one's."""
    method, _, column = key.partition("/")
    return (method, column) if method in BESIDE_SOUND else ("", key)


def baseline_first(key: str) -> tuple[str, str]:
    """`"noisy/si_sdr"`: likewise; what follows the figure is a group of signals."""
    method, _, column = key.partition("/")
    return (method, column) if method in (*BASELINES, *PARTS) else ("", key)


def rule_apart(key: str) -> tuple[str, str]:
    """`"rule/gain"`: the rule that is printed beside has a row of its own."""
    rest = key.removeprefix("rule/")
    return ("one-line rule" if rest != key else "", rest)


NOISES = (
    "babble6", "real_applause", "real_cessna", "real_chainsaw", "real_helicopter",
    "real_humpback", "real_landing_jet", "real_london_bus", "real_metro", "real_music_vibes",
    "real_navy_jets", "synth_pink", "synth_ssn", "synth_ssn_mod",
)
SONGS = ("the_fast_route", "mighty_giant_run")
SETS = ("MOT17-hard", "TUD-Stadtmitte", "MOT16-11", "MOT17-sim")
BESIDE = "srnn deep_ar kalman kalman_gated hold vkf"
HOW = "--seed 0 --device cpu"


def _tracking() -> Page:
    runs = []
    for name in SETS:
        data = f"--data {DATA}/mot/{name}_T60.npz"
        runs += [
            Run(name, "linear",
                f"run mot {data} --shuffle --baselines {BESIDE} {HOW} --no-plots"),
            Run(name, "reference", f"run mot {data} --preset reference --weights "
                f"{DATA}/mot/model_mot.pt --baselines {HOW} --no-plots"),
        ]
    return Page(
        "Tracking",
        "Sequences of 60 frames, three sources. MOTA, MOTP, IDF1 and HOTA in per cent, IoU of 0.5 "
        "or more, identities fixed; GOSPA in the mean; NEES is 4 where covariances are honest, the "
        "95 % interval of that beside it; the last column says how often the 95 % ellipse holds "
        "the truth, in per cent. Detections are shuffled, but for `reference`, the published "
        "method with the published networks, which takes them in the order of the files. The "
        "settings of `linear`, `srnn` and `deep_ar` were chosen on these four sets, and on harder "
        "scenes made from the tracks of other videos.",
        {
            "mota": ("MOTA", ".2f"), "motp": ("MOTP", ".2f"), "idf1": ("IDF1", ".2f"),
            "hota": ("HOTA", ".2f"), "ids": ("IDS", ".0f"), "fp": ("FP", ".0f"),
            "fn": ("FN", ".0f"), "gospa": ("GOSPA", ".3f"), "nees": ("NEES", ".2f"),
            "nees_low": ("from", ".2f"), "nees_high": ("to", ".2f"),
            "coverage95": ("in 95 %", ".1f"),
        },
        tuple(runs), row_first, ("srnn_mot", "deep_ar_mot", f"{DATA}/mot/model_mot.pt"),
    )


def _sound() -> Page:
    data = (f"--set data.name=mixture_list --set data.path={DATA}/audio/mix_speech_flute.json "
            "--set 'data.kinds=[\"speech\",\"flute\"]'")
    network = "--set guide.weights=assigner_speech_flute"
    runs = []
    for num_frames, most in ((50, 40), (100, 40), (300, 12)):
        some = f"{data} --set data.num_frames={num_frames} --set data.most={most}"
        base = ("--set 'metrics.baselines=[\"mixture\",\"nmf\",\"temporal_nmf\","
                "\"ideal_binary_mask\"]'")
        table = f"T = {num_frames}, {most} mixtures"
        runs += [
            Run(table, "assigner alone",
                f"run separation {some} {network} --set inference.steps=0 {base} {HOW} --no-plots"),
            *(Run(table, f"{program}, from the {start}",
                  f"run separation {some} {network} --set inference.program={program} "
                  f"--set inference.start={start} "
                  "--set inference.steps=30 --set model.prior=srnn --set model.epochs=20 "
                  f"--set metrics.baselines=[] {HOW} --no-plots")
              for start in ("assigner", "encoders") for program in ("mixture", "additive")),
            Run(table, "walks (VKF), from the ideal mask",
                f"run separation {some} --set model.prior=linear --set inference.start=oracle "
                f"--set inference.ratio=1e-4 --set inference.steps=30 "
                f"--set metrics.baselines=[] {HOW} --no-plots"),
            Run(table, "walks (VKF), from the encoders",
                f"run separation {some} --set model.prior=linear --set inference.start=encoders "
                "--set model.start_prior=srnn --set model.epochs=20 --set inference.ratio=1e-4 "
                f"--set inference.steps=30 --set metrics.baselines=[] {HOW} --no-plots"),
        ]
    stems = f"--set data.name=stem_list --set data.path={DATA}/music/mix_test.json"
    runs.append(Run(
        "Songs, 40 pieces of 4 s", "assigner alone",
        f"run separation {stems} --set guide.weights=assigner_bass_drums_other "
        f"--set inference.steps=0 {base} --set metrics.nmf_atoms=64 {HOW} --no-plots",
    ))
    some = f"{data} --set data.num_frames=50 --set data.most=40"
    runs += [
        Run("T = 50, 40 mixtures", f"mixture, SVI of the assigner, {steps} step{'s'[:steps - 1]}",
            f"run separation {some} {network} --set inference.engine=svi "
            f"--set inference.steps={steps} --set model.prior=srnn --set model.epochs=20 "
            f"--set metrics.baselines=[] {HOW} --no-plots")
        for steps in (1, 20)
    ]
    return Page(
        "Sound taken apart: speech and a flute, and songs",
        "Mixtures of test recordings, -10 to 5 dB, that no prior and no network has heard. SI-SDR "
        "in dB in the mean, its median beside it. `assigner alone`: the share of each bin that the "
        "assigner gives a source. `mixture` and `additive`: variational EM of MixDVAE and of the "
        "additive model from there, or from what each source's own model hears; SRNN priors, "
        "trained by the run where they are not there yet. Walks: linear dynamics in their place, "
        "the variational Kalman filter. SVI: steps of Adam on the assigner, as a guide of MixDVAE. "
        "The last columns say how often regions "
        "of 50 and 90 per cent hold the truth, under a law of errors, and of discs, that were "
        "fitted to mixtures of validation recordings, and intervals of 90 per cent the samples of "
        "the waveform. Songs: three stems of pieces of two songs that were not learnt from, in the "
        "mean, and by song.",
        {
            "speech/si_sdr": ("speech", ".2f"), "speech/si_sdr_median": ("median", ".2f"),
            "flute/si_sdr": ("flute", ".2f"), "flute/si_sdr_median": ("median", ".2f"),
            "sum/si_sdr": ("sum", ".1f"),
            "recalibrated/speech/held_50": ("speech in 50 %", ".3f"),
            "recalibrated/speech/held_90": ("in 90 %", ".3f"),
            "recalibrated/flute/held_50": ("flute in 50 %", ".3f"),
            "recalibrated/flute/held_90": ("in 90 %", ".3f"),
            "waveform/speech/held_90": ("speech's waveform in 90 %", ".3f"),
            "waveform/flute/held_90": ("flute's", ".3f"),
            **{f"{kind}/si_sdr{after}": (f"{kind}{said}", ".2f")
               for kind in ("bass", "drums", "other")
               for after, said in (("", ""), *((f"/{song}", f", {song}") for song in SONGS))},
        },
        tuple(runs), method_first,
        ("assigner_speech_flute", "assigner_bass_drums_other"),
    )


def _noise() -> Page:
    data = (f"--set data.name=mixture_list --set data.path={DATA}/audio/"
            "mix_speech_noise_test.json --set 'data.kinds=[\"speech\",\"noise\"]'")
    prior = "--set 'model.prior={weights=\"rvae_speech\"}'"
    sweeps = "--set model.noise=nmf --set model.gain=true --set inference.steps=40"
    network = "--set model.noise=lv --set model.gain=false --set guide.steps=1000"
    own = "--set 'inference.starts=[\"subtracted\"]' --set inference.average=false"
    both = "--set 'inference.starts=[\"network\"]' --set inference.average=true"
    figures = "--set 'metrics.figures=[\"si_sdr\",\"estoi\",\"pesq\"]'"
    alone = "--set 'metrics.baselines=[\"noisy\"]'"
    runs = (
        Run("", "nmf, variational EM",
            f"run enhancement {data} {prior} {sweeps} {own} {figures} {HOW} --no-plots"),
        Run("", "mean of network and variational EM",
            f"run enhancement {data} {prior} {sweeps} {both} {figures} {alone} {HOW} --no-plots"),
        Run("", "lv, trained on noisy speech (U-ND)",
            f"run enhancement {data} {prior} {network} --set inference.steps=0 {own} {figures} "
            f"{alone} {HOW} --no-plots"),
        *(Run("Three signals: N014, N028, N063", name,
              f"run enhancement {data} --set 'data.names=[\"N014\",\"N028\",\"N063\"]' {prior} "
              f"{sweeps} {own} {how} --set metrics.checked=0 {alone} {HOW} --no-plots")
          for name, how in {
              "variational EM": "",
              "Monte-Carlo EM": "--set inference.method=mcem --set inference.chain_steps=20",
              "Monte-Carlo EM, random walks": "--set inference.method=mcem "
              "--set inference.chain_steps=40 --set inference.proposal=random_walk",
          }.items()),
    )
    return Page(
        "Noisy speech made clean",
        "84 test signals, 14 noises at -5, 0 and 5 dB; speakers and most noises occur in no "
        "training. SI-SDR in dB in the mean, its median, the mean gain; ESTOI and PESQ (wide "
        "band); seconds for a second of sound on one core; how often regions of 50 and 90 per cent "
        "hold the truth of the loud bins, as the posterior says them, then recalibrated on drawn "
        "noisy speech, and intervals of 90 per cent the samples of the waveform; then SI-SDR by "
        "noise. `network`: one that was trained on drawn pairs of speech and noise, alone; "
        "`variational_em`: variational EM from there.",
        {
            "si_sdr": ("SI-SDR", ".2f"), "si_sdr_median": ("median", ".2f"),
            "improvement": ("gained", ".2f"), "estoi": ("ESTOI", ".3f"),
            "pesq_wb": ("PESQ", ".2f"), "real_time_factor": ("real time", ".3f"),
            "posterior/held_50": ("posterior in 50 %", ".3f"),
            "posterior/held_90": ("in 90 %", ".3f"),
            "recalibrated/held_50": ("recalibrated in 50 %", ".3f"),
            "recalibrated/held_90": ("in 90 %", ".3f"),
            "waveform/held_90": ("waveform in 90 %", ".3f"),
            **{f"si_sdr/{name}": (name.partition("_")[2] or name, ".1f") for name in NOISES},
        },
        runs, baseline_first, ("rvae_speech", "assigner_speech_noise"),
    )


PAIRS = (("sine", "square"), ("square", "saw"), ("sine", "saw"), ("saw", "triangle"),
         ("square", "triangle"), ("sine", "triangle"))


def _priors() -> Page:
    network = "--set model.prior=score_network --set guide.weights=score_waveforms"
    runs = [
        Run(table, " + ".join(pair),
            f"run langevin --set 'data.kinds=[\"{pair[0]}\",\"{pair[1]}\"]' {how}{HOW} --no-plots")
        for table, how in {"The exact law": "", "A score network": f"{network} "}.items()
        for pair in PAIRS
    ]
    four = "--set 'data.kinds=[\"sine\",\"square\",\"saw\",\"triangle\"]'"
    runs.append(Run("A score network", "all four", f"run langevin {four} {network} {HOW} "
                    "--no-plots"))
    return Page(
        "Waveforms taken apart by sampling",
        "20 mixtures of 1024 samples for each pair of waveforms, their mean; annealed Langevin "
        "dynamics from noise, sources that add up exactly, one chain. SI-SDR gained over the "
        "mixture in dB, estimates capped at 60: median, share of mixtures above 6, mean; then what "
        "the mixture has. The schedule was chosen on these mixtures of sine and square, with the "
        "exact law. The rule: square = sign m, sine = 2 m - 0.9 sign m.",
        {"gain_median": ("median", ".1f"), "above": ("above 6 dB", ".2f"), "gain": ("mean", ".1f"),
         "mixture/si_sdr": ("mixture", ".1f"), "diverged": ("diverged", ".2f")},
        tuple(runs), rule_apart, ("score_waveforms",),
    )


CLASSES = {
    "valid_accuracy": ("validation", ".2f"), "accuracy": ("accuracy", ".2f"),
    "nats_per_frame": ("nats/frame", ".3f"), "nats_per_frame_recorded": ("as recorded", ".3f"),
    "cross_entropy": ("cross-entropy", ".4f"), "calibration_error": ("miscalibration", ".2f"),
    "strangers": ("strangers", ".3f"),
}

PAGES: dict[str, Page] = {
    "tracking": _tracking(),
    "inference": Page(
        "One guide, three ways to fit it",
        "For every registered prior: the largest difference, in q(s) and q(w), between three "
        "sweeps of VEM and three unit steps along the natural gradient. For a problem that is "
        "small enough to know its evidence: the bound that each engine reaches, in nats. The "
        "slope is the largest of the bound where VEM stands still. All in double precision; "
        "differences of 1e-14 are rounding, and another processor rounds otherwise.",
        {"natural": ("difference", ".1e"), "bound": ("bound", ".4f"), "slope": ("slope", ".1e")},
        (Run("", "", "table inference --seed 0"),), column_first,
    ),
    "reports": Page(
        "Reports whose answer is known",
        "Four guides: one that holds the exact posterior, mean field where two sources cross, "
        "mean field where labels can be exchanged, and a guide that factorises over frames. The "
        "largest k-hat over sequences, of the sources and of all latents; the importance gap in "
        "nats; how often the 95 % interval of a forecast one frame ahead holds the observation; "
        "the smallest ratio of standard deviations to those of the exact posterior.",
        {"verdict": ("verdict", ""), "k_hat/s": ("k-hat of s", ".2f"),
         "k_hat/joint": ("k-hat of all", ".2f"), "importance_gap/joint": ("gap", ".3f"),
         "forecast/1/coverage95": ("in 95 %", ".3f"),
         "reference/s/std_ratio_min": ("smallest ratio", ".2f")},
        tuple(Run("", name, f"report {name} --seed 0") for name in EXAMPLES), column_only,
    ),
    "tvnf": Page(
        "Time-varying normalizing flows, Tables I to III",
        "The five phones N, IY, F, EY, P; rows in the order of the paper's tables, means ± "
        "standard errors over three seeds. Accuracy in per cent, nats a frame of standardised "
        "data. 286 test phones are counted: a point is three of them.",
        CLASSES,
        tuple(Run(f"Table {'I' * n}", "", f"table tvnf-{n} --data "
                  f"{DATA}/tvnf/phones_asterisk.npz --seeds 3 --device cpu") for n in (1, 2, 3)),
        row_first,
    ),
    "sound": _sound(),
    "enhancement": _noise(),
    "priors": _priors(),
    "phones": Page(
        "Telling sequences apart, five generated classes",
        "Five hidden Markov sources, 3000 training, 1000 validation and 2000 test sequences; "
        "posteriors calibrated on the validation data. Accuracy and miscalibration in per cent, "
        "log-likelihood in nats a frame (standardised, and as recorded); the last column is the "
        "area under the ROC curve by which strangers are noticed.",
        CLASSES,
        (Run("", "", f"run phones {HOW}"),), row_first,
    ),
}
