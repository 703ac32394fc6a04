from app.load_words import KERNELS, load_words
from engine.protocol import LoadProgress


def test_a_first_start_says_why_it_takes_its_time():
    assert load_words(LoadProgress(0.0, "kernels")) == KERNELS
    assert load_words(LoadProgress(0.5, "layer 3 of 4")) == "layer 3 of 4 50%"
