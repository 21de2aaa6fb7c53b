import pytest

from pipeline.cards.licenses import refused


@pytest.mark.parametrize(
    "name",
    [
        "http://creativecommons.org/licenses/by/2.0/",
        "https://creativecommons.org/licenses/by-sa/4.0/deed.en",
        "https://creativecommons.org/publicdomain/zero/1.0/",
        "Creative Commons Attribution 4.0 International",
        "Creative Commons Attribution-ShareAlike 4.0 International (CC BY-SA 4.0)",
        "Creative Commons Zero v1.0 Universal",
        "https://opensource.org/licenses/MIT",
        "https://www.apache.org/licenses/LICENSE-2.0",
        "https://opendatacommons.org/licenses/by/1-0/",
        "CC BY 4.0 OR own terms",
    ],
)
def test_a_licence_by_its_address_or_its_long_name(name: str) -> None:
    assert refused({name: 1}) == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("https://creativecommons.org/licenses/by-nc-sa/2.0/", "non-commercial"),
        ("Creative Commons Attribution-NonCommercial 2.0 Generic", "non-commercial"),
        ("https://creativecommons.org/licenses/by-nd/4.0/", "adaptations"),
        ("Attribution-NoDerivs License", "adaptations"),
        ("https://example.org/licenses/by/4.0/", "not among"),
        ("by", "not among"),
        ("", "not stated"),
    ],
)
def test_what_does_not_let_everybody_share_stays_refused(name: str, reason: str) -> None:
    assert reason in refused({name: 1})[name]
