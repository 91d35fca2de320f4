"""Speed and memory beside torch. No test asserts them, because machines are noisy.

    python -m tests.benchmarks.step        # training steps

Only ratios within one run mean anything. So every side is a worker process with a fixed number of
threads. All workers stay up and take turns. Each round gives one ratio, and the report has the
median and the range of the ratios.
"""
