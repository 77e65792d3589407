"""UpstreamShaped: a loop that does the work of upstream's own command, step for step, built from our own parts.

The baseline of the speed figures, and no more: one gene at a time; batches of 64 cells in order, cut to the cells that
express the gene; every row padded to the longest of the data set; the control forward again for every gene; all encoder
blocks run on the same embedding though only the last one is kept; encoder and decoder vocabulary logits computed and
thrown away. Float32, torch's own products and attention, torch's default threads. It reproduces the golden outputs.
Two things favour upstream: the key mask stays [B, 1, 1, L], and context time points get no logits.
Facts: PerturbGen, upstream commit a9a9375. No upstream code.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from screen_kernels import edit_row_reference
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from screen import edits
from screen.cells.bank import SOURCE, TokenBank
from screen.models.perturbgen.network.layers import EncoderBlock
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.network.sizes import CONDITION_SLOTS, POSITION_SLOTS, EncoderSizes, Sizes

SPECIAL_IDS = (0, 1, 2, 3)
PAD = 0
LAYER_NORM_EPS = 1e-5
BATCH_CELLS = 64
ENCODER_VOCABULARY = 19_000
STATE_PREFIXES = ("decoder.pretrained_model.", "pretrained_model.", "transformer.", "")


@dataclass(frozen=True)
class Settings:
    """What one run predicts. Without `context_mode` the context time points are neither read nor decoded.

    `condition_ids` are all condition tokens of the model: pooling leaves them out.
    """

    pred_tps: tuple[int, ...] = (1,)
    context_tps: tuple[int, ...] = ()
    context_mode: bool = False
    readout: Literal["mu", "expected"] = "mu"
    exclude_src: bool = False
    condition_ids: tuple[int, ...] = ()
    batch_cells: int = BATCH_CELLS

    def others(self, time: int) -> list[int]:
        """The time points that are decoded before `time` to be its context, ascending."""
        return [t for t in sorted(self.context_tps or self.pred_tps) if t != time] if self.context_mode else []

    @property
    def times(self) -> list[int]:
        """Every target time point that is read."""
        return sorted({*self.pred_tps, *(t for p in self.pred_tps for t in self.others(p))})


@dataclass(frozen=True)
class Edit:
    """One perturbation in token ids: source ids, target ids, how, where, and at which target time points."""

    source_genes: tuple[int, ...]
    target_genes: tuple[int, ...]
    mode: str
    sites: tuple[str, ...]
    pert_tps: tuple[int, ...] = ()


@dataclass(frozen=True)
class PaddedCells:
    """C cells, every row right-padded to one width: source (C, L), and per time point target (C, L), conditions (C, N)
    that go in front of the target, and observed library sizes (C,)."""

    source_CL: Tensor
    target_CL: Mapping[int, Tensor]
    condition_CN: Mapping[int, Tensor] = field(default_factory=dict)
    size_factor_C: Mapping[int, Tensor] = field(default_factory=dict)

    @classmethod
    def from_bank(cls, bank: TokenBank, times: Sequence[int], max_len: int) -> "PaddedCells":
        """The cells of a bank without condition tokens, cut or padded to `max_len`."""

        def padded(state: int) -> Tensor:
            return torch.stack([torch.from_numpy(bank.padded_row(state, c, max_len)) for c in range(bank.n_cells)])

        size = {t: bank.states[t].size_factor_C for t in times}
        size_factor_C = {t: torch.as_tensor(s) for t, s in size.items() if s is not None}
        return cls(padded(SOURCE), {t: padded(t) for t in times}, {}, size_factor_C)

    def take(self, row_B: Tensor) -> "PaddedCells":
        """The chosen cells only."""
        tables = (self.target_CL, self.condition_CN, self.size_factor_C)
        return PaddedCells(self.source_CL[row_B], *({t: x[row_B] for t, x in table.items()} for table in tables))


@dataclass(frozen=True)
class Side:
    """One forward of a batch: the ids it read (conditions included), pooled embeddings and counts per time point."""

    source_BL: Tensor
    target_BL: Mapping[int, Tensor]
    embedding_BD: Mapping[int, Tensor]
    count_BG: Mapping[int, Tensor]


@dataclass(frozen=True)
class Result:
    """What one batch gives: the cells kept, and both forwards of them."""

    row_B: Tensor
    control: Side
    perturbed: Side


@dataclass(frozen=True)
class UpstreamShaped:
    """Our PerturbGen, which holds only the encoder's last block, plus what upstream computes and throws away."""

    model: PerturbGen
    dead_blocks: nn.ModuleList
    encoder_logits: nn.Linear
    decoder_logits: nn.Linear

    @classmethod
    def from_state(cls, model: PerturbGen, state: Mapping[str, Tensor]) -> "UpstreamShaped":
        """Takes the unused layers from a state dict in upstream's names."""
        prefix = next(p for p in STATE_PREFIXES if p + "decoder_fc.weight" in state)
        nested = prefix + "encoder_layers.model."
        n_source_tokens = state[nested + "decoder_fc.weight"].shape[0]
        shaped = cls._empty(model, model.sizes.encoder.n_blocks, n_source_tokens)
        for layer, name in shaped._unused(prefix, nested):
            layer.load_state_dict({k: state[f"{name}.{k}"] for k in layer.state_dict()}, strict=True)
        return shaped

    @classmethod
    def random(
        cls, model: PerturbGen, n_encoder_blocks: int = 12, n_source_tokens: int = ENCODER_VOCABULARY, seed: int = 0
    ) -> "UpstreamShaped":
        """Fills the unused layers with random weights: `n_encoder_blocks` counts the model's own block too."""
        shaped = cls._empty(model, n_encoder_blocks, n_source_tokens)
        generator = torch.Generator().manual_seed(seed)
        for layer, _ in shaped._unused("", ""):
            for name, weight in layer.state_dict().items():
                scale = weight.shape[-1] ** -0.5 if weight.ndim == 2 else 0.0
                start = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                weight.copy_(start + scale * torch.randn(weight.shape, generator=generator))
        return shaped

    @classmethod
    def _empty(cls, model: PerturbGen, n_encoder_blocks: int, n_source_tokens: int) -> "UpstreamShaped":
        sizes, encoder = model.sizes, model.sizes.encoder
        if encoder.kind != "scmaskgit" or encoder.chained:
            raise ValueError(
                f"encoder {encoder.kind}, chained {encoder.chained}; only unchained scmaskgit has this shape"
            )
        with torch.device("meta"):
            blocks = nn.ModuleList(
                EncoderBlock(encoder.width, encoder.n_heads, encoder.head_width) for _ in range(n_encoder_blocks - 1)
            )
            encoder_logits = nn.Linear(encoder.width, n_source_tokens)
            decoder_logits = nn.Linear(sizes.width, sizes.n_tokens)
        device = model.token_embedding.weight.device
        for part in (blocks, encoder_logits, decoder_logits):
            part.to_empty(device=device).requires_grad_(False)
        return cls(model, blocks, encoder_logits, decoder_logits)

    def _unused(self, prefix: str, nested: str) -> list[tuple[nn.Module, str]]:
        """(layer, its name upstream) of everything that no result needs."""
        blocks = [(block, f"{nested}decoder_block.{i}") for i, block in enumerate(self.dead_blocks)]
        return [*blocks, (self.encoder_logits, nested + "decoder_fc"), (self.decoder_logits, prefix + "decoder_fc")]

    def run(self, cells: PaddedCells, edit: Edit, settings: Settings) -> Iterator[Result]:
        """All batches of one gene; a batch in which no cell is kept gives nothing. The last, partial one is run too."""
        for start in range(0, len(cells.source_CL), settings.batch_cells):
            row_B = torch.arange(start, min(start + settings.batch_cells, len(cells.source_CL)))
            row_B = row_B[kept(cells.take(row_B), edit)]
            if len(row_B):
                yield self._batch(row_B, cells.take(row_B), edit, settings)

    @torch.inference_mode()
    def _batch(self, row_B: Tensor, cells: PaddedCells, edit: Edit, settings: Settings) -> Result:
        excluded = [*SPECIAL_IDS, *settings.condition_ids]
        if settings.exclude_src:
            cells = replace(cells, source_CL=torch.zeros_like(cells.source_CL))
        control = self._forward(cells, excluded, settings)
        if "tgt" in edit.sites:
            excluded = [*excluded, *edit.target_genes]
        return Result(row_B, control, self._forward(edited(cells, edit), excluded, settings))

    def _forward(self, cells: PaddedCells, excluded: list[int], settings: Settings) -> Side:
        device = self.model.token_embedding.weight.device
        source_BL = cells.source_CL.to(device)
        target_BL = {t: with_conditions(cells, t).to(device) for t in settings.times}
        encoded_BLD = self._encode(source_BL)
        embedding_BD: dict[int, Tensor] = {}
        count_BG: dict[int, Tensor] = {}
        for t in settings.pred_tps:
            context, ids = [encoded_BLD], [source_BL]
            for other in settings.others(t):
                context.append(self._decode(target_BL[other], other, torch.cat(context, 1), torch.cat(ids, 1)))
                ids.append(target_BL[other])
            hidden_BLD = self._decode(target_BL[t], t, torch.cat(context, 1), torch.cat(ids, 1))
            F.linear(hidden_BLD, self.decoder_logits.weight, self.decoder_logits.bias)
            counted_BL1 = ~torch.isin(target_BL[t], torch.tensor(excluded, device=device))[..., None]
            embedding_BD[t] = (hidden_BLD * counted_BL1).sum(1) / counted_BL1.sum(1)
            if self.model.sizes.loss_mode is not None:
                count_BG[t] = self._counts(embedding_BD[t], cells.size_factor_C.get(t), settings.readout)
        return Side(source_BL, target_BL, embedding_BD, count_BG)

    def _encode(self, ids_BL: Tensor) -> Tensor:
        """Every block on the same embedding; the last block's output (B, L, D)."""
        encoder: Any = self.model.encoder_layers.model
        n_heads = self.model.sizes.encoder.n_heads
        x_BLD = F.embedding(ids_BL, encoder.token_embedding.weight) + encoder.pos_embedding(1, ids_BL.shape[1])
        mask = key_mask(ids_BL)
        for block in [*self.dead_blocks, *encoder.decoder_block.values()]:
            out_BLD = normed(block.norm1, x_BLD + attended(block.self_attn, n_heads, x_BLD, x_BLD, mask))
            out_BLD = normed(block.norm3, out_BLD + fed_forward(block.feed_forward, out_BLD))
        F.linear(out_BLD, self.encoder_logits.weight, self.encoder_logits.bias)
        return out_BLD

    def _decode(self, ids_BL: Tensor, time: int, context_BKD: Tensor, context_ids_BK: Tensor) -> Tensor:
        """Last decoder layer (B, L, D) of one time point; with scmaskgit it sits at row `time` + 1 of the time table."""
        model, n_heads = self.model, self.model.sizes.n_heads
        x_BLD = F.embedding(ids_BL, model.token_embedding.weight) + model.pos_embedding(time + 1, ids_BL.shape[1])
        mask, context_mask = key_mask(ids_BL), key_mask(context_ids_BK)
        for block in model.decoder_block:
            x_BLD = normed(block.norm1, x_BLD + attended(block.self_attn, n_heads, x_BLD, x_BLD, mask))
            x_BLD = normed(block.norm2, x_BLD + attended(block.cross_attn, n_heads, x_BLD, context_BKD, context_mask))
            x_BLD = normed(block.norm3, x_BLD + fed_forward(block.feed_forward, x_BLD))
        return x_BLD

    def _counts(self, pooled_BD: Tensor, size_factor_B: Tensor | None, readout: str) -> Tensor:
        """Counts (B, G) with the observed library size, whatever the model predicts: upstream's perturbation path."""
        output = self.model.count_decoder(pooled_BD)
        count_BG: Tensor = output.head_BG
        if readout == "expected" and output.dropout_logit_BG is not None:
            count_BG = count_BG * torch.sigmoid(-output.dropout_logit_BG)
        if self.model.sizes.loss_mode == "mse" or size_factor_B is None:
            return count_BG
        return count_BG * size_factor_B.to(count_BG.device)[:, None]


