import json
import statistics

import pytest

from petune.data.report import DataReport, length_quantiles

REPORT = DataReport(
    source="rows.jsonl",
    layout="text-label",
    rows_read=1200,
    rows_kept=1190,
    rows_cut=3,
    dropped={"too long": 8, "empty": 2},
    max_length=512,
    lengths={"min": 3, "max": 512},
    total_tokens=1000,
    label_tokens=250,
    example="The film\nLabel:⟦ positive⟧",
    example_origin="rows.jsonl:1",
    notes=("look here",),
)


def test_text():
    assert REPORT.render().splitlines() == [
        "data:    rows.jsonl (layout: text-label)",
        "rows:    1,200 read, 1,190 kept, 3 cut to 512 tokens, 10 dropped",
        "         dropped 8: too long",
        "         dropped 2: empty",
        "lengths: min 3, max 512 (tokens; limit 512)",
        "tokens:  1,000, of which 250 learned (25.0%)",
        "note:    look here",
        "example: rows.jsonl:1, learned part between ⟦ and ⟧",
        "  | The film",
        "  | Label:⟦ positive⟧",
    ]


def test_a_long_example_is_shortened_in_the_text_alone():
    from dataclasses import replace

    long = replace(REPORT, example="a" * 5000 + "⟦b⟧")
    assert "[…3,403 characters…]" in long.render()
    assert long.render().endswith("a⟦b⟧")
    assert len(long.to_dict()["example"]) == 5003


def test_json():
    values = json.loads(json.dumps(REPORT.to_dict()))
    assert values["label_share"] == 0.25
    assert values["dropped"] == {"too long": 8, "empty": 2}
    assert values["notes"] == ["look here"]


@pytest.mark.parametrize("count", [1, 2, 10, 99, 100, 1001])
def test_quantiles_cover_their_share(count):
    lengths = [(n * 7919) % 1000 for n in range(count)]
    quantiles = length_quantiles(lengths)
    assert (quantiles["min"], quantiles["max"]) == (min(lengths), max(lengths))
    for name, share in (("50%", 0.5), ("90%", 0.9), ("99%", 0.99)):
        assert sum(length <= quantiles[name] for length in lengths) >= share * count
        assert sum(length < quantiles[name] for length in lengths) < share * count
    assert quantiles["50%"] == statistics.median_low(lengths)
    assert length_quantiles([]) == {"min": 0, "50%": 0, "90%": 0, "99%": 0, "max": 0}
