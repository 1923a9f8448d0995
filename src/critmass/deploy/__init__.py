"""Acting on a measurement: choosing the part to keep."""
