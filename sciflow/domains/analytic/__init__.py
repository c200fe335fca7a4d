"""Problems whose answer is known: they show how wrong a sampler is."""
