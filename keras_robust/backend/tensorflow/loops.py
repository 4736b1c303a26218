"""TensorFlow: loops with a fixed number of steps."""

import tensorflow as tf

_UNROLL = 10
# Steps with more nodes than this compile slowly when unrolled, and run no faster.
_LARGE = 500


def repeat(num_steps, body, state):
    """Returns `state` after `num_steps` calls of `state = body(step, state)`.

    In a graph, `body` is traced once. Short loops are unrolled, because TensorFlow optimizes
    straight code better than loops; longer loops run blocks of ten unrolled steps. Large steps are
    not unrolled: the graph would take long to compile, and the overhead of a loop is small beside
    such a step.
    """
    unroll = _UNROLL
    if num_steps > 1 and not tf.executing_eagerly():
        body = _TracedOnce(body)
        state = tf.nest.map_structure(tf.convert_to_tensor, state)
        unroll = 1 if body.size(state) > _LARGE else _UNROLL
    blocks, rest = divmod(num_steps, unroll)
    # A single block needs no loop.
    if blocks == 1:
        blocks, rest = 0, num_steps

    def run(first, count, state):
        for step in range(count):
            state = body(first + step, state)
        return state

    if blocks:
        _, state = tf.while_loop(
            lambda block, _: block < blocks,
            lambda block, state: (block + 1, run(block * unroll, unroll, state)),
            (tf.constant(0), state),
            maximum_iterations=blocks,
            # Each step needs the result of the one before.
            parallel_iterations=1,
        )
    return run(blocks * unroll, rest, state)


class _TracedOnce:
    """The body of a loop, as a function that TensorFlow inlines at every call."""

    def __init__(self, body):
        def step(number, state):
            return body(number, state)

        self._compiled = tf.function(step, autograph=False)

    def __call__(self, number, state):
        return self._compiled(tf.convert_to_tensor(number, "int32"), state)

    def size(self, state):
        """Returns the number of nodes in the graph of the body, nested loops included."""
        specs = tf.nest.map_structure(lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype), state)
        traced = self._compiled.get_concrete_function(tf.TensorSpec((), "int32"), specs)
        graph = traced.graph.as_graph_def()
        return len(graph.node) + sum(len(one.node_def) for one in graph.library.function)
