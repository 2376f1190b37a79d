#!/usr/bin/env python3
"""hf_tokenizer.py MODEL.gguf FOLDER - writes a GGUF file's tokenizer as a folder that transformers' AutoTokenizer loads
(tokenizer.json, tokenizer_config.json, special_tokens_map.json), so that tools which count tokens need no download."""
import json
import pathlib
import sys

from gguf_vocab import GGUF, Vocab, huggingface


def main():
    model, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    vocab, fields = Vocab(model), GGUF(model).fields
    huggingface(vocab, unk=True).save(str(folder / "tokenizer.json"))

    special = {name: vocab.tokens[i] for name, i in (("bos_token", vocab.bos), ("eos_token", vocab.eos),
                                                     ("unk_token", vocab.unk), ("pad_token", vocab.pad)) if i >= 0}
    context = fields.get(f"{fields['general.architecture']}.context_length", 0)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special, "add_bos_token": bool(vocab.add_bos),
              "model_max_length": context, "clean_up_tokenization_spaces": False}
    if template := fields.get("tokenizer.chat_template"):
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


if __name__ == "__main__":
    main()
