"""L3: the only place where model, data and prior meet."""
