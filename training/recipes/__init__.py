"""One file a model: data, degradation, network, loss, schedule and evaluation, nothing hidden."""
