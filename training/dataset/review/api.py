"""Answers the page's requests: JSON in, JSON out, each checked before anything is written."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..final_texts import CAPTIONS
from ..ledger import Ledger, Picture
from ..work import Work
from .catalogue import FORMS, details, overview, told
from .decisions import ACTIONS, ConflictError, DecisionLog, Entry
from .faults import CaptionRules
from .pictures import SIZES, Shown, shown
from .replace import LONGEST, ReplaceError, replaced

LONGEST_NAME = 80
LONGEST_REASON = 500
LISTED = 300  # changes of a batch that are shown before it is done


class Refused(ValueError):
    """A request that is not carried out.

    Attributes:
        status: of HTTP.
        answer: for the page, with the reason as "error".
    """

    def __init__(self, status: int, reason: str, **answer: Any) -> None:
        super().__init__(reason)
        self.status = status
        self.answer = {"error": reason, **answer}


@dataclass(frozen=True)
class Change:
    """A caption before and after a batch, and what is wrong with it that was not before."""

    id: str
    before: str
    after: str
    faults: list[str]


class Api:
    """What can be asked of the data set; may be used by several threads at once."""

    def __init__(self, work: Work) -> None:
        self.log = DecisionLog(work.folder)
        self._config = work.config
        self._rules = CaptionRules(work.config.caption)
        self._folder = work.folder
        self._ledger: Path = work.ledger.path
        self._lock = threading.Lock()
        self._pictures: dict[str, Picture] = {}

    def overview(self) -> dict[str, Any]:
        """All pictures, and the reasons for rejections that the page offers."""
        with self._open() as ledger:
            answer = overview(ledger, self.log, self._rules)
        return {**answer, "reasons": list(self._config.review.reasons)}

    def details(self, picture: str) -> dict[str, Any]:
        """All that is known of one picture."""
        found = self._known([picture])[0]
        with self._open() as ledger:
            return details(ledger, found)

    def changes(self, since: int) -> dict[str, Any]:
        """The states of pictures that were decided on after a line of the log."""
        seq = self.log.refresh()
        return {"states": self._states(self.log.pictures(since)) if seq > since else {}, "seq": seq}

    def picture(self, picture: str, form: str, size: str) -> Shown:
        """A picture's file.

        Raises:
            PictureError: there is none.
        """
        if form not in FORMS or size not in (*SIZES, "full"):
            raise Refused(404, f"There is no {form} in size {size}.")
        with self._open() as ledger:
            most = self._config.ingest.max_megapixels
            return shown(ledger, self._folder, picture, form, size, most)

    def decide(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Writes decisions, all or none: {reviewer, entries: [{id, seq, action, value}]}."""
        entries = [self._entry(entry) for entry in _list(body, "entries", dict)]
        if len({entry.id for entry in entries}) != len(entries) or not entries:
            raise Refused(400, "Each picture must be named once, and one at least.")
        self._known([entry.id for entry in entries])
        return self._append(entries, _reviewer(body))

    def undo(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Takes back the last thing that a reviewer did: {reviewer}."""
        lines = self.log.undo(_reviewer(body))
        undone = [{"id": line.id, "action": line.action, "value": line.value} for line in lines]
        return {**self._told([line.id for line in lines]), "undone": undone}

    def check(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Says what is wrong with a caption: {caption, text}."""
        return {"faults": self._rules.faults(_caption(body), _text(body, "text", LONGEST))}

    def replace(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Replaces in captions: {ids, caption, find, replace, regex, ignore_case}.

        Without "token" it only says what would change; with the token of that answer, and with
        "reviewer", it does so, except where a caption would become wrong.
        """
        name = _caption(body)
        ids = list(dict.fromkeys(_list(body, "ids", str)))
        self._known(ids)
        self.log.refresh()
        seen = {picture: self.log.state(picture).seq for picture in ids}
        changes = self._changes(name, self._captions(name, ids), body)
        good = [change for change in changes if not change.faults]
        token = hashlib.sha256(json.dumps([name, *map(asdict, changes)]).encode()).hexdigest()
        if "token" not in body:
            listed = [asdict(change) for change in changes[:LISTED]]
            return {"changes": listed, "count": len(good), "left": len(changes) - len(good),
                    "token": token}  # fmt: skip
        if body["token"] != token:
            raise Refused(409, "The captions have changed since the preview. Look again.")
        if not good:
            raise Refused(400, "Nothing would change.")
        entries = [Entry(c.id, name, c.after, c.before, seen[c.id]) for c in good]
        return {**self._append(entries, _reviewer(body)), "count": len(good)}

    def _changes(
        self, name: str, captions: Mapping[str, str], body: Mapping[str, Any]
    ) -> list[Change]:
        try:
            new = replaced(
                list(captions.values()), _text(body, "find", LONGEST, raw=True),
                _text(body, "replace", LONGEST, raw=True), regex=body.get("regex") is True,
                ignore_case=body.get("ignore_case") is True,
            )  # fmt: skip
        except ReplaceError as error:
            raise Refused(400, str(error)) from None
        faults = self._rules.faults
        pairs = zip(captions.items(), new, strict=True)
        return [
            Change(picture, old, text, sorted({*faults(name, text)} - {*faults(name, old)}))
            for (picture, old), text in pairs
            if text != old
        ]

    def _entry(self, given: Mapping[str, Any]) -> Entry:
        picture, action = _text(given, "id", 200), _text(given, "action", 40)
        seen = given.get("seq")
        if action not in ACTIONS or type(seen) is not int or seen < 0:
            raise Refused(400, f"An entry needs an action of {', '.join(ACTIONS)}, and a seq.")
        if action in CAPTIONS:
            value = _text(given, "value", LONGEST)
            wrong = self._rules.faults(action, value)
            if wrong:
                raise Refused(422, f"The caption is wrong: {'; '.join(wrong)}.", faults=wrong)
            old = self._captions(action, [picture]).get(picture, "")
            return Entry(picture, action, value, old, seen)
        value = _text(given, "value", LONGEST_REASON) if action == "reject" else ""
        return Entry(picture, action, value, self.log.state(picture).verdict, seen)

    def _append(self, entries: Sequence[Entry], reviewer: str) -> dict[str, Any]:
        try:
            lines = self.log.append(entries, reviewer)
        except ConflictError as error:
            newer = self._told(error.pictures)
            raise Refused(
                409, "Somebody else was faster; this is how it is now.", **newer
            ) from None
        return self._told([line.id for line in lines])

    def _told(self, pictures: Sequence[str]) -> dict[str, Any]:
        return {"states": self._states(pictures)}

    def _states(self, pictures: Sequence[str]) -> dict[str, Any]:
        written = self._written(pictures)
        return {id: told(self.log.state(id), written[id], self._rules) for id in pictures}

    def _captions(self, name: str, pictures: Sequence[str]) -> dict[str, str]:
        """Those of the pictures that have a caption, with its text as it is now."""
        now = {}
        for id, texts in self._written(pictures).items():
            line = self.log.state(id).captions.get(name)
            if line or name in texts:
                now[id] = line.value if line else texts[name]
        return now

    def _written(self, pictures: Sequence[str]) -> dict[str, dict[str, str]]:
        """{picture: {name: caption of the caption stage}}."""
        with self._open() as ledger:
            if len(pictures) <= 3:  # reading few of them is faster than reading all
                texts = {id: ledger.texts_of(id) for id in pictures}
                return {
                    id: {name: found[name].text for name in CAPTIONS if name in found}
                    for id, found in texts.items()
                }
            all_texts = {name: ledger.texts(name) for name in CAPTIONS}
        return {
            id: {name: texts[id].text for name, texts in all_texts.items() if id in texts}
            for id in pictures
        }

    def _known(self, ids: Sequence[str]) -> list[Picture]:
        with self._lock:
            if not all(id in self._pictures for id in ids):
                with self._open() as ledger:  # a stage may have added some meanwhile
                    self._pictures = {picture.id: picture for picture in ledger.pictures()}
            unknown = next((id for id in ids if id not in self._pictures), None)
            if unknown is not None:
                raise Refused(404, f"There is no picture {unknown}.")
            return [self._pictures[id] for id in ids]

    def _open(self) -> Ledger:
        return Ledger(self._ledger)  # a connection belongs to one thread


def _text(body: Mapping[str, Any], name: str, longest: int, *, raw: bool = False) -> str:
    """Takes a text from a request; unless `raw`, one space stands for several and for line ends."""
    value = body.get(name, "")
    if not isinstance(value, str) or len(value) > longest:
        raise Refused(400, f"{name} must be a text of at most {longest} characters.")
    if any("\ud800" <= c <= "\udfff" or (ord(c) < 32 and c not in "\t\n\r") for c in value):
        raise Refused(400, f"{name} holds characters that no text has.")
    return value if raw else " ".join(value.split())


def _caption(body: Mapping[str, Any]) -> str:
    name = body.get("caption")
    if name not in CAPTIONS:
        raise Refused(400, f"caption must be one of {', '.join(CAPTIONS)}.")
    return name


def _reviewer(body: Mapping[str, Any]) -> str:
    name = _text(body, "reviewer", LONGEST_NAME)
    if not name:
        raise Refused(400, "Say who you are first.")
    return name


def _list(body: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    values = body.get(name)
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise Refused(400, f"{name} must be a list.")
    return values
