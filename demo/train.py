"""Trains the demo's model on the shipped training cells: `python -m demo.train --seed 0 --out demo.ckpt`.

About ten minutes on two cores. The same seed, epochs, threads and torch give the same file.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demo.cells import DemoCells, Ints, ranked_columns, read_cells
from demo.checkpoint import demo_sizes, write_checkpoint
from demo.initial import initialise
from demo.named_genes import HOUSEKEEPING
from demo.pairing import fit_pairing_space, training_pairs
from screen.demo import DATA
from screen.models.perturbgen.network.count_head import negative_log_likelihood
from screen.models.perturbgen.network.model import PerturbGen

PAD, MASK = 0, 1
BATCH = 32
EPOCHS = 43
LEARNING_RATE = 3e-3
HEAD_SPEED = 2.0
WARM_UP = 100
COUNT_WEIGHT = 0.01
TOKEN_WEIGHT = 0.5
MAX_NORM = 1.0
PROMPT_SHARE, PART_SHARE = 0.25, 0.61  # of batches; the rest see the full target


@dataclass(frozen=True)
class Corpus:
    """Every cell as source ids and as target ids, with its counts (C, G)."""

    source: list[Ints]
    target: list[Ints]
    counts_CG: Tensor
    prompt: Ints


@dataclass(frozen=True)
class Example:
    """One training batch. `answer_BL` holds the ids under the masks, pad elsewhere."""

    src_BL: Tensor
    tgt_BL: Tensor
    answer_BL: Tensor
    counts_BG: Tensor


def read_corpus(cells: DemoCells) -> Corpus:
    """Tokens of both vocabularies for every shipped cell."""
    columns = ranked_columns(cells.counts_CG, cells.genes.median)
    known = [cells.genes.column_of(symbol) for symbol in HOUSEKEEPING]
    return Corpus(
        source=[cells.genes.token_id[row] for row in columns],
        target=[cells.genes.row_id[row] for row in columns],
        counts_CG=torch.from_numpy(cells.counts_CG.toarray()).float(),
        prompt=cells.genes.row_id[np.array([column for column in known if column is not None])],
    )


def padded(rows: list[Ints]) -> Tensor:
    """Rows of ids as one (B, L) tensor, padded on the right."""
    return nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=PAD)


def _thinned(row: Ints, keep: float, rng: np.random.Generator) -> Ints:
    """A random share of the row's tokens, in order; never none."""
    n_kept = max(1, round(keep * len(row)))
    return row[np.sort(rng.choice(len(row), n_kept, replace=False))]


