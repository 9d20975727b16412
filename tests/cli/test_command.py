from petune.cli.command import CONTEXT, new_app


def test_flags_take_underscores_and_help_is_short_too() -> None:
    seen: list[int] = []
    app = new_app()

    @app.command()
    def command(max_steps: int = 0) -> None:
        seen.append(max_steps)

    app(["--max_steps", "3"], standalone_mode=False, **CONTEXT)
    app(["--max-steps", "4"], standalone_mode=False, **CONTEXT)
    assert app(["-h"], standalone_mode=False, **CONTEXT) == 0
    assert seen == [3, 4]
