import functools

import pytest

import keras_robust as kr
from keras_robust.attacks import SearchProblem


def test_a_problem_is_a_first_search_for_the_best_point():
    problem = SearchProblem("classifier", "x", "y", "threat_model", "seed")
    assert (problem.keep_best, problem.restart) == (True, 0)
    later = problem._replace(restart=3)
    assert later == ("classifier", "x", "y", "threat_model", "seed", True, 3, False)
    assert problem.restart == 0
    with pytest.raises(AttributeError):
        problem.restart = 1


def test_a_search_with_seven_arguments_is_refused_where_it_is_defined():
    message = (
        r"^`search` of an attack takes one argument, a `SearchProblem`. Write "
        r"`def search\(self, problem\):`, and read `problem.classifier`, .*`problem.restart`. "
        r"Received: class Old with `def search\(self, classifier, x, y, threat_model, seed, "
        r"keep_best, restart=0\)`$"
    )
    with pytest.raises(TypeError, match=message):

        class Old(kr.attacks.Attack):
            def search(self, classifier, x, y, threat_model, seed, keep_best, restart=0):
                return None

    with pytest.raises(TypeError, match="class Older with `def search"):

        class Older(kr.attacks.PGD):
            def search(self, classifier, x, y, threat_model, seed, keep_best, restart=0):
                return None


def test_nearest_with_six_arguments_is_refused_where_it_is_defined():
    message = (
        r"^`nearest` of an attack takes one argument, .*Write `def nearest\(self, problem\):`.*"
        r"class Old with `def nearest\(self, classifier, x, y, threat_model, seed, restart\)`$"
    )
    with pytest.raises(TypeError, match=message):

        class Old(kr.attacks.MinimumNormAttack):
            def nearest(self, classifier, x, y, threat_model, seed, restart):
                return None


def test_other_ways_to_write_a_search_with_one_argument_are_allowed():
    def unpacked(self, problem):
        return problem.x

    class Wrapped(kr.attacks.Attack):
        @functools.wraps(unpacked)
        def search(self, *arguments):
            return unpacked(self, *arguments)

    class Optional(kr.attacks.Attack):
        def search(self, problem, verbose=False):
            return problem.x

        # Only minimum-norm attacks have a method of this name to override.
        def nearest(self, points, count):
            return points[:count]

    class Assigned(kr.attacks.Attack):
        search = functools.partialmethod(unpacked)

    problem = SearchProblem("classifier", "x", "y", "threat_model", "seed")
    for cls in (Wrapped, Optional, Assigned):
        assert cls().search(problem) == "x"
