"""The limits as a form: what somebody typed, and the change that it asks for."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.budget import Budget, LimitsChange, read_change
from gateway.core.errors import BadRequest
from gateway.core.money import dollars, plain_dollars, read_dollars
from gateway.core.periods import PERIODS, Period

REASON = "reason"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the form: its text, what that means in words, and what is wrong with it."""

    text: str
    meaning: str = ""
    error: str = ""


def fields_of(budget: Budget) -> dict[str, Field]:
    """The fields as they are when nobody typed anything."""
    limits = {window.period.name: _field(window.limit_cents) for window in budget.windows}
    return {**limits, REASON: Field("")}


def _field(limit_cents: int | None) -> Field:
    text = "" if limit_cents is None else plain_dollars(limit_cents)
    return Field(text, _meaning(limit_cents))


def _meaning(limit_cents: int | None) -> str:
    if limit_cents is None:
        return "No limit"
    return "Blocks every call." if limit_cents == 0 else ""


@dataclass(frozen=True, slots=True)
class Typed:
    """What was sent: for each period its text, and the text that its field had before; and why.

    `only` is the one period to save; if it is empty, all are.
    """

    texts: Mapping[str, str]
    before: Mapping[str, str]
    reason: str = ""
    only: str = ""

    @property
    def changed(self) -> list[Period]:
        """The periods to save whose text is not what it was."""
        return [period for period in PERIODS if self._is_changed(period.name)]

    def _is_changed(self, name: str) -> bool:
        return self.only in ("", name) and name in self._typed

    @property
    def _typed(self) -> dict[str, str]:
        """The texts that are not what they were, to be saved or not."""
        return {
            name: text
            for name, text in self.texts.items()
            if text.strip() != self.before.get(name, "")
        }

    def change(self) -> tuple[LimitsChange | None, dict[str, Field]]:
        """The change, None if a text cannot be read; and the fields with what is wrong."""
        limits: dict[str, int | None] = {}
        faulty: dict[str, Field] = {}
        for period in self.changed:
            text = self.texts[period.name]
            try:
                cents = read_dollars(text)
                read_change({"budget_limits": {period.name: cents}})
                limits[period.name] = cents
            except (ValueError, BadRequest) as error:
                faulty[period.name] = Field(text, error=str(error))
        try:
            change = read_change({"budget_limits": limits, REASON: self.reason})
        except BadRequest as error:
            faulty[REASON] = Field(self.reason, error=str(error))
        return (None if faulty else change), faulty

    @property
    def fields(self) -> dict[str, Field]:
        """The fields that somebody typed in; the others show what is in force by now."""
        return {name: Field(text) for name, text in {**self._typed, REASON: self.reason}.items()}

    def is_overtaken(self, budget: Budget) -> bool:
        """Whether somebody else changed meanwhile what is to be saved."""
        overtaken = self.overtaken(budget)
        return any(period.name in overtaken for period in self.changed)

    def overtaken(self, budget: Budget) -> dict[str, Field]:
        """The fields typed in whose limit somebody else changed meanwhile, and told so."""
        typed = self._typed
        return {
            window.period.name: Field(
                typed[window.period.name],
                error=f"Changed meanwhile to {_words(window.limit_cents)}. Save again to replace.",
            )
            for window in budget.windows
            if window.period.name in typed
            and _field(window.limit_cents).text != self.before.get(window.period.name, "")
        }


def _words(limit_cents: int | None) -> str:
    return "no limit" if limit_cents is None else dollars(limit_cents)


def read_typed(form: Mapping[str, str]) -> Typed:
    """What a form says. Its button names the one period to save, or none of them: all."""
    names = [period.name for period in PERIODS]
    return Typed(
        {name: form[f"limit-{name}"] for name in names if f"limit-{name}" in form},
        {name: form.get(f"was-{name}", "") for name in names},
        form.get(REASON, ""),
        form.get("save", ""),
    )
