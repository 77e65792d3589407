"""A synthetic screen whose truth is known: what reports, plots and tests are tried on."""
