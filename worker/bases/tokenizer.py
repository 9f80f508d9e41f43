"""Normalization of a base model's tokenizer: `tokenizer.json` alone must give the tokens that transformers gives.

Some tokenizer classes of transformers rebuild or extend the tokenizer when they load it. If that changes tokens, the
loaded tokenizer is stored in place of the original, so that prepare, the trainer and users of the result all read texts
alike.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from worker.bases.files import Refused, read_object, require_no_code
from worker.rows.chat_template import ChatTemplate
from worker.rows.special_tokens import NAMES, special_tokens
from worker.rows.tokenize_rows import TokenizerWrapper

SETTINGS_NOISE = ("is_local", "local_files_only", "name_or_path", "_commit_hash", "processor_class")
"""Settings that describe the machine that wrote them, not the tokenizer."""
MAX_LENGTH = 1 << 40
TEMPLATES = "additional_chat_templates"
PROBE = (
    " Attune fine-tunes it's 3.14159 = 22/7?  Two  spaces,\ttabs\r\n\n\nlines; CamelCase snake_case 1234567890"
    " Größe naïve Ελληνικά русский עברית العربية हिन्दी 中文字符 日本語 한국어 😀👩\u200d👧"
    ' ﬁ ½ \u00a0 e\u0301 <b>x</b> {"k": [1]}'
)


def normalize_tokenizer(folder: Path) -> None:
    """Replace the folder's tokenizer by the one that transformers loads, if the two give different tokens. Raise
    Refused if they still differ afterwards, or if files are missing."""
    if not (folder / "tokenizer.json").exists():
        raise Refused(
            "the source has no tokenizer.json: load the tokenizer with transformers (AutoTokenizer), save it with "
            "save_pretrained, and add the files that save_pretrained writes"
        )
    if not (folder / "tokenizer_config.json").exists():
        raise Refused("the source has no tokenizer_config.json")
    drop_unembedded_tokens(folder)
    theirs = load(folder)
    if not _agree(folder, theirs):
        save(theirs, folder)
        if not _agree(folder, load(folder)):
            raise Refused("tokenizer.json and transformers give different tokens")
    _clean_settings(folder)
    _require_embeddings(folder)


def _require_embeddings(folder: Path) -> None:
    """Raise Refused if a token has no row in the embedding: training would fail at the first such token."""
    rows = read_object(folder / "config.json").get("vocab_size")
    last = max(TokenizerWrapper.load(folder).tokenizer.get_vocab().values())
    if isinstance(rows, int) and last >= rows:
        raise Refused(f"the tokenizer has token ids up to {last}, but vocab_size in config.json is {rows}")


def drop_unembedded_tokens(folder: Path) -> None:
    """Remove the special tokens whose ids exceed the embedding. Gemma 3's text models have one: the placeholder of an
    image. If the chat template or a role, such as the end of a text, needs one of them, all are left."""
    tokenizer, rows = read_object(folder / "tokenizer.json"), read_object(folder / "config.json").get("vocab_size")
    beyond = [token for token in tokenizer.get("added_tokens") or () if isinstance(rows, int) and token["id"] >= rows]
    texts = {token["content"] for token in beyond}
    template = ChatTemplate.load(folder)
    needed = [*special_tokens(folder).values(), *(template.sources.values() if template else ())]
    if (
        not texts
        or not all(token["special"] for token in beyond)
        or any(text in use for text in texts for use in needed)
    ):
        return
    tokenizer["added_tokens"] = _without(tokenizer["added_tokens"], texts)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / name).exists():
            settings = _without(read_object(folder / name), texts)
            (folder / name).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


def _without(value: Any, texts: set[str]) -> Any:
    """Return a JSON value without the entries that name or describe one of the tokens."""

    def is_token(entry: Any) -> bool:
        text = entry.get("content") if isinstance(entry, dict) else entry
        return isinstance(text, str) and text in texts

    if isinstance(value, dict):
        kept = {name: entry for name, entry in value.items() if name not in texts and not is_token(entry)}
        return {name: _without(entry, texts) for name, entry in kept.items()}
    if isinstance(value, list):
        return [_without(entry, texts) for entry in value if not is_token(entry)]
    return value


def load(folder: Path, *, gguf_file: str | None = None) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, gguf_file=gguf_file
        )
    except Exception as error:
        # The tokenizers library raises bare Exceptions for files that it cannot read.
        raise Refused(f"transformers cannot load the tokenizer: {str(error).strip().partition(chr(10))[0]}") from error


def save(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    require_no_code(folder)
    _clean_settings(folder)


def _agree(folder: Path, theirs: PreTrainedTokenizerBase) -> bool:
    try:
        ours = TokenizerWrapper.load(folder)
    except Exception as error:
        raise Refused(f"tokenizer.json cannot be read: {error}") from error
    named = special_tokens(folder)
    added = sorted({*theirs.get_added_vocab(), *named.values(), *ours.added_texts()})
    probe = PROBE + "".join(f" {token} {token}x" for token in added)
    whole = theirs(probe)["input_ids"]
    bare = ours.tokenizer.encode(probe, add_special_tokens=False).ids
    extra = len(theirs("a")["input_ids"]) - len(theirs("a", add_special_tokens=False)["input_ids"])
    return bool(
        {name: text for name, text in theirs.special_tokens_map.items() if name in NAMES} == named
        and whole == ours.tokenizer.encode(probe).ids
        and theirs(probe, add_special_tokens=False)["input_ids"] == bare
        and len(whole) - len(bare) == extra
    )


def _clean_settings(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    settings = read_object(path)
    for name in SETTINGS_NOISE:
        settings.pop(name, None)
    if settings.get("model_max_length", 0) > MAX_LENGTH:
        del settings["model_max_length"]  # transformers writes 10**30 for an unknown length
    if (folder / TEMPLATES).is_dir():
        settings["chat_template"] = _without_folder(folder)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_folder(folder: Path) -> list[dict[str, str]]:
    """Return all chat templates of the folder in the form of tokenizer_config.json, and delete their files, because a
    base model's folder must not have subfolders."""
    files = {file.stem: file for file in sorted((folder / TEMPLATES).glob("*.jinja"))}
    if (folder / "chat_template.jinja").exists():
        files["default"] = folder / "chat_template.jinja"
    templates = [{"name": name, "template": file.read_text(encoding="utf-8")} for name, file in files.items()]
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    shutil.rmtree(folder / TEMPLATES)
    return templates
