"""Many measurements from one file: planned, run, resumed, verified."""
