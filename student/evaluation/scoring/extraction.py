"""Extracts the answer from a reply, strictly: one option or none.

A reply that names no option, or more than one, is a parse failure and counts as wrong. The rate of
parse failures is reported with every score, because lenient parsing can turn arbitrary text into a
score. tests/student/evaluation/replies.yaml lists accepted and rejected examples.

The time grows linearly with the length of a reply, because a student that was trained for a few
steps may repeat itself until the token limit. The bounds below are far beyond what an answer has.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Sequence

from student.evaluation.questions import LETTERS
from student.evaluation.scoring.mentions import LETTER_FOLLOWERS, is_denied, named_labels
from student.text import is_invisible, normalise, tokenise

MAX_CHARACTERS = 40_000
"""Characters that are read: the first and the last half of these if a reply is longer."""
_MAX_SENTENCE = 2_000
_MAX_STATEMENTS = 32
"""Statements such as `The answer is` that are looked at, from the last one backwards."""
_WORDS_OF_DENIAL = 9
"""More words than a negation reaches across."""

_ANSWER = (
    r"\b(?:answer|ans\b\.?|antwort|lösung|réponse|respuesta|risposta|resposta|antwoord|svar|odpowiedź"
    r"|ответ|cevap|(?:correct|right|best)\s+(?:option|choice|letter)"
    r"|(?:response|guess|result|prediction|assistant)(?=\s*(?::|is\b)))"
    r"(?:\s+(?:correct[ae]?|corretta))?"
    r"|उत्तर|정답|답|答案|答え|正解|คำตอบ|الجواب(?:\s+الصحيح)?|الإجابة(?:\s+الصحيحة)?"
)
_OPTION_WORDS = (
    r"option|choice|letter|opción|opcion|opção|opzione|optie|lettre|letra|lettera|buchstabe"
    r"|вариант|विकल्प"
)
_OPTION = rf"\b(?:{_OPTION_WORDS})|选项|選項|選択肢|보기"
_ARTICLE = r"(?:(?:the|la|el|le|die|der|das|het|de)\s+)"
_IS = (
    r"[\"']?\s*(?:(?:is|are|was|would be|should be|must be|lautet|ist|est|es|è|é|är|jest)\b|है|은|는"
    r"|คือ|هي|هو|是|为|為|は)?\s*(?:clearly|probably|likely|therefore|thus)?\s*(?:[:=–—-]\s*)*"
    rf"{_ARTICLE}?(?:(?:{_OPTION_WORDS})\s+)?"
)
_STATEMENTS = tuple(re.compile(rf"(?:{words}){_IS}", re.IGNORECASE) for words in (_ANSWER, _OPTION))
"""Text before the option: `The answer is`, `Antwort:`, `答案是`; then `Option`."""
_IS_WRONG = re.compile(r"\)?\s+(?:is|are|was|seems?|would be|can be)\s+(?:\w+\s+)?"
                       r"(?:wrong|incorrect|false|not|excluded|ruled)\b")  # fmt: skip
_LETTERS = (
    r"\(?[A-Z]\)?(?:(?:\s*(?:[,/&]|\b(?:or|and|nor|und|oder|et|ou|y|o)\b))+\s*\(?[A-Z]\)?){0,25}"
    r"(?![\w'’])"
)
_REJECTED = re.compile(
    rf"(?<![\w.'’])(?:(?i:options?|choices?|answers?)\s+)?{_LETTERS}\s+"
    r"(?:is|are|was|were|seems?|would be|can be|ist|sind|est|sont|es|son)\s+(?:\w+\s+)?"
    r"(?:wrong|incorrect|false|excluded|ruled out|not (?:correct|right|possible|it|the answer)"
    r"|falsch|fauss?e?s?|incorrecta?s?|falsa?s?)\b"
    r"|\b(?:rul(?:e|ed|ing) out|eliminat(?:e|ed|ing)|exclud(?:e|ed|ing)|reject(?:ed|ing)?"
    rf"|discard(?:ed|ing)?)\s+(?:options?\s+|choices?\s+)?{_LETTERS}"
)
"""Rejected letters: `(A) is wrong`, `A and D are incorrect`, `I rule out A`."""
_REJECTION = re.compile(rf"(?:{_REJECTED.pattern})[^\S\n]*[.,;:]?\s*")
_OPENING = re.compile(
    r"^(?:(?:sure|okay|ok|well|hmm|definitely|probably|clearly|certainly|surely|obviously|maybe"
    r"|perhaps|then|so)\b[\s,:.!-]*)+(?=\(?[A-Za-z]\)?\W*$)",
    re.IGNORECASE,
)
"""Words before a letter that is the whole reply: `Definitely B`."""
_THOUGHTS = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL)
"""Reasoning before the answer. If it has no end, the reply was truncated within it."""
_SAYS = re.compile(
    r"\b(?:is|be|it's|that's|choose|chose|pick|picked|select|selected|say|think|with|go for|so|thus"
    r"|therefore|leav(?:es|ing)|ist|est|es|è|é|är|also|wähle|choisis|elijo|scelgo|escolho)\b"
    rf"\s*:?\s*{_ARTICLE}?|(?:选择|選擇|选|選|是)\s*",
    re.IGNORECASE,
)
"""Words before a bare capital at the end of a sentence: `It is B.`, `I choose B`."""
_ALONE = re.compile(
    r"\(?[A-Zb-df-hj-np-tvwxz]\)?"
    r"(?:\s*$|\s*[.,;:!?。)](?:\s|$)|\s+(?:or|and|oder|ou|o)\b)"
)
_LETTER = re.compile(r"\(\s*([A-Za-z])\s*\)|([A-Za-z])(?![^\W\d_]*[A-Za-z0-9À-ɏ'’]|\.\w)")
_FURTHER = re.compile(
    r"\s*(?:,|/|&|\bor\b|\band\b|\boder\b|\bund\b|\bou\b|\bet\b|\bo\b|\by\b|\bи\b|\bили\b)+\s*"
    r"(?:\(([A-Z])\)|([A-Z])(?![\w'’]|\s+[a-z]))"
)
_BRACKETED = re.compile(r"\(([A-Z])\)")
_LEADING = re.compile(
    r"^[ \t]*(?:\(([A-Za-z])\)|([A-Za-z])(?=\s*[.):,\-–—]+(?:\s|$)|[^\w(+#♯♭]*$))"
)
_IS_RIGHT = re.compile(
    r"(?<![\w.'’])\(?([A-Z])\)?\s+(?:is|would be|seems|ist|est|es)\s+(?:\w+\s+){0,2}"
    r"(?:correct|right|answer|best|better|likely|richtig|correcte?|correcta)\b"
    r"|(?<![A-Za-z])([A-Z])\s*(?:选项|選項|项|項|です|입니다)"
)
_BECAUSE = re.compile(r"[.;!?\n。]|\b(?:because|since|as|rather than|instead of|weil|car)\b")
_ARTICLES = "AIEOUYaieouy"
_NEXT_WORD = re.compile(r"\s+\w")
_CUT_END, _CUT_START = re.compile(r"(?<!\w)\w+\Z"), re.compile(r"\A\w+")
_AFTER_BUT = re.compile(r"\b(?:but|sondern|mais|sino)\s+(?=\(?[A-Z]\)?[.!]?\s*$)")
_FOLLOWERS = re.compile(rf"\s+(?:{'|'.join(sorted(LETTER_FOLLOWERS))})\b", re.IGNORECASE)


def extract_choice(reply: str, choices: Sequence[str]) -> str | None:
    """Extracts the choice that a reply to a multiple-choice question names; None if there is not
    exactly one.

    Accepted are a choice's text, its letter (`B`, `(B)`, `B.`, `The answer is B`), or both if they
    agree; and one choice's text anywhere in the reply, if no other choice is named. If a sentence
    states the answer, only that sentence is used. Negated choices and letters beyond the options do
    not count.
    """
    text = _plain(reply)
    reply_text = normalise(text)
    exact = [choice for choice in choices if normalise(choice) == reply_text]
    is_letter = len(exact) == 1 and len(normalise(exact[0])) == 1
    if len(exact) == 1 and not is_letter:
        return exact[0]
    for pattern in _STATEMENTS:
        statements = deque(pattern.finditer(text), maxlen=_MAX_STATEMENTS)
        for statement in reversed(statements):
            named = _stated(text, statement, choices)
            if named:
                return _only(named)
    first, _, rest = text.partition("\n")
    if _LEADING.match(first) and not any(_LEADING.match(line) for line in rest.split("\n")):
        return _only(_named_by_either(first, choices))
    return _only(_named_by_either(text, choices))


def _stated(text: str, statement: re.Match[str], choices: Sequence[str]) -> set[str]:
    """Choices in a statement such as `The answer is ...`."""
    following = text[statement.end() : statement.end() + _MAX_SENTENCE]
    sentence = _until(_BECAUSE, following)
    letters = _letters_at(text, statement.end(), choices)
    if letters and not _is_denied_at(text, statement.start(), statement.end()):
        if _IS_WRONG.match(following.lstrip("(")[1:]):
            return set()
        return {choices[LETTERS.index(letter)] for letter in letters} | _texts(sentence, choices)
    named = named_labels(statement[0] + sentence, choices)
    bracketed = set(_BRACKETED.findall(sentence)) if named else set()
    return named | {choices[LETTERS.index(letter)] for letter in _offered(bracketed, choices)}


def _named_by_either(text: str, choices: Sequence[str]) -> set[str]:
    """Choices that a text names by letter or by text; none if the letters disagree."""
    letters = _marked_letters(text, choices)
    named = {choices[LETTERS.index(letter)] for letter in letters}
    return set() if len(named) > 1 else named | _texts(text, choices)


def extract_label(reply: str, labels: Sequence[str]) -> str | None:
    """Extracts the label that a reply is, or names as whole words; None if there is not exactly
    one."""
    if reply.strip() in labels:
        return reply.strip()
    return _only(named_labels(_plain(reply), labels))


def _plain(reply: str) -> str:
    """Removes markup from a reply, and normalises brackets and letters."""
    reply = _shortened(_THOUGHTS.sub(" ", reply))
    text = re.sub(r"\\(?:boxed|text|mathrm)\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r"(\1)", reply)
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"</?[A-Za-z]+>|<\|\w+\|>|[\\$]", " ", text)
    text = re.sub(r"\*+|`+", "", text)
    text = re.sub(r"^[ \t]*[->#]+[ \t]+", "", text, flags=re.MULTILINE)
    chars = set(text)
    wide = {char: unicodedata.normalize("NFKC", char) for char in chars if "！" <= char <= "～"}
    invisible = dict.fromkeys(filter(is_invisible, chars), "")
    text = text.translate(str.maketrans(wide | invisible))
    text = re.sub(r"[\[({]\s*([A-Za-z])\s*[\])}]", r"(\1)", text)
    text = re.sub(r"[\"'“”‘’«»„]([A-Za-z])[\"'“”‘’«»]", r"\1", text)
    return _OPENING.sub("", _REJECTION.sub("\n", text).strip())


def _shortened(reply: str) -> str:
    """The first and the last part of a reply that is too long, without the words at the cuts."""
    if len(reply) <= MAX_CHARACTERS:
        return reply
    half = MAX_CHARACTERS // 2
    return _CUT_END.sub("", reply[:half]) + "\n" + _CUT_START.sub("", reply[-half:])


def _texts(text: str, choices: Sequence[str]) -> set[str]:
    """Choices that are named by their texts; a bracketed letter is not a text."""
    return named_labels(_BRACKETED.sub(" ", text), choices)


def _letters_at(text: str, place: int, choices: Sequence[str]) -> set[str]:
    """Options whose letters are at a position where an answer is expected, `B` or `B or C`."""
    match = _LETTER.match(text, place)
    if match is None:
        return set()
    bracketed, bare = match.groups()
    end = match.end()
    is_word = bare and _NEXT_WORD.match(text, end) and not _FOLLOWERS.match(text, end)
    if is_word and (bare in _ARTICLES or bare.islower()):
        return set()
    letters = {(bracketed or bare).upper()}
    for _ in LETTERS:
        further = _FURTHER.match(text, end)
        if further is None:
            break
        letters.add(further[1] or further[2])
        end = further.end()
    return _offered(letters, choices)


def _marked_letters(text: str, choices: Sequence[str]) -> set[str]:
    """Options whose letters are marked as options by punctuation or position."""
    letters = set()
    for place, line in _lines(text):
        leading = _LEADING.match(line)
        if leading and (place == 0 or leading[1] or leading[2].isupper()):
            start = place + (leading.start(1) - 1 if leading[1] else leading.start(2))
            letters |= _letters_at(text, start, choices)
    if _FOLLOWERS.match(text[1:]) and text[0].isupper():
        letters |= _letters_at(text, 0, choices)
    places = [match.start() for match in _BRACKETED.finditer(text)]
    places += [match.start(1 if match[1] else 2) for match in _IS_RIGHT.finditer(text)]
    for says in _SAYS.finditer(text):
        if _ALONE.match(text, says.end()):
            places.append(says.end())
    for place in places:
        if not _is_denied_at(text, 0, place):
            letters |= _letters_at(text, place, choices)
    for match in _AFTER_BUT.finditer(text):
        letters |= _letters_at(text, match.end(), choices)
    return letters


def _lines(text: str) -> list[tuple[int, str]]:
    place, lines = 0, []
    for line in text.split("\n"):
        lines.append((place, line))
        place += len(line) + 1
    return lines


def _offered(letters: set[str], choices: Sequence[str]) -> set[str]:
    return {letter for letter in letters if LETTERS.index(letter) < len(choices)}


def _is_denied_at(text: str, start: int, place: int) -> bool:
    """Whether a negation in `text[start:place]` applies to the following text."""
    length = 64
    while True:
        tokens = tokenise(text[max(start, place - length) : place] + " x")
        if len(tokens) > _WORDS_OF_DENIAL or place - length <= start:
            return is_denied(tokens, len(tokens) - 1)
        length *= 4


def _until(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return text[: match.start()] if match else text


def _only(named: set[str]) -> str | None:
    return named.pop() if len(named) == 1 else None
