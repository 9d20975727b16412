from petune.data.examples import Example, ExampleSet, Segment


def test_a_set_is_a_sequence_that_keeps_its_name():
    rows = [Example(f"a:{n}", (Segment("x", True),), "x", None, None, {}, True) for n in range(5)]
    examples = ExampleSet(rows, source="a.jsonl", layout="text")
    assert list(examples) == rows
    assert (len(examples), examples[-1]) == (5, rows[4])
    part = examples[1:3]
    assert isinstance(part, ExampleSet)
    assert (list(part), part.source, part.layout) == (rows[1:3], "a.jsonl", "text")
