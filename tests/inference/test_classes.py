"""Side by side every class is trained as it would be alone, and stops in its time."""

import dataclasses

import pytest
import torch

from pyromodels.dynamics.tvgmm import TVGMM
from pyromodels.dynamics.tvnf import TVNF
from pyromodels.experiments.datasets.labelled.hidden_markov import hidden_markov_problem
from pyromodels.experiments.datasets.labelled.problem import SPLITS
from pyromodels.inference.classes.calibrate import fit_posterior
from pyromodels.inference.classes.fit import ClassOptions, ClassTraining, fit_classes
from pyromodels.inference.classes.scores import class_log_prob, own_class_log_prob
from pyromodels.inference.training.finite import FitError
from pyromodels.labelled import LabelledSequences

SHORT = ClassOptions(updates=30, batch_size=8, check_every=5, patience=2, learning_rate=1e-2)


@pytest.fixture(scope="module")
def data():
    data, _ = hidden_markov_problem(num_train=40, num_valid=20, num_test=20)
    data = data.only(("source 1", "source 2", "source 3"))
    double = {split: getattr(data, split).to("cpu", torch.float64) for split in SPLITS}
    return dataclasses.replace(data, **double)


def built(cls=TVNF, members=3, **more):
    torch.manual_seed(0)
    small = {"source_dim": 2, "past_dim": 5, "hidden_dim": 4}
    return cls(**small, **({"num_layers": 2} if cls is TVNF else {}), num_members=members, **more)


def relabelled(sequences, label):
    chosen = sequences.of_class(label)
    return dataclasses.replace(chosen, labels=torch.zeros_like(chosen.labels))


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("cls", [TVNF, TVGMM])
def test_a_class_ends_where_it_would_end_alone(data, cls, label):
    options = dataclasses.replace(SHORT, learning_rate=0.05)  # so that some stop early
    densities = built(cls)
    alone = built(cls, members=1)
    weights = densities.state_dict()
    alone.load_state_dict({name: v[label : label + 1] for name, v in weights.items()})
    together = fit_classes(densities, data.train, data.valid, options)
    one = [relabelled(part, label) for part in (data.train, data.valid)]
    run = ClassTraining(alone, *one, options)
    run.orders[0].manual_seed(options.seed + 1000 * label)
    while run.stopped() is None:
        run.advance()
    found = run.result(run.stopped())
    assert found.best_update == together.best_update[label : label + 1]
    for name, value in densities.state_dict().items():
        torch.testing.assert_close(
            alone.state_dict()[name][0], value[label], rtol=1e-3, atol=1e-5, msg=name
        )


def test_classes_stop_at_different_times_and_keep_their_best(data):
    densities = built()
    options = dataclasses.replace(SHORT, learning_rate=0.05)
    fit = fit_classes(densities, data.train, data.valid, options)
    scores = class_log_prob(densities, data.valid)
    for label in range(3):
        rows = data.valid.labels == label
        nats = scores[rows, label].sum() / data.valid.lengths[rows].sum()
        torch.testing.assert_close(-nats.item(), fit.best_loss[label], rtol=1e-5, atol=1e-5)
        looks = {record["update"]: record["valid_loss"][label] for record in fit.history}
        assert looks[fit.best_update[label]] == fit.best_loss[label]
    assert len(set(fit.best_update)) > 1


def test_tied_classes_have_one_network_and_stop_together(data):
    densities = built(tied_dim=2)
    fit = fit_classes(densities, data.train, data.valid, SHORT)
    assert len(set(fit.best_update)) == 1
    best = min(sum(record["valid_loss"]) for record in fit.history)
    assert sum(fit.best_loss) == pytest.approx(best, rel=1e-6)


