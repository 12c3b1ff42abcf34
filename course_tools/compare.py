"""Compare two sets of notebook outputs: words and integers exactly, decimals within a tolerance.

- Text is cut into numbers and the rest. The rest must be the same, runs of white space aside, since
  the widths of columns follow the digits in them.
- Integers, and digits inside a word such as "conv2" or "640x480", must be the same.
- Decimals (a point or an exponent) must agree within RELATIVE and ABSOLUTE.
- A number before a unit of time or rate (12.3 s, 45.1 ms, 2.0 min, 96 images/s, 90 GFLOPS, and the decimal of
  2.31x faster) was measured: same unit, same form, not negative, within a factor of FACTOR.
- The name of a checkpoint is not compared, since it follows the code and the first weights.
- Pictures are not compared; that a cell shows one is, by its text ("<Figure size ...>").
"""

import re
from itertools import zip_longest

RELATIVE, ABSOLUTE, FACTOR = 0.02, 1e-4, 100

_CHECKPOINT = re.compile(r"[\w.+-]+\.pt\b")
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>(?<![)\]}])[-+\u2212])?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\d+\.(?!\w)|\.\d+|\d+)(?P<power>[eE][-+]?\d+)?"
    r"(?:(?P<unit>\s*(?:ms|s|min|h|images/s|GMAC/s|GFLOPS)(?![\w/])|x(?!\w))|(?![\w]|\.\d))"
)


def _pieces(text: str) -> list[str | re.Match]:
    """Words, number, words, number, ..., words."""
    pieces, start, text = [], 0, _CHECKPOINT.sub("checkpoint.pt", text)
    for match in _NUMBER.finditer(text):
        pieces += [" ".join(text[start : match.start()].split()), match]
        start = match.end()
    return [*pieces, " ".join(text[start:].split())]


def _show(piece: str | re.Match) -> str:
    return repr(piece if isinstance(piece, str) else piece.group())


def _decimal(match: re.Match) -> bool:
    return "." in match["digits"] or match["power"] is not None


def _value(match: re.Match) -> float:
    sign = -1 if (match["sign"] or "+") in "-\u2212" else 1
    return sign * float(match["digits"].replace(",", "") + (match["power"] or ""))


def _number_difference(golden: re.Match, new: re.Match, exactly: bool) -> str | None:
    units = [(match["unit"] or "").strip() for match in (golden, new)]
    a, b = _value(golden), _value(new)
    if units[0] != units[1] or _decimal(golden) != _decimal(new):
        return "another unit or form"
    if units[0] and (units[0] != "x" or _decimal(golden)):
        # A time that is printed as 0.0 counts as the smallest that the print can show
        low = 10.0 ** -len(golden["digits"].partition(".")[2])
        if min(a, b) < 0 or max(a, b, low) > FACTOR * max(min(a, b), low):
            return f"measurements more than a factor of {FACTOR} apart"
    elif not _decimal(golden):
        return None if a == b else "another integer"
    elif exactly:
        return None if a == b else "another decimal"
    elif abs(a - b) > ABSOLUTE + RELATIVE * abs(a):
        return f"further apart than {ABSOLUTE} + {RELATIVE} of the first"
    return None


def text_difference(golden: str, new: str, exactly: bool = False) -> str | None:
    """What differs between two texts, in one line, or None where they agree; with `exactly` without tolerance."""
    for a, b in zip_longest(_pieces(golden), _pieces(new), fillvalue="the end"):
        if isinstance(a, str) or isinstance(b, str):
            if a != b:
                return f"{_show(a)} became {_show(b)}"
        elif why := _number_difference(a, b, exactly):
            return f"{_show(a)} became {_show(b)}: {why}"
    return None


def _flatten(outputs: list, pictures: bool) -> list[tuple[str, str]]:
    flat = []
    for output in outputs:
        if output["output_type"] == "stream":
            if flat and flat[-1][0] == output["name"]:  # printed in pieces, as time had it
                flat[-1] = (output["name"], flat[-1][1] + output["text"])
            else:
                flat.append((output["name"], output["text"]))
        elif output["output_type"] == "error":
            flat.append(("error", f"{output['ename']}: {output['evalue']}"))
        else:
            data = {k: v for k, v in output["data"].items() if pictures or k not in ("image/png", "image/jpeg")}
            flat += [(key, "".join(data[key])) for key in sorted(data)]
    return flat


def outputs_difference(golden: list, new: list, exactly: bool = False) -> str | None:
    """What differs between the outputs of a golden cell and of the same cell run again.

    With `exactly`, decimals have no tolerance, and pictures count.
    """
    golden, new = _flatten(golden, exactly), _flatten(new, exactly)
    if [kind for kind, _ in golden] != [kind for kind, _ in new]:
        return f"outputs {[kind for kind, _ in golden]} became {[kind for kind, _ in new]}"
    for (kind, a), (_, b) in zip(golden, new, strict=True):
        if kind.startswith("image/"):
            why = None if a == b else "another picture"
        else:
            why = text_difference(a, b, exactly)
        if why:
            return f"{kind}: {why}"
    return None
