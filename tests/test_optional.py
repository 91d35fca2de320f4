"""A test is skipped, with the reason, only if a package is missing."""

from __future__ import annotations

from tests.optional import has


def test_a_test_is_skipped_where_a_package_is_missing(pytester):
    assert has("numpy") and not has("no_such_package")
    pytester.makepyfile(
        """
        import pytest
        from tests.optional import needs, skip_without

        @pytest.fixture
        def fixture():
            skip_without("numpy", "no_such_package")

        @needs("numpy", "no_such_package", "nor_this_one")
        def test_skipped(): pass

        def test_skipped_by_its_fixture(fixture): pass

        @needs("numpy")
        def test_run(): skip_without("numpy")
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rs")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["*needs no_such_package and nor_this_one: *pip install*"])
