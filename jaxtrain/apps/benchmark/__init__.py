"""Speed and correctness of the library on one machine: what `bench` and `gpu_check` measure."""
