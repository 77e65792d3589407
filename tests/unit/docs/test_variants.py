"""The page of variants is what its script makes of them, and no variant is a fault of ours."""

from docs.make_variants import PAGE, answers, page

STALE = "not up to date; run: python docs/make_variants.py"


def test_the_page_of_variants_is_up_to_date_and_every_answer_is_ours() -> None:
    found = answers()
    assert [(r.words, a.message) for r, a in found if a.result == "a fault of ours"] == []
    assert [r.words for r, a in found if a.result.startswith("exit code") and not a.message] == []
    assert PAGE.read_text(encoding="utf-8") == page(found), STALE
