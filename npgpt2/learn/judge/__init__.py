"""The judge of the exercises: from a wrong answer to a sentence about the mistake in it."""
