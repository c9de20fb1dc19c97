"""An option with a few values, which says what was most likely meant."""

from typing import Any

import click

from limpq_deploy.calibration.suggestions import did_you_mean


class OneOf(click.Choice[str]):
    """`click.Choice` whose error names the nearest value."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        message = super().get_invalid_choice_message(value, ctx)
        return f"{message.removesuffix('.')}{did_you_mean(str(value), self.choices) or '.'}"