def kept(cells: PaddedCells, edit: Edit) -> Tensor:
    """Boolean (C,): cells that express any of the genes where they are edited; every cell for a mode that needs none."""
    keep_C = torch.full((len(cells.source_CL),), not edits.parse(edit.mode).mode.needs_gene)
    if "src" in edit.sites:
        keep_C |= torch.isin(cells.source_CL, torch.tensor(edit.source_genes)).any(1)
    for t in edit.pert_tps if "tgt" in edit.sites else ():
        keep_C |= torch.isin(cells.target_CL[t], torch.tensor(edit.target_genes)).any(1)
    return keep_C


def edited(cells: PaddedCells, edit: Edit) -> PaddedCells:
    """The cells with their rows edited, one row after another."""

    def edit_rows(ids_CL: Tensor, genes: tuple[int, ...], site: str) -> Tensor:
        return torch.stack([edit_row_reference(row_L, genes, edit.mode, site) for row_L in ids_CL])

    source_CL, target_CL = cells.source_CL, dict(cells.target_CL)
    if "src" in edit.sites:
        source_CL = edit_rows(source_CL, edit.source_genes, "src")
    for t in edit.pert_tps if "tgt" in edit.sites else ():
        target_CL[t] = edit_rows(target_CL[t], edit.target_genes, "tgt")
    return replace(cells, source_CL=source_CL, target_CL=target_CL)


