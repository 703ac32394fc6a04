"""What an empty chat says."""

from textual.content import Content

from app.models import DEMO

_DEMO_QUESTIONS = (
    "What do you know?",
    "Where does Karin live?",
    "Please remember that my lucky number is 4711.",
    "Show me a function that computes a factorial.",
    "Tell me a story about a duck.",
)


def welcome(model: str) -> Content:
    """A line for every model; for the demo, what it can answer."""
    title = Content.styled(f"{model} runs on this machine; nothing you write leaves it.", "bold")
    if model != DEMO:
        return title
    about = "It is a demonstration with a small world of its own. Ask it, for example:"
    lines = [title, Content(), Content.styled(about, "$quiet"), Content()]
    lines += [Content.styled(question, "$primary") for question in _DEMO_QUESTIONS]
    return Content("\n").join(lines)
