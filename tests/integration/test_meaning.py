"""Answers that mean the same, with the real embedder: on pairs written down for this."""

import pytest

from orchestrator.answers import meaning
from orchestrator.fusion import fusion
from orchestrator.recruiting.values import Answered
from skills.embed import Embedder
from skills.question import Question
from tests.stack import WEIGHTS

pytestmark = pytest.mark.skipif(not WEIGHTS.exists(), reason=f"no embedder in {WEIGHTS}: run `make run` once")

SAME = """
Paris = Paris, France; Paris = the city of Paris; photosynthesis = by photosynthesis; William Shakespeare = Shakespeare
the Second World War = World War II; USA = the United States; United States of America = the United States
mitochondria = the mitochondrion; carbon dioxide = CO2; because it is denser = because of its higher density
It expands = The gas expands; the demand falls = demand decreases; heart attack = myocardial infarction
Newton's second law = the second law of Newton; gravity = gravitational force; supply and demand = demand and supply
evaporation = it evaporates; a mammal = mammals; Isaac Newton = Sir Isaac Newton; refraction = light is refracted
George Orwell = Orwell, George; the Pacific Ocean = Pacific; yes = Yes, it is; no = No, it does not
binary search = a binary search algorithm; stack = a stack data structure; Table salt = sodium chloride; water = H2O
quicksort = the quicksort algorithm; osmosis = through osmosis; DNA = deoxyribonucleic acid
the left ventricle = left ventricle of the heart; Amazon River = the Amazon; Mount Everest = Everest
Queen Elizabeth II = Elizabeth II; the Treaty of Versailles = Versailles Treaty
"""
DIFFERENT = """
Paris = London; increase = decrease; It increases = It decreases; hot = cold; true = false; yes = no
World War I = World War II; Elizabeth I = Elizabeth II; meiosis = mitosis; DNA = RNA; artery = vein
the left ventricle = the right ventricle; Newton's second law = Newton's third law; acid = base; Monet = Manet
exothermic = endothermic; it is legal = it is not legal; sodium chloride = potassium chloride; CO2 = CO
carbon dioxide = carbon monoxide; the French Revolution = the Russian Revolution; stack = queue; guilty = not guilty
Tuesday = Wednesday; the demand falls = the demand rises; a is greater than b = b is greater than a; x = 3 = x = 4
Pacific Ocean = Atlantic Ocean; the gas expands = the gas contracts; Charles Dickens = Charles Darwin; iron = iron oxide
can be proven = cannot be proven; Either of them = Neither of them; North Korea = South Korea; York = New York
John Adams = John Quincy Adams; Roosevelt = Theodore Roosevelt; tea and milk = tea or milk
hydrogen = hydrogen and oxygen
energy = kinetic energy; sodium = sodium chloride; circle = unit circle; Guinea = Papua New Guinea; acid = amino acid
"""


def pairs(text: str) -> list[tuple[str, str]]:
    lines = [pair.strip() for line in text.strip().splitlines() for pair in line.split(";")]
    halves = [pair.partition(" = ") for pair in lines if pair.count(" = ") == 1]
    return [(first, second) for first, _, second in halves]


def test_half_of_the_wordings_are_joined_and_hardly_any_others() -> None:
    embed = Embedder.load(WEIGHTS).embed
    same = [pair for pair in pairs(SAME) if len(set(meaning.representatives(pair, embed))) == 1]
    wrong = [pair for pair in pairs(DIFFERENT) if len(set(meaning.representatives(pair, embed))) == 1]
    assert wrong == [
        ("John Adams", "John Quincy Adams"),
        ("Roosevelt", "Theodore Roosevelt"),
    ]  # the price of "Sir Isaac"
    assert len(same) >= len(pairs(SAME)) / 2 - 1


def test_a_vote_counts_what_means_the_same() -> None:
    said = [Answered(expert=name, text=text, answer=text) for name, text in (("a", "Bacon"), ("b", "Shakespeare"))]
    said.append(Answered(expert="c", text="William Shakespeare", answer="William Shakespeare"))
    embed = Embedder.load(WEIGHTS).embed
    agreed = fusion.agreed(said, Question(id="q", text="Who wrote Hamlet?"), embed)
    assert [item.answer for item in agreed] == ["Bacon", "Shakespeare", "Shakespeare"]
    assert [item.text for item in agreed] == ["Bacon", "Shakespeare", "William Shakespeare"]
