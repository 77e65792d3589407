"""BatchComputer: one batch on a device, from its integers to the columns that are kept of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from screen.cells.bank import site_of
from screen.cells.vocabulary import NO_TOKEN
from screen.engine.columns import control_columns, item_columns
from screen.engine.control import Control, padded, predict_controls
from screen.engine.effects import Effect, change, gene_cosine, log_expression
from screen.engine.executor import Executor
from screen.engine.lanes import to_device, to_host
from screen.engine.resident import Resident
from screen.engine.screen import Screen
from screen.engine.unit import Columns
from screen.errors import PredictionError
from screen.models.adapter import BatchRows, Readout
from screen.planning.batches import Batch


class BatchComputer:
    """The model and the rows of one screen on the executor's device; lanes share it."""

    def __init__(self, screen: Screen, executor: Executor) -> None:
        self.screen, self.device = screen, executor.device
        self.model = screen.packed(executor)
        self.resident = Resident(screen.rows, screen.library, screen.lengths, executor.device)
        self._column_of_token = {t: self._columns(t) for t in screen.window.pred_tps}
        self._is_inserted_PT = self._inserted()

    def controls(self, batch: Batch) -> Control:
        """The unedited predictions of a batch of cells, and what their items take over."""
        layout = self.screen.layout
        return predict_controls(self.model, self.resident, batch, layout.expression_scale, layout.keep_gene_cosine)

    def forget(self) -> None:
        """Lets go of what lanes keep of the cells that they met last."""
        self.model.forget()

    def control_columns(self, control: Control) -> Columns:
        """What is kept of controls, on the host."""
        predicted = {t: torch.from_numpy(x).to(self.device) for t, x in control.is_predicted_C.items()}
        columns = control_columns(control.embedding_CD, control.expression, predicted, self.screen.layout.pred_tps)
        return to_host(columns)

    def items(self, batch: Batch, control: Control) -> tuple[Columns, Mapping[str, int]]:
        """(what is kept of a batch of items, on the host; reason -> items that could not be computed as the others).

        Raises PredictionError for NaN and infinity.
        """
        cells, index_B = np.unique(batch.cell_B, return_inverse=True)
        place_C = control.places(cells)
        rows = self.resident.rows(batch, index_B)
        at_C = to_device(place_C, self.device)
        before = {t: x[at_C] for t, x in control.embedding_CD.items()}
        readout = self.model.predict(rows, before, [control.shared_C[c] for c in place_C])
        host = self._kept(batch, rows, readout, control, place_C, at_C)
        if "is unsure" in host and host.pop("is unsure").any():
            readout = readout.settled()
            host = self._kept(batch, rows, readout, control, place_C, at_C)
        self._require_finite(host.pop("is finite"), batch)
        return host, readout.recomputed

    def _kept(
        self,
        batch: Batch,
        rows: BatchRows,
        readout: Readout,
        control: Control,
        place_C: NDArray[np.int64],
        at_C: Tensor,
    ) -> Columns:
        """What is kept of items, whether each is finite and, if in question, is unsure, on the host: waits once."""
        times = self.screen.window.pred_tps
        effects = {t: self._effect(t, readout, control, at_C[rows.index_B]) for t in times}
        for t in control.hidden_C:
            genes = self._gene_cosine(t, batch, rows, readout, control, place_C)
            effects[t] = replace(effects[t], gene_cosine_BG=genes)
        screened = to_device(self.screen.plan.is_screened_IT[batch.item_B], self.device)
        columns = item_columns(effects, screened, self.screen.layout)
        finite = torch.stack([effects[t].is_finite_B for t in times], dim=1) | ~screened
        unsure = {} if readout.is_unsure_B is None else {"is unsure": readout.is_unsure_B}
        return to_host({**columns, "is finite": finite.all(1), **unsure})

    def _effect(self, t: int, readout: Readout, control: Control, at_B: Tensor) -> Effect:
        """What changed at one time point against the controls at these places."""
        before = control.expression[t].take(at_B) if t in control.expression else None
        if t in readout.unchanged:
            embedding_BD = control.embedding_CD[t][at_B]
            same_B = torch.ones_like(embedding_BD[:, 0])
            if before is None:
                return Effect(embedding_BD, same_B)
            return Effect(embedding_BD, same_B, torch.zeros_like(before.log_BG, dtype=torch.float32), before.total_B)
        embedding_BD, cosine_B = readout.embedding_BD[t], readout.cosine_B[t]
        if before is None:
            return Effect(embedding_BD, cosine_B)
        scale = str(self.screen.layout.expression_scale)
        after = log_expression(readout.value_BG[t], readout.size_factor_B.get(t), scale)
        return Effect(embedding_BD, cosine_B, change(before, after), after.total_B)

    def _gene_cosine(
        self, t: int, batch: Batch, rows: BatchRows, readout: Readout, control: Control, place_C: NDArray[np.int64]
    ) -> Tensor:
        hidden_CLD, ids_CL = padded([control.hidden_C[t][c] for c in place_C])
        n = self.resident.n_conditions(t)
        skipped = to_device(self._is_inserted_PT[t][batch.perturbation_B], self.device)
        return gene_cosine(
            ids_CL[rows.index_B],
            hidden_CLD[rows.index_B],
            rows.row(t).ids_BL[:, n:],
            readout.hidden_BLD[t][:, n:],
            self._column_of_token[t],
            len(self.screen.vocabulary),
            skipped,
        )

    def _require_finite(self, is_finite_B: NDArray[np.bool_], batch: Batch) -> None:
        bad = np.flatnonzero(~is_finite_B)
        if len(bad):
            p = self.screen.library.perturbations[int(batch.perturbation_B[bad[0]])]
            raise PredictionError(
                f"the model gave NaN or infinity for cell {self.screen.bank.cell_id_C[int(batch.cell_B[bad[0]])]}, perturbation "
                f"{p.id(self.screen.vocabulary)}; nothing of its unit is stored"
            )

    def _columns(self, state: int) -> Tensor:
        """(V,) gene column of every id that a row of a state can hold, negative for none."""
        table_V = self.screen.vocabulary.column_of_token(site_of(state))
        n_more = max(self.resident.n_tokens(state) - len(table_V), 0)
        return torch.from_numpy(np.pad(table_V, (0, n_more), constant_values=NO_TOKEN)).to(self.device)

    def _inserted(self) -> dict[int, NDArray[np.int64]]:
        """State -> (P,) leading positions that gene cosines leave out: the genes that an edit inserted."""
        ps, window = self.screen.library.perturbations, self.screen.window
        return {t: np.array([p.n_inserted if window.excludes_genes(p, t) else 0 for p in ps]) for t in window.pred_tps}


@contextmanager
def float32_products(executor: Executor) -> Iterator[None]:
    """On a GPU, float32 products read all their bits, except where the precision is tf32, and float16 is summed in float32."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32, products.allow_fp16_reduced_precision_reduction
    products.allow_tf32 = convolutions.allow_tf32 = executor.precision == "tf32"
    products.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32, products.allow_fp16_reduced_precision_reduction = before
