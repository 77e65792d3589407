"""The report: a finished screen as one page that a browser opens, and as figures."""
