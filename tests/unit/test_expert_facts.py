from app.expert_facts import Live, legend, table
from engine.manifest import LayerRecord
from engine.protocol import Meters

LAYER = LayerRecord((1, 3), 0.4, 0.1, (0.7, 0.3), (0.8, 0.2), ((0.3, 0.2, 0.1), (0.6, 0.5, 0.4)))
OLD = LayerRecord((2, 16), 0.4, 0.1, (), (), ())


def test_each_view_shows_its_figure_and_nothing_where_it_is_not_known():
    layers = (LAYER, OLD)
    assert table(layers, "bits", Live()) == ((1, 3), (2, 16))
    assert table(layers, "frequency", Live()) == ((0.7, 0.3), (0, 0))
    assert table(layers, "weight", Live()) == ((0.8, 0.2), (0, 0))
    assert table(layers, "error", Live()) == ((0.3, 0.4), (0, 0))
    assert table(layers, "live", Live()) == ((0, 0), (0, 0))
    assert table(layers, "pruned", Live()) == ((0, 0), (0, 0))


def test_live_is_what_ran_between_the_first_and_the_last():
    meters = [
        Meters(expert_runs=((1, 2), (3, 4)), expert_skips=((1, 0), (0, 0))),
        Meters(expert_runs=((5, 5), (6, 6)), expert_skips=((1, 2), (0, 0))),
        Meters(expert_runs=((6, 9), (8, 8)), expert_skips=((1, 4), (1, 0))),
    ]
    live = Live.between(meters)
    assert live == Live(((5, 7), (5, 4)), ((0, 4), (1, 0)))
    assert table((LAYER, OLD), "pruned", live) == ((0, 4 / 11), (1 / 6, 0))
    assert (live.pruned(0), live.pruned(1)) == (4 / 16, 0.1)
    assert table((LAYER, OLD), "live", live) == ((5, 7), (5, 4))


def test_one_reading_counts_from_the_beginning_and_none_is_nothing():
    first = Meters(expert_runs=((1, 2),), expert_skips=((0, 1),))
    assert Live.between([first]) == Live(((1, 2),), ((0, 1),))
    assert Live.between([]) == Live()
    assert Live.of_reply(first) == Live(((1, 2),), ((0, 1),), whole=True)
    assert Live.of_reply(None) == Live()
    assert legend("live", Live.of_reply(first)) == "slots that ran in the last reply"
    assert "in the last second, those" in legend("pruned", Live.between([first]))
    assert Live().pruned(3) == Live().pruned_of(3, 0) == 0
