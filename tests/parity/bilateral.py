"""What the `config` of BDDM's golden file names, as objects of this project."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffexp.process.ddpm import DDPM
from diffexp.process.table import Table
from tests.parity.golden import Golden, Member
from tests.parity.standin import Mixture, per_image


def table(golden: Golden, name: str) -> DDPM:
    """The training table of this name."""
    said = golden.config["tables"][name]
    return DDPM(said["T"], said["beta_first"], said["beta_last"])


def sigma(process: Table) -> Tensor:
    """The standard deviation of the step to each index from the next cleaner one.

    The posterior's; but that to index 0 ends at the data and draws nothing: there the file has the forward step's.
    """
    t = torch.arange(process.num_steps, dtype=torch.float64)
    forward, posterior = process.transition_factor(t, t - 1.0).value, process.posterior_factor(t, t - 1.0).value
    assert float(posterior[0]) == 0.0
    return torch.cat([forward[:1], posterior[1:]])


def found(member: Member) -> dict[str, Tensor]:
    """What follows from the betas of a found schedule."""
    beta = member.input("beta")
    process, training = Table(beta), table(member.golden, member["table"])
    ts = training.index(training.time_of(process.alphas))
    return {"beta": process.betas, "alpha": process.alphas, "sigma": sigma(process), "ts": ts}


class Noise(nn.Module):
    """The exact noise for data of a known law at the levels of a table; it is told the index."""

    def __init__(self, said: dict, training: Table) -> None:
        super().__init__()
        means = [said["mean"]] if "mean" in said else [said["mu"], -said["mu"]]
        weights = said.get("weights", [1.0])
        law = torch.tensor([weights, means, [said["std"]] * len(means)], dtype=torch.float64)
        self.data = Mixture(*law)
        self.training = training

    def forward(self, x: Tensor, index: Tensor, labels: Tensor | None = None) -> Tensor:
        table, index = self.training, index.double()
        alpha, sigma = (per_image(operator.value, x) for operator in (table.signal(index), table.factor(index)))
        return (x - alpha * self.data(x, table.log_snr(index))) / sigma
