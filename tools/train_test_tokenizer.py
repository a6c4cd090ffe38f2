#!/usr/bin/env python3
"""Train the small tokenizer of the tests and of synthetic checkpoints, with the settings of Gemma's.

- tests/data/tokenizer/tokenizer.model is SentencePiece BPE with byte fallback, trained here on robot instructions;
- src/checkpoint/synthetic_tokenizer.json is the same model through Hugging Face's own GemmaConverter, with Gemma's BOS template;
- tests/data/tokenizer/golden.json holds what Python's `sentencepiece` and `tokenizers` make of texts that are easy to get wrong.

The libraries live in a virtual environment of this tool (`.venv/tokenizer`, made on the first run).
"""
import json
import os
import subprocess
import sys
import types
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "data" / "tokenizer"
TOKENIZER_JSON = ROOT / "src" / "checkpoint" / "synthetic_tokenizer.json"
ENVIRONMENT = ROOT / ".venv" / "tokenizer"
# Of transformers only the converter is used (5.x no longer has it for .model files), so no torch is needed.
REQUIREMENTS = ["sentencepiece==0.2.1", "tokenizers==0.22.2", "transformers==4.57.3", "protobuf==6.33.1"]
VOCAB_SIZE = 500

ACTIONS = ["pick up", "place", "put", "move", "push", "pull", "grasp", "lift", "insert", "hand over", "pour", "wipe", "fold",
           "open", "close", "stack", "rotate", "transfer", "take", "drop"]
OBJECTS = ["cube", "block", "bowl", "plate", "cup", "mug", "towel", "drawer", "bottle", "moka pot", "screwdriver", "peg",
           "socket", "battery", "marker", "sponge", "lid", "tape", "spoon", "toy car"]
COLOURS = ["red", "green", "blue", "yellow", "white", "black"]
PLACES = ["in the bin", "on the table", "into the box", "on the stove", "to the left arm", "to the right gripper",
          "next to the other one", "on top of the stack", "under the shelf", "between both grippers"]

# Texts that are easy to get wrong: bytes, spaces, line breaks, marks of the tokenizers themselves.
TEXTS = [
    "pick up the red cube", "Pick Up The Red Cube", "transfer cube", "fold the towel\n", "fold the towel\n\n", "\n", "\n\n\n",
    "\n\n\n\n\n\n\n", "a", " ", "  ", "   ", "     ", "         ", " leading space", "   three leading spaces", "trailing space ",
    "trailing spaces   ", "two  spaces   three    four", "tab\tinside", "\ttab first", "tab\t\ttwice", "carriage\r\nreturn",
    "\r", "snake_case_task_name", "_", "__init__", "a_b c_d", "UPPER lower MiXeD", "123", "1234567890", "3.14159", "room 101b",
    "x=1,y=-2.5e-3", "semi;colon: comma, dot. bang! why?", "(parentheses) [brackets] {braces} <angles>", "quote's \"double\" `back`",
    "back\\slash / slash", "caf\u00e9 na\u00efve r\u00e9sum\u00e9", "cafe\u0301 decomposed", "stra\u00dfe", "\u00d8re \u0141\u00f3d\u017a",
    "\u0432\u043e\u0437\u044c\u043c\u0438 \u043a\u0443\u0431", "\u7ea2\u8272\u7684\u65b9\u5757", "\u8d64\u3044\u7acb\u65b9\u4f53\u3092\u53d6\u308b",
    "\u0645\u0643\u0639\u0628 \u0623\u062d\u0645\u0631", "\u2581", "a\u2581b", "\u2581\u2581lower one eighth block", "\U0001f916 robot", "\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
    "flag \U0001f1e9\U0001f1ea", "skin tone \U0001f44d\U0001f3fd", "zero\u200bwidth", "no\u00a0break space", "em\u2014dash \u2026 ellipsis",
    "\ufeffbyte order mark", "nul\u0000inside", "bell\u0007", "\u007f", "\U0010ffff last code point", "<bos>", "a <eos> b", "<pad><unk>",
    "<0x41>", "<0x0A>", "<start_of_turn>user", "a<end_of_turn>b", "<loc0001><loc0002>", "<loc0001", "aaaaaaaaaaaaaaaa", "hahahahaha",
    "thethethethe", "\n the \n cube \n", " \n \n", "a\nb\nc", "\u03b1\u03b2\u03b3 \u2211\u222b\u221a", "\u1e9e\u0130\u0131", "x" * 200,
    "pick up the red cube and place it in the blue bin, " * 12,
]


def in_own_environment() -> None:
    python = ENVIRONMENT / "bin" / "python"
    if Path(sys.prefix).resolve() == ENVIRONMENT.resolve():
        return
    if not python.exists():
        print(f"Making {ENVIRONMENT.relative_to(ROOT)} ...", flush=True)
        venv.create(ENVIRONMENT, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    os.execv(python, [str(python), *sys.argv])


def corpus() -> list[str]:
    lines = []
    for i, action in enumerate(ACTIONS):
        for j, thing in enumerate(OBJECTS):
            colour, place = COLOURS[(i + j) % len(COLOURS)], PLACES[(i * 3 + j) % len(PLACES)]
            lines += [f"{action} the {colour} {thing} {place}", f"{action} the {thing}", f"{action.capitalize()} {j} {thing}s."]
    return lines


def train() -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_prefix=str(OUT / "tokenizer"), model_type="bpe", vocab_size=VOCAB_SIZE,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>",
        byte_fallback=True, split_digits=True, split_by_unicode_script=True, split_by_number=True, split_by_whitespace=True,
        allow_whitespace_only_pieces=True, treat_whitespace_as_suffix=False, add_dummy_prefix=False,
        remove_extra_whitespaces=False, normalization_rule_name="identity", character_coverage=1.0, num_threads=1,
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>", "<loc0000>", "<loc0001>", "\n", "\n\n", "\n\n\n", "\u2581\u2581",
                              "\u2581\u2581\u2581", "\u2581\u2581\u2581\u2581"])
    (OUT / "tokenizer.vocab").unlink()


def convert() -> None:
    from tokenizers import processors
    from transformers.convert_slow_tokenizer import GemmaConverter

    slow = types.SimpleNamespace(vocab_file=str(OUT / "tokenizer.model"), pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    fast = GemmaConverter(slow).converted()
    # GemmaTokenizer adds this template when transformers loads it.
    fast.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    fast.save(str(TOKENIZER_JSON))


def golden() -> None:
    import sentencepiece
    import tokenizers

    model = sentencepiece.SentencePieceProcessor(model_file=str(OUT / "tokenizer.model"))
    fast = tokenizers.Tokenizer.from_file(str(TOKENIZER_JSON))
    rows = [{"text": text, "sentencepiece": model.encode(text), "tokenizers": fast.encode(text, add_special_tokens=False).ids}
            for text in TEXTS]
    differing = [row["text"] for row in rows if row["sentencepiece"] != row["tokenizers"]]
    print(f"{len(rows)} texts; the two libraries differ on {len(differing)}: {differing}")
    versions = {"sentencepiece": sentencepiece.__version__, "tokenizers": tokenizers.__version__}
    text = json.dumps({"versions": versions, "texts": rows}, ensure_ascii=True)
    (OUT / "golden.json").write_text(text.replace('{"text"', '\n{"text"') + "\n")


if __name__ == "__main__":
    in_own_environment()
    OUT.mkdir(parents=True, exist_ok=True)
    train()
    convert()
    golden()
