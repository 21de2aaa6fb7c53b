"""How answers are given in languages other than English: words, marks, what declares a letter."""

# Marks that Unicode's compatibility forms leave as they are.
MARKS = str.maketrans("。、【】「」『』", '.,[]""""')

# Yes and no in other words: read where they are a clause of their own.
YES_NO = {
    word: value
    for value, words in {
        "yes": "yeah yep yup sí sì sim oui ja да はい 네 예 是 是的 对 对的 對 對的 有 有的 正确"
        " 正確 存在 没错",
        "no": "nope non nein não нет いいえ 아니요 아니오 不 不是 不是的 否 不对 不對 没有 沒有 没"
        " 沒 无 無 不正确 不正確 错 錯 错误 錯誤 不存在 并非",
    }.items()
    for word in words.split()
}
CLAUSE_END = r"[\s,.;:!?/\"'()|]+|或者?|还是|還是|和|也"

OPTION = "(?:选项|選項)"
CHOOSE = "[选選]"
OPTION_AFTER = "(?:[项項]|です|입니다)"
OR = "或者?|还是|還是|和"
AFTER_LETTER = f"(?:[选選项項是因]|です|입니다|{OR})"
# after a letter: it is wrong, is not right
IS_REJECTED = "(?:[选選]?[项項])?(?:[是为為]?(?:[错錯]|不(?:[是对對]|正[确確]))|[是为為]误)"

_LETTER_NEXT = r"(?=[\"(\[{]?\s?[A-Za-z](?![A-Za-z]))"
DECLARES = "|".join(
    (
        # the answer is, should be, is the option
        rf"(?:答案|回答)(?:应该|應該|[应應])?[是为為选選:]\s*:?\s*{OPTION}?",
        # the answer, the option, choose: a letter follows, and it is not said not to choose it
        r"(?<![不别勿])(?<!不[应應能会會要该該])(?<!不应该)(?<!不應該)"
        rf"(?:答案|{OPTION}|{CHOOSE}[择擇]?)[是为為]?(?:\s*:)?\s*{_LETTER_NEXT}",
        r"\b(?:antwort|respuesta|resposta|risposta|réponse|ответ)\b"
        rf"(?:\s+(?:ist|es|est|é|è)\b)?(?:\s*:)?\s*{_LETTER_NEXT}",
        rf"(?:정답|답|答え|正解)[은は]?(?:\s*:)?\s*{_LETTER_NEXT}",
    )
)
