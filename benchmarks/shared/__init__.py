"""What several benchmarks use; the scripts beside this folder are what one runs."""
