"""What `make bench` measures: time and memory of the engine as ratios within one run."""