def with_conditions(cells: PaddedCells, time: int) -> Tensor:
    """Target ids (C, N + L) with the condition tokens in front."""
    ids_CL = cells.target_CL[time]
    return torch.cat([cells.condition_CN[time], ids_CL], 1) if time in cells.condition_CN else ids_CL


def key_mask(ids_BK: Tensor) -> Tensor:
    """Boolean (B, 1, 1, K), always given: rows are padded."""
    return (ids_BK != PAD)[:, None, None, :]


def attended(layer: Any, n_heads: int, x_BLD: Tensor, context_BKD: Tensor, mask_B11K: Tensor) -> Tensor:
    """Masked attention from x to the context, (B, L, D). A row that keeps no key gives 0 before the output product."""
    projections = ((layer.to_q, x_BLD), (layer.to_k, context_BKD), (layer.to_v, context_BKD))
    query, key, value = (F.linear(x, w.weight).unflatten(-1, (n_heads, -1)).transpose(1, 2) for w, x in projections)
    mixed_BHLA = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_B11K)
    has_key_B111 = mask_B11K.any(-1, keepdim=True)
    if not bool(has_key_B111.all()):
        mixed_BHLA = mixed_BHLA.masked_fill(~has_key_B111, 0.0)
    out = layer.to_out[0]
    return F.linear(mixed_BHLA.transpose(1, 2).flatten(2), out.weight, out.bias)


