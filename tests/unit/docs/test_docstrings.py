"""Docstrings of this house become Markdown that a page shows as it was meant."""

from docs.docstrings import markdown


def test_arguments_become_a_list_and_examples_become_code() -> None:
    made = markdown(
        """What it returns.

        first, second  two numbers,
                       in metres
        table  "scores" or none
        Empty where nothing is.
        Raises GeneError for an unknown one.

        >>> import screen
        >>> screen.plan("a")
        2 perturbations

        The end.
        """
    )
    assert made == (
        'What it returns.\n\n\n- `first`, `second`: two numbers,\n  in metres\n- `table`: "scores" or none\n\n'
        "Empty where nothing is.\n\nRaises GeneError for an unknown one.\n\n\n```pycon\n>>> import screen\n"
        '>>> screen.plan("a")\n2 perturbations\n```\n\n\nThe end.\n'
    )


def test_an_example_at_the_end_is_closed() -> None:
    assert markdown("A.\n\n>>> 1\n1").endswith("```pycon\n>>> 1\n1\n```\n")


def test_plain_text_stays_as_it_is() -> None:
    text = "One line.\n\nTwo more,\nin a paragraph.\n"
    assert markdown(text) == text
