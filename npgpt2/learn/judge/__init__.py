"""The judge of the exercises: it turns a wrong answer into a sentence about the mistake."""