def fed_forward(layer: Any, x: Tensor) -> Tensor:
    """fc2(gelu(fc1(x))), exact gelu."""
    return F.linear(F.gelu(F.linear(x, layer.fc1.weight, layer.fc1.bias)), layer.fc2.weight, layer.fc2.bias)


def normed(layer: Any, x: Tensor) -> Tensor:
    """LayerNorm over the last axis."""
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias, LAYER_NORM_EPS)


def real_sizes(max_len: int, n_time_points: int = 2, n_genes: int = 2000) -> Sizes:
    """The published size: encoder 12 x 768 (8 heads of 96), decoder 6 x 768 (8 heads of 32), zinb."""
    encoder = EncoderSizes("scmaskgit", ENCODER_VOCABULARY + 3, 768, 8, 96, 12, 4096, 3, 768)
    n_tokens = len(SPECIAL_IDS) + n_genes + CONDITION_SLOTS
    n_positions = max_len + POSITION_SLOTS
    return Sizes(encoder, n_tokens, 768, 8, 32, 6, n_positions, n_time_points, n_genes, "time_pos_sin", "zinb", 1)


def flops(
    sizes: Sizes,
    max_len: int,
    settings: Settings,
    n_conditions: int = 0,
    n_source_tokens: int = ENCODER_VOCABULARY,
) -> dict[str, int]:
    """FLOPs of one edit of one cell by part, both forwards: two per multiply-add of every product and attention."""
    encoder, n_source, n_target = sizes.encoder, max_len, max_len + n_conditions
    inner, width = encoder.n_heads * encoder.head_width, encoder.width
    part = {
        "encoder products": encoder.n_blocks * 2 * n_source * width * (4 * inner + 2 * encoder.feed_forward_width),
        "encoder attention": encoder.n_blocks * 4 * n_source**2 * inner,
        "encoder logits": 2 * n_source * width * n_source_tokens,
        "decoder products": 0,
        "decoder attention": 0,
        "decoder logits": len(settings.pred_tps) * 2 * n_target * sizes.width * sizes.n_tokens,
    }
    inner, width = sizes.n_heads * sizes.head_width, sizes.width
    for t in settings.pred_tps:
        for n_before in range(len(settings.others(t)) + 1):
            n_context = n_source + n_before * n_target
            products = 2 * n_target * width * (6 * inner + 2 * width) + 2 * n_context * width * 2 * inner
            part["decoder products"] += sizes.n_blocks * products
            part["decoder attention"] += sizes.n_blocks * 4 * n_target * (n_target + n_context) * inner
    n_outputs = sizes.n_genes * (2 if sizes.loss_mode == "zinb" else 1) + sizes.predicts_size_factor
    has_head = sizes.loss_mode is not None
    part["count head"] = len(settings.pred_tps) * 2 * width * (2 * width + n_outputs) * has_head
    return {name: 2 * n for name, n in part.items()}


def attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    """FLOPs of one attention call from its shapes (B, H, L, A), (B, H, K, A), (B, H, K, A)."""
    return 2 * query[0] * query[1] * query[2] * key[2] * (query[3] + value[3])


def count_flops(work: Callable[[], object]) -> int:
    """FLOPs that `work` executes, counted by torch.

    torch 2.13 has no formula for the attention that a CPU runs and counts it as 0, so it is given one here.
    """
    cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={cpu_attention: attention_flops}) as counter:
        work()
    return int(counter.get_total_flops())
