"""PerturbGen (upstream commit a9a9375): model, checkpoint reader and adapter."""
