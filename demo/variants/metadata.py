"""Metadata: conditions, filters and strata as files hold them and as people write them."""

import numpy as np
import pandas as pd

from demo.variants.recipe import Changes, Place, recipe

KIND = "Conditions, filters, strata"


def stated(place: Place, control: object, stimulated: object, dtype: object, source: object, target: object) -> Changes:
    """A file whose states are written in one way, and a configuration that writes them in another."""
    cells = place.cells
    is_control_C = (cells.obs["condition"] == "control").to_numpy()
    values = [control if c else stimulated for c in is_control_C]
    cells.obs["condition"] = pd.Series(values, index=cells.obs_names).astype(dtype)
    place.h5ad(cells)
    return {"cells": {"source": source, "targets": {1: target}}}


@recipe(KIND, "whole numbers in the file (0, 6), whole numbers in the YAML", "refused: no text")
def numbers(place: Place) -> Changes:
    return stated(place, 0, 6, "int64", 0, 6)


@recipe(KIND, "decimals in the file (0.0, 6.0), whole numbers in the YAML", "refused: no text")
def decimals(place: Place) -> Changes:
    return stated(place, 0.0, 6.0, "float64", 0, 6)


@recipe(KIND, 'decimals in the file, text in the YAML ("0", "6")', "no such value")
def decimals_text(place: Place) -> Changes:
    return stated(place, 0.0, 6.0, "float64", "0", "6")


@recipe(KIND, 'text in the file ("0", "6"), whole numbers in the YAML', "refused: no text")
def text_numbers(place: Place) -> Changes:
    return stated(place, "0", "6", "str", 0, 6)


@recipe(KIND, "categories that are numbers, decimals in the YAML", "refused: no text")
def categories(place: Place) -> Changes:
    return stated(place, 0, 6, pd.CategoricalDtype([0, 6]), 0.0, 6.0)


@recipe(KIND, "true and false in the file and in the YAML", "refused: no text")
def booleans(place: Place) -> Changes:
    return stated(place, False, True, "bool", False, True)


@recipe(KIND, "categories that are true and false", "refused: no text")
def boolean_categories(place: Place) -> Changes:
    return stated(place, False, True, pd.CategoricalDtype([False, True]), False, True)


@recipe(KIND, "yes and no as text in the file; YAML reads yes as true", "refused: no text")
def yes_and_no(place: Place) -> Changes:
    return stated(place, "no", "yes", "str", False, True)


@recipe(KIND, "TRUE and FALSE as text in the file, as R writes them, true in the YAML", "refused: no text")
def as_r_writes(place: Place) -> Changes:
    return stated(place, "FALSE", "TRUE", "str", False, True)


@recipe(KIND, "0 and 1 in the file, false and true in the YAML", "refused: no text")
def zero_and_one(place: Place) -> Changes:
    return stated(place, 0, 1, "int64", False, True)


@recipe(KIND, '"01" and "1" both in the file, 1 in the YAML: the one written so', "refused: no text")
def two_ones(place: Place) -> Changes:
    return stated(place, "01", "1", "str", "01", 1)


@recipe(KIND, '"1.0" and "01" in the file, 1 in the YAML: either could be meant', "refused: no text")
def ambiguous(place: Place) -> Changes:
    return stated(place, "01", "1.0", "str", "01", 1)


@recipe(KIND, "a number that no cell has", "refused: no text")
def no_such_number(place: Place) -> Changes:
    return stated(place, 0, 6, "int64", 0, 7)


@recipe(KIND, "blanks at the end of the file's values", "not counted")
def blanks(place: Place) -> Changes:
    return stated(place, "control ", "stimulated ", "str", "control", "stimulated")


@recipe(KIND, "another case in the YAML (Control)", "not counted")
def case(place: Place) -> Changes:
    return stated(place, "control", "stimulated", "str", "Control", "stimulated")


@recipe(KIND, "a blank where the file has an underscore", "not counted")
def underscore(place: Place) -> Changes:
    return stated(place, "no_treatment", "IFN_beta", "str", "no treatment", "IFN beta")


@recipe(KIND, "a filter's value in another case (cd14+ monocytes)", "not counted")
def filter_case(place: Place) -> Changes:
    place.h5ad(place.cells)
    return {"cells": {"filters": {"cell_type": ["cd14+ monocytes"]}}}


@recipe(KIND, "a filter's value that is alone, not in a list", "refused: no list")
def filter_alone(place: Place) -> Changes:
    place.h5ad(place.cells)
    return {"cells": {"filters": {"cell_type": "CD14+ Monocytes"}}}


@recipe(KIND, "a filter by numbers (donor: [1, 2])", "refused: no text")
def filter_numbers(place: Place) -> Changes:
    cells = place.cells
    cells.obs["donor"] = np.where(cells.obs["cell_type"] == "B", 3, 1 + np.arange(cells.n_obs) % 2)
    place.h5ad(cells)
    return {"cells": {"filters": {"donor": [1, 2]}}}


@recipe(KIND, "a filter by true (is_monocyte: true)", "refused: no list")
def filter_true(place: Place) -> Changes:
    cells = place.cells
    cells.obs["is_monocyte"] = (cells.obs["cell_type"] != "B").to_numpy()
    place.h5ad(cells)
    return {"cells": {"filters": {"is_monocyte": True}}}


@recipe(KIND, "one stratum, not in a list (strata: cell_type)", "refused: no list")
def strata_alone(place: Place) -> Changes:
    place.h5ad(place.cells)
    return {"cells": {"strata": "cell_type"}}


@recipe(KIND, "a column in another case (Condition)")
def column_case(place: Place) -> Changes:
    place.h5ad(place.cells)
    return {"cells": {"state_column": "Condition"}}