def _masked(row: Ints, share: float, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """The row with a random share of its tokens masked (never all), and the ids under the masks."""
    hidden = np.zeros(len(row), dtype=bool)
    hidden[rng.choice(len(row), min(int(share * len(row)), len(row) - 1), replace=False)] = True
    return np.where(hidden, MASK, row), np.where(hidden, row, PAD)


def draw_example(corpus: Corpus, pairs_B2: Ints, rng: np.random.Generator) -> Example:
    """Thins and masks a batch of pairs, so that the model learns to fill in what it is not shown."""
    keep, masked = rng.uniform(0.3, 1.0), rng.uniform(0.0, 0.3)
    sources = [_masked(_thinned(corpus.source[row], keep, rng), masked, rng)[0] for row in pairs_B2[:, 0]]
    kind = rng.random()
    if kind < PROMPT_SHARE:
        targets = [(corpus.prompt, np.zeros_like(corpus.prompt))] * len(pairs_B2)
    else:
        keep = rng.uniform(0.03, 0.4) if kind < PROMPT_SHARE + PART_SHARE else 1.0
        masked = rng.uniform(0.0, 0.6)
        targets = [_masked(_thinned(corpus.target[row], keep, rng), masked, rng) for row in pairs_B2[:, 1]]
    shown, answers = zip(*targets, strict=True)
    counts_BG = corpus.counts_CG[torch.from_numpy(pairs_B2[:, 1])]
    return Example(padded(sources), padded(list(shown)), padded(list(answers)), counts_BG)


def expected_counts(model: PerturbGen, hidden_BLD: Tensor, tgt_BL: Tensor, total_B1: Tensor) -> Tensor:
    """(B, G) expected counts at the given totals, from the decoder's last layer."""
    pooled_BD = model.pool(hidden_BLD, tgt_BL, torch.arange(4))
    mu_BG: Tensor = model.count_decoder(pooled_BD).head_BG * total_B1
    return mu_BG


def loss_of(model: PerturbGen, token_head: nn.Linear, example: Example) -> tuple[Tensor, Tensor]:
    """Count loss (per cell, summed over genes) and token loss (per masked token) of a batch."""
    keep_BL = example.src_BL != PAD
    hidden_BLD = model.decode(example.tgt_BL, 1, model.encode(example.src_BL), keep_BL)
    total_B1 = example.counts_BG.sum(1, keepdim=True)
    mu_BG = expected_counts(model, hidden_BLD, example.tgt_BL, total_B1)
    count_loss = negative_log_likelihood(example.counts_BG, mu_BG, model.theta.exp().T).mean()
    hidden = example.answer_BL != PAD
    if not bool(hidden.any()):
        return count_loss, count_loss.new_zeros(())
    return count_loss, F.cross_entropy(token_head(hidden_BLD[hidden]), example.answer_BL[hidden])


def _optimiser(model: PerturbGen, token_head: nn.Linear) -> torch.optim.AdamW:
    head = [*model.count_decoder.parameters(), model.theta]
    rest = [weight for name, weight in model.named_parameters() if not name.startswith(("count_decoder", "theta"))]
    groups = [
        {"params": [*rest, *token_head.parameters()], "lr": LEARNING_RATE},
        {"params": head, "lr": HEAD_SPEED * LEARNING_RATE},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.01)


def _pace(step: int, n_steps: int) -> float:
    """Share of the full learning rate: a short rise, then half a cosine down to zero."""
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / n_steps))


def train(cells: DemoCells, seed: int, n_epochs: int, out: Path) -> None:
    """Trains for `n_epochs` draws of pairs, fresh ones each, and writes the checkpoint."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    corpus, space = read_corpus(cells), fit_pairing_space(cells)
    model = PerturbGen(demo_sizes(len(cells.genes.symbol)))
    token_head = nn.Linear(model.sizes.width, model.sizes.n_tokens)
    initialise(model, token_head, cells, seed)
    optimiser = _optimiser(model, token_head)
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    n_batches = len(training_pairs(cells, space, np.random.default_rng(seed))) // BATCH
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _pace(step, n_epochs * n_batches))
    start = time.perf_counter()
    for epoch in range(n_epochs):
        pairs = rng.permutation(training_pairs(cells, space, rng))
        totals = np.zeros(2)
        for batch in pairs[: n_batches * BATCH].reshape(n_batches, BATCH, 2):
            count_loss, token_loss = loss_of(model, token_head, draw_example(corpus, batch, rng))
            optimiser.zero_grad()
            (COUNT_WEIGHT * count_loss + TOKEN_WEIGHT * token_loss).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, MAX_NORM)
            optimiser.step()
            schedule.step()
            totals += count_loss.item(), token_loss.item()
        count_mean, token_mean = totals / n_batches
        said = f"NB {count_mean / model.sizes.n_genes:.4f}  token {token_mean:.3f}  {time.perf_counter() - start:.0f} s"
        print(f"epoch {epoch + 1}/{n_epochs}  {said}", flush=True)  # noqa: T201
    steps = n_epochs * n_batches
    write_checkpoint(out, model, token_head, epoch=n_epochs, step=steps, seed=seed, learning_rate=LEARNING_RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=DATA / "demo.ckpt")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="draws of about 2,500 pairs")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    train(read_cells(), arguments.seed, arguments.epochs, arguments.out)


if __name__ == "__main__":
    main()