def test_resumed_training_ends_at_the_same_bits(data, tmp_path):
    options = dataclasses.replace(SHORT, input_noise=0.1)
    whole, halved = built(), built()
    fit_classes(whole, data.train, data.valid, options)

    class Enough(Exception):
        pass

    def interrupt(record):
        if record["update"] == 15:
            raise Enough

    with pytest.raises(Enough):
        fit_classes(halved, data.train, data.valid, options, folder=tmp_path, on_look=interrupt)
    again = built()
    torch.manual_seed(7)  # what happened since does not matter
    fit_classes(again, data.train, data.valid, options, folder=tmp_path, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with pytest.raises(ValueError, match="input_noise"):
        fit_classes(built(), data.train, data.valid, SHORT, folder=tmp_path, resume=True)
    with pytest.raises(ValueError, match="other data"):
        fit_classes(built(), data.valid, data.valid, options, folder=tmp_path, resume=True)


def test_every_sequence_comes_once_a_pass_however_many_its_class_has(data):
    few = data.train.of_class(0)[torch.arange(5)]
    many = data.train.of_class(1)
    longest = max(few.x.shape[1], many.x.shape[1])
    x = torch.cat([
        torch.nn.functional.pad(s.x, (0, 0, 0, longest - s.x.shape[1])) for s in (few, many)
    ])
    train = LabelledSequences(
        x, torch.cat((few.lengths, many.lengths)), torch.cat((few.labels, many.labels))
    )
    run = ClassTraining(built(members=2), train, train, SHORT)
    rows = torch.tensor([run.next_rows() for _ in range(16)])
    assert torch.equal(train.labels[rows], torch.tensor([0, 1]).expand(rows.shape))
    for label, size in ((0, 5), (1, len(many))):
        counts = rows[..., label].flatten().bincount(minlength=len(train))
        counts = counts[train.labels == label]
        assert counts.max() - counts.min() <= 1 and counts.sum() == 128 and len(counts) == size


def test_a_minibatch_of_a_small_class_has_no_copies_of_one_sequence(data):
    few = torch.cat([(data.train.labels == 0).nonzero()[:20], (data.train.labels > 0).nonzero()])
    train = data.train[few.squeeze(-1)]
    run = ClassTraining(built(), train, data.valid, SHORT)
    first = torch.tensor([run.next_rows() for _ in range(2)])  # a pass of the small class
    assert len(first[..., 0].unique()) == 16
    assert all(len(part.unique()) == 8 for part in first.flatten(0, 0)[..., 1])


def test_patience_starts_anew_with_a_better_look(data, monkeypatch):
    losses = iter([3.0, 4.0, 2.0, 4.0, 1.0, 4.0, 4.0, 0.0])
    monkeypatch.setattr(ClassTraining, "update", lambda run: torch.zeros(3))
    monkeypatch.setattr(
        ClassTraining, "validate",
        lambda run: (torch.full((3,), next(losses)), torch.zeros(3)),
    )
    run = ClassTraining(built(), data.train, data.valid, SHORT)
    while run.stopped() is None:
        run.advance()
    assert run.stopped() == "patience" and run.best_loss.tolist() == [1.0] * 3


def test_gradients_of_each_network_are_scaled_to_the_norm(data):
    run = ClassTraining(built(), data.train, data.valid, dataclasses.replace(
        SHORT, max_grad_norm=0.5))
    run.update()
    norms = [p.grad.flatten(1).norm(dim=1) for p in run.densities.parameters()]
    norm = torch.stack(norms).norm(dim=0)
    torch.testing.assert_close(norm, torch.full((3,), 0.5))


def test_weights_decay(data):
    ends = []
    for decay in (0.0, 0.9):
        densities = built()
        options = dataclasses.replace(SHORT, updates=5, weight_decay=decay, learning_rate=1e-2)
        fit_classes(densities, data.train, data.valid, options)
        ends.append(sum(p.square().sum().item() for p in densities.parameters()))
    assert ends[1] < ends[0]


def test_a_class_that_has_stopped_does_not_end_the_others(data):
    run = ClassTraining(built(), data.train, data.valid, SHORT)
    run.advance()
    run.num_worse[0] = SHORT.patience
    with torch.no_grad():
        run.densities.head.flow.told.bias[0].fill_(float("nan"))
    run.advance()
    run.result("updates")
    assert class_log_prob(run.densities, data.valid).isfinite().all()


def test_classes_of_unequal_size_are_judged_by_their_own_sequences(data):
    densities = built()
    few = torch.cat([(data.train.labels == c).nonzero()[:n] for c, n in enumerate((3, 9, 30))])
    some = data.train[few.squeeze(-1)]
    own = class_log_prob(densities, some).gather(-1, some.labels.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(own_class_log_prob(densities, some), own)


def test_likelihoods_of_padded_batches_are_those_of_each_sequence(data):
    densities, test = built(), data.test
    scores = class_log_prob(densities, test)
    for row in (0, 25, 59):
        x = test.x[row, : test.lengths[row]]
        torch.testing.assert_close(scores[row], densities.path(len(x)).log_prob(x).detach())


def test_input_noise_is_on_what_is_learned_from_only(data):
    clean, noisy = built(), built()
    first = [
        fit_classes(
            densities, data.train, data.valid,
            dataclasses.replace(SHORT, input_noise=noise, updates=1, check_every=1),
        )
        for densities, noise in ((clean, 0.0), (noisy, 3.0))
    ]
    assert first[1].history[0]["train_loss"] > first[0].history[0]["train_loss"]
    options = dataclasses.replace(SHORT, input_noise=3.0)
    run = ClassTraining(built(), data.train, data.valid, options)
    assert torch.equal(run.validate()[0], run.validate()[0])


@pytest.mark.parametrize("more", [{}, {"tied_dim": 2}], ids=["own", "tied"])
def test_hybrid_training_climbs_the_sum_of_both_and_stops_all_together(data, more):
    options = dataclasses.replace(SHORT, discriminative=2.0, sharpness=0.5, max_grad_norm=1e9)
    densities, twin = built(**more), built(**more)
    run = ClassTraining(densities, data.train, data.valid, options)
    rows = torch.tensor(ClassTraining(twin, data.train, data.valid, options).next_rows())
    run.update()
    loss = 0.0
    for label in range(3):
        nats = frames = 0.0
        for row in rows[:, label]:
            x = data.train.x[row, : data.train.lengths[row]]
            scores = twin.path(len(x)).log_prob(x)
            nats, frames = nats + scores[label], frames + len(x)
            loss = loss - 2.0 * (0.5 * scores).log_softmax(-1)[label] / rows.shape[0]
        loss = loss - nats / frames
    loss.backward()
    for (name, p), q in zip(densities.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    fit = fit_classes(densities, data.train, data.valid, options)
    assert len(set(fit.best_update)) == 1
    scores = class_log_prob(densities, data.valid)
    nats = -scores.gather(-1, data.valid.labels.unsqueeze(-1)).squeeze(-1)
    for label in range(3):
        own = data.valid.labels == label
        expected = nats[own].sum() / data.valid.lengths[own].sum()
        assert fit.best_loss[label] == pytest.approx(expected.item())
    best = min(r["valid_cross_entropy"] for r in fit.history)
    found = torch.nn.functional.cross_entropy(0.5 * scores, data.valid.labels).item()
    assert found == pytest.approx(best, abs=0.05)


def test_parameters_can_be_chosen_by_how_well_they_tell_the_classes_apart(data):
    options = dataclasses.replace(SHORT, learning_rate=0.05, chosen_by="posterior", patience=3)
    densities = built()
    fit = fit_classes(densities, data.train, data.valid, options)
    assert len(set(fit.best_update)) == 1
    scores = class_log_prob(densities, data.valid)

    def loss(sharpness):
        return torch.nn.functional.cross_entropy(sharpness * scores, data.valid.labels).item()

    best = min(fit.history, key=lambda record: record["valid_cross_entropy"])
    assert best["update"] == fit.best_update[0]
    sharpness, _ = fit_posterior(scores, data.valid.labels)
    assert loss(sharpness) == pytest.approx(best["valid_cross_entropy"])
    assert loss(sharpness) < min(loss(0.0), loss(100.0))


def test_class_densities_learn_to_tell_sources_apart(data):
    densities = built()
    before = (class_log_prob(densities, data.test).argmax(-1) == data.test.labels).double().mean()
    options = dataclasses.replace(SHORT, updates=150, patience=9)
    fit_classes(densities, data.train, data.valid, options)
    after = (class_log_prob(densities, data.test).argmax(-1) == data.test.labels).double().mean()
    assert before < 0.7 < 0.9 < after


def test_rate_falls_by_steps():
    options = ClassOptions(updates=10, learning_rate=1.0, decay=0.9, decay_every=0.3)
    steps = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert [options.rate(i) for i in range(10)] == pytest.approx([0.9**k for k in steps])


def test_bad_input_is_named(data):
    with pytest.raises(ValueError, match="batch_size"):
        ClassOptions(batch_size=0)
    with pytest.raises(ValueError, match="chosen_by"):
        ClassOptions(chosen_by="accuracy")
    with pytest.raises(ValueError, match="input_noise"):
        ClassOptions(input_noise=-1.0)
    with pytest.raises(ValueError, match="valid: sequences of each class"):
        fit_classes(built(), data.train, data.valid.of_class(1), SHORT)
    with pytest.raises(ValueError, match="train: sequences of each class"):
        fit_classes(built(members=2), data.train, data.valid, SHORT)
    with pytest.raises(ValueError, match="densities of one class"):
        fit_classes(built(members=1), *[relabelled(s, 0) for s in (data.train, data.valid)],
                 dataclasses.replace(SHORT, chosen_by="posterior"))
    with pytest.raises(ValueError, match="train: x: given torch.float32"):
        fit_classes(built(), data.train.to("cpu", torch.float32), data.valid, SHORT)
    with pytest.raises(ValueError, match="a class of the densities"):
        own_class_log_prob(built(), data.valid.of_class(1))
    with pytest.raises(ValueError, match="no folder"):
        fit_classes(built(), data.train, data.valid, SHORT, resume=True)
    densities = built()
    with torch.no_grad():
        densities.head.flow.told.bias.fill_(float("nan"))
    with pytest.raises(FitError, match="update 1"):
        fit_classes(densities, data.train, data.valid, SHORT)
