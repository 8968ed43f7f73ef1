"""Ideas of the literature that the engine lacks, as its run changed: see `bench.variants`."""
