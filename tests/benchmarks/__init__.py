"""Speed and memory, side by side with torch; never asserted, since machines are noisy.

    python -m tests.benchmarks.step        # training steps

Only ratios within one run mean anything. So every side is a worker process of its own, started
with its threads fixed; all stay up, and take turns; each round gives one ratio; and what is
reported is the median of the rounds, with their range.
"""
